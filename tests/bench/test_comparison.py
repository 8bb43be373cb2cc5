"""What a comparison says of runs that are made by hand."""

import json
import math

import numpy as np
import pytest

from keras_initlab.bench import Comparison, Run
from keras_initlab.bench.noise import welch_p_value
from keras_initlab.diagnosis import Finding
from keras_initlab.stats import LayerStats


def made(label, finals, rate=None, losses=None, reached=3):
    """Return a run for each final accuracy, reached after so many epochs."""
    stats = (
        LayerStats("a", variance=1.0, gradient_second_moment=1e-3, source="measured"),
        LayerStats("b", variance=1e-6, gradient_second_moment=0.0, source="measured"),
    )
    finding = Finding("vanishing-signal", "error", "b", "It is <1e-6>.", "Rewrite.")
    runs = []
    for seed, final in enumerate(finals):
        values = [0.1] * (reached - 1) + [final] * (5 - reached)
        loss = [1.0, 0.5, 0.4, losses[seed] if losses else 0.3]
        runs.append(
            Run(
                label,
                seed,
                rate,
                {"loss": 2.3, "accuracy": 0.1},
                {
                    "accuracy": values,
                    "loss": loss,
                    "val_accuracy": values,
                    "val_loss": loss,
                },
                {"accuracy": "max", "loss": "min"},
                seconds=1.0,
                start=stats if not seed else (),
                end=stats if not seed else (),
                findings=(finding,) if not seed else (),
            )
        )
    return runs


def comparison(*groups, target=None, missing=0):
    runs = [run for group in groups for run in group]
    planned = len(runs) + missing
    return Comparison.of(runs, target=target, epochs=4, planned=planned)


def test_candidates_within_the_noise_are_named():
    found = comparison(
        made("good", [0.95, 0.96, 0.94]),
        made("alike", [0.95, 0.93, 0.95]),
        made("bad", [0.5, 0.52, 0.51]),
    )
    assert found.best == "good"
    (sentence, advice) = found.verdict
    assert sentence == (
        "After 4 epochs, val_accuracy is best with good (0.950 ± 0.010); alike does "
        "not differ from it by more than the noise between seeds."
    )
    assert "seeds=5" in advice


@pytest.mark.parametrize(
    ("others", "end"),
    [
        ([[0.5, 0.5, 0.51]], ", by more than the noise between seeds."),
        ([[0.95, 0.94, 0.96]], "; no other differs from it by more than the noise"),
    ],
)
def test_all_or_none_differ(others, end):
    groups = [made(f"other {i}", finals) for i, finals in enumerate(others)]
    found = comparison(made("good", [0.96, 0.95, 0.97]), *groups)
    assert end in found.verdict[0]


def test_epochs_to_the_target():
    found = comparison(
        made("fast", [0.95, 0.95], reached=1),
        made("slow", [0.95, 0.95], reached=4),
        made("never", [0.5, 0.5]),
        made("half", [0.95, 0.5]),
        target=0.9,
    )
    assert found["fast"].epochs_to_target == (1, 1)
    assert found["half"].epochs_to_target == (3, None)
    assert found["never"].epochs_to_target == (None, None)
    speed = found.verdict[1]
    assert speed.startswith("fast is first to reach accuracy 0.9, after 1 ± 0 epochs")
    assert speed.endswith("Never: never.")
    table = found.text()
    assert "3 (1 of 2)" in table
    records = {row["candidate"]: row for row in found.records}
    assert records["half"]["reached_target"] == 1
    assert records["never"]["epochs_to_target"] is None


def test_what_diverged_is_never_the_best_nor_in_a_mean():
    wild = made("wild", [0.99, 0.99, 0.99], losses=[0.1, math.nan, 0.1])
    found = comparison(wild, made("calm", [0.9, 0.9, 0.9]))
    assert found.best == "calm"
    assert found["wild"].diverged == 1
    assert found["wild"].final_loss.mean == pytest.approx(0.1)
    assert found.verdict[0] == "wild diverged in 1 of 3 runs."
    everything = comparison(made("wild", [0.9, 0.9], losses=[math.inf] * 2))
    assert "No candidate has a run that did not diverge." in everything.verdict
    for one in (found, everything):
        json.dumps(one.to_dict(), allow_nan=False)
        assert "wild" in one.html()
        assert one.plot()


def test_the_chosen_rate_has_all_its_seeds():
    # After Ctrl-C: one seed that did well is not chosen over three that were finished.
    found = comparison(made("a", [0.9] * 3, 0.1), made("a", [0.99], 0.3), missing=2)
    assert found["a"].learning_rate == 0.1
    assert found.verdict[0] == "Interrupted: 2 of 6 runs are missing."


def test_runs_that_begin_alike_share_what_was_measured():
    later = [
        Run(**{**vars(run), "start": (), "findings": ()})
        for run in made("a", [1.0], 0.3)
    ]
    found = comparison(made("a", [0.5], 0.1), later)
    assert found["a"].learning_rate == 0.3
    assert [one.layer for one in found["a"].start] == ["a", "b"]
    assert found["a"].findings


@pytest.mark.parametrize("width", [40, 80, 140])
def test_the_table_fits(width):
    found = comparison(made("a" * 60, [0.9, 0.8]), made("b", [0.8, 0.7]), target=0.95)
    text = found.text(width)
    assert max(map(len, text.splitlines())) <= width
    assert "val_accuracy" in text
    assert ("vanishing-signal" in text) == (width == 140)
    with pytest.raises(ValueError, match="30 characters"):
        found.text(20)


def test_html_is_escaped_and_holds_both_plots():
    page = comparison(made("<b>", [0.9, 0.8])).html()
    assert "<b>" not in page
    assert "* &lt;b&gt;" in page
    assert "It is &lt;1e-6&gt;." in page
    assert page.count("data:image/svg+xml") == 2


def test_curves_have_bands_and_begin_before_the_first_step():
    found = comparison(made("a", [0.9, 0.7]), made("b", [0.8, 0.8]), target=0.85)
    loss, accuracy = found.plot().axes
    assert [line.get_label() for line in accuracy.lines[:2]] == ["a", "b"]
    x, y = accuracy.lines[0].get_data()
    assert list(x) == [0, 1, 2, 3, 4]
    assert np.allclose(y, [0.1, 0.1, 0.1, 0.8, 0.8])
    band = accuracy.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(0.9)
    assert [axes.get_title("left") for axes in (loss, accuracy)] == [
        "val_loss",
        "val_accuracy",
    ]
    depth = found.plot("depth").axes
    assert np.allclose(depth[0].lines[0].get_ydata(), [0, -6])
    with pytest.raises(ValueError, match="`kind`"):
        found.plot("bars")


def test_records():
    found = comparison(made("a", [0.9, 0.7], 0.1), made("b", [0.8, 0.8], 0.1))
    first = found.records[0]
    assert first["final_accuracy"] == pytest.approx(0.8)
    assert first["final_accuracy_spread"] == pytest.approx(np.std([0.9, 0.7], ddof=1))
    assert (first["start_variance_min"], first["start_variance_max"]) == (1e-6, 1.0)
    assert all(row.keys() == first.keys() for row in found.records)
    epochs = found.run_records
    assert len(epochs) == 4 * 5
    assert epochs[0]["epoch"] == 0
    assert epochs[0]["val_loss"] == 2.3
    assert "loss" not in epochs[0]


def test_the_direction_of_a_metric_must_be_known():
    runs = [Run("a", 0, None, {}, {"odd": [1.0], "val_odd": [1.0]})]
    with pytest.raises(ValueError, match="\\('odd', 'max'\\)"):
        Comparison.of(runs, epochs=1, planned=1)
    assert Comparison.of(runs, None, "min", epochs=1, planned=1).metric == "odd"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [  # scipy.stats.ttest_ind(equal_var=False)
        ([0.9, 0.92, 0.91], [0.93, 0.95, 0.94], 0.0213116411),
        ([1.0, 2.0, 4.0, 8.0], [3.0, 3.1], 0.6818869709),
        ([1.0, 1.0], [1.0, 1.0], 1.0),
        ([1.0, 1.0], [2.0, 2.0], 0.0),
        ([1.0], [2.0, 2.0], 1.0),
    ],
)
def test_welch(first, second, expected):
    assert welch_p_value(first, second) == pytest.approx(expected, abs=1e-6)
