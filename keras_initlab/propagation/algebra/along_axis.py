"""Weighted sums along an axis, computed exactly.

Means over windows, resizing, running sums, flips, rolls, slices, padding and repeats:
each output position is a weighted sum of input positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from keras_initlab.propagation.algebra.windows import Window
from keras_initlab.propagation.signal import Array, Gradient, Pull, Signal

# Up to which distance results have their own covariance; beyond it, that of any two.
_LAGS = 64
# Stands for a size that is not known, as in `signal`.
_MANY = 64
# Outputs that stand for those along an axis of unknown length.
_OUTPUTS = 32
# Up to how many weights a matrix is multiplied as such; beyond, only if an output has
# more than a few terms.
_DENSE, _FEW = 2**20, 32


@dataclass(frozen=True, eq=False)
class AlongAxis:
    """A linear map along an axis: y_o = Σ weights[o, k] · x[index[o, k]].

    Attributes:
        index, weights: of shape (outputs, terms); unused terms have weight 0, and no
            output has two terms with the same input.
        wide: how many inputs there are.
        size: how many outputs there are; None for an unknown length, which these inputs
            and outputs represent.
    """

    index: NDArray[np.intp]
    weights: Array
    wide: int
    size: int | None

    @staticmethod
    def of_matrix(matrix: Array) -> AlongAxis:
        """Return the map with weights of shape (outputs, inputs)."""
        index = np.broadcast_to(np.arange(matrix.shape[1]), matrix.shape)
        return AlongAxis(index, np.asarray(matrix), matrix.shape[1], len(matrix))

    @staticmethod
    def of_places(places: NDArray[np.intp], wide: int) -> AlongAxis:
        """Return the map that takes the values at some places; 0 for a place of -1."""
        inside = (places >= 0).astype(np.float64)
        index = np.maximum(places, 0)
        return AlongAxis(index[:, None], inside[:, None], wide, len(places))

    def matrix(self) -> Array:
        """Return the weights as a matrix, of shape (outputs, inputs)."""
        dense = np.zeros((len(self.index), self.wide))
        np.add.at(dense, (np.arange(len(dense))[:, None], self.index), self.weights)
        return dense

    def by_input(self, weights: Array) -> Array:
        """Return the sums, by input, of values for each output and term."""
        flat = np.bincount(self.index.ravel(), weights.ravel(), self.wide)
        return np.asarray(flat, np.float64)


@lru_cache(maxsize=512)
def window_means(window: Window, *, repeating: bool = False) -> AlongAxis:
    """Return the mean over each window, not counting positions outside the tensor.

    With `repeating`, these count and have the value at the edge.
    """
    length = window.output_length
    if window.length is None:
        reach = window.stride * (_OUTPUTS - 1) + window.reach
        window = replace(window, length=reach, padding="valid")
    index, valid = window.taps_inside()
    shares = _shares(np.ones_like(valid) if repeating else valid)
    return AlongAxis(index, _merged(index, shares), window.length or 0, length)


@lru_cache(maxsize=512)
def adaptive_means(length: int, outputs: int) -> AlongAxis:
    """Return the means over as many windows as there are outputs, of like size."""
    starts = np.arange(outputs) * length // outputs
    ends = -(-(np.arange(1, outputs + 1) * length) // outputs)
    index = starts[:, None] + np.arange(int((ends - starts).max(initial=1)))
    valid = index < ends[:, None]
    return AlongAxis(np.minimum(index, length - 1), _shares(valid), length, outputs)


@lru_cache(maxsize=512)
def interpolation(length: int | None, times: int) -> AlongAxis:
    """Return the linear interpolation between the centres of neighbours."""
    wide = length or _OUTPUTS
    at = (np.arange(wide * times) + 0.5) / times - 0.5
    low = np.floor(at).astype(np.intp)
    index = np.clip(np.stack([low, low + 1], axis=1), 0, wide - 1)
    weights = np.stack([1 - (at - low), at - low], axis=1)
    size = None if length is None else length * times
    return AlongAxis(index, _merged(index, weights), wide, size)


def mean_of_all(length: int | None) -> AlongAxis:
    """Return the mean over a whole axis."""
    wide = _MANY if length is None else length
    return AlongAxis(np.arange(wide)[None, :], np.full((1, wide), 1 / wide), wide, 1)


def _shares(valid: NDArray[np.bool_]) -> Array:
    inside: Array = valid / np.maximum(valid.sum(axis=1, keepdims=True), 1)
    return inside


def _merged(index: NDArray[np.intp], weights: Array) -> Array:
    """Return the weights with those of the same input added up."""
    merged = weights.copy()
    for k in range(index.shape[1] - 1, 0, -1):
        again = index[:, k] == index[:, k - 1]
        merged[:, k - 1] += np.where(again, merged[:, k], 0.0)
        merged[:, k] = np.where(again, 0.0, merged[:, k])
    return merged


def along(signal: Signal, axis: int, sums: AlongAxis) -> Signal:
    """Return weighted sums along an axis, of positions or of units.

    The covariance of neighbours is `near` if it is known, else that of any two.
    """
    axis %= len(signal.shape)
    in_units = axis in signal.units
    kin = signal.units if in_units else signal.positions
    across = signal.size(tuple(a for a in kin if a != axis))
    # `kinds[o, a, i]`: a for this axis' kind of index, o for the other one.
    kinds = signal.pairs.swapaxes(0, 1) if in_units else signal.pairs
    root = np.sqrt(_of_length(signal.profile.get(axis), sums.wide))
    level = float(root.mean()) or 1.0
    evenness = 1.0 if in_units else (signal.unevenness or 1.0) / level**2
    apart = _between(float(root.sum() ** 2), float((root**2).mean()), sums.wide)
    # The covariance of any two, for an even profile.
    far = kinds[:, 1] / (
        _differing((evenness, apart, evenness * apart), sums.wide, across) or 1.0
    )
    spread = kinds[:, 0] - far
    neighbours = None if in_units else signal.near.get(axis)
    decay = _decay(neighbours, root, float(far[0, 0]), float(spread[0, 0]))
    weights = sums.weights * root[sums.index]
    roots, size = weights.sum(axis=1), len(weights)
    squares, lagged = _overlaps(sums, weights, decay)
    square, alike = float((roots**2).mean()), float(squares.mean())
    apart = _between(float(roots.sum() ** 2), square, size)
    if in_units:
        lagged = lagged[:0]
    met = _sum_of_pairs(sums.by_input(weights), decay) - size * alike
    # Pairs that `near` describes are left out.
    gaps = 2 * (size - np.arange(1, len(lagged) + 1))
    met = (met - gaps @ lagged) / max(size * (size - 1) - gaps.sum(), 1)
    pairs = np.empty((2, 2, 2))
    pairs[:, 0] = far * square + spread * alike
    pairs[:, 1] = _differing(
        (far * evenness * square, far * apart + spread * met, far * evenness * apart),
        size,
        across,
        none=signal.mean**2,
    )
    pairs[0, 0, 0] = max(0.0, pairs[0, 0, 0])
    levels = far[0, 0] * roots**2 + spread[0, 0] * squares
    near = {
        a: far[0, 0] * square + (values - far[0, 0]) * alike
        for a, values in signal.near.items()
        if a != axis
    }
    if len(lagged):
        near[axis] = far[0, 0] * _lagged_products(roots, len(lagged))
        near[axis] = near[axis] + spread[0, 0] * lagged
    shape = list(signal.shape)
    shape[axis] = sums.size
    return signal.evolve(
        shape=tuple(shape),
        mean=signal.mean / level * float(roots.mean()),
        pairs=(pairs.swapaxes(0, 1) if in_units else pairs).copy(),
        near=near,
        profile=_with_profile(signal.profile, axis, levels),
        parents=((signal, _pull(axis, sums, across, in_units)),),
    )


def _lagged_products(values: Array, lags: int) -> Array:
    """Return the mean product of two values 1, 2, … places apart."""
    return np.array(
        [float((values[:-lag] * values[lag:]).mean()) for lag in range(1, lags + 1)]
    )


def turned(signal: Signal, axis: int) -> Signal:
    """Return the signal in reverse order along an axis."""
    length = signal.shape[axis]
    if not axis or length is None:
        return signal
    places = np.arange(length)[::-1]
    return along(signal, axis, AlongAxis.of_places(places, length))


def _pull(axis: int, sums: AlongAxis, across: int, in_units: bool) -> Pull:
    weights, size = sums.weights, sums.wide
    column = sums.by_input(weights)
    # Two different inputs meet less than any two, which may be the same.
    share = _between(float(column.sum() ** 2), float((column**2).mean()), size)
    share /= float(column.mean()) ** 2 or 1.0

    def pull(gradient: Gradient) -> Gradient:
        values = _of_length(gradient.profile.get(axis), len(weights))
        far = 0.0 if in_units else gradient.even((axis,))
        spread = gradient.second - far
        squares = sums.by_input(weights**2 * values[:, None])
        roots = sums.by_input(weights * np.sqrt(values)[:, None])
        alike, square = float(squares.mean()), float((roots**2).mean())
        levels = spread * squares + far * roots**2
        profile = _with_profile(gradient.profile, axis, levels)
        second = spread * alike + far * square
        if in_units:
            return Gradient(
                second, gradient.position * alike, profile, gradient.inputs * alike
            )
        apart = share * float(roots.mean()) ** 2
        met = _between(float(values @ weights.sum(axis=1) ** 2), alike, size)
        position = _differing(
            (far * square, far * apart + spread * met, far * apart), size, across
        )
        inputs = gradient.inputs * float(roots.mean()) ** 2
        return Gradient(second, float(position), profile, inputs)

    return pull


def _of_length(profile: Array | None, length: int) -> Array:
    """Return a profile of that length; an even one where there is none."""
    if profile is None or len(profile) != length:
        return np.ones(length)
    return profile


def _with_profile(
    profile: dict[int, Array], axis: int, levels: Array
) -> dict[int, Array]:
    """Return the profiles, along `axis` that of these second moments."""
    changed = {a: v for a, v in profile.items() if a != axis}
    mean = levels.mean()
    if mean > 0 and np.ptp(levels) > 1e-9 * mean:
        changed[axis] = levels / mean
    return changed


def _between(total: float, same: float, number: int) -> float:
    """Return the mean over pairs of two different elements.

    Args:
        total: the sum over all pairs.
        same: the mean over pairs of an element with itself.
        number: how many elements there are.
    """
    return (total - same * number) / max(number * (number - 1), 1)


def _differing(
    kinds: tuple[Array | float, ...], number: int, across: int, none: float = 0.0
) -> Array | float:
    """Return the mean over pairs that differ, elsewhere, along the axis, or in both."""
    counts = (across - 1, number - 1, (across - 1) * (number - 1))
    if not sum(counts):
        return none
    total = sum(count * kind for count, kind in zip(counts, kinds, strict=True))
    return total / sum(counts)


def _decay(neighbours: Array | None, root: Array, far: float, spread: float) -> Array:
    """Return the correlation of two positions by distance; the last is for all others.

    It is 1 for a position with itself, and 0 for two with the covariance of any two.
    """
    if neighbours is None or spread <= 1e-12 * (spread + far):
        return np.array([1.0, 0.0])
    neighbours = neighbours[: len(root) - 1]
    # Neighbours have similar levels: that part is not a correlation of their own.
    levels = _lagged_products(root, len(neighbours))
    alike = (neighbours - far * levels) / np.maximum(spread * levels, 1e-300)
    return np.concatenate([[1.0], np.clip(alike, -1.0, 1.0), [0.0]])


def _sum_of_pairs(values: Array, decay: Array) -> float:
    """Return Σ v_j v_k decay[|j - k|]."""
    total = float(decay[0] * (values @ values))
    for lag in range(1, min(len(decay) - 1, len(values))):
        total += 2 * float(decay[lag] * (values[:-lag] @ values[lag:]))
    return total


def _overlaps(sums: AlongAxis, weights: Array, decay: Array) -> tuple[Array, Array]:
    """Return Σ w w' decay of each output, and its mean for two by their distance."""
    outputs, terms = weights.shape
    lags = range(min(outputs, max(_LAGS, len(decay))))
    if terms > 1 and (outputs * sums.wide <= _DENSE or terms > _FEW):
        dense = replace(sums, weights=weights).matrix()
        blurred = dense.copy()
        for lag in range(1, min(len(decay) - 1, sums.wide)):
            blurred[:, lag:] += decay[lag] * dense[:, :-lag]
            blurred[:, :-lag] += decay[lag] * dense[:, lag:]
        table = blurred @ dense.T
        rows = [np.diagonal(table, lag) for lag in lags]
    else:
        low = np.where(weights != 0, sums.index, sums.wide).min(axis=1)
        high = np.where(weights != 0, sums.index, -1).max(axis=1)
        rows = []
        for lag in lags:
            former, latter = slice(0, outputs - lag), slice(lag, None)
            # Windows that neither overlap nor are near have no covariance of their own.
            apart = np.maximum(low[latter] - high[former], low[former] - high[latter])
            if lag and (apart >= len(decay) - 1).all():
                break
            gaps = np.abs(sums.index[former, :, None] - sums.index[latter, None, :])
            alike = decay[np.minimum(gaps, len(decay) - 1)]
            rows.append(
                np.einsum("ok,okl,ol->o", weights[former], alike, weights[latter])
            )
    means = np.array([float(row.mean()) for row in rows[1:]])
    last = np.flatnonzero(np.abs(means) > 1e-6).max(initial=-1) + 1
    return rows[0], means[:last]
