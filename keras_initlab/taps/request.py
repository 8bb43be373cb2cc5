"""What a monitor asks of a tap: what to measure, and when."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_initlab.stats import Bounds

# What can be had of a layer's output alone.
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
# What takes the backward pass: at the output, and at the layer's main weight.
BACKWARD = (
    "gradient_second_moment",
    "weight_gradient_second_moment",
    "update_ratio",
)


@dataclass(frozen=True)
class Request:
    """What to measure of which layers. Steps are compiled for it: equal ones share.

    Attributes:
        statistics: names out of `FORWARD` and `BACKWARD`.
        custom: functions of an output that return a scalar, by name.
        samples: whether values are kept for histograms, of the last batch measured.
        wanted: whether a layer, given with its path, is measured.
        bounds: the range of a layer's activation, None where it has no ends.
        weight: the trainable weight that a layer is known by, or None.
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
        """Whether anything of the layers' weights is asked for."""
        return bool({*BACKWARD[1:]} & {*self.statistics})


@dataclass(frozen=True)
class Schedule:
    """When to measure, and which measurements go together.

    Attributes:
        every: measure each so many steps, or the first step after each such time.
        window: steps in a window; None is an epoch.
    """

    every: int | datetime.timedelta = 10
    window: int | None = None
