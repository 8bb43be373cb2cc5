import io
from itertools import pairwise

import numpy as np
import pytest

from keras_initlab.plots import histograms

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
ODD = {
    "some_nan": np.array([np.nan, *RNG.normal(size=99)]),
    "all_nan": np.full(100, np.nan),
    "zero": np.zeros(100),
    "constant": np.full(100, 0.5),
    "relu": np.maximum(RNG.normal(size=100), 0),
    "empty": np.array([]),
}


def normal(layers, scale=1.0):
    """Return samples, each layer's `scale` times the one before it."""
    return {f"block/dense_{i}": RNG.normal(size=500) * scale**i for i in range(layers)}


def drawn(figure):
    figure.savefig(io.BytesIO())
    return figure.axes


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_few_layers_have_a_histogram_each_with_mean_and_deviation():
    (axes,) = drawn(histograms({"a": np.array([1.0, 3.0]), "b": np.zeros(4)}))
    assert texts(axes) == ["mean 2, sd 1", "all 0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_ylim() == (1.5, -0.5)
    assert axes.get_xlabel() == "value"
    tops, edges, floor = axes.patches[0].get_data()
    assert (edges[0], edges[-1]) == (0, 3)
    # Height is the share of the fullest bin: both bins that hold a value are full.
    heights = floor - tops
    assert np.flatnonzero(heights).tolist() == [5, 14]
    np.testing.assert_allclose(heights[[5, 14]], 0.85)


def test_layers_alike_share_one_range():
    (axes,) = drawn(histograms(normal(5, scale=0.5)))
    edges = [patch.get_data().edges for patch in axes.patches]
    assert len(edges) == 5
    assert all((one == edges[0]).all() for one in edges)
    assert axes.get_xticks().size
    # The deeper, the narrower: less of the range is filled.
    filled = [
        np.mean(p.get_data().values < i + 0.45) for i, p in enumerate(axes.patches)
    ]
    assert filled == sorted(filled, reverse=True)


def test_layers_far_apart_have_ranges_of_their_own_with_their_ends():
    samples = {"a": np.array([-1.0, 0.25, 1.0]), "b": np.array([0.001, 0.003])}
    (axes,) = drawn(histograms(samples))
    assert axes.get_xlabel() == "value, each layer on a range of its own"
    assert not axes.get_xticks().size
    assert texts(axes)[1:3] == ["-1", "1"]
    assert texts(axes)[4:] == ["0.001", "0.003"]


def test_gradients_stand_in_a_second_column_beside_their_layers():
    gradients = {"b": np.array([1.0, 3.0]), "c": np.zeros(3)}
    left, right = drawn(histograms({"a": np.zeros(2), "b": np.zeros(2)}, gradients))
    assert left.get_title("left") == "Output of each layer"
    assert right.get_title("left") == "Gradient at each layer's output"
    assert [label.get_text() for label in left.get_yticklabels()] == ["a", "b", "c"]
    assert texts(left) == ["all 0", "all 0", "no values"]
    assert texts(right) == ["no values", "mean 2, sd 1", "all 0"]


def test_odd_samples_have_notes():
    (axes,) = drawn(histograms(ODD))
    found = dict(zip(ODD, texts(axes), strict=True))
    assert found["some_nan"].endswith("\n1% not finite")
    assert found["all_nan"] == "nothing finite"
    assert found["zero"] == "all 0"
    assert found["constant"] == "all 0.5"
    assert found["relu"].endswith("% zeros")
    assert found["empty"] == "no values"


def test_many_layers_are_rows_of_a_heat_map():
    samples = normal(60)
    heat, bar = drawn(histograms(samples))
    (mesh,) = heat.collections
    cells = mesh.get_array()
    assert cells.shape[0] == 60
    assert not np.ma.is_masked(cells)
    np.testing.assert_allclose(cells.max(axis=1), 1)
    assert "fullest bin" in bar.get_ylabel()
    assert heat.get_ylim() == (59.5, -0.5)
    assert heat.get_xscale() == "linear"


def test_many_layers_far_apart_have_rows_of_their_own_ranges():
    signed = {name: x - x.mean() for name, x in normal(60, scale=0.8).items()}
    heat, strip, _ = drawn(histograms(signed))
    cells = heat.collections[0].get_array()
    filled = np.mean(cells > 0.1, axis=1)
    # However small its values, a row is as full as the first.
    assert filled.min() > 0.5 * filled[0]
    assert heat.get_xlabel() == "value, each layer on a range of its own"
    assert not heat.get_xticks().size
    # 0 is in the middle of each row; how far it reaches stands beside it.
    np.testing.assert_allclose(heat.lines[0].get_xdata(), 0.5)
    reach = [np.quantile(np.abs(x), 0.99, method="higher") for x in signed.values()]
    np.testing.assert_allclose(strip.lines[0].get_xdata(), reach)
    assert strip.get_xscale() == "log"
    low, high = strip.get_xlim()
    assert low <= min(reach) < max(reach) <= high
    boxes = [label.get_window_extent() for label in strip.get_xticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))


def test_a_row_of_positive_values_begins_at_0():
    positive = {name: np.abs(x) for name, x in normal(30, scale=0.5).items()}
    heat, *_ = drawn(histograms(positive))
    np.testing.assert_allclose(heat.lines[0].get_xdata(), 0)


def test_the_ends_of_ranges_stand_beside_the_bars():
    samples = {
        f"layer_{i}": 10.0**-i * RNG.uniform(-1.234567, 1, size=500) for i in range(6)
    }
    for axes in drawn(histograms(samples, samples)):
        bars = [patch.get_window_extent() for patch in axes.patches]
        ends = [text for text in axes.texts if not text.get_text().startswith("mean")]
        assert len(ends) == 12
        for end in ends:
            box = end.get_window_extent()
            assert not any(box.overlaps(bar) for bar in bars)
            assert axes.bbox.x0 - 1 <= box.x0 < box.x1 <= axes.bbox.x1 + 1


def test_heat_map_keeps_zeros_and_nan_apart():
    heat, apart, _ = drawn(histograms({**ODD, **normal(30)}))
    cells = heat.collections[0].get_array()
    unknown = np.ma.getmaskarray(cells).all(axis=1)
    assert np.flatnonzero(unknown).tolist() == [1, 5]
    # A layer of one value is one full bin.
    assert [int((cells[row] > 0).sum()) for row in (2, 3)] == [1, 1]
    zeros, rest = (patch.get_data() for patch in apart.patches)
    assert zeros.values[2] == 1
    assert 0.3 < zeros.values[4] < 0.7
    nonfinite = (rest.values - rest.baseline)[:3]
    np.testing.assert_allclose(nonfinite, [0.01, 1, 0], atol=1e-12)
    names = [text.get_text() for text in apart.get_legend().get_texts()]
    assert names == ["0", "NaN, inf"]


def test_heat_maps_of_outputs_and_gradients():
    outputs, gradients, _ = drawn(histograms(normal(60), normal(30)))
    assert gradients.get_title("left") == "Gradient at each layer's output"
    masks = np.ma.getmaskarray(gradients.collections[0].get_array()).all(axis=1)
    assert masks.tolist() == [False] * 30 + [True] * 30
    assert outputs.collections[0].get_array().shape[0] == 60


def test_no_layers():
    with pytest.raises(ValueError, match=r"nothing to plot.*Received: none"):
        histograms({})
