"""Moments of a kernel's output, and the factor that takes them to a target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from keras_initlab.taps.backends.base import Passes

Statistic = Literal["second_moment", "variance"]
Array = NDArray[np.float64]

Mean = Array | float

# A mean square outside this range may have lost digits, or underflowed, in float32.
_LEAST, _MOST = 1e-30, 1e30

DEAD = "its output is 0 on the whole batch: left alone"


@dataclass(frozen=True)
class Moments:
    """Moments of a product of inputs and a kernel, over the batch and all positions.

    Attributes:
        mean: of each unit, of the shape of a bias; or one number over all units.
        spread: the mean square of the deviations from `mean`.
    """

    mean: Mean
    spread: float

    @property
    def is_finite(self) -> bool:
        """Whether all figures are."""
        return math.isfinite(self.spread) and bool(np.isfinite(self.mean).all())

    def times(self, factor: float) -> Moments:
        """Return the moments of the product times a number."""
        return Moments(self.mean * factor, self.spread * factor**2)

    def plus(self, bias: Mean) -> Moments:
        """Return the moments with a bias added to each unit."""
        return Moments(self.mean + bias, self.spread)

    def value(self, statistic: Statistic) -> float:
        """Return the second moment or the variance, over all units."""
        mean = self.mean
        if isinstance(mean, float):
            return self.spread + (mean**2 if statistic == "second_moment" else 0.0)
        if statistic == "variance":
            mean = mean - mean.mean()
        return self.spread + float(np.square(mean).mean())


def pooled(calls: Sequence[Moments]) -> Moments:
    """Return the moments over several calls, each counted alike."""
    if len(calls) == 1:
        return calls[0]
    means = np.stack([call.mean for call in calls])
    mean = means.mean(axis=0)
    between = float(np.square(means - mean).mean())
    spread = float(np.mean([call.spread for call in calls])) + between
    return Moments(mean if mean.ndim else float(mean), spread)


def moments_of(
    x: Any, passes: Passes, unit_shape: Sequence[int] | None, statistic: Statistic
) -> Moments:
    """Measure a product.

    Args:
        x: the tensor, of any shape.
        passes: those of the backend.
        unit_shape: the shape of a bias if the mean of each unit is needed; None if the
            mean over all units is enough.
        statistic: for a second moment without `unit_shape`, no mean is computed.
    """
    if keras.backend.standardize_dtype(x.dtype) not in ("float32", "float64"):
        x = keras.ops.cast(x, "float32")
    moments = _moments(x, passes, unit_shape, statistic)
    if _LEAST < moments.spread < _MOST and moments.is_finite:
        return moments
    # Zero, tiny, or too large for the dtype: computed in units of the largest value.
    largest = float(keras.ops.max(keras.ops.abs(x)))
    if not 0 < largest < math.inf:
        return moments if largest else Moments(moments.mean * 0.0, 0.0)
    return _moments(x / largest, passes, unit_shape, statistic).times(largest)


def _moments(
    x: Any, passes: Passes, unit_shape: Sequence[int] | None, statistic: Statistic
) -> Moments:
    if unit_shape is None:
        if statistic == "second_moment":
            return Moments(0.0, float(passes.whole_mean_square(x)))
        mean = keras.ops.mean(x)
        return Moments(float(mean), float(passes.whole_mean_square(x, mean)))
    rank = len(x.shape)
    shape = (1,) * (rank - len(unit_shape)) + tuple(unit_shape)
    summed = tuple(axis for axis in range(rank) if shape[axis] == 1)
    mean = keras.ops.mean(x, axis=summed, keepdims=True)
    values = np.asarray(keras.ops.convert_to_numpy(mean), np.float64)
    spread = float(passes.whole_mean_square(x, mean))
    return Moments(values.reshape(tuple(unit_shape)), spread)


def factor_for(
    moments: Moments, bias: Mean, target: float, statistic: Statistic
) -> tuple[float, str]:
    """Return f such that f · product + bias has the target, and a note.

    With A and C the statistics of product and bias alone and B their mixed term,
    f² A + 2 f B + C = target, which has one positive root if C < target.
    """
    of_product = moments.value(statistic)
    if not of_product > 0:
        return 1.0, DEAD
    if isinstance(bias, float) and not bias:
        return math.sqrt(target / of_product), ""
    of_bias = Moments(bias, 0.0).value(statistic)
    if of_bias >= target:
        alone = math.sqrt(target / of_product)
        return alone, f"its bias alone has {of_bias:.3g}: scaled without it"
    both = moments.plus(bias).value(statistic)
    mixed = (both - of_product - of_bias) / 2
    root = math.sqrt(mixed**2 + of_product * (target - of_bias))
    # The form of the root in which nothing cancels.
    if mixed > 0:
        return (target - of_bias) / (mixed + root), ""
    return (root - mixed) / of_product, ""
