import io
from itertools import pairwise

import numpy as np
import pytest

from keras_initlab.plots import variance_heatmap

pytestmark = pytest.mark.once


def history(layers, epochs):
    rng = np.random.default_rng(0)
    return {f"block/dense_{i}": list(rng.lognormal(size=epochs)) for i in range(layers)}


@pytest.mark.parametrize("layers", [1, 5, 60, 300])
@pytest.mark.parametrize("epochs", [1, 20])
def test_every_cell_is_drawn_and_the_names_can_be_read(layers, epochs):
    figure = variance_heatmap(history(layers, epochs), range(epochs))
    figure.savefig(io.BytesIO())
    axes = figure.axes[0]
    assert axes.images[0].get_array().shape == (layers, epochs)
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert boxes
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))


def test_cells_hold_log10_with_the_first_layer_on_top():
    figure = variance_heatmap({"a": [1.0, 10.0], "b": [0.01, 1.0]}, [3, 4])
    image = figure.axes[0].images[0]
    np.testing.assert_allclose(image.get_array(), [[0, 1], [-2, 0]], atol=1e-12)
    assert tuple(image.get_extent()) == (2.5, 4.5, 1.5, -0.5)
    assert image.norm.vmin == -image.norm.vmax


def test_two_histories_on_one_figure_and_one_scale():
    from matplotlib.figure import Figure

    halves = Figure().subfigures(1, 2)
    for half, values in zip(halves, ([1.0, 10.0], [1e-5, 1.0]), strict=True):
        assert variance_heatmap({"a": values}, [0, 1], half, decades=6) is half
        norm = half.axes[0].images[0].norm
        assert (norm.vmin, norm.vmax) == (-6, 6)


def colors(figure):
    """Return the colours of the cells, rounded."""
    image = figure.axes[0].images[0]
    return np.round(image.cmap(image.norm(image.get_array())), 2)[..., :3]


def test_a_network_of_one_small_variance_is_white():
    steady = {f"dense_{i}": [0.013, 0.014] for i in range(50)}
    assert colors(variance_heatmap(steady, [0, 1])).min() > 0.9
    faded = colors(variance_heatmap(steady, [0, 1], relative=False))
    assert faded[..., 0].max() < 0.2  # all blue


@pytest.mark.parametrize(
    ("settings", "white"),
    [
        ({}, -1),
        ({"relative": False}, 0),
        ({"decades": 6}, 0),
        ({"decades": 6, "relative": True}, -1),
    ],
    ids=str,
)
def test_what_is_white(settings, white):
    figure = variance_heatmap({"z": [0.0, 5.0], "a": [0.1, 9.0]}, [0, 1], **settings)
    norm = figure.axes[0].images[0].norm
    assert norm.vcenter == pytest.approx(white)
    assert norm.vmax - norm.vcenter == pytest.approx(settings.get("decades", 2))
    origin = "the first layer's" if white else "1"
    assert figure.axes[1].get_ylabel() == f"log10 variance\nwhite: {origin}"


def test_a_value_without_a_logarithm_is_masked():
    figure = variance_heatmap({"a": [0.0, np.nan, np.inf, 10.0]}, range(4))
    figure.savefig(io.BytesIO())
    mask = figure.axes[0].images[0].get_array().mask
    assert mask.tolist() == [[True, True, True, False]]


def windows(starts, **values):
    figure = variance_heatmap(values, (), starts=starts, xlabel="epoch (windows)")
    figure.savefig(io.BytesIO())
    mesh = figure.axes[0].collections[0]
    return figure, mesh.get_coordinates()[0, :, 0], mesh.get_array()


def test_windows_lie_where_they_begin_with_the_first_layer_on_top():
    figure, edges, cells = windows(
        [2, 2.5, 3], a=[1.0, 10.0, np.nan], b=[0.01, 1.0, 100.0]
    )
    np.testing.assert_allclose(edges, [2, 2.5, 3, 3.5])
    np.testing.assert_allclose(cells.filled(9), [[0, 1, 9], [-2, 0, 2]], atol=1e-12)
    axes = figure.axes[0]
    assert axes.get_ylim() == (1.5, -0.5)
    assert axes.get_xlabel() == "epoch (windows)"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


def test_a_gap_between_windows_is_not_filled_by_the_one_before_it():
    _, edges, cells = windows([0, 0.5, 3, 3.5], a=[1.0, 1.0, 10.0, 10.0])
    np.testing.assert_allclose(edges, [0, 0.5, 1, 3, 3.5, 4])
    np.testing.assert_allclose(cells.filled(9), [[0, 0, 9, 1, 1]])


def test_one_window():
    _, edges, _ = windows([0.25], a=[1.0])
    np.testing.assert_allclose(edges, [0.25, 1.25])


def test_one_epoch_is_numbered_and_nothing_beside_it():
    axes = variance_heatmap({"a": [1.0]}, [3]).axes[0]
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [3]


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ([0, 1, 2], r"Received: 2 values of 'a' for 3 of `starts`"),
        ([1, 0], r"ascend.*Received: \[1\.0, 0\.0\]"),
        ([0, 0], "ascend"),
        ([0, np.nan], "finite"),
    ],
    ids=["too_many", "descending", "twice", "nan"],
)
def test_starts_that_do_not_fit(starts, message):
    with pytest.raises(ValueError, match=message):
        variance_heatmap({"a": [1.0, 1.0]}, (), starts=starts)
