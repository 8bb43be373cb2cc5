"""What a monitor asks of a tap: what to measure, and when."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_initlab.stats import Bounds

# Statistics that need a layer's output alone.
FORWARD = (
    "mean",
    "variance",
    "second_moment",
    "batch_variance",
    "input_cosine",
    "zero_fraction",
    "dead_fraction",
    "saturated_fraction",
    "nonfinite",
)
# Statistics that need the backward pass: at the output, and of the main weight.
BACKWARD = (
    "gradient_second_moment",
    "weight_gradient_second_moment",
    "update_ratio",
)


@dataclass(frozen=True)
class Request:
    """What to measure, and of which layers. Equal requests share a compiled step.

    Attributes:
        statistics: names from `FORWARD` and `BACKWARD`.
        custom: functions of an output that return a scalar, by name.
        samples: whether values are kept for histograms, of the last batch measured.
        wanted: whether a layer, given with its path, is measured.
        bounds: the range of a layer's activation, None where it is unbounded.
        weight: the main trainable weight of a layer, or None.
    """

    statistics: tuple[str, ...] = ("mean", "variance", "second_moment")
    custom: tuple[tuple[str, Callable[[Any], Any]], ...] = ()
    samples: bool = False
    wanted: Callable[[Any, str], bool] = lambda layer, path: True
    bounds: Callable[[Any], Bounds | None] = lambda layer: None
    weight: Callable[[Any], Any] = lambda layer: None

    @property
    def gradients(self) -> bool:
        """Whether gradients at the outputs are asked for."""
        return "gradient_second_moment" in self.statistics

    @property
    def weights(self) -> bool:
        """Whether any statistic of weights is asked for."""
        return bool({*BACKWARD[1:]} & {*self.statistics})


@dataclass(frozen=True)
class Schedule:
    """When to measure, and which measurements go together.

    Attributes:
        every: the steps, or the span of time, from one measurement to the next.
        window: steps in a window; None is an epoch.
    """

    every: int | datetime.timedelta = 10
    window: int | None = None
