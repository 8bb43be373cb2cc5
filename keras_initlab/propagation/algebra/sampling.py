"""A Gaussian sample of a signal's moments, and the moments of a sample.

Layers without a rule are run on such a sample: measured, not guessed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_initlab.propagation.signal import Array, Function, Origin, Shape, Signal

# Elements of a sample, and sizes of the axes that the model leaves open: that of calls
# that need sizes, and a short one, as tables of positions may end before.
_ELEMENTS, OPEN_SIZES = 2**19, (64, 8)
_BATCHES = (4, 1024)


Draw = Callable[[Signal], NDArray[Any]]


def samples(
    signals: Iterable[Signal],
    generator: np.random.Generator,
    shapes: Iterable[Shape],
    compute: Callable[[Signal, Draw], NDArray[Any] | None],
    open_size: int = OPEN_SIZES[0],
) -> dict[int, NDArray[Any]]:
    """Return an array with the moments of each signal, by its serial.

    All are of one batch, small enough for `shapes`. `compute` returns a sample from
    those of other signals, or None: then it is Gaussian, or a function of a Gaussian.
    Each signal is sampled once; axes that are open have `open_size` elements.
    """
    shapes = list(shapes)
    # Where a batch's size was assumed for some, the others have that size, too. An
    # open axis that is not the first is the batch's, moved.
    sized = [shape for shape in shapes if shape and None not in shape]
    batch = max((shape[0] or 1 for shape in sized), default=1)
    if batch == 1:
        batch = min(_batch(shape, open_size) for shape in shapes)
    arrays: dict[int, NDArray[Any]] = {}

    def draw(signal: Signal) -> NDArray[Any]:
        if signal.serial not in arrays:
            values = compute(signal, draw)
            if values is None:
                values = _sample(signal, batch, draw, generator, open_size)
            arrays[signal.serial] = values
        return arrays[signal.serial]

    return {signal.serial: draw(signal) for signal in signals}


def _sample(
    signal: Signal,
    batch: int,
    draw: Draw,
    generator: np.random.Generator,
    open_size: int,
) -> NDArray[np.float32]:
    if signal.origin.base is not None and signal.origin.function is not None:
        inner = draw(signal.origin.base)
        values = _value(
            signal.origin.function, inner.astype(np.float64).ravel(), generator
        )
        return np.asarray(values, np.float32).reshape(inner.shape)
    return _gaussian(signal, concrete(signal.shape, batch, open_size), generator)


def _value(function: Function, x: Array, generator: np.random.Generator) -> Array:
    """Return f(x); if f has cases, one is drawn for each element."""
    if not function.cases:
        return np.asarray(function.value(x), np.float64)
    chances = np.array([chance for chance, _ in function.cases])
    which = generator.choice(len(chances), size=x.shape, p=chances / chances.sum())
    values = [np.asarray(case.value(x), np.float64) for _, case in function.cases]
    return np.choose(which, values)


def _gaussian(
    signal: Signal, shape: tuple[int, ...], generator: np.random.Generator
) -> NDArray[np.float32]:
    """Return a Gaussian array with the moments of `signal`.

    Elements are sums of independent parts: one for each element, one shared by all
    units of a position and input, one by all positions, and so on, with the variances
    that give each kind of pair its covariance.
    """
    # The moments of an even signal, which the profile then makes uneven along its axes.
    apart = {a: float(np.sqrt(v).mean()) or 1.0 for a, v in signal.profile.items()}
    even = signal.pairs.copy()
    even[:, 1] /= math.prod(apart[a] ** 2 for a in apart if a in signal.positions)
    even[1] /= math.prod(apart[a] ** 2 for a in apart if a in signal.units)
    mean = signal.mean / math.prod(apart.values())
    total = np.full(shape, mean)
    covariance = even - mean**2
    for shared, variance in _parts(covariance):
        if variance <= 0:
            continue
        unit, position, batch = shared
        sizes = tuple(
            1
            if (axis == 0 and batch)
            or (axis in signal.units and unit)
            or (axis in signal.positions and position)
            else size
            for axis, size in enumerate(shape)
        )
        total = total + math.sqrt(variance) * generator.standard_normal(sizes)
    for axis, values in signal.profile.items():
        if len(values) == shape[axis]:
            form = [1] * len(shape)
            form[axis] = -1
            total = total * np.sqrt(values).reshape(form)
    return np.asarray(total, np.float32)


def concrete(
    shape: Shape, batch: int, open_size: int = OPEN_SIZES[0]
) -> tuple[int, ...]:
    """Return `shape` with sizes in place of None: `batch` for the axis of the batch.

    That is the first, unless a size is known there: then an operation has moved it.
    """
    if not shape or shape[0] is None:
        return tuple((batch, *(size or open_size for size in shape[1:]))[: len(shape)])
    return tuple(batch if size is None else size for size in shape)


def _batch(shape: Shape, open_size: int) -> int:
    """Return a batch size for which a sample is neither inaccurate nor slow."""
    elements = math.prod(size or open_size for size in shape[1:])
    return int(np.clip(_ELEMENTS // max(elements, 1), *_BATCHES))


def _parts(covariance: Array) -> list[tuple[tuple[int, int, int], float]]:
    """Return the variance of the part shared along each set of kinds.

    A part that is shared along units, for example, is common to all pairs that differ
    in units only: the covariance of a kind of pair is the sum of its common parts.
    """
    parts: dict[tuple[int, int, int], float] = {}
    kinds = sorted(itertools.product((0, 1), repeat=3), key=sum, reverse=True)
    for kind in kinds:
        above = sum(
            variance
            for part, variance in parts.items()
            if all(o >= k for o, k in zip(part, kind, strict=True))
        )
        # A negative part, which no Gaussian can have, is left out.
        parts[kind[0], kind[1], kind[2]] = max(0.0, float(covariance[kind]) - above)
    return list(parts.items())


def signal_of(values: NDArray[Any], shape: Shape, like: Signal) -> Signal:
    """Return the signal whose moments a sample has, marked as measured."""
    x = np.asarray(values, np.float64)
    rank = x.ndim
    same_units = len(like.shape) == rank and like.units
    units = tuple(like.units) if same_units else (rank - 1,) if rank > 1 else ()
    positions = tuple(axis for axis in range(1, rank) if axis not in units)
    sizes = (_count(x, units), _count(x, positions), x.shape[0])
    # Sums over pairs from the squares of sums: the pairs of an element with itself are
    # subtracted.
    sums = np.empty((2, 2, 2))
    for kind in itertools.product((0, 1), repeat=3):
        over = tuple(
            axis
            for chosen, axes in zip(kind, (units, positions, (0,)), strict=True)
            if chosen
            for axis in axes
        )
        sums[kind] = float((x.sum(axis=over) ** 2).sum()) if over else (x**2).sum()
    mean = float(x.mean())
    pairs = np.empty((2, 2, 2))
    for kind in itertools.product((0, 1), repeat=3):
        total, count = 0.0, 1.0
        for taken in itertools.product(*((0, 1) if k else (0,) for k in kind)):
            total += (-1) ** (sum(kind) - sum(taken)) * sums[taken]
        for size, chosen in zip(sizes, kind, strict=True):
            count *= size * (size - 1) if chosen else size
        pairs[kind] = total / count if count else mean**2
    return Signal(tuple(shape), units, mean, pairs, origin=Origin(measured=True))


def _count(x: NDArray[Any], axes: tuple[int, ...]) -> int:
    return math.prod(x.shape[axis] for axis in axes)
