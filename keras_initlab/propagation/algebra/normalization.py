"""Normalisation: centring and rescaling a signal."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from keras_initlab.propagation.algebra.concatenation import by_parts
from keras_initlab.propagation.algebra.elementwise import (
    affine,
    compose,
    line,
    moments_of,
)
from keras_initlab.propagation.algebra.hermite import gaussian_grid
from keras_initlab.propagation.signal import Array, Function, Gradient, Pull, Signal
from keras_initlab.propagation.weights.moments import WeightMoments

# Units whose own mean is more than this many deviations away are not counted.
_FURTHEST = 4.0
# Sets of fewer elements are no longer functions of their Gaussian; the variances of
# sets with more degrees of freedom are assumed to be alike.
_FEW, _MANY = 8, 400
# Variances of sets that are further below their mean hardly ever occur.
_LEAST_MET = 1e-8

ONES = WeightMoments(1.0, 1.0)
ZEROS = WeightMoments(0.0, 0.0)


@dataclass(frozen=True)
class _Set:
    """The elements by whose moments one of them is normalised; see `normalise`."""

    units: float
    positions: bool
    inputs: bool
    epsilon: float
    centre: bool
    about_mean: bool


def normalise(
    signal: Signal,
    *,
    units: float = 0.0,
    positions: bool = False,
    inputs: bool = False,
    epsilon: float = 0.0,
    centre: bool = True,
    about_mean: bool | None = None,
    scale: WeightMoments = ONES,
    shift: WeightMoments = ZEROS,
) -> Signal:
    """Return γ (x - E x) / √(Var x + ε) + β, the moments over a set of elements.

    Args:
        signal: x.
        units: how many units of one input and position are in the set with an
            element; 0 where it is its own unit alone.
        positions: whether all positions are in the set.
        inputs: whether all inputs of a large batch are in the set.
        epsilon: ε.
        centre: False leaves the mean in and divides by √(E x² + ε).
        about_mean: whether to divide by √(Var x + ε); as `centre` if not given.
        scale, shift: moments of γ and β, which are drawn for each unit.

    Source: Ioffe & Szegedy 2015; Ba et al. 2016; Wu & He 2018; Zhang & Sennrich 2019.
    """
    about = centre if about_mean is None else about_mean
    whole = _Set(units, positions, inputs, epsilon, centre, about)
    return rescaled(_normalised(signal, whole), scale, shift)


def _normalised(signal: Signal, whole: _Set) -> Signal:
    means = _products_of_means(signal, whole)
    spread = signal.second - (float(means[0, 0, 0]) if whole.about_mean else 0.0)
    divisor = _divisor(signal, whole, spread)
    factor = divisor.second / spread if spread > 0 else 0.0
    if not (whole.centre or divisor.second):
        factor = 1.0 / (whole.epsilon or 1.0)  # what does not vary is not divided
    middle = signal.mean if whole.centre else 0.0
    if signal.origin.parts:
        root = math.sqrt(factor)
        in_units = signal.origin.joint in signal.units
        if whole.units >= signal.size(signal.units) if in_units else whole.positions:
            # All parts are in one set.
            return by_parts(signal, lambda part: affine(part, root, -middle * root))
        return by_parts(signal, lambda part: _normalised(part, whole))
    removed = means if whole.centre else np.zeros((2, 2, 2))
    pairs = (signal.pairs - removed) * factor
    pairs[0, 0, 0] = max(0.0, pairs[0, 0, 0])
    coupled = _coupled(signal, whole)
    result = signal.evolve(
        mean=(signal.mean - middle) * math.sqrt(factor),
        pairs=pairs,
        near=_near_centred(signal, removed, factor),
        profile=_profile_centred(signal, whole, removed),
        parents=((signal, _then(coupled, divisor.slope)),),
        lineage=signal.origin.lineage,
    )
    if (
        signal.origin.base is None
        or signal.origin.function is None
        or signal.origin.function.affine
        or divisor.number < _FEW
    ):
        return result
    owed = _then(coupled, 1 - 1 / divisor.number)
    return _of_function(result, signal, whole, owed)


def _products_of_means(signal: Signal, whole: _Set) -> Array:
    """Return E[m m'] of the means of two elements' sets, by kind of pair."""
    pairs, total = signal.pairs, signal.size(signal.units)
    if whole.positions:
        places = signal.size(signal.positions)
        mean = pairs[:, 1] + (pairs[:, 0] - pairs[:, 1]) / places
        pairs = np.stack([mean, mean], axis=1)
    if whole.units:
        mean = (pairs[0] + (whole.units - 1) * pairs[1]) / whole.units
        # Two units may be of two sets, whose elements are of different units all.
        same = min((whole.units - 1) / (total - 1), 1.0) if total > 1 else 1.0
        pairs = np.stack([mean, same * mean + (1 - same) * pairs[1]])
    if whole.inputs:  # of a large batch almost all pairs are of different inputs
        pairs = np.repeat(pairs[:, :, 1:], 2, axis=2)
    return pairs


def _near_centred(signal: Signal, removed: Array, factor: float) -> dict[int, Array]:
    """Return the covariance of neighbours after their set's mean is removed.

    On average they are nearer to the middle than any two positions, and lose more.
    """
    near = {}
    for axis, values in signal.near.items():
        profile = signal.profile.get(axis)
        middle = np.ones(len(values))
        if profile is not None:
            for lag in range(1, min(len(values), len(profile) - 1) + 1):
                middle[lag - 1] = (profile[:-lag] + profile[lag:]).mean() / 2
        near[axis] = factor * (values - removed[0, 1, 0] * (2 * middle - 1))
    return near


def _profile_centred(signal: Signal, whole: _Set, removed: Array) -> dict[int, Array]:
    """Return the profile after normalisation: only unevenness within a set is left.

    A position's share of its set's mean scales with its profile; its share of the mean
    over all elements, with the root of its profile.
    """
    second = signal.second or 1.0
    gone = float(removed[0, 0, 0]) / second
    mean = min(signal.mean**2 / second, gone)
    profile: dict[int, Array] = {}
    for axis, values in signal.profile.items():
        if axis in signal.units:
            if whole.units:
                profile[axis] = values
        elif whole.positions:
            root = np.sqrt(values)
            shared = mean * root / (float(root.mean()) or 1.0) + (gone - mean) * values
            level = np.maximum(values - 2 * shared + gone, 1e-3)
            profile[axis] = level / level.mean()
    return profile


@dataclass(frozen=True)
class _Divisor:
    """The effect of dividing by √(σ² + ε) if the variances σ² of sets differ by chance.

    Attributes:
        number: of the elements of a set; infinite with all inputs of a large batch.
        second: E[σ² / (σ² + ε)].
        slope: how much of a gradient's second moment goes back to an element.
    """

    number: float
    second: float
    slope: float


def _divisor(signal: Signal, whole: _Set, spread: float) -> _Divisor:
    """Return the divisor of sets with E[σ²] = `spread`.

    σ² is assumed to be that of Gaussians, a multiple of χ² with the number of
    independent degrees of freedom of the set. The factor of the gradient back through
    y = x / √(σ² + ε) is (1 - r (2 - r) / n) / (σ² + ε), with r = σ² / (σ² + ε) and n
    degrees of freedom: for n = 1 nothing is left of it, apart from ε.
    """
    places = signal.size(signal.positions) if whole.positions else 1
    number = max(whole.units, 1.0) * places
    if whole.inputs or not spread > 0:
        total = spread + whole.epsilon
        second, slope = (spread / total, 1 / total) if total > 0 else (0.0, 0.0)
        return _Divisor(math.inf if whole.inputs else number, second, slope)
    free = number - 1 if whole.about_mean else number
    if free <= 0:
        return _Divisor(number, 0.0, 0.0)
    levels, weights = _chi_squared(round(_freedom(signal, whole, places), 1))
    variances = spread * levels
    share = variances / (variances + whole.epsilon)
    left = (1 - share * (2 - share) / free) / np.maximum(
        variances + whole.epsilon, 1e-300
    )
    return _Divisor(number, float(weights @ share), float(weights @ left))


def _freedom(signal: Signal, whole: _Set, places: float) -> float:
    """Return the degrees of freedom of σ²: 2 E[σ²]² / Var σ².

    The mean is not random: if it is not removed, σ² varies less.
    """
    units = max(whole.units, 1.0)
    same, unit, place, both = (
        float(signal.pairs[kind])
        for kind in ((0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0))
    )
    interaction = same - unit - place + both
    of_units, of_places = places * (unit - both), units * (place - both)
    parts = [
        ((units - 1) * (places - 1), interaction),
        (units - 1, interaction + of_units),
        (places - 1, interaction + of_places),
    ]
    sure = 0.0
    if not whole.about_mean:
        sure = units * places * signal.mean**2 / (signal.unevenness or 1.0)
        every = interaction + of_units + of_places + units * places * both
        parts.append((1.0, every - sure))
    counted = [(number, max(level, 0.0)) for number, level in parts if number > 0]
    total = sum(number * level for number, level in counted) + sure
    squares = sum(number * level**2 for number, level in counted)
    if sure:
        squares += 2 * sure * counted[-1][1]
    return max(1.0, total**2 / squares) if squares > 0 else 1.0


@lru_cache(maxsize=256)
def _chi_squared(freedom: float) -> tuple[Array, Array]:
    """Return values and weights of χ² / n with n degrees of freedom, of mean 1."""
    if freedom > _MANY:
        return np.ones(1), np.ones(1)
    # The density of its logarithm u is exp(n (u - eᵘ) / 2).
    low = max(-60.0 / freedom, math.log(_LEAST_MET))
    logarithms = np.linspace(low, math.log(1 + 60.0 / freedom), 801)
    density = np.exp(freedom * (logarithms - np.exp(logarithms) + 1) / 2)
    weights = density / density.sum()
    values = np.exp(logarithms)
    return values / (weights @ values), weights


def _coupled(signal: Signal, whole: _Set) -> Pull:
    """Return the coupling of a set's elements: their gradients sum to 0."""
    places = signal.size(signal.positions) if whole.positions else 1
    number = max(whole.units, 1.0) * places

    def pull(gradient: Gradient) -> Gradient:
        total = gradient.second + (places - 1) * gradient.position
        if whole.inputs:
            # The other inputs of the batch, at all places, compensate for it.
            return replace(gradient, inputs=-total / places)
        lost = total / number if whole.centre else 0.0
        return replace(
            gradient,
            second=max(0.0, gradient.second - lost),
            position=gradient.position - (lost if whole.positions else 0.0),
        )

    return pull


def _then(first: Pull, factor: float, across: float | None = None) -> Pull:
    return lambda gradient: first(gradient).times(factor, across)


def _of_function(result: Signal, signal: Signal, whole: _Set, coupled: Pull) -> Signal:
    """Return the normalised signal as the function of a Gaussian that it is.

    The Gaussian is assumed to be centred itself: without what its own set shares.
    """
    base, function = signal.origin.base, signal.origin.function
    assert base is not None
    assert function is not None
    base = base.with_units(signal.units)
    alone, steeper = base.evolve(parents=((base, coupled),)), 1.0
    if whole.units <= 1 and whole.centre and not function.cases:
        shared = _products_of_means(base, whole)
        shared = shared - base.mean**2 / (base.unevenness or 1.0)
        by_unit = _unit_by_unit(function, base, float(shared[0, 0, 0]), whole.epsilon)
        steeper = by_unit.steep / (by_unit.even or 1.0)
        alone = alone.amend(
            pairs=base.pairs - shared,
            near={axis: v - shared[0, 1, 0] for axis, v in base.near.items()},
            parents=((base, _then(coupled, steeper)),),
        )
        pairs = result.pairs.copy()
        pairs[0, 0, 0] = by_unit.second
        result = result.amend(
            pairs=pairs,
            parents=((base, _then(coupled, by_unit.steep, by_unit.together)),),
            notes=((signal, _then(coupled, by_unit.slope)),),
        )
    first, second = moments_of(function, alone)
    middle = first if whole.centre else 0.0
    spread = second - (first**2 if whole.about_mean else 0.0) + whole.epsilon
    root = 1 / math.sqrt(spread) if spread > 0 else 0.0
    step = compose(line(root, -root * middle), function)
    return result.amend(base=alone, function=step)


@dataclass(frozen=True)
class _UnitByUnit:
    """The effect of a unit's own statistics on it, on average over units.

    Attributes:
        second: E[σ² / (σ² + ε)], the second moment.
        slope: E[1 / (σ² + ε)].
        steep: E[f'² / (σ² + ε)], back to the Gaussian; `together` of two positions.
        even: E[f'²] / (E σ² + ε), were all units alike.
    """

    second: float
    slope: float
    steep: float
    together: float
    even: float


def _unit_by_unit(
    function: Function, base: Signal, shared: float, epsilon: float
) -> _UnitByUnit:
    """Return the effect of units that differ in what all of their elements share.

    For example, a unit of ReLU that is seldom above 0 has a small variance, and so a
    small divisor.
    """
    grid = gaussian_grid()
    nodes, weights = grid.nodes[::8], grid.weights[::8]
    weights = weights / weights.sum()
    mean = base.mean / math.sqrt(base.unevenness or 1.0)
    variance = max(0.0, base.second - mean**2)
    shared = min(max(shared, 0.0), variance)
    # A unit so far off that it never varies does not occur in practice.
    mass = np.where(np.abs(nodes) < _FURTHEST, weights, 0.0)
    mass = mass / mass.sum()
    x = mean + math.sqrt(shared) * nodes[:, None]
    x = x + math.sqrt(variance - shared) * nodes[None, :]
    values = np.asarray(function.value(x.ravel())).reshape(x.shape)
    slopes = np.asarray(function.slope(x.ravel())).reshape(x.shape)
    means = values @ weights
    spreads = np.maximum((values - means[:, None]) ** 2 @ weights, 0.0)
    factors = 1 / np.maximum(spreads + epsilon, 1e-300)
    squares, firsts = slopes**2 @ weights, slopes @ weights
    return _UnitByUnit(
        float(mass @ (spreads * factors)),
        float(mass @ factors),
        float(mass @ (factors * squares)),
        float(mass @ (factors * firsts**2)),
        float(mass @ squares) / (float(mass @ spreads) + epsilon or 1.0),
    )


def from_statistics(
    signal: Signal,
    mean: Any,
    variance: Any,
    *,
    epsilon: float,
    scale: WeightMoments = ONES,
    shift: WeightMoments = ZEROS,
) -> Signal:
    """Return γ (x - mean) / √(variance + ε) + β with given statistics.

    Each is one number, or one for each unit.
    """
    centre = np.ravel(np.asarray(mean, np.float64))
    factor = 1 / np.sqrt(np.ravel(np.asarray(variance, np.float64)) + epsilon)
    centre, factor = np.broadcast_arrays(centre, factor)
    if not (np.ptp(centre) or np.ptp(factor) or scale.variance or shift.variance):
        root = scale.mean * float(factor.flat[0])
        return affine(signal, root, shift.mean - root * float(centre.flat[0]))
    if signal.origin.parts and signal.units == (signal.origin.joint,):
        for_each_unit = len(centre) == signal.shape[signal.origin.joint]
        starts = np.cumsum(
            [0, *(part.shape[signal.origin.joint] or 0 for part in signal.origin.parts)]
        )
        pieces = {
            id(part): slice(start, stop) if for_each_unit else slice(None)
            for part, start, stop in zip(
                signal.origin.parts, starts[:-1], starts[1:], strict=True
            )
        }
        return by_parts(
            signal,
            lambda part: from_statistics(
                part,
                centre[pieces[id(part)]],
                factor[pieces[id(part)]] ** -2.0,
                epsilon=0.0,
                scale=scale,
                shift=shift,
            ),
        )
    moved = centre * factor
    drift = shift.second_moment - 2 * scale.mean * shift.mean * float(moved.mean())
    drift += scale.second_moment * float((moved**2).mean())
    return rescaled(
        signal,
        WeightMoments(
            scale.mean * float(factor.mean()),
            scale.second_moment * float((factor**2).mean()),
        ),
        WeightMoments(shift.mean - scale.mean * float(moved.mean()), drift),
        together=scale.mean * shift.mean * float(factor.mean())
        - scale.second_moment * float((factor * moved).mean()),
    )


def rescaled(
    signal: Signal,
    scale: WeightMoments,
    shift: WeightMoments,
    together: float | None = None,
) -> Signal:
    """Return w x + b with one weight and one bias for each unit.

    `together` is E[w b]; without it they are assumed to be independent.
    """
    if not (scale.variance or shift.variance):
        return affine(signal, scale.mean, shift.mean)
    if signal.origin.parts:
        return by_parts(signal, lambda part: rescaled(part, scale, shift, together))
    product = scale.mean * shift.mean
    both = product if together is None else together
    gamma = np.array([scale.second_moment, scale.mean**2]).reshape(2, 1, 1)
    beta = np.array([shift.second_moment, shift.mean**2]).reshape(2, 1, 1)
    cross = 2 * signal.mean * np.array([both, product]).reshape(2, 1, 1)
    added = beta + cross
    pairs = gamma * signal.pairs + added
    share = float(gamma[0, 0, 0]) * signal.second / (pairs[0, 0, 0] or 1.0)
    return signal.evolve(
        mean=scale.mean * signal.mean + shift.mean,
        pairs=pairs,
        near={
            axis: scale.second_moment * values + float(added[0, 0, 0])
            for axis, values in signal.near.items()
        },
        profile={
            axis: np.maximum(share * values + 1 - share, 0.0)
            for axis, values in signal.profile.items()
        },
        parents=((signal, lambda gradient: gradient.times(scale.second_moment)),),
    )
