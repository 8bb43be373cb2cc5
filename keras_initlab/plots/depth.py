"""Signals over depth: measured and predicted, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from keras_initlab.plots import canvas

# Inches of a panel, and of a rotated name's letter.
PANEL, LETTER = 2.5, 0.065
# More layers have smaller markers, and upright instead of slanted names.
FEW = 12
# Room between title and panel for marks at its edge.
TITLE = {"loc": "left", "fontsize": canvas.TITLE, "pad": 9}


class Stats(Protocol):
    """The attributes of a `keras_initlab.stats.LayerStats` that are read."""

    @property
    def layer(self) -> str:
        """Path inside the model."""

    @property
    def variance(self) -> float | None:
        """Of the output."""

    @property
    def gradient_second_moment(self) -> float | None:
        """At the output."""

    @property
    def source(self) -> str:
        """Where the figures come from."""


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
    infinite, a cross at the top for NaN.

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

    longest = max(len(canvas.shorten(name)) for name in names)
    width = float(np.clip(3.5 + canvas.ROW * len(names), 8.5, 12))
    height = (1 + backward) * PANEL + 0.8 + LETTER * longest
    figure = canvas.open_figure(figure, width, height)
    panels = figure.subplots(1 + backward, 1, sharex=True, squeeze=False)[:, 0]

    matched = [guesses.get(name) for name in names]
    source = monitored[0].source
    _draw(
        panels[0],
        _Course.of("variance", monitored, source, canvas.OUTPUT),
        _Course.of("variance", matched, "predicted", canvas.PREDICTED),
    )
    panels[0].set_title("Variance of each layer's output", **TITLE)
    panels[0].set_ylabel("log10 variance")
    if backward:
        gradient = "gradient_second_moment"
        measured = _Course.of(gradient, monitored, source, canvas.GRADIENT)
        guess = _Course.of(gradient, matched, "predicted", canvas.PREDICTED)
        _draw(panels[1], measured, guess.levelled(measured))
        panels[1].set_title("Gradient at each layer's output", **TITLE)
        panels[1].set_ylabel("log10 second moment")
    _name_columns(panels[-1], figure, names)
    return figure


@dataclass(frozen=True)
class _Course:
    """A figure over depth; `values` are NaN where it is missing."""

    values: np.ndarray
    present: np.ndarray
    label: str
    color: str
    shift: float = 0.0

    @classmethod
    def of(
        cls, field: str, stats: Sequence[Stats | None], label: str, color: str
    ) -> _Course:
        """Return the course of one figure."""
        values = [getattr(layer, field, None) for layer in stats]
        return cls(
            np.array([np.nan if x is None else x for x in values], dtype=float),
            np.array([x is not None for x in values]),
            label,
            color,
        )

    @property
    def line(self) -> Any:
        """The logarithm, masked where there is none."""
        return canvas.log10(self.values) + self.shift

    def levelled(self, target: _Course) -> _Course:
        """Return this course, shifted to the level of `target`."""
        difference = target.line - self.line
        if not difference.count():
            return replace(self, label=f"{self.label},\nfrom 1 at the outputs")
        common = ~np.ma.getmaskarray(difference)
        shift = np.median(target.line.data[common]) - np.median(self.line.data[common])
        return replace(self, label=f"{self.label},\nlevel fitted", shift=float(shift))


def _draw(axes: Any, measured: _Course, predicted: _Course) -> None:
    from matplotlib.ticker import MaxNLocator

    layers = np.arange(len(measured.values))
    handles: list[Any] = []
    lines = (
        (measured, "-", "o", 5.0 if len(layers) <= FEW else 2.5, None),
        (predicted, "--", "_", 8.0, canvas.alone(predicted.line)),
    )
    for course, style, marker, size, marked in lines:
        if not course.present.any():
            continue
        handles += axes.plot(
            layers,
            course.line,
            label=course.label,
            color=course.color,
            linestyle=style,
            linewidth=1.4,
            marker=marker,
            markersize=size,
            markevery=marked,
        )
        present = course.present
        handles += canvas.mark_edges(
            axes, layers[present], course.values[present], course.color
        )
    canvas.plain(axes)
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.set_ylim(_limits([*measured.line.compressed(), *predicted.line.compressed()]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    canvas.legend(axes, handles)


def _limits(shown: list[float]) -> tuple[float, float]:
    """Return limits of the y axis, which spans at least a decade."""
    if not shown:
        return -1.0, 1.0
    low, high = min(shown), max(shown)
    margin = max(0.06 * (high - low), 0.5 * (1.0 - (high - low)))
    return low - margin, high + margin


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


def _name_columns(axes: Any, figure: Any, names: list[str]) -> None:
    """Write the layers' names below, as many as can be read."""
    # The legend stands beside the panels.
    width = figure.bbox.width / figure.dpi - 2 * canvas.FRAME
    slanted = len(names) <= FEW and width / len(names) > 2 * canvas.TIGHT_ROW
    turned = (
        {"rotation": 45, "rotation_mode": "anchor"} if slanted else {"rotation": 90}
    )
    room = canvas.TIGHT_ROW if len(names) * canvas.TIGHT_ROW < width else canvas.ROW
    shown = canvas.thinned(len(names), width, room)
    axes.set_xticks(
        shown,
        [canvas.shorten(names[i]) for i in shown],
        fontsize=canvas.LABEL,
        ha="right" if slanted else "center",
        parse_math=False,
        **turned,
    )
    axes.set_xlabel("layer, in call order")
