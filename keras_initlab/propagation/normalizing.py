"""Centre and rescale: what normalisation makes of a signal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from keras_initlab.propagation.elementwise import affine, compose, line, moments_of
from keras_initlab.propagation.joining import by_parts
from keras_initlab.propagation.signal import Array, Function, Gradient, Pull, Signal
from keras_initlab.propagation.weights import WeightMoments

ONES = WeightMoments(1.0, 1.0)
ZEROS = WeightMoments(0.0, 0.0)


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
    whole = {"units": units, "positions": positions, "inputs": inputs}
    means = _products_of_means(signal, units, positions, inputs)
    spread = signal.second
    if centre if about_mean is None else about_mean:
        spread -= float(means[0, 0, 0])
    factor = 1.0 / (spread + epsilon) if spread + epsilon > 0 else 0.0
    if signal.parts:
        return _parts_normalised(
            signal, whole, factor, epsilon, centre, about_mean, scale, shift
        )
    removed = means if centre else np.zeros((2, 2, 2))
    moved = (signal.pairs - removed) * factor
    moved[0, 0, 0] = max(0.0, moved[0, 0, 0])
    gamma = np.array([scale.second_moment, scale.mean**2]).reshape(2, 1, 1)
    beta = np.array([shift.second_moment, shift.mean**2]).reshape(2, 1, 1)
    mean = 0.0 if centre else signal.mean * math.sqrt(factor)
    cross = 2 * scale.mean * shift.mean * mean
    near = {
        axis: scale.second_moment * factor * (values - removed[0, 1, 0])
        + float(beta[0, 0, 0])
        + cross
        for axis, values in signal.near.items()
    }
    coupled = _coupled(signal, units, positions, inputs, centre)
    slope = scale.second_moment * factor
    result = signal.evolve(
        mean=scale.mean * mean + shift.mean,
        pairs=gamma * moved + cross + beta,
        near=near,
        profile=_level(signal, units, positions, inputs),
        parents=((signal, lambda gradient: coupled(gradient.times(slope))),),
    )
    if shift.second_moment and result.second > 0:
        share = 1 - shift.second_moment / result.second
        level = {a: share * v + 1 - share for a, v in result.profile.items()}
        result = replace(result, profile=level)
    if scale.variance or shift.variance:
        return result
    if not centre:
        step = line(scale.mean * math.sqrt(factor), shift.mean)
        return _remembering(result, signal, coupled, lambda alone: step)

    def step_of(alone: Signal) -> Function:
        assert signal.function is not None
        first, second = moments_of(signal.function, alone)
        variance = second - first**2 + epsilon
        root = scale.mean / math.sqrt(variance) if variance > 0 else 0.0
        return line(root, shift.mean - root * first)

    return _remembering(result, signal, coupled, step_of, whole)


def _parts_normalised(
    signal: Signal,
    whole: dict[str, Any],
    factor: float,
    epsilon: float,
    centre: bool,
    about_mean: bool | None,
    scale: WeightMoments,
    shift: WeightMoments,
) -> Signal:
    """Return a joined signal normalised: by parts, if these have their own sets."""
    in_units = signal.joint in signal.units
    if whole["units"] >= signal.size(signal.units) if in_units else whole["positions"]:
        root = math.sqrt(factor)
        start = -signal.mean * root if centre else 0.0

        def moved(part: Signal) -> Signal:
            return rescaled(affine(part, root, start), scale, shift)

        return by_parts(signal, moved)
    return by_parts(
        signal,
        lambda part: normalise(
            part,
            **whole,
            epsilon=epsilon,
            centre=centre,
            about_mean=about_mean,
            scale=scale,
            shift=shift,
        ),
    )


def _remembering(
    result: Signal,
    signal: Signal,
    coupled: Pull,
    step_of: Callable[[Signal], Function],
    whole: dict[str, Any] | None = None,
) -> Signal:
    """Return the normalised signal that knows which function of a Gaussian it is.

    The Gaussian is taken for centred itself: without what the set `whole` shares.
    """
    function, base = signal.function, signal.base
    if base is None or function is None or function.affine is not None:
        return result
    base = base.with_units(signal.units)
    alone = base.evolve(parents=((base, coupled),))
    if whole is not None:
        shared = _products_of_means(base, **whole)
        even = base.unevenness or 1.0
        shared = shared - base.mean**2 / even
        alone = replace(
            alone,
            pairs=base.pairs - shared,
            near={axis: v - shared[0, 1, 0] for axis, v in base.near.items()},
        )
    return replace(result, base=alone, function=compose(step_of(alone), function))


def _coupled(
    signal: Signal, units: float, positions: bool, inputs: bool, centre: bool
) -> Pull:
    """Return what a set's elements owe each other: their gradients sum to 0."""
    places = signal.size(signal.positions) if positions else 1
    number = max(units, 1.0) * places

    def pull(gradient: Gradient) -> Gradient:
        total = gradient.second + (places - 1) * gradient.position
        if inputs:
            # The other inputs of the batch, at all places, make up for it.
            return replace(gradient, inputs=-total / places)
        lost = total / number if centre else 0.0
        second = gradient.second * (1 - 1 / number) - lost
        return replace(
            gradient,
            second=max(0.0, second),
            position=gradient.position - (lost if positions else 0.0),
        )

    return pull


def _products_of_means(
    signal: Signal, units: float, positions: bool, inputs: bool
) -> Array:
    """Return E[m m'] of the means of two elements' sets, by kind of pair."""
    pairs = signal.pairs
    if units:
        pairs = np.broadcast_to(_mean_of_kinds(pairs, 0, units), (2, 2, 2))
    if positions:
        places = signal.size(signal.positions)
        pairs = np.broadcast_to(_mean_of_kinds(pairs, 1, places), (2, 2, 2))
    if inputs:  # of a large batch almost all pairs are of different inputs
        pairs = np.broadcast_to(pairs[:, :, 1:], (2, 2, 2))
    return pairs


def _mean_of_kinds(pairs: Array, axis: int, count: float) -> Array:
    """Return the mean over pairs of `count` elements, alike and different."""
    alike, different = np.split(pairs, 2, axis=axis)
    mean: Array = (alike + (count - 1) * different) / count
    return mean


def _level(
    signal: Signal, units: float, positions: bool, inputs: bool
) -> dict[int, Array]:
    """What each set is rescaled by is uneven no more, unless the set holds it."""
    kept: dict[int, Array] = {}
    for axis, values in signal.profile.items():
        inside = units if axis in signal.units else positions
        if inside:
            kept[axis] = values
    return kept


def from_statistics(
    signal: Signal,
    mean: Any,
    variance: Any,
    *,
    epsilon: float,
    scale: WeightMoments = ONES,
    shift: WeightMoments = ZEROS,
) -> Signal:
    """Return γ (x - mean) / √(variance + ε) + β with statistics that are given.

    They are one number, or one for each unit.
    """
    centre = np.ravel(np.asarray(mean, np.float64))
    factor = 1 / np.sqrt(np.ravel(np.asarray(variance, np.float64)) + epsilon)
    centre, factor = np.broadcast_arrays(centre, factor)
    if not (np.ptp(centre) or np.ptp(factor) or scale.variance or shift.variance):
        root = scale.mean * float(factor.flat[0])
        return affine(signal, root, shift.mean - root * float(centre.flat[0]))
    if signal.parts and signal.units == (signal.joint,):
        known = len(centre) == signal.shape[signal.joint]
        starts = np.cumsum(
            [0, *(part.shape[signal.joint] or 0 for part in signal.parts)]
        )
        pieces = {
            id(part): slice(start, stop) if known else slice(None)
            for part, start, stop in zip(
                signal.parts, starts[:-1], starts[1:], strict=True
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
    """Return w x + b with one weight and one bias for each unit; E[w b] is `together`.

    They are taken for independent if that is not given.
    """
    if not (scale.variance or shift.variance):
        return affine(signal, scale.mean, shift.mean)
    if signal.parts:
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
