"""Figures that a notebook shows as they are."""

import pickle

import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from keras_initlab import plots
from keras_initlab.stats import LayerStats

pytestmark = pytest.mark.once

STATS = [LayerStats(name, variance=1.0, source="measured") for name in "ab"]


def test_a_figure_draws_itself():
    figure = plots.by_depth(STATS)
    assert isinstance(figure, Figure)
    picture = figure._repr_png_()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 5000
    assert pickle.loads(pickle.dumps(figure))._repr_png_()[:4] == picture[:4]
    # pyplot, which would show it a second time, does not know of it.
    assert pyplot.get_fignums() == []


def test_a_figure_that_is_given_is_returned_as_it_is():
    figure = Figure()
    assert plots.by_depth(STATS, figure=figure) is figure
