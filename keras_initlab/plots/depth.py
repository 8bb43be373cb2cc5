"""Signals over depth: measured and predicted, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_initlab.plots import canvas
from keras_initlab.plots.course import (
    TITLE,
    Course,
    Stats,
    draw,
    head_of,
    name_columns,
    open_panels,
)


def by_depth(
    monitored: Sequence[Stats],
    predicted: Sequence[Stats] | None = None,
    figure: Any = None,
) -> Any:
    """Return a figure of the signals over depth, forwards and backwards.

    The upper panel shows log10 of the variance of each layer's output. The lower one,
    drawn if there are any gradients, shows log10 of E[(dL/dx)²] at that output. A
    predicted gradient starts from 1 at the model's outputs for any loss, so that only
    its course over depth is meaningful. It is shifted so that the medians of the
    logarithms agree over the layers that have both figures.

    A line has a gap where a figure is missing, and a gap with a mark at the panel's
    edge where it has no logarithm: a triangle at the bottom for 0, one at the top for
    infinite, a cross at the top for NaN. The head, the last layer with a weight and
    what follows it, lies off the scale where it would flatten all else: its value is
    written at the edge.

    Args:
        monitored: `LayerStats` in call order.
        predicted: `LayerStats` of the same model, matched by `layer`; layers that are
            not in `monitored` are left out.
        figure: a matplotlib Figure or SubFigure to draw on; None makes a new one.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: `monitored` is empty, or `predicted` has none of its layers.
    """
    names = [stats.layer for stats in monitored]
    guesses = _matched(names, predicted or ())
    backward = any(
        stats.gradient_second_moment is not None
        for stats in (*monitored, *guesses.values())
    )
    figure, panels = open_panels(figure, names, 1 + backward)
    matched = [guesses.get(name) for name in names]
    source, head = monitored[0].source, head_of(monitored)
    dashes = {"style": "--", "marker": "_"}

    def courses(field: str, color: str) -> tuple[Course, Course]:
        return (
            Course.of(field, monitored, source, color),
            Course.of(field, matched, "predicted", canvas.PREDICTED, **dashes),
        )

    draw(panels[0], courses("variance", canvas.OUTPUT), head)
    panels[0].set_title("Variance of each layer's output", **TITLE)
    panels[0].set_ylabel("log10 variance")
    if backward:
        measured, guess = courses("gradient_second_moment", canvas.GRADIENT)
        draw(panels[1], (measured, guess.levelled(measured)), head)
        panels[1].set_title("Gradient at each layer's output", **TITLE)
        panels[1].set_ylabel("log10 second moment")
    name_columns(panels[-1], figure, names)
    return figure


def _matched(names: list[str], predicted: Sequence[Stats]) -> dict[str, Stats]:
    """Return the predictions for layers of these names, by name."""
    if not names:
        raise ValueError(
            "There is nothing to plot: `monitored` must hold the LayerStats of at "
            "least one layer. Received: none. Call `model.fit(..., "
            "callbacks=[monitor])` first, and pass `monitor.stats`."
        )
    layers = set(names)
    matches = {stats.layer: stats for stats in predicted if stats.layer in layers}
    if predicted and not matches:
        raise ValueError(
            "`predicted` must speak of the layers in `monitored`. Received: "
            f"predictions for {predicted[0].layer!r} and so on, for layers "
            f"{names[0]!r} and so on. Predict for the model that was monitored."
        )
    return matches
