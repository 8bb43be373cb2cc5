"""An inspection as a figure of the signals over depth."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from keras_initlab import plots
from keras_initlab.plots.canvas import open_figure
from keras_initlab.stats import LayerStats

if TYPE_CHECKING:
    from keras_initlab.report.record import Inspection

# Inches of a figure on a telephone.
NARROW = 4.0, 5.6
_FIGURES = ("variance", "gradient_second_moment")


def draw(inspection: Inspection, figure: Any = None) -> Any:
    """Return the figure; see `Inspection.plot`."""
    predicted = _drawable(layer.predicted for layer in inspection.layers)
    measured = _drawable(layer.measured for layer in inspection.layers)
    if not predicted and not measured:
        raise ValueError(
            "There is nothing to plot: no variance or gradient of any layer is known. "
            f"Received: an inspection of {inspection.model!r} with "
            f"{len(inspection.layers)} layers. Pass a batch: il.inspect(model, x)."
        )
    if not measured:
        return plots.by_depth(predicted, figure=figure)
    # Layers that were not measured keep their place in the order.
    names = {stats.layer for stats in (*predicted, *measured)}
    by_name = {stats.layer: stats for stats in measured}
    course = [
        by_name.get(layer.layer) or LayerStats(layer.layer, source="measured")
        for layer in inspection.layers
        if layer.layer in names
    ]
    return plots.by_depth(course, predicted, figure)


def as_svg(inspection: Inspection, narrow: bool = False) -> bytes | None:
    """Return the figure as SVG, None where there is nothing to draw.

    Args:
        inspection: what to draw.
        narrow: for a telephone: as wide as that, with the legend above the panel.

    Raises:
        ImportError: matplotlib is missing.
    """
    layers = inspection.layers
    if not any(_drawable((layer.predicted, layer.measured)) for layer in layers):
        return None
    if not narrow:
        return plots.svg(draw(inspection))
    figure = draw(inspection, open_figure(None, *NARROW))
    for axes in figure.axes:
        labels = axes.get_legend()
        if labels is not None:
            labels.set_bbox_to_anchor(None)
            labels.set_loc("best")
    return plots.svg(figure)


def _drawable(stats: Iterable[LayerStats | None]) -> list[LayerStats]:
    """Return the stats that hold a figure to draw."""
    return [
        layer
        for layer in stats
        if layer is not None
        and any(getattr(layer, name) is not None for name in _FIGURES)
    ]
