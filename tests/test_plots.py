import builtins
import io
from itertools import pairwise

import numpy as np
import pytest

from keras_initlab.plots import log10, variance_heatmap


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


def test_what_has_no_logarithm_is_masked():
    values = log10(np.array([1.0, 0.0, np.nan, np.inf, 100.0]))
    assert values.mask.tolist() == [False, True, True, True, False]
    figure = variance_heatmap({"a": [0.0, np.nan]}, [0, 1])
    figure.savefig(io.BytesIO())


def test_missing_matplotlib_names_the_install_command(monkeypatch):
    real = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(ImportError, match=r'pip install "keras-initlab\[plots\]"'):
        variance_heatmap({"a": [1.0]}, [0])
