import re

import pytest
from markdown_it import MarkdownIt

from keras_initlab.report import Origin
from tests.report import inspections
from tests.report.inspections import NAMES, bare, dense, finding, inspection

pytestmark = pytest.mark.once


def tokens(text):
    """Return what Markdown makes of a text, tables included."""
    return MarkdownIt("commonmark").enable("table").parse(text)


def rows(text):
    """Return the cells of the table, without code marks."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert len({len(row) for row in cells}) <= 1
    return [[cell.strip().strip("`") for cell in row] for row in cells]


def test_what_the_model_is_stands_first():
    origin = Origin(
        "2026-11-28T19:20+00:00",
        "torch",
        {"keras-initlab": "0.1.0", "keras": "3.12.0", "torch": "2.6.0"},
    )
    text = inspection(
        dense("a"), parameters=1234567, file="net.keras", origin=origin
    ).markdown()
    assert text.splitlines()[0] == "# Inspection of `net`"
    head = text.splitlines()[2]
    for part in (
        "1 layer, measured on x of shape (64, 784); no findings",
        "1,234,567 parameters",
        "file net.keras",
        "2026-11-28 19:20 UTC",
        "Keras 3.12.0",
        "backend torch 2.6.0",
    ):
        assert part in head


def test_findings_have_evidence_and_remedy():
    text = inspections.small().markdown()
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert heads[:3] == [
        "## error: vanishing-signal in `head`",
        "## warning: wrong-fans in `encoder/dense_2`",
        "## info: input-scale in `inputs`",
    ]
    assert "The variance over the batch falls to 1e-15" in text
    assert (
        '**What to do:** Call `il.rewrite_initializers(model, scheme="isometric")` '
        "before training."
    ) in text


def test_of_many_layers_those_that_matter():
    one = inspections.deep(300)
    text = one.markdown()
    names = [row[0] for row in rows(text)[2:] if row[0] != "…"]
    assert len(names) == 12
    # The first and the last kernel (of this network the extremes), and the first
    # layers of each kind of finding.
    layers = [layer.layer for layer in one.layers]
    assert names == sorted(names, key=layers.index)
    assert {layers[0], layers[200], layers[299]} <= set(names)
    assert "12 of 300" in text
    assert "and 247 more" in text
    assert len(text) < 6000
    # What is left out between two layers is marked.
    assert "…" in [row[0] for row in rows(text)]


def test_of_few_layers_all():
    text = inspections.small().markdown()
    names = [row[0] for row in rows(text)[2:]]
    assert names == [layer.layer for layer in inspections.small().layers]


def test_a_layer_without_a_finding_matters_where_a_figure_is_the_largest():
    layers = [dense(f"a_{i}") for i in range(40)]
    layers[17] = dense("a_17", depth=-30)
    text = inspection(*layers, findings=[finding("a_25")]).markdown()
    assert [row[0] for row in rows(text)[2:] if row[0] != "…"] == [
        "a_0",
        "a_17",
        "a_25",
        "a_39",
    ]


@pytest.mark.parametrize("case", ["named", "small", "deep"])
def test_no_name_becomes_markup(case):
    text = getattr(inspections, case)().markdown()
    kinds = {token.type for token in tokens(text)}
    assert not kinds & {"html_block"}
    inline = [child for token in tokens(text) for child in token.children or ()]
    assert not {child.type for child in inline} & {"html_inline", "image", "link_open"}
    if case == "named":
        shown = "".join(child.content for child in inline)
        for name in NAMES[:-2]:
            assert name in shown
        assert "\x1b" not in text
        assert len(rows(text)) == 2 + len(NAMES)


def test_nothing_to_tell():
    assert "no findings" in inspection(data=None).markdown()
    assert "bare" in inspection(bare("bare"), data=None).markdown()
