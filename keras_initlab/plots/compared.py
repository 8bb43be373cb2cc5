"""Candidates side by side: curves with bands by epoch, and signals over depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_initlab.plots import canvas
from keras_initlab.plots.course import PANEL, Stats

# Okabe and Ito's colours; of more candidates the line changes, too.
COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
STYLES = ("-", "--", ":", "-.")

# By candidate, a curve for each seed: values by epoch, from epoch 0 on.
Curves = Mapping[str, Sequence[Sequence[float]]]
# By candidate, the signals before and after training.
Signals = Mapping[str, tuple[Sequence[Stats], Sequence[Stats]]]


def compared_curves(
    panels: Mapping[str, Curves],
    targets: Mapping[str, float] | None = None,
    figure: Any = None,
) -> Any:
    """Return a figure with a panel for each name: means over seeds, within bands.

    A band reaches from the lowest to the highest seed. A curve ends where a run has
    diverged; a cross at the upper edge marks it.

    Args:
        panels: curves by candidate, for each name.
        targets: a horizontal line in a panel.
        figure: a matplotlib Figure or SubFigure to draw on; None makes a new one.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure = canvas.open_figure(figure, 1.6 + 4.2 * len(panels), 3.6)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    handles: list[Any] = []
    for panel, (name, curves) in zip(axes, panels.items(), strict=True):
        handles = [
            _band(panel, candidate, seeds, index)
            for index, (candidate, seeds) in enumerate(curves.items())
        ]
        if targets and name in targets:
            panel.axhline(
                targets[name], color=canvas.QUIET, linewidth=0.8, dashes=(4, 3)
            )
            canvas.note(
                panel,
                1.0,
                targets[name],
                f"{targets[name]:g}",
                offset=(3, 0),
            )
        _finish(panel, name, curves)
    canvas.legend(axes[-1], handles)
    if targets:
        axes[-1].get_legend().set_bbox_to_anchor((1.09, 1.0))
    return figure


def compared_depth(signals: Signals, figure: Any = None) -> Any:
    """Return a figure of variance and gradient over depth, before and after training.

    The panels show log10; values that have no logarithm are marked at the edges.

    Args:
        signals: by candidate, `LayerStats` in call order before and after training.
        figure: a matplotlib Figure or SubFigure to draw on; None makes a new one.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure = canvas.open_figure(figure, 10.0, 2 * PANEL + 0.8)
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    rows = (
        ("variance", "log10 variance"),
        ("gradient_second_moment", "log10 gradient²"),
    )
    handles: list[Any] = []
    for row, (field, label) in zip(panels, rows, strict=True):
        for column, (axes, when) in enumerate(
            zip(row, ("before training", "after training"), strict=True)
        ):
            handles = []
            for index, (candidate, moments) in enumerate(signals.items()):
                handles += _course(axes, candidate, moments[column], field, index)
            canvas.plain(axes)
            if field == rows[0][0]:
                axes.set_title(when, loc="left", fontsize=canvas.TITLE)
        row[0].set_ylabel(label)
    for axes in panels[-1]:
        axes.set_xlabel("layer, in call order")
    canvas.legend(panels[0][-1], handles)
    return figure


def _band(axes: Any, name: str, seeds: Sequence[Sequence[float]], index: int) -> Any:
    """Draw the mean over seeds, and the band between the lowest and the highest."""
    longest = max((len(values) for values in seeds), default=0)
    values = np.full((len(seeds), longest), np.nan)
    for row, seed in zip(values, seeds, strict=True):
        row[: len(seed)] = seed
    values[~np.isfinite(values)] = np.nan
    # Where a run has diverged, the mean of the others would be another curve.
    usable = np.isfinite(values).all(axis=0)
    epochs = np.arange(longest)
    masked = np.where(usable, values, np.nan)
    style = _style(index)
    (line,) = axes.plot(epochs, masked.mean(axis=0), label=name, **style)
    if len(seeds) > 1:
        axes.fill_between(
            epochs,
            masked.min(axis=0),
            masked.max(axis=0),
            color=style["color"],
            alpha=0.15,
            linewidth=0,
        )
    if not usable.all():
        end = np.array([int(np.argmin(usable))])
        canvas.mark_edges(axes, end, np.array([np.nan]), style["color"])
    return line


def _finish(axes: Any, name: str, curves: Curves) -> None:
    everything = [v for seeds in curves.values() for seed in seeds for v in seed]
    values = np.array([v for v in everything if np.isfinite(v)])
    # A loss that explodes would press the others flat.
    if values.size and values.min() > 0 and values.max() > 30 * np.median(values):
        axes.set_yscale("log")
    canvas.plain(axes)
    axes.set_title(name, loc="left", fontsize=canvas.TITLE)
    axes.set_xlabel("epoch")
    canvas.count_epochs(axes, [0.0])


def _course(
    axes: Any, name: str, stats: Sequence[Stats], field: str, index: int
) -> list[Any]:
    """Draw a figure over depth."""
    figures = [getattr(layer, field) for layer in stats]
    values = np.array([np.nan if v is None else v for v in figures], dtype=float)
    style = _style(index)
    line = canvas.log10(values)
    layers = np.arange(len(values))
    (handle,) = axes.plot(layers, line, label=name, marker="o", markersize=3, **style)
    present = np.array([v is not None for v in figures], dtype=bool)
    canvas.mark_edges(axes, layers[present], values[present], style["color"])
    return [handle]


def _style(index: int) -> dict[str, Any]:
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": STYLES[index // len(COLORS) % len(STYLES)],
        "linewidth": 1.4,
    }
