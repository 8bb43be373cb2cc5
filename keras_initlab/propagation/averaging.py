"""Means over windows: pooling, resizing by interpolation, all of it exact."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from keras_initlab.propagation.signal import Array, Gradient, Pull, Signal
from keras_initlab.propagation.windows import Window, distinct

# How far apart two results are still told from any two.
_LAGS = 64
# Stands for a size that is not known, as in `signal`.
_MANY = 64
# Outputs that stand for those along an axis of unknown length.
_OUTPUTS = 32


@dataclass(frozen=True, eq=False)
class Rows:
    """Weighted sums along an axis: y_o = Σ weights[o, k] · x[index[o, k]].

    Attributes:
        index, weights: of shape (outputs, terms).
        wide: how many inputs there are.
        open: the length is not known, and these rows stand for more.
    """

    index: NDArray[np.intp]
    weights: Array
    wide: int
    open: bool = False

    @property
    def outputs(self) -> int:
        """How many sums there are."""
        return len(self.index)

    @cached_property
    def reach(self) -> int:
        """Outputs that are at most so far apart may share an input."""
        low = np.where(self.weights != 0, self.index, self.wide).min(axis=1)
        high = np.where(self.weights != 0, self.index, -1).max(axis=1)
        for lag in range(min(self.outputs - 1, _LAGS), 0, -1):
            if (low[lag:] <= high[:-lag]).any():
                return lag
        return 0


@lru_cache(maxsize=512)
def window_rows(window: Window, *, repeating: bool = False) -> Rows:
    """Return the mean over each window, of what lies inside the tensor alone.

    With `repeating` what lies outside counts, and is what lies at the edge.
    """
    is_open = window.length is None
    if is_open:
        reach = window.stride * (_OUTPUTS - 1) + window.reach
        window = replace(window, length=reach, padding="valid")
    index, valid = window.taps_inside()
    shares = _shares(np.ones_like(valid) if repeating else valid)
    return Rows(index, _merged(index, shares), window.length or 0, is_open)


@lru_cache(maxsize=512)
def adaptive_rows(length: int, outputs: int) -> Rows:
    """Return the means over as many windows as there are outputs, of like size."""
    starts = np.arange(outputs) * length // outputs
    ends = -(-(np.arange(1, outputs + 1) * length) // outputs)
    index = starts[:, None] + np.arange(int((ends - starts).max(initial=1)))
    valid = index < ends[:, None]
    return Rows(np.minimum(index, length - 1), _shares(valid), length)


@lru_cache(maxsize=512)
def linear_rows(length: int | None, times: int) -> Rows:
    """Return the linear interpolation between the centres of neighbours."""
    known = length or _OUTPUTS
    at = (np.arange(known * times) + 0.5) / times - 0.5
    low = np.floor(at).astype(np.intp)
    index = np.clip(np.stack([low, low + 1], axis=1), 0, known - 1)
    weights = np.stack([1 - (at - low), at - low], axis=1)
    return Rows(index, _merged(index, weights), known, length is None)


def whole_row(length: int | None) -> Rows:
    """Return the mean over a whole axis."""
    known = _MANY if length is None else length
    index = np.arange(known)[None, :]
    return Rows(index, np.full((1, known), 1 / known), known, length is None)


def _shares(valid: NDArray[np.bool_]) -> Array:
    inside: Array = valid / np.maximum(valid.sum(axis=1, keepdims=True), 1)
    return inside


def _merged(index: NDArray[np.intp], weights: Array) -> Array:
    """Return the weights with those of one input in one place: they count as one."""
    merged = weights.copy()
    for k in range(index.shape[1] - 1, 0, -1):
        again = index[:, k] == index[:, k - 1]
        merged[:, k - 1] += np.where(again, merged[:, k], 0.0)
        merged[:, k] = np.where(again, 0.0, merged[:, k])
    return merged


@dataclass(frozen=True)
class _Along:
    """What rows along one axis see of a signal.

    Attributes:
        roots: Σ w √profile of each output; `squares` its square.
        kept: E[y²] of each output where positions know their neighbours alone.
        near: by distance of two outputs, the mean of their roots' product and of
            what they share of neighbours.
    """

    roots: Array
    kept: Array
    near: tuple[Array, Array]


def averaged(
    signal: Signal, windows: dict[int, Window], *, repeating: bool = False
) -> Signal:
    """Return the mean over windows; see `window_rows`."""
    shape = list(signal.shape)
    for axis, window in windows.items():
        shape[axis] = window.output_length
    rows = {axis: window_rows(w, repeating=repeating) for axis, w in windows.items()}
    return blended(signal, rows, tuple(shape))


def blended(
    signal: Signal, rows: dict[int, Rows], shape: tuple[int | None, ...]
) -> Signal:
    """Return weighted sums of positions along axes, of the given shape.

    Neighbours' covariance is `near` where it is known, else that of any two positions.
    """
    even = signal.unevenness or 1.0
    far = signal.pairs[:, 1] / even
    spread = signal.pairs[:, 0] - far
    seen = {axis: _along(signal, axis, row, even) for axis, row in rows.items()}
    root, square, kept = 1.0, 1.0, 1.0
    for one in seen.values():
        root *= float(one.roots.mean())
        square *= float((one.roots**2).mean())
        kept *= float(one.kept.mean())
    rest = math.prod(
        float(np.sqrt(values).mean())
        for axis, values in signal.profile.items()
        if axis not in rows and axis in signal.positions
    )
    pairs = np.empty((2, 2, 2))
    pairs[:, 0] = far * square + spread * kept
    pairs[:, 1] = far * (root * rest) ** 2
    profile = {a: v for a, v in signal.profile.items() if a not in rows}
    near = {}
    for axis, one in seen.items():
        others = [two for other, two in seen.items() if other != axis]
        beside = math.prod(float((two.roots**2).mean()) for two in others)
        alike = math.prod(float(two.kept.mean()) for two in others)
        level = far[0, 0] * beside * one.roots**2 + spread[0, 0] * alike * one.kept
        if level.mean() > 0 and np.ptp(level) > 1e-9 * level.mean():
            profile[axis] = level / level.mean()
        if len(one.near[0]):
            near[axis] = far[0, 0] * beside * one.near[0] + (
                spread[0, 0] * alike * one.near[1]
            )
    pairs[0, 0, 0] = max(0.0, pairs[0, 0, 0])
    return signal.evolve(
        shape=shape,
        mean=signal.mean / math.sqrt(even) * root * rest,
        pairs=pairs,
        near={**{a: v for a, v in signal.near.items() if a not in rows}, **near},
        profile=profile,
        parents=((signal, _pull(signal, rows)),),
        lineage=signal.lineage,
    )


def _along(signal: Signal, axis: int, rows: Rows, even: float) -> _Along:
    values = signal.profile.get(axis)
    if values is None or len(values) != rows.wide:
        values = np.ones(rows.wide)
    root = np.sqrt(values)
    weights = rows.weights * root[rows.index]
    decay = _decay(signal, axis, root, even)

    def together(lag: int) -> Array:
        one, two = slice(0, len(weights) - lag), slice(lag, None)
        apart = np.abs(rows.index[one, :, None] - rows.index[two, None, :])
        alike = decay[np.minimum(apart, len(decay) - 1)]
        found: Array = np.einsum("ok,okl,ol->o", weights[one], alike, weights[two])
        return found

    roots = weights.sum(axis=1)
    lags = range(1, min(rows.outputs, rows.reach + len(decay), _LAGS))
    near = (
        [[], []]
        if not lags
        else [
            [float((roots[:-lag] * roots[lag:]).mean()) for lag in lags],
            [float(together(lag).mean()) for lag in lags],
        ]
    )
    table = np.array(near)
    last = np.flatnonzero(np.abs(table[1]) > 1e-6).max(initial=-1) + 1
    return _Along(roots, together(0), (table[0, :last], table[1, :last]))


def _decay(signal: Signal, axis: int, root: Array, even: float) -> Array:
    """Return how alike two positions are by their distance; the last for all others.

    1 for a position with itself, 0 for any two that share what all positions share.
    """
    own = signal.near.get(axis)
    far = float(signal.pairs[0, 1, 0]) / even
    spread = signal.second - far
    if own is None or spread <= 1e-12 * signal.second:
        return np.array([1.0, 0.0])
    known = own[: len(root) - 1]
    # Neighbours are of like level: that much of it is no likeness of their own.
    levels = np.array(
        [float((root[:-lag] * root[lag:]).mean()) for lag in range(1, len(known) + 1)]
    )
    alike = (known - far * levels) / np.maximum(spread * levels, 1e-300)
    return np.concatenate([[1.0], np.clip(alike, -1.0, 1.0), [0.0]])


def _pull(signal: Signal, rows: dict[int, Rows]) -> Pull:
    inputs = math.prod(row.wide for row in rows.values())
    places = inputs * signal.size(tuple(a for a in signal.positions if a not in rows))

    def pull(gradient: Gradient) -> Gradient:
        far = gradient.even(tuple(rows))
        spread = gradient.second - far
        own, met, apart, within = 1.0, 1.0, 1.0, 1.0
        levels = {}
        for axis, row in rows.items():
            values = gradient.profile.get(axis)
            if values is None or len(values) != row.outputs:
                values = np.ones(row.outputs)
            squares, sums = np.zeros(row.wide), np.zeros(row.wide)
            np.add.at(squares, row.index, row.weights**2 * values[:, None])
            np.add.at(sums, row.index, row.weights * np.sqrt(values)[:, None])
            levels[axis] = squares, sums**2
            own *= float(squares.mean())
            met *= float((sums**2).mean())
            apart *= float(sums.mean()) ** 2
            # Of all pairs of inputs, what meets in one output.
            within *= float(values @ row.weights.sum(axis=1) ** 2) / row.wide**2
        profile = {a: v for a, v in gradient.profile.items() if a not in rows}
        for axis, (squares, meetings) in levels.items():
            one = spread * own / (squares.mean() or 1.0) * squares
            level = one + far * met / (meetings.mean() or 1.0) * meetings
            if level.mean() > 0 and np.ptp(level) > 1e-9 * level.mean():
                profile[axis] = level / level.mean()
        second = spread * own + far * met
        # Two inputs of one output have the same gradient: so much have any two of it.
        beside = max(inputs * within - own, 0.0) / max(places - 1, 1)
        position = spread * beside + far * distinct(apart, met, inputs)
        return Gradient(second, position, profile, gradient.inputs * apart)

    return pull
