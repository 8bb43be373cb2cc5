"""The moments of a weight's current values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras.layers import Layer
from numpy.typing import NDArray

from keras_initlab.initializers import Mirrored
from keras_initlab.model import fans
from keras_initlab.propagation.weights.moments import WeightMoments

# Entries that are widened to float64 at a time: half a megabyte stays in cache.
_PIECE = 2**16
# By how much the share in which paired outputs are independent may differ from that of
# their initializer, relative to it.
_ROOM = 0.5


def current_moments(
    values: Any, layer: Layer | None = None, weight: str | None = None
) -> WeightMoments:
    """Return the moments of a weight's current values.

    They are accurate as in float64 whatever the dtype, so that a constant has variance
    0, and the variance of values far from 0 is right. NaN if a value is not finite.

    Args:
        values: a Keras variable, a tensor or an array.
        layer: the layer that holds it and `weight` its name there, which tell the axes
            of a receptive field; without them as in `kernel_fans`.

    >>> current_moments([[1.0, 3.0], [1.0, 3.0]])
    WeightMoments(mean=2.0, second_moment=5.0, centred=False, sampled=False)

    Source: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance",
    equation 1.5, for the merging of pieces.
    """
    array = np.asarray(keras.ops.convert_to_numpy(values))
    if not array.size:
        return WeightMoments(0.0, 0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        counts, means, squares = np.array(list(_pieces(array.reshape(-1)))).T
        mean = counts @ means / array.size
        spread = squares.sum() + counts @ (means - mean) ** 2
        second_moment = mean**2 + spread / array.size
    centred = _is_centred(array, layer, weight)
    paired = _is_paired(array, layer, weight)
    moments = WeightMoments(float(mean), float(second_moment), centred, paired=paired)
    return _as_mixed(moments, array, layer, weight)


def _pieces(flat: NDArray[Any]) -> Iterator[tuple[int, float, float]]:
    """Yield each piece's size, mean and sum of squared deviations from it."""
    for at in range(0, flat.size, _PIECE):
        piece = flat[at : at + _PIECE].astype(np.float64)
        mean = piece.mean()
        piece -= mean
        yield piece.size, float(mean), float(piece @ piece)


def _is_centred(array: NDArray[Any], layer: Layer | None, weight: str | None) -> bool:
    if array.ndim < 2:
        return False
    field = fans.kernel_layout(layer, weight, array.shape).field
    if all(array.shape[axis] == 1 for axis in field):
        return False
    centre: list[Any] = [slice(None)] * array.ndim
    for axis in field:
        # Of an even size the one before the middle, as `initlab>` initializers have it.
        centre[axis] = (array.shape[axis] - 1) // 2
    return bool(0 < np.count_nonzero(array[tuple(centre)]) == np.count_nonzero(array))


def _as_mixed(
    moments: WeightMoments,
    array: NDArray[Any],
    layer: Layer | None,
    weight: str | None,
) -> WeightMoments:
    """Return the moments of a kernel whose outputs are paired up to an angle.

    Values alone do not show this: the layer's initializer does, and they must agree.
    """
    initializer = getattr(layer, f"{weight}_initializer", None)
    if not isinstance(initializer, Mirrored) or not initializer.mixing:
        return moments
    layout = fans.kernel_layout(layer, weight, array.shape)
    share = _share_apart(array, layout.unit_axes[1])
    if abs(share - initializer.mixing) > _ROOM * initializer.mixing:
        return moments
    centred = initializer.is_centred(array.shape, layout)
    paired = (initializer.inputs, True)
    return replace(moments, centred=centred, paired=paired, mixing=share)


def _share_apart(array: NDArray[Any], axis: int | None) -> float:
    """Return the share of the mean square in which neighbours are independent."""
    if axis is None or array.shape[axis] % 2:
        return 1.0
    values = np.moveaxis(array, axis, 0)
    apart = np.square(values[0::2] + values[1::2], dtype=np.float64).sum()
    return float(apart / (np.square(values, dtype=np.float64).sum() or 1.0))


def _is_paired(
    array: NDArray[Any], layer: Layer | None, weight: str | None
) -> tuple[bool, bool]:
    """Say on which sides of a kernel neighbours have opposite signs."""
    if layer is None or array.ndim < 2:
        return False, False
    sides = []
    for axis in fans.kernel_layout(layer, weight, array.shape).unit_axes:
        values = None if axis is None else np.moveaxis(array, axis, 0)
        sides.append(
            values is not None
            and len(values) % 2 == 0
            and bool(np.any(values[0]))
            and bool((values[0] == -values[1]).all())
            and bool((values[0::2] == -values[1::2]).all())
        )
    return sides[0], sides[1]
