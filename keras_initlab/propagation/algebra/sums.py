"""Sums, products and extremes of correlated signals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from keras_initlab.propagation.algebra.concatenation import concatenate as concatenate
from keras_initlab.propagation.algebra.concatenation import joint_profile
from keras_initlab.propagation.algebra.elementwise import affine, apply_function
from keras_initlab.propagation.algebra.multivariate import multivariate, shared_gaussian
from keras_initlab.propagation.signal import (
    Array,
    Function,
    Gradient,
    Pull,
    Shape,
    Signal,
    relabelled,
)

# Terms that a sum keeps, so that subtracting one of them again is exact.
_MOST_TERMS = 64
# Stands for a size that is not known, as in `signal`.
_MANY = 64


def broadcast(signal: Signal, shape: Shape) -> Signal:
    """Return the signal stretched to `shape`, whose rank may be higher."""
    missing = len(shape) - len(signal.shape)
    if not missing and all(
        before == after
        for before, after in zip(signal.shape[1:], shape[1:], strict=True)
    ):
        return signal
    if missing:
        signal = _lifted(signal, missing)
    stretched = tuple(
        axis
        for axis in signal.axes
        if signal.shape[axis] == 1 and shape[axis] not in (1,)
    )
    if not stretched:
        return signal
    pairs = signal.pairs.copy()
    for index, axes in enumerate((signal.units, signal.positions)):
        copies = math.prod(shape[axis] or _MANY for axis in stretched if axis in axes)
        if copies > 1:
            # Some of the elements that now differ along these axes are the same one.
            size = signal.size(axes)
            same = (copies - 1) / (size * copies - 1)
            kinds = pairs.swapaxes(0, index)
            kinds[1] = same * kinds[0] + (1 - same) * kinds[1]
    number = math.prod(shape[axis] or _MANY for axis in stretched)
    places = math.prod(
        shape[axis] or _MANY for axis in stretched if axis in signal.positions
    )

    def pull(gradient: Gradient) -> Gradient:
        # The gradients of all copies add up.
        total = number * (gradient.second + (places - 1) * gradient.position)
        profile = {a: v for a, v in gradient.profile.items() if a not in stretched}
        return replace(gradient.times(number * places), second=total, profile=profile)

    target = tuple(
        shape[axis] if axis in stretched else size
        for axis, size in enumerate(signal.shape)
    )
    return signal.evolve(shape=target, pairs=pairs, near={}, parents=((signal, pull),))


def _lifted(signal: Signal, missing: int) -> Signal:
    """Return the signal with axes of size 1 put between the batch and the rest."""
    return signal.evolve(
        shape=(signal.shape[0], *[1] * missing, *signal.shape[1:]),
        units=tuple(axis + missing for axis in signal.units),
        near={axis + missing: v for axis, v in signal.near.items()},
        profile={axis + missing: v for axis, v in signal.profile.items()},
        parents=((signal, lambda gradient: gradient),),
    )


def _in_batch(signal: Signal, batch: int | None) -> Signal:
    """Return the signal for each input of a batch, all of which share it if it is one.

    `signal` has a rank of its own: without a batch axis, it is left alone.
    """
    if signal.shape[:1] in ((), (batch,)):
        return signal
    in_batch = signal.with_shape((batch, *signal.shape[1:]))
    if signal.shape[0] != 1:
        return in_batch
    pairs = signal.pairs.copy()
    pairs[..., 1] = pairs[..., 0]
    return in_batch.amend(pairs=pairs, lineage=None)


def aligned(signals: Sequence[Signal]) -> list[Signal]:
    """Return the signals in one shape, the batch's axis too, with the same units."""
    rank = max(len(signal.shape) for signal in signals)
    sizes: list[int | None] = []
    for axis in range(rank):
        sizes_here = [
            signal.shape[axis - rank + len(signal.shape)]
            for signal in signals
            if axis - rank + len(signal.shape) >= 0
        ]
        wide = [size for size in sizes_here if size not in (None, 1)]
        sizes.append(wide[0] if wide else None if None in sizes_here else 1)
    shaped = [
        broadcast(_in_batch(signal, sizes[0]), tuple(sizes)) for signal in signals
    ]
    largest = max(shaped, key=lambda signal: len(signal.positions) > 0)
    return [signal.with_units(largest.units) for signal in shaped]


def _squares(x: Signal, y: Signal) -> Array:
    """Return the product of two means for each kind of pair."""
    even = math.sqrt((x.unevenness or 1.0) * (y.unevenness or 1.0))
    products = np.full((2, 2, 2), x.mean * y.mean)
    products[:, 0, :] /= even
    return products


def add(signals: Sequence[Signal], factors: Sequence[float] | None = None) -> Signal:
    """Return Σ factor · x, of broadcast shapes.

    Correlations are accounted for: x + x is 2x, x - x is 0. For this, signals that are
    sums themselves are split into their terms, and functions of one Gaussian are added
    as functions: x + relu(x).
    """
    scales = list(factors) if factors is not None else [1.0] * len(signals)
    scaled: dict[int, tuple[float, Signal]] = {}
    for scale, signal in zip(scales, aligned(signals), strict=True):
        before = scaled[signal.serial][0] if signal.serial in scaled else 0.0
        scaled[signal.serial] = (before + scale, signal)
    addends = [_collected(group) for group in _by_root(list(scaled.values()))]
    if len(addends) == 1:
        return affine(addends[0][1], addends[0][0])
    terms: dict[int, tuple[float, Signal]] = {}
    for scale, signal in addends:
        for key, (factor, origin) in signal.origins().items():
            before = terms[key][0] if key in terms else 0.0
            terms[key] = (before + scale * factor, origin)
    first = addends[0][1]
    mean = float(sum(scale * signal.mean for scale, signal in addends))
    profile = joint_profile([f for f, _ in addends], [s for _, s in addends])
    pairs, near = _summed_pairs(terms, first.units)
    out = replace(first, mean=mean, profile=profile)
    pairs += _squares(out, out)
    pairs[0, 0, 0] = max(0.0, pairs[0, 0, 0])
    return first.evolve(
        mean=mean,
        pairs=pairs,
        near={axis: values + mean**2 for axis, values in near.items()},
        profile=profile,
        terms=terms if len(terms) <= _MOST_TERMS else {},
        parents=tuple((signal, _scaled(scale**2)) for scale, signal in addends),
        measured=any(signal.origin.measured for _, signal in addends),
    )


def _by_root(
    addends: list[tuple[float, Signal]],
) -> list[list[tuple[float, Signal]]]:
    """Return addends in groups that are functions of one Gaussian each."""
    groups: dict[int, list[tuple[float, Signal]]] = {}
    for scale, signal in addends:
        random = signal.origin.function is not None and signal.origin.function.cases
        root = signal if random else signal.origin.base or signal
        groups.setdefault(root.serial, []).append((scale, signal))
    return list(groups.values())


def _collected(group: list[tuple[float, Signal]]) -> tuple[float, Signal]:
    """Return the sum of functions of one Gaussian, and a factor still to be applied."""
    if len(group) == 1:
        return group[0]
    scales = [scale for scale, _ in group]
    signals = [signal for _, signal in group]
    lines = [
        s.origin.function.affine if s.origin.function else (1.0, 0.0) for s in signals
    ]
    if None not in lines:
        slope = sum(f * line[0] for f, line in zip(scales, lines, strict=True) if line)
        shift = sum(f * line[1] for f, line in zip(scales, lines, strict=True) if line)
        base = (signals[0].origin.base or signals[0]).with_units(signals[0].units)
        total = affine(base, slope, shift)
        if total is not base:
            passed = ((f, s) for f, s in group if s.serial != base.serial)
            notes = tuple((signal, _scaled(scale**2)) for scale, signal in passed)
            total = total.amend(notes=notes)
        return 1.0, total

    def value(*x: Array) -> Array:
        return np.asarray(sum(f * values for f, values in zip(scales, x, strict=True)))

    def partial(scale: float) -> Callable[..., Array]:
        return lambda *x: np.full(np.shape(x[0]), scale)

    return 1.0, multivariate(signals, value, [partial(scale) for scale in scales])


def _summed_pairs(
    terms: dict[int, tuple[float, Signal]], units: tuple[int, ...]
) -> tuple[Array, dict[int, Array]]:
    """Return the covariances of a sum of terms: by kind of pair, and of neighbours."""
    centred = np.zeros((2, 2, 2))
    near: dict[int, Array] = {}
    addends = list(terms.values())
    lengths: dict[int, int] = {}
    for group in _by_root(addends):
        if len(group) > 1 and len({origin.shape for _, origin in group}) == 1:
            group = [_collected(group)]
        for factor, origin in group:
            own_pairs = origin.pairs
            if origin.units != units:
                own_pairs = relabelled(origin, units)
            centred += factor**2 * (own_pairs - _squares(origin, origin))
            for axis, values in origin.near.items():
                lengths[axis] = max(lengths.get(axis, 0), len(values))
    for (factor_x, first), (factor_y, second) in _twins(addends):
        shared = first.pairs[:, :, 1:] - _squares(first, first)[:, :, 1:]
        if first.units == units and second.units == units:
            centred += 2 * factor_x * factor_y * shared
    for axis, length in lengths.items():
        near[axis] = np.zeros(length)
        for factor, origin in addends:
            neighbours = origin.near.get(axis, np.zeros(0))
            padded = np.full(length, origin.pairs[0, 1, 0])
            padded[: len(neighbours)] = neighbours
            near[axis] += factor**2 * (padded - origin.mean**2)
    return centred, near


def _twins(
    terms: list[tuple[float, Signal]],
) -> Iterator[tuple[tuple[float, Signal], tuple[float, Signal]]]:
    """Yield the pairs of terms that the same weights compute from two inputs.

    They are correlated like two inputs of a batch, as in towers with shared weights.
    """
    families: dict[Any, list[tuple[float, Signal]]] = {}
    for term in terms:
        if term[1].origin.lineage:
            families.setdefault((term[1].origin.lineage, term[1].shape), []).append(
                term
            )
    for family in families.values():
        for first, second in itertools.combinations(family, 2):
            if np.allclose(first[1].pairs, second[1].pairs, rtol=1e-9, atol=0.0):
                yield first, second


def _scaled(factor: float, position: float | None = None) -> Pull:
    return lambda gradient: gradient.times(factor, position)


def multiply(x: Signal, y: Signal) -> Signal:
    """Return x · y, of broadcast shapes.

    Two functions of one Gaussian (as in x · sigmoid(x)) are multiplied as functions;
    all others are assumed to be independent: E[x²y²] = E[x²] E[y²].
    """
    x, y = aligned([x, y])
    if x.serial == y.serial:
        return apply_function(x, Function(np.square, lambda x: 2 * x))
    if shared_gaussian([x, y]) is not None and not _is_random(x, y):
        return multivariate(
            [x, y],
            lambda x, y: x * y,
            [lambda x, y: y, lambda x, y: x],
        )
    pairs = x.pairs * y.pairs
    axes = {*x.near, *y.near}
    near = {}
    for axis in axes:
        length = max(len(s.near.get(axis, ())) for s in (x, y))
        values = np.ones(length)
        for signal in (x, y):
            padded = np.full(length, signal.pairs[0, 1, 0])
            neighbours = signal.near.get(axis, np.zeros(0))
            padded[: len(neighbours)] = neighbours
            values = values * padded
        near[axis] = values
    profile: dict[int, Array] = {}
    for axis in {*x.profile, *y.profile}:
        unit = np.float64(1.0)
        values = np.asarray(x.profile.get(axis, unit) * y.profile.get(axis, unit))
        profile[axis] = values / (values.mean() or 1.0)
        pairs = pairs * (values.mean() or 1.0)
    return x.evolve(
        mean=x.mean * y.mean,
        pairs=pairs,
        near=near,
        profile=profile,
        parents=(
            (x, _scaled(y.second, float(y.pairs[0, 1, 0]))),
            (y, _scaled(x.second, float(x.pairs[0, 1, 0]))),
        ),
        measured=x.origin.measured or y.origin.measured,
    )


def _is_random(*signals: Signal) -> bool:
    """Say whether some signal is a random function of its Gaussian."""
    return any(
        s.origin.function is not None and bool(s.origin.function.cases) for s in signals
    )


def largest(x: Signal, y: Signal, sign: float = 1.0) -> Signal:
    """Return max(x, y) (min for sign = -1), as h ± |d|, h = (x + y)/2, d = (x - y)/2.

    Of Gaussians, E[h |d'|] - E[h] E[|d'|] = E[sign d] Cov(h, d') (Stein's lemma).

    Source: Clark 1961, "The greatest of a finite set of random variables".
    """
    half = add([x, y], [0.5, 0.5])
    gap = add([x, y], [0.5, -0.5])
    size = apply_function(
        gap.amend(base=None, function=None), Function(np.abs, np.sign)
    )
    greatest = add([half, size], [1.0, sign])
    units, shared = half.units, np.zeros((2, 2, 2))
    half_terms, gap_terms = half.origins(), gap.origins()
    for key in half_terms.keys() & gap_terms.keys():
        (factor, origin), (of_gap, _) = half_terms[key], gap_terms[key]
        own_pairs = relabelled(origin, units) if origin.units != units else origin.pairs
        shared += factor * of_gap * (own_pairs - _squares(origin, origin))
    deviation = math.sqrt(gap.variance)
    lean = math.erf(gap.mean / (deviation * math.sqrt(2))) if deviation else 0.0
    chance = (1 + sign * lean) / 2  # that the first is what is taken
    return greatest.evolve(
        pairs=greatest.pairs + 2 * sign * lean * shared,
        parents=((x, _scaled(chance)), (y, _scaled(1 - chance))),
    )
