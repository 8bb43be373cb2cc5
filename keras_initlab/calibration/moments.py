"""Moments of what a kernel makes, and the factor that takes them to a target."""

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

# Squares beyond these leave float32; what is smaller or larger is divided first.
_LEAST, _MOST = 1e-30, 1e30


@dataclass(frozen=True)
class Moments:
    """Moments of a product of inputs and a kernel, over the batch and all positions.

    Attributes:
        mean: of each unit, of the shape of a bias; a single number for all units.
        spread: the mean square of what is left without `mean`.
    """

    mean: Array
    spread: float

    @property
    def is_finite(self) -> bool:
        """Whether all figures are."""
        return bool(math.isfinite(self.spread) and np.isfinite(self.mean).all())

    def times(self, factor: float) -> Moments:
        """Return the moments of the product times a number."""
        return Moments(self.mean * factor, self.spread * factor**2)

    def plus(self, bias: Array | float) -> Moments:
        """Return the moments with a bias added to each unit."""
        return Moments(self.mean + bias, self.spread)

    def value(self, statistic: Statistic) -> float:
        """Return the second moment or the variance, over all units."""
        means = self.mean**2 if statistic == "second_moment" else self._off_mean**2
        return float(self.spread + means.mean())

    @property
    def _off_mean(self) -> Array:
        off: Array = self.mean - self.mean.mean()
        return off


def pooled(calls: Sequence[Moments]) -> Moments:
    """Return the moments over several calls, each counted alike."""
    if len(calls) == 1:
        return calls[0]
    means = np.stack([call.mean for call in calls])
    mean = means.mean(axis=0)
    between = float(np.square(means - mean).mean())
    return Moments(mean, float(np.mean([call.spread for call in calls])) + between)


def moments_of(
    x: Any, passes: Passes, unit_shape: Sequence[int] | None, statistic: Statistic
) -> Moments:
    """Measure a product.

    Args:
        x: the tensor, of any shape.
        passes: those of the backend.
        unit_shape: the shape of a bias, which each unit's own mean is wanted for; None
            where the mean over all is enough.
        statistic: of a second moment without `unit_shape` no mean is taken at all.
    """
    if keras.backend.standardize_dtype(x.dtype) not in ("float32", "float64"):
        x = keras.ops.cast(x, "float32")
    found = _moments(x, passes, unit_shape, statistic)
    if found.is_finite and (found.spread > _LEAST or found.mean.any()):
        return found
    largest = float(keras.ops.convert_to_numpy(keras.ops.max(keras.ops.abs(x))))
    if not 0 < largest < math.inf or _LEAST**0.5 < largest < _MOST**0.5:
        return found
    return _moments(x / largest, passes, unit_shape, statistic).times(largest)


def _moments(
    x: Any, passes: Passes, unit_shape: Sequence[int] | None, statistic: Statistic
) -> Moments:
    if unit_shape is None and statistic == "second_moment":
        return Moments(np.zeros(1), _number(passes.mean_square(x[None])))
    if unit_shape is None:
        mean = keras.ops.mean(x, keepdims=True)
        units: tuple[int, ...] = (1,)
    else:
        rank = len(x.shape)
        shape = (1,) * (rank - len(unit_shape)) + tuple(unit_shape)
        summed = tuple(axis for axis in range(rank) if shape[axis] == 1)
        mean = keras.ops.mean(x, axis=summed, keepdims=True)
        units = tuple(unit_shape)
    spread = _number(passes.mean_square(x[None], mean[None]))
    values = np.asarray(keras.ops.convert_to_numpy(mean), np.float64)
    return Moments(values.reshape(units), spread)


def _number(x: Any) -> float:
    return float(np.asarray(keras.ops.convert_to_numpy(x)).reshape(()))


def factor_for(
    moments: Moments, bias: Array | float, target: float, statistic: Statistic
) -> tuple[float, str]:
    """Return f so that f · product + bias has the target, and a note.

    With A and C the statistic of product and bias alone and B that of both together,
    f² A + 2 f B + C = target, which has one positive root where C < target.
    """
    own = moments.value(statistic)
    if not own > 0:
        return 1.0, "its output is 0 on the whole batch: left alone"
    of_bias = Moments(np.zeros_like(moments.mean), 0.0).plus(bias).value(statistic)
    if of_bias >= target:
        alone = math.sqrt(target / own)
        return alone, f"its bias alone has {of_bias:.3g}: scaled without it"
    both = moments.plus(bias).value(statistic)
    mixed = (both - own - of_bias) / 2 if of_bias else 0.0
    # The root of the quadratic that does not cancel.
    root = math.sqrt(mixed**2 + own * (target - of_bias))
    if mixed > 0:
        return (target - of_bias) / (mixed + root), ""
    return (root - mixed) / own, ""
