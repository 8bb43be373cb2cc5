"""A figure over depth: its values, its line, and the panel that it is drawn on."""

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
# The head is left off the scale where it would make it longer by this factor.
LONGER = 2.5


class Stats(Protocol):
    """The attributes of a `keras_initlab.stats.LayerStats` that are read."""

    @property
    def layer(self) -> str:
        """Path inside the model."""

    @property
    def weight(self) -> str | None:
        """The layer's main weight."""

    @property
    def variance(self) -> float | None:
        """Of the output."""

    @property
    def gradient_second_moment(self) -> float | None:
        """At the output."""

    @property
    def source(self) -> str:
        """Where the figures come from."""


def head_of(stats: Sequence[Stats]) -> int:
    """Return where the head begins: the last layer with a weight, in call order.

    What follows it belongs to it, such as a softmax. Where no layer is known to have
    weights, it is the last one.

    >>> from keras_initlab.stats import LayerStats
    >>> head_of([LayerStats(name, weight=weight, source="measured") for name, weight in
    ...     [("a", "kernel"), ("relu", None), ("b", "kernel"), ("softmax", None)]])
    2
    """
    weighted = [i for i, layer in enumerate(stats) if layer.weight is not None]
    return weighted[-1] if weighted else len(stats) - 1


@dataclass(frozen=True)
class Course:
    """A figure over depth; `values` are NaN where it is missing."""

    values: np.ndarray
    present: np.ndarray
    label: str
    color: str
    style: str = "-"
    marker: str = "o"
    shift: float = 0.0

    @classmethod
    def of(
        cls,
        field: str,
        stats: Sequence[Stats | None],
        label: str,
        color: str,
        style: str = "-",
        marker: str = "o",
    ) -> Course:
        """Return the course of one figure."""
        values = [getattr(layer, field, None) for layer in stats]
        return cls(
            np.array([np.nan if x is None else x for x in values], dtype=float),
            np.array([x is not None for x in values]),
            label,
            color,
            style,
            marker,
        )

    @property
    def line(self) -> Any:
        """The logarithm, masked where there is none."""
        return canvas.log10(self.values) + self.shift

    def levelled(self, target: Course) -> Course:
        """Return this course, shifted to the level of `target`."""
        difference = target.line - self.line
        if not difference.count():
            return replace(self, label=f"{self.label},\nfrom 1 at the outputs")
        common = ~np.ma.getmaskarray(difference)
        shift = np.median(target.line.data[common]) - np.median(self.line.data[common])
        return replace(self, label=f"{self.label},\nlevel fitted", shift=float(shift))


def open_panels(figure: Any, names: Sequence[str], count: int) -> tuple[Any, list[Any]]:
    """Return the figure, by default a new one, and its panels, one below the other."""
    longest = max(len(canvas.shorten(name)) for name in names)
    width = float(np.clip(3.5 + canvas.ROW * len(names), 8.5, 12))
    height = count * PANEL + 0.8 + LETTER * longest
    figure = canvas.open_figure(figure, width, height)
    panels = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    return figure, list(panels)


def draw(axes: Any, courses: Sequence[Course], head: int) -> None:
    """Draw courses of the same layers on a panel, with a legend beside it.

    Layers from the index `head` on do not stretch the scale much: where they would,
    they lie off it, and their values are written at the edge.
    """
    from matplotlib.ticker import MaxNLocator

    layers = np.arange(len(courses[0].values))
    courses = [course for course in courses if course.present.any()]
    handles: list[Any] = []
    for course in courses:
        joined = course.style != ""
        bar = course.marker == "_"
        handles += axes.plot(
            layers,
            course.line,
            label=course.label,
            color=course.color,
            linestyle=course.style,
            linewidth=1.4,
            marker=course.marker,
            markersize=8.0 if bar else 5.0 if len(layers) <= FEW else 2.5,
            markevery=canvas.alone(course.line) if joined and bar else None,
        )
        present = course.present
        marks = canvas.mark_edges(
            axes, layers[present], course.values[present], course.color
        )
        listed = {(handle.get_label(), handle.get_color()) for handle in handles}
        handles += [
            mark for mark in marks if (mark.get_label(), mark.get_color()) not in listed
        ]
    canvas.plain(axes)
    axes.set_xlim(-0.5, len(layers) - 0.5)
    low, high = _limits([course.line for course in courses], head)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    _mark_off_scale(axes, courses, head, (low, high))
    canvas.legend(axes, handles)


def name_columns(axes: Any, figure: Any, names: Sequence[str]) -> None:
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


def _limits(lines: Sequence[Any], head: int) -> tuple[float, float]:
    """Return limits of the y axis, which spans at least a decade."""
    everything = [value for line in lines for value in line.compressed()]
    if not everything:
        return -1.0, 1.0
    body = [value for line in lines for value in line[:head].compressed()]
    whole, inner = _with_margin(everything), _with_margin(body or everything)
    if whole[1] - whole[0] > LONGER * (inner[1] - inner[0]):
        return inner
    return whole


def _with_margin(shown: Sequence[float]) -> tuple[float, float]:
    low, high = min(shown), max(shown)
    margin = max(0.06 * (high - low), 0.5 * (1.0 - (high - low)))
    return low - margin, high + margin


def _mark_off_scale(
    axes: Any, courses: Sequence[Course], head: int, limits: tuple[float, float]
) -> None:
    """Write the values of the head that lie off the scale at the panel's edge."""
    low, high = limits
    written = {False: 0, True: 0}
    for course in courses:
        line = course.line
        off = [
            i
            for i in range(head, len(line))
            if line[i] is not np.ma.masked and not low <= line[i] <= high
        ]
        if not off:
            continue
        # Of a head of several layers, the farthest one.
        place = max(off, key=lambda i: abs(line[i] - (low + high) / 2))
        above = bool(line[place] > high)
        step = 3 + 11 * written[above]
        written[above] += 1
        axes.annotate(
            f"{line[place]:.1f} {'↑' if above else '↓'}",
            (place, 1.0 if above else 0.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(5, -step if above else step),
            textcoords="offset points",
            ha="right",
            va="top" if above else "bottom",
            fontsize=canvas.LABEL,
            color=course.color,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
        )
