import re

import pytest
from rich.cells import cell_len

from keras_initlab.report import InspectedLayer
from keras_initlab.stats import LayerStats
from tests.report import inspections
from tests.report.inspections import NAMES, dense, finding, inspection, small

pytestmark = pytest.mark.once

CASES = {
    "small": inspections.small,
    "deep": inspections.deep,
    "named": inspections.named,
    "empty": lambda: inspection(data=None),
}
CODES = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize("color", [False, True], ids=["plain", "color"])
@pytest.mark.parametrize("width", [30, 60, 80, 120, 200])
@pytest.mark.parametrize("case", CASES)
def test_no_line_is_longer_than_the_width(case, width, color):
    text = CODES.sub("", CASES[case]().text(width, color))
    assert max(map(cell_len, text.split("\n"))) <= width


def test_the_table_without_a_width_has_every_column():
    lines = small().text().splitlines()
    assert lines[0] == (
        "net: 5 layers, measured on x of shape (64, 784); 1 error, 1 warning, 1 info"
    )
    assert lines[2].split() == (
        "layer kind output shape kernel fan_in fan_out nonlinearity initializer "
        "predicted measured predicted predicted measured".split()
    )
    row = next(line for line in lines if "encoder/dense_2" in line)
    assert row.split() == (
        "W encoder/dense_2 Dense (None, 64) (64, 64) 64 64 leaky_relu(0.3) "
        "initlab>auto(activation=leaky_relu, distribution=uniform) "
        "0.81 0.64 0.81 0.826 0.694".split()
    )
    assert "Left out" not in small().text()


def test_what_does_not_fit_is_left_out_and_named():
    text = small().text(80)
    head = text[: text.index("─")]
    assert "measured" in head
    assert "fan_in" not in head
    omitted = re.search(r"Left out at this width: ([^.]*)\.", text)[1]
    assert omitted.replace("\n", " ").split("; ") == [
        "output shape",
        "kernel",
        "fan_in",
        "fan_out",
        "nonlinearity",
        "initializer",
        "E[x²], predicted",
    ]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_layers_and_the_measured_variance_are_the_last_to_go(width):
    for one in small().layers:
        lines = small().text(width).splitlines()
        row = next(line for line in lines if one.layer in line[4:].split()[:1])
        assert ("0." in row) == (one.measured is not None)


def test_columns_of_which_nothing_is_known_are_left_out():
    stats = LayerStats("a", variance=2.0, source="predicted")
    text = inspection(InspectedLayer("a", "Dense", predicted=stats), data=None).text()
    assert text.splitlines()[0] == "net: 1 layer, nothing measured; no findings"
    assert text.splitlines()[2].split() == ["layer", "kind", "predicted"]
    assert text.splitlines()[-1].split() == ["a", "Dense", "2"]


def test_findings_come_errors_first_with_evidence_and_remedy():
    text = small().text()
    codes = [
        line.split()[:2]
        for line in text.splitlines()
        if line.split()[:1] in (["error"], ["warning"], ["info"])
    ]
    assert codes == [
        ["error", "vanishing-signal"],
        ["warning", "wrong-fans"],
        ["info", "input-scale"],
    ]
    assert "1e-15 of that of the first layers." in text
    assert '→ Call il.rewrite_initializers(model, scheme="isometric")' in text
    assert text.splitlines()[-1].split(maxsplit=1) == [
        "note",
        "Inputs are taken to have mean 0 and variance 1.",
    ]


def test_findings_of_one_kind_are_told_together():
    text = inspections.deep().text(80)
    assert text.count("initializer-mismatch") == 1
    assert "initializer-mismatch in 250 layers" in text
    assert "and 245 more" in text
    assert len(text.splitlines()) < 300 + 50


def test_a_finding_of_a_shared_layer_marks_its_calls():
    text = inspection(dense("a#0"), dense("b"), findings=[finding("a")]).text()
    rows = text.splitlines()[4:6]
    assert [row[:3] for row in rows] == [" E ", "   "]


@pytest.mark.parametrize("width", [None, 80])
def test_names_are_shown_as_they_are(width):
    text = inspections.named().text(width)
    for name in NAMES[:-2]:
        assert f" {name} " in text
    # Nor do they reach the terminal as codes, or make lines of their own.
    assert "\x1b" not in text
    assert "esc\\x1b[31mape\\nline" in text


def test_without_colour_there_are_no_codes_and_with_it_severities_differ():
    assert "\x1b" not in small().text()
    colored = small().text(color=True)
    # Spaces that end a line have codes behind them.
    lines = [line.rstrip() for line in CODES.sub("", colored).split("\n")]
    assert lines == small().text().split("\n")
    assert "\x1b[1;31merror" in colored
    assert "\x1b[33mwarning" in colored
    assert "\x1b[36minfo" in colored


def test_colour_is_asked_for_by_argument_alone(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.setenv(name, "1")
        assert "\x1b" not in small().text()
        assert "\x1b" in small().text(color=True)


def test_print_fits_into_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert str(small()) == small().text(80)
    monkeypatch.setenv("COLUMNS", "5")
    assert str(small()) == small().text(30)
    monkeypatch.setenv("COLUMNS", "0")
    monkeypatch.setattr("sys.__stdout__", None)
    assert str(small()) == small().text()


@pytest.mark.parametrize("width", [0, 29, -5, 80.0, "80", True])
def test_widths_that_hold_no_table(width):
    with pytest.raises(ValueError, match=r"30 characters or more.*Received: width="):
        small().text(width)


def test_figures_without_digits():
    values = [float("nan"), float("inf"), 0.0, None]
    layers = [
        InspectedLayer(
            str(i), "Dense", measured=LayerStats(str(i), variance=v, source="measured")
        )
        for i, v in enumerate(values)
    ]
    rows = inspection(*layers).text().splitlines()[-4:]
    assert [row.split()[-1] for row in rows] == ["nan", "inf", "0", "-"]


def test_repr_is_short():
    assert repr(small()) == "<Inspection of 'net': 5 layers, 3 findings; print it>"
