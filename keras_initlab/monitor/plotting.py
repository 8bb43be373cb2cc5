"""The figures of `VarianceMonitor.plot`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from keras_initlab.propagation import propagate

if TYPE_CHECKING:
    from keras_initlab.monitor.callback import VarianceMonitor
    from keras_initlab.monitor.options import PlotKind


def draw(monitor: VarianceMonitor, kind: PlotKind, figure: Any, **settings: Any) -> Any:
    """Return a figure of the given kind, of a monitor that has measurements."""
    from keras_initlab import plots

    if kind == "variance":
        if monitor.window is None:
            return plots.variance_heatmap(
                monitor.history, monitor.epochs, figure, **settings
            )
        return plots.variance_heatmap(
            monitor.history, (), figure, starts=_positions(monitor), **settings
        )
    if kind == "depth":
        predicted = settings.pop("predicted", None)
        if predicted is None:
            predicted = propagate(monitor.model)
        return plots.by_depth(monitor.stats, predicted, figure, **settings)
    if kind == "histograms":
        if not monitor.samples:
            raise ValueError(
                "Histograms need values that a monitor keeps on request only. "
                "Received: a monitor without. Use VarianceMonitor(histograms=True)."
            )
        return plots.histograms(
            monitor.samples, monitor.gradient_samples or None, figure, **settings
        )
    return plots.updates(_updates(monitor), _positions(monitor), figure, **settings)


def _positions(monitor: VarianceMonitor) -> list[float]:
    """Return where each window begins, in epochs."""
    if monitor.window is None:
        return [*map(float, monitor.epochs)]
    length = max(monitor.steps) + monitor.window
    return [
        epoch + step / length
        for epoch, step in zip(monitor.epochs, monitor.steps, strict=True)
    ]


def _updates(monitor: VarianceMonitor) -> dict[str, list[float]]:
    """Return the update ratios by layer, one per window, NaN where not measured."""
    places = {
        place: index
        for index, place in enumerate(zip(monitor.epochs, monitor.steps, strict=True))
    }
    ratios: dict[str, list[float]] = {}
    for record in monitor.records:
        if "update_ratio" not in record:
            continue
        values = ratios.setdefault(record["layer"], [math.nan] * len(places))
        values[places[record["epoch"], record["step"]]] = record["update_ratio"]
    if not ratios:
        raise ValueError(
            "Update ratios need gradients. Received: a monitor that has measured no "
            "updates. Use VarianceMonitor(gradients=True)."
        )
    return ratios
