import builtins
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from keras_initlab import plots
from keras_initlab.plots import canvas
from keras_initlab.stats import LayerStats

pytestmark = pytest.mark.once

KINDS = {
    "variance_heatmap": lambda **more: plots.variance_heatmap(
        {"a": [1.0, 2.0]}, [0, 1], **more
    ),
    "by_depth": lambda **more: plots.by_depth(
        [LayerStats("a", variance=1.0, source="monitored")], **more
    ),
    "histograms": lambda **more: plots.histograms({"a": np.arange(9.0)}, **more),
    "histograms_of_many": lambda **more: plots.histograms(
        {f"a{i}": np.arange(9.0) for i in range(60)}, **more
    ),
    "updates": lambda **more: plots.updates({"a": [1e-3, 1e-3]}, [0, 1], **more),
}


@pytest.mark.parametrize("kind", KINDS)
def test_missing_matplotlib_names_the_install_command(kind, monkeypatch):
    real = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(ImportError, match=r'pip install "keras-initlab\[plots\]"'):
        KINDS[kind]()


@pytest.mark.parametrize("kind", KINDS)
def test_draws_on_the_figure_that_is_given(kind):
    from matplotlib.figure import Figure

    whole = Figure(figsize=(14, 6), layout="constrained")
    left, right = whole.subfigures(1, 2)
    assert KINDS[kind](figure=left) is left
    assert left.axes
    assert not right.axes
    whole.draw_without_rendering()
    alone = Figure()
    assert KINDS[kind](figure=alone) is alone


def test_no_figure_is_left_with_pyplot():
    for draw in KINDS.values():
        draw()
    from matplotlib import pyplot

    assert pyplot.get_fignums() == []


def test_what_has_no_logarithm_is_masked():
    values = plots.log10(np.array([1.0, 0.0, np.nan, np.inf, 100.0]))
    assert values.mask.tolist() == [False, True, True, True, False]
    assert values.compressed().tolist() == [0, 2]


@pytest.mark.parametrize(
    ("count", "inches", "shown"),
    [(5, 3.0, 5), (20, 3.0, 20), (21, 3.0, 11), (300, 3.0, 20), (3, -1.0, 1)],
)
def test_names_thin_out(count, inches, shown):
    assert len(canvas.thinned(count, inches)) == shown


def test_a_long_name_keeps_its_end():
    name = "block/" * 9 + "dense_7"
    assert canvas.shorten(name) == "…" + name[-31:]
    assert canvas.shorten("dense") == "dense"


def test_values_between_gaps_are_found():
    values = np.ma.array(np.ones(6), mask=[0, 1, 0, 0, 1, 0])
    assert canvas.alone(values) == [0, 5]


# Maths to matplotlib, a code to a terminal, no character to XML.
NAME = "$\\frac{$ \x1b"
NAMED = {
    "variance_heatmap": lambda: plots.variance_heatmap({NAME: [1.0]}, [0]),
    "by_depth": lambda: plots.by_depth(
        [LayerStats(NAME, variance=1.0, source="monitored")]
    ),
    "histograms": lambda: plots.histograms({NAME: np.arange(9.0)}),
    "updates": lambda: plots.updates({NAME: [1e-3, 1e-3]}, [0, 1]),
}


@pytest.mark.parametrize("kind", NAMED)
def test_a_name_is_text_whatever_it_holds(kind):
    svg = plots.svg(NAMED[kind]())
    assert "$\\frac{$ \N{REPLACEMENT CHARACTER}" in "".join(
        ElementTree.fromstring(svg).itertext()
    )


def test_svg_is_the_same_each_time_and_loads_nothing():
    first, second = (plots.svg(KINDS["by_depth"]()) for _ in range(2))
    assert first == second
    assert b"<script" not in first
    assert b'href="http' not in first
