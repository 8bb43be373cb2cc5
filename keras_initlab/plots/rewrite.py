"""The variance over depth before and after a rewrite."""

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


def before_after(
    predicted: tuple[Sequence[Stats], Sequence[Stats]],
    measured: tuple[Sequence[Stats], Sequence[Stats]] | None = None,
    figure: Any = None,
) -> Any:
    """Return a figure of log10 of the variance of each layer's output, twice.

    Lines are what is predicted, dots what is measured. Gaps, marks at the edge and the
    head are as in `by_depth`.

    Args:
        predicted: `LayerStats` in call order, before and after the rewrite.
        measured: of the same layers, matched by `layer`; layers that are not predicted
            are left out.
        figure: a matplotlib Figure or SubFigure to draw on; None makes a new one.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: there is no layer in `predicted`.
    """
    before, after = predicted
    if not after:
        raise ValueError(
            "There is nothing to plot: `predicted` must hold the LayerStats of at "
            "least one layer. Received: none."
        )
    names = [stats.layer for stats in after]
    figure, (axes,) = open_panels(figure, names, 1)
    lines = [
        _course(names, before, "before, predicted", canvas.PREDICTED, "--", "_"),
        _course(names, after, "after, predicted", canvas.OUTPUT, "-", "_"),
    ]
    if measured is not None:
        lines += [
            _course(names, measured[0], "before, measured", canvas.PREDICTED, "", "o"),
            _course(names, measured[1], "after, measured", canvas.OUTPUT, "", "o"),
        ]
    draw(axes, lines, head_of(after))
    axes.set_title("Variance of each layer's output, before training", **TITLE)
    axes.set_ylabel("log10 variance")
    name_columns(axes, figure, names)
    return figure


def _course(
    names: Sequence[str],
    stats: Sequence[Stats],
    label: str,
    color: str,
    style: str,
    marker: str,
) -> Course:
    """Return the course of the variance over layers of these names."""
    by_name = {layer.layer: layer for layer in stats}
    matched = [by_name.get(name) for name in names]
    return Course.of("variance", matched, label, color, style, marker)
