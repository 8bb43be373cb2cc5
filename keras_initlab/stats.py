"""LayerStats and Bounds: records shared by those who compute and those who show."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from keras_initlab import markup, numerals

Source = Literal["predicted", "measured", "monitored"]
Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class LayerStats:
    """What is known about the signal at one layer's output.

    Figures are over all elements of the output (batch and units) unless stated
    otherwise. Unknown figures are `None`, never 0.

    Attributes:
        layer: path inside the model without the model's own name (`encoder/dense`),
            with `#0`, `#1` for the calls of a shared layer.
        weight: the weight to which `weight_gradient_second_moment` and `update_ratio`
            belong.
        shape: of the output, with None for the batch.
        mean: E[x].
        variance: E[(x - E[x])²].
        second_moment: E[x²].
        batch_variance: variance over the batch, averaged over units.
        input_cosine: mean cosine between the outputs of two inputs, -1 to 1.
        zero_fraction: share of elements that are 0.
        dead_fraction: share of units that are 0 over the whole window.
        saturated_fraction: share of elements at a bounded activation's ends.
        nonfinite: how many elements are NaN or infinite.
        gradient_second_moment: E[(dL/dx)²] at the output.
        weight_gradient_second_moment: E[(dL/dw)²]. A weight that is shared, by several
            calls of a layer or by several layers, has a single gradient, the sum over
            all of them, which is given at each.
        update_ratio: ‖Δw‖ / ‖w‖ of one step.
        source: how the figures came about.

    >>> LayerStats("dense", variance=1.0, source="predicted").mean is None
    True
    """

    layer: str
    weight: str | None = None
    shape: Shape | None = None
    mean: float | None = None
    variance: float | None = None
    second_moment: float | None = None
    batch_variance: float | None = None
    input_cosine: float | None = None
    zero_fraction: float | None = None
    dead_fraction: float | None = None
    saturated_fraction: float | None = None
    nonfinite: int | None = None
    gradient_second_moment: float | None = None
    weight_gradient_second_moment: float | None = None
    update_ratio: float | None = None
    # Keyword-only, so that it can follow the optional fields without a default:
    # a record must say where it comes from.
    source: Source = field(kw_only=True)

    def __post_init__(self) -> None:
        # NumPy's numbers print as np.float64(1.0), and JSON does not know float32.
        for name, value in vars(self).items():
            if isinstance(value, np.generic):
                object.__setattr__(self, name, value.item())


# What a notebook shows of each: the head of its column, and what it says.
_COLUMNS = {
    "shape": ("shape", "Of the output, None for the batch."),
    "mean": ("mean", "E[x]"),
    "variance": ("variance", "E[(x - E[x])²]"),
    "second_moment": ("E[x²]", "The second moment."),
    "batch_variance": (
        "batch\nvariance",
        "Variance over the batch, averaged over units.",
    ),
    "input_cosine": (
        "input\ncosine",
        "Mean cosine between the outputs of two inputs.",
    ),
    "zero_fraction": ("zeros", "Share of elements that are 0."),
    "dead_fraction": ("dead", "Share of units that are 0 over the whole window."),
    "saturated_fraction": (
        "saturated",
        "Share of elements at a bounded activation's ends.",
    ),
    "nonfinite": ("not\nfinite", "How many elements are NaN or infinite."),
    "gradient_second_moment": ("gradient", "E[(dL/dx)²] at the output."),
    "weight_gradient_second_moment": ("weight's\ngradient", "E[(dL/dw)²]"),
    "update_ratio": ("update\nratio", "‖Δw‖ / ‖w‖ of one step."),
    "source": ("source", "How the figures came about."),
}


class Stats(list[LayerStats]):
    """A list of `LayerStats`, which a notebook shows as a table."""

    def _repr_html_(self) -> str:
        columns = [
            name
            for name in _COLUMNS
            if any(getattr(layer, name) is not None for layer in self)
        ]
        headings = [markup.Heading("layer"), *map(_heading, columns)]
        rows = [
            markup.Row([row.layer, *(_cell(getattr(row, name)) for name in columns)])
            for row in self
        ]
        parts = [*markup.legend(headings), *markup.table(headings, rows)]
        return markup.fragment(markup.report(parts))


def _heading(name: str) -> markup.Heading:
    text, about = _COLUMNS[name]
    words = name in ("shape", "source")
    return markup.Heading(text, number=not words, code=name == "shape", about=about)


def _cell(value: Shape | str | float | None) -> str | None:
    if isinstance(value, float):
        return numerals.number(value)
    return None if value is None else str(value)


_POSITIVE, _SHARE = (0.0, math.inf), (0.0, 1.0)
# The range of each figure. Moments come from one computation: if one of them is
# impossible, none of them can be trusted.
_MOMENTS = {
    "mean": (-math.inf, math.inf),
    "variance": _POSITIVE,
    "second_moment": _POSITIVE,
    "batch_variance": _POSITIVE,
    "input_cosine": (-1.0, 1.0),
}
_OTHERS = {
    "zero_fraction": _SHARE,
    "dead_fraction": _SHARE,
    "saturated_fraction": _SHARE,
    "nonfinite": _POSITIVE,
    "gradient_second_moment": _POSITIVE,
    "weight_gradient_second_moment": _POSITIVE,
    "update_ratio": _POSITIVE,
}
# Beyond an end by no more than this is a rounding error: at 0 of what may be as small
# as one likes, at ±1, and of E[x²] as a share of E[x]². Cosines of float32 outputs
# reach 1 + 1.1e-6.
_ROUNDING = 1e-5
_ROUNDING_AT_0 = 1e-12


def possible(stats: LayerStats) -> LayerStats:
    """Return the stats without impossible figures, such as E[x²] < E[x]².

    All stats are passed through this function when they are made. An impossible figure
    is a fault of whoever computed it: it becomes None, and a `RuntimeWarning` names it.

    >>> possible(LayerStats("dense", zero_fraction=-1e-9, source="measured"))
    ... # doctest: +ELLIPSIS
    LayerStats(layer='dense', ..., zero_fraction=0.0, ...)
    """
    changes: dict[str, float | None] = {}
    wrong: dict[str, float] = {}
    for name, (low, high) in (_MOMENTS | _OTHERS).items():
        value = getattr(stats, name)
        if value is None or low <= value <= high or math.isnan(value):
            continue
        rounding = _ROUNDING_AT_0 if high == math.inf else _ROUNDING
        if low - rounding <= value <= high + rounding:
            changes[name] = low if value < low else high
        else:
            wrong[name] = value
    if _is_below_squared_mean(stats):
        assert stats.second_moment is not None
        wrong["second_moment"] = stats.second_moment
    if not changes and not wrong:
        return stats
    if wrong:
        figures = ", ".join(f"{name}={value:.4g}" for name, value in wrong.items())
        warnings.warn(
            f"Figures that are {stats.source} of layer {stats.layer!r} are left out, "
            f"as no signal can have them: {figures}. Unless a rule of your own is at "
            "fault, please report it, with the model.",
            RuntimeWarning,
            stacklevel=3,
        )
        moments = _MOMENTS if wrong.keys() & _MOMENTS.keys() else {}
        changes |= dict.fromkeys({*wrong, *moments})
    fields: dict[str, Any] = changes
    return replace(stats, **fields)


def _is_below_squared_mean(stats: LayerStats) -> bool:
    second, mean = stats.second_moment, stats.mean
    if second is None or mean is None:
        return False
    return second < mean * mean * (1 - _ROUNDING) - _ROUNDING_AT_0


class Bounds(NamedTuple):
    """The range of a bounded activation, and where in it a value is saturated.

    Attributes:
        low, high: the ends of the range.
        near: how near to an end is saturated.
        counts_low: whether the lower end counts (that of ReLU6 does not).
    """

    low: float
    high: float
    near: float
    counts_low: bool
