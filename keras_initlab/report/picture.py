"""An inspection as a figure: the signals over depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keras_initlab import plots
from keras_initlab.stats import LayerStats

if TYPE_CHECKING:
    from keras_initlab.report.record import Inspection

_DRAWN = ("variance", "gradient_second_moment")


def draw(inspection: Inspection, figure: Any = None) -> Any:
    """Return the figure; see `Inspection.plot`."""
    predicted = _known(one.predicted for one in inspection.layers)
    measured = _known(one.measured for one in inspection.layers)
    if not predicted and not measured:
        raise ValueError(
            "There is nothing to plot: no variance or gradient of any layer is known. "
            f"Received: an inspection of {inspection.model!r} with "
            f"{len(inspection.layers)} layers. Pass a batch: il.inspect(model, x)."
        )
    if not measured:
        return plots.by_depth(predicted, figure=figure)
    # Layers that were not measured have their place in the order all the same.
    names = {one.layer for one in (*predicted, *measured)}
    by_name = {one.layer: one for one in measured}
    course = [
        by_name.get(one.layer) or LayerStats(one.layer, source="measured")
        for one in inspection.layers
        if one.layer in names
    ]
    return plots.by_depth(course, predicted, figure)


def as_svg(inspection: Inspection) -> bytes | None:
    """Return the figure as SVG, None where there is nothing to draw.

    Raises:
        ImportError: matplotlib is missing.
    """
    layers = inspection.layers
    if not _known(s for one in layers for s in (one.predicted, one.measured)):
        return None
    return plots.svg(draw(inspection))


def _known(stats: Any) -> list[LayerStats]:
    """Return the stats that hold a figure that is drawn."""
    return [
        one
        for one in stats
        if one is not None and any(getattr(one, name) is not None for name in _DRAWN)
    ]
