import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.legend import Legend

from keras_initlab.plots import updates

pytestmark = pytest.mark.once


def ratios(layers, epochs=4):
    return {f"block/dense_{i}": [10.0 ** -(1 + i)] * epochs for i in range(layers)}


def drawn(history, epochs):
    figure = updates(history, epochs)
    figure.savefig(io.BytesIO())
    return figure.axes


def lines(axes):
    return [one for one in axes.lines if str(one.get_label()).startswith("block")]


def is_above(artist):
    """Whether it is the legend of what is usual, above the lines."""
    return isinstance(artist, Legend) and len(artist.get_patches()) == 1


def gray(color):
    return np.dot(to_rgb(color), [0.3, 0.6, 0.1])


def test_few_layers_are_named_in_a_legend():
    (axes,) = drawn(ratios(3), range(4))
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["block/dense_0", "block/dense_1", "block/dense_2"]
    assert axes.get_yscale() == "log"
    np.testing.assert_allclose(lines(axes)[1].get_ydata(), 1e-2)
    np.testing.assert_allclose(lines(axes)[1].get_xdata(), range(4))


def test_many_layers_are_coloured_by_depth_and_explained_by_a_bar():
    history = {f"block/dense_{i}": [1e-3, 1e-3] for i in range(300)}
    axes, bar = drawn(history, range(2))
    assert is_above(axes.get_legend())
    shades = [gray(one.get_color()) for one in lines(axes)]
    assert len(shades) == 300
    assert (np.diff(shades) >= -1e-9).all()
    names = [label.get_text() for label in bar.get_yticklabels()]
    assert (names[0], names[-1], len(names)) == ("block/dense_0", "block/dense_299", 10)
    low, high = bar.get_ylim()
    assert low > high


def test_what_is_usual_is_marked_and_seen():
    (axes,) = drawn({"block": [1e-8, 1e-8]}, range(2))
    (band,) = axes.patches
    corners = band.get_extents().transformed(axes.transData.inverted())
    np.testing.assert_allclose([corners.y0, corners.y1], [1e-4, 1e-2])
    assert any(np.allclose(one.get_ydata(), 1e-3) for one in axes.lines)
    (above,) = [one for one in axes.get_children() if is_above(one)]
    texts = [text.get_text() for text in above.get_texts()]
    assert texts == ["usual: 1e-4 to 1e-2", "rule of thumb: 1e-3"]
    low, high = axes.get_ylim()
    assert low < 1e-8
    assert high >= 1e-2


def test_gaps_and_values_without_a_logarithm():
    (axes,) = drawn({"block": [1e-3, np.nan, 1e-3, 0.0, np.inf, 1e-3]}, range(6))
    (line,) = lines(axes)
    mask = np.ma.getmaskarray(line.get_ydata())
    assert mask.tolist() == [False, True, False, True, True, False]
    marks = {one.get_label(): one.get_xydata().tolist() for one in axes.lines}
    assert (marks["0"], marks["infinite"]) == ([[3, 0]], [[4, 1]])
    # Not measured is no finding.
    assert "NaN" not in marks


def test_a_value_between_gaps_has_a_mark_among_many_lines():
    history = {f"block/{i}": [1e-3, 1e-3, np.nan, 1e-3] for i in range(20)}
    axes, _ = drawn(history, range(4))
    assert {tuple(one.get_markevery()) for one in lines(axes)} == {(3,)}


@pytest.mark.parametrize("layers", [1, 20])
def test_one_epoch(layers):
    axes = drawn(ratios(layers, epochs=1), [5])[0]
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [5]
    assert all(one.get_markevery() in (None, [0]) for one in lines(axes))


def test_parts_of_an_epoch():
    (axes,) = drawn({"block": [1e-3] * 3}, [0.0, 0.25, 0.5])
    np.testing.assert_allclose(lines(axes)[0].get_xdata(), [0, 0.25, 0.5])


def test_nothing_measured_at_all():
    (axes,) = drawn({"block": [np.nan, np.nan]}, range(2))
    assert np.ma.getmaskarray(lines(axes)[0].get_ydata()).all()


def test_errors():
    with pytest.raises(ValueError, match=r"nothing to plot.*Received: none"):
        updates({}, [0])
    with pytest.raises(
        ValueError, match=r"Received: 1 values of 'a' for 2 of `epochs`"
    ):
        updates({"a": [1e-3]}, [0, 1])
