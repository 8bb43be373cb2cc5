import io
from itertools import pairwise

import numpy as np
import pytest

from keras_initlab.plots import by_depth
from keras_initlab.stats import LayerStats

pytestmark = pytest.mark.once


def stats(source, variances, gradients=None, names=None):
    names = names or [f"block/dense_{i}" for i in range(len(variances))]
    return [
        LayerStats(name, variance=v, gradient_second_moment=g, source=source)
        for name, v, g in zip(
            names, variances, gradients or [None] * len(variances), strict=True
        )
    ]


def line(axes, label):
    """Return the drawn values with NaN for gaps."""
    (found,) = [one for one in axes.lines if one.get_label() == label]
    return np.ma.filled(np.ma.asarray(found.get_ydata(), dtype=float), np.nan)


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_without_gradients_one_panel_of_the_variance():
    (axes,) = by_depth(stats("monitored", [1.0, 0.1, 0.01])).axes
    np.testing.assert_allclose(line(axes, "monitored"), [0, -1, -2], atol=1e-12)
    assert axes.get_ylabel() == "log10 variance"
    assert labels(axes) == ["monitored"]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["block/dense_0", "block/dense_1", "block/dense_2"]


def test_measured_figures_are_called_measured():
    (axes,) = by_depth(stats("measured", [1.0])).axes
    assert labels(axes) == ["measured"]


def test_predictions_are_found_by_layer():
    names = ["c", "other", "a"]
    predicted = stats("predicted", [100.0, 5.0, 10.0], names=names)
    monitored = stats("monitored", [1.0, 1.0, 1.0], names=["a", "b", "c"])
    (axes,) = by_depth(monitored, predicted).axes
    np.testing.assert_allclose(line(axes, "predicted"), [1, np.nan, 2])
    dashed = next(one for one in axes.lines if one.get_label() == "predicted")
    assert dashed.get_linestyle() == "--"
    # No line shows a value between two gaps, so both have a mark.
    assert dashed.get_markevery() == [0, 2]


def test_a_predicted_gradient_is_moved_to_the_median_and_says_so():
    monitored = stats("monitored", [1.0] * 4, [1e-6, 1e-5, 1e-3, None])
    predicted = stats("predicted", [1.0] * 4, [1.0, 10.0, 100.0, 1e9])
    above, below = by_depth(monitored, predicted).axes
    fitted = line(below, "predicted,\nlevel fitted")
    np.testing.assert_allclose(fitted, [-6, -5, -4, 3], atol=1e-12)
    np.testing.assert_allclose(line(below, "monitored"), [-6, -5, -3, np.nan])
    assert labels(above) == ["monitored", "predicted"]
    assert labels(below) == ["monitored", "predicted,\nlevel fitted"]
    assert above.get_shared_x_axes().joined(above, below)


def test_gradients_that_are_predicted_only_say_where_they_start():
    predicted = stats("predicted", [1.0, 1.0], [10.0, 1.0])
    _, below = by_depth(stats("monitored", [1.0, 1.0]), predicted).axes
    assert labels(below) == ["predicted,\nfrom 1 at the outputs"]
    np.testing.assert_allclose(
        line(below, "predicted,\nfrom 1 at the outputs"), [1, 0], atol=1e-12
    )


def test_values_without_a_logarithm_are_gaps_with_a_mark_at_the_edge():
    figure = by_depth(stats("monitored", [1.0, 0.0, np.inf, np.nan, None, 0.1]))
    figure.savefig(io.BytesIO())
    (axes,) = figure.axes
    expected = [0, np.nan, np.nan, np.nan, np.nan, -1]
    np.testing.assert_allclose(line(axes, "monitored"), expected, atol=1e-12)
    marks = {one.get_label(): one.get_xydata().tolist() for one in axes.lines[1:]}
    # What is not known (None) is no finding: a gap and no mark.
    assert marks == {"0": [[1, 0]], "infinite": [[2, 1]], "NaN": [[3, 1]]}
    assert labels(axes) == ["monitored", "0", "infinite", "NaN"]
    low, high = axes.get_ylim()
    assert -2 < low < -1
    assert 0 < high < 1


@pytest.mark.parametrize(("head", "arrow"), [(1e-9, "↓"), (1e9, "↑")])
def test_the_head_lies_off_the_scale_where_it_would_flatten_all_else(head, arrow):
    variances = [0.1 + 0.01 * i for i in range(8)]
    layers = [
        LayerStats(f"d{i}", weight="kernel", variance=v, source="monitored")
        for i, v in enumerate([*variances, head])
    ]
    softmax = LayerStats("softmax", variance=head, source="monitored")
    figure = by_depth([*layers, softmax])
    figure.savefig(io.BytesIO())
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    assert high - low == pytest.approx(1.0)
    assert low < -1 < high
    assert [text.get_text() for text in axes.texts] == [f"{np.log10(head):.1f} {arrow}"]
    # The line leads there: it is off the scale, not left out.
    assert line(axes, "monitored")[-1] == pytest.approx(np.log10(head))


def test_a_fading_signal_is_not_taken_for_the_heads():
    fading = stats("monitored", [10.0**-i for i in range(9)])
    (axes,) = by_depth(fading).axes
    low, high = axes.get_ylim()
    assert low < -8 < 0 < high
    assert not axes.texts


def test_nothing_with_a_logarithm():
    figure = by_depth(stats("monitored", [np.nan, 0.0]))
    figure.savefig(io.BytesIO())
    assert figure.axes[0].get_ylim() == (-1, 1)


def test_small_differences_are_not_blown_up():
    low, high = by_depth(stats("monitored", [1.0, 1.001])).axes[0].get_ylim()
    assert high - low == pytest.approx(1.0)


@pytest.mark.parametrize("layers", [1, 5, 24, 300])
def test_names_can_be_read(layers):
    figure = by_depth(stats("monitored", [1.0] * layers, [1.0] * layers))
    figure.savefig(io.BytesIO())
    names = figure.axes[-1].get_xticklabels()
    assert len(names) == layers or 20 <= len(names) <= 50
    boxes = [name.get_window_extent() for name in names]
    if names[0].get_rotation() == 90:
        assert not any(a.overlaps(b) for a, b in pairwise(boxes))
    else:
        # Slanted boxes overlap where the letters do not.
        assert all(b.x1 - a.x1 > a.height / 4 for a, b in pairwise(boxes))


def test_nothing_monitored():
    with pytest.raises(ValueError, match=r"nothing to plot.*Received: none"):
        by_depth([])


def test_predictions_for_another_model():
    predicted = stats("predicted", [1.0], names=["elsewhere"])
    with pytest.raises(ValueError, match=r"'elsewhere'.*'a'"):
        by_depth(stats("monitored", [1.0], names=["a"]), predicted)
