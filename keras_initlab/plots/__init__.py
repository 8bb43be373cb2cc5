"""Plots of layers' signals; matplotlib is imported only where one is drawn."""

from keras_initlab.plots.canvas import log10
from keras_initlab.plots.compared import compared_curves, compared_depth
from keras_initlab.plots.depth import by_depth
from keras_initlab.plots.export import svg
from keras_initlab.plots.heatmap import variance_heatmap
from keras_initlab.plots.histogram import histograms
from keras_initlab.plots.rewrite import before_after
from keras_initlab.plots.update_ratio import updates

__all__ = [
    "before_after",
    "by_depth",
    "compared_curves",
    "compared_depth",
    "histograms",
    "log10",
    "svg",
    "updates",
    "variance_heatmap",
]
