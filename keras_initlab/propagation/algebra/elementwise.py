"""Elementwise functions of a signal: any activation, scale and shift, noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from keras_initlab import activations
from keras_initlab.activations.table import Activation
from keras_initlab.propagation.algebra.concatenation import by_parts
from keras_initlab.propagation.algebra.hermite import Response, gaussian_grid, response
from keras_initlab.propagation.signal import Array, Function, Gradient, Pull, Signal

# Levels of an uneven signal at which a function that is not homogeneous is evaluated.
_LEVELS = 17
# A signal that has exploded stays finite: its square does not overflow.
_ROOT = 1e150
# The most cases that a function may have.
_MOST_CASES = 16


class NotDefinedEverywhere(ValueError):
    """A function, such as a root, has no value for some of what a Gaussian may be."""


def apply(signal: Signal, activation: Any) -> Signal:
    """Return φ(x) elementwise, for any activation that `activations.resolve` knows.

    x is assumed to be Gaussian, or the function of a Gaussian that it is known to be.

    Raises:
        ValueError, TypeError: φ is not elementwise, or not known; see `resolve`.
        NotDefinedEverywhere: φ is not defined for all that x may be, were x Gaussian.

    Source: Poole et al. 2016, equations 3 and 5; Daniely et al. 2016, section 4, for
    the covariance by Hermite coefficients.
    """
    resolved = activations.resolve(activation)
    if resolved.family == "linear":
        return signal
    if resolved.function is None:
        activations.moments(resolved)  # says what is wrong with it
    return apply_function(signal, function_of(resolved), resolved)


def function_of(activation: Activation) -> Function:
    """Return an activation and its slope, which is numerical if it is not known."""
    function, derivative = activation.function, activation.derivative
    assert function is not None

    def value(x: Array) -> Array:
        return np.asarray(function(x), np.float64)

    if derivative is not None:
        return Function(value, lambda x: np.asarray(derivative(x), np.float64))

    def slope(x: Array) -> Array:
        step = 1e-3 * max(float(np.ptp(x)) / 18, 1e-12)
        return np.asarray((value(x + step) - value(x - step)) / (2 * step), np.float64)

    return Function(value, slope)


def apply_function(
    signal: Signal, function: Function, activation: Activation | None = None
) -> Signal:
    """Return f(x) elementwise; `activation` is f where closed forms may be at hand."""
    if signal.origin.parts:
        return by_parts(signal, lambda part: apply_function(part, function, activation))
    composed = function
    inner = signal.origin.function
    gaussian = inner is None or inner.affine is not None
    if inner is not None:
        composed = compose(function, inner)
    base = signal.origin.base or signal
    law = signal if gaussian else base.with_units(signal.units)
    seen = function if gaussian else composed
    mean = law.mean / math.sqrt(law.unevenness or 1.0)
    variance = max(0.0, law.second - mean**2)
    answer = respond(seen, mean, variance, activation if gaussian else None)
    rho = np.ones(law.vector().size)
    if variance > 0:
        rho = (_even(law, law.vector()) - mean**2) / variance
    vector, slope = _second_moments(seen, answer, rho, mean, variance)
    profile, level = _profile(law, seen, activation, mean, variance)
    vector *= level
    out = replace(law, profile=profile)
    pairs, near = out.split(_even(out, vector, undo=True))
    # Of different inputs, at different positions where there are any.
    far = 3 if law.size(law.positions) > 1 else 1
    slopes = [slope, *(answer.slopes_correlated(float(rho[i])) for i in (2, far))]
    factors = tuple(square / (variance or 1.0) for square in slopes)
    steepness = _steepness(law, seen, activation, mean, variance)
    result = law.evolve(
        shape=signal.shape,
        mean=answer.mean * math.sqrt(out.unevenness * level),
        pairs=pairs,
        near=near,
        profile=profile,
        base=base,
        function=composed,
        parents=((law, _slope_pull(factors, steepness)),),
        measured=signal.origin.measured,
        lineage=signal.origin.lineage,
    )
    if gaussian:
        return result
    # The gradient flows directly to the Gaussian, as φ' and f' are correlated. At the
    # signals between it is only noted.
    here = _mean_square_of_slope(function, signal.origin.function, mean, variance)
    note = ((signal, lambda gradient: gradient.times(here)),)
    return result.amend(notes=note)


def _second_moments(
    function: Function, answer: Response, rho: Array, mean: float, variance: float
) -> tuple[Array, float]:
    """Return E[f f'] at correlations `rho`, of f with itself first, and E[f'(x)²]."""
    vector = answer.correlated(rho)
    vector[0], slope = answer.second, answer.slope_second
    if function.cases:
        responses = [(p, respond(f, mean, variance, None)) for p, f in function.cases]
        vector[0] = sum(p * case.second for p, case in responses)
        slope = sum(p * case.slope_second for p, case in responses)
        if not function.by_position:
            # One draw for all positions of a unit and input, near ones too.
            for alike in (slice(2, 3), slice(8, None)):
                vector[alike] = sum(
                    p * case.correlated(rho[alike]) for p, case in responses
                )
    return vector, slope


def _slope_pull(factors: tuple[float, ...], steepness: dict[int, Array]) -> Pull:
    """Return the rule of a function: factors for one element, positions and inputs.

    `steepness` is the slope's mean square along uneven axes, relative to the factor.
    """

    def pull(gradient: Gradient) -> Gradient:
        moved = gradient.times(*factors)
        for axis, steep in steepness.items():
            before = moved.profile.get(axis, np.ones(len(steep)))
            if len(before) != len(steep):
                continue
            after = before * steep
            level = float(after.mean()) or 1.0
            roots = float(np.sqrt(after).mean()) / (
                float(np.sqrt(before).mean()) or 1.0
            )
            moved = replace(
                moved.times(level, roots**2),
                profile={**moved.profile, axis: after / level},
            )
        return moved

    return pull


def _steepness(
    signal: Signal,
    function: Function,
    activation: Activation | None,
    mean: float,
    variance: float,
) -> dict[int, Array]:
    """Return the slope's mean square along uneven axes, relative to that at level 1."""
    if not signal.profile or (activation is not None and _is_homogeneous(activation)):
        return {}
    levels, at = _levels_of(signal, mean, variance)
    steep = np.array([mean_square(function, row, slope=True) for row in at])
    middle = float(np.interp(1.0, levels, steep))
    if not middle > 0:
        return {}
    return {
        axis: np.interp(values, levels, steep) / middle
        for axis, values in signal.profile.items()
    }


def _mean_square_of_slope(
    outer: Function, inner: Function | None, mean: float, variance: float
) -> float:
    """Return E[outer'(inner(x))²] for x ~ N(mean, variance)."""
    assert inner is not None
    grid = gaussian_grid()
    at = grid.nodes * math.sqrt(variance) + mean
    cases = inner.cases or ((1.0, inner),)
    return float(
        sum(p * (grid.weights @ outer.slope(f.value(at)) ** 2) for p, f in cases)
    )


def respond(
    function: Function,
    mean: float,
    variance: float,
    activation: Activation | None = None,
) -> Response:
    """Return E[f(x) f(x')], or of f', for two Gaussians, by their correlation."""
    if activation is None:
        return _response_to(function, mean, variance)
    if not _is_homogeneous(activation) or not variance > 0:
        return _known_response(activation, mean, variance)
    # φ(cx) = cφ(x): one response serves all variances.
    unit = _known_response(activation, round(mean / math.sqrt(variance), 12), 1.0)
    return unit.scaled(math.sqrt(variance))


@lru_cache(maxsize=1024)
def _known_response(activation: Activation, mean: float, variance: float) -> Response:
    assert activation.function is not None
    try:
        exact = activations.moments(activation, mean, variance)
    except ValueError:  # it overflows, as exp does
        return _response_to(function_of(activation), mean, variance)
    x = mean + math.sqrt(variance) * gaussian_grid().nodes
    return response(
        np.asarray(activation.function(x), np.float64),
        exact.mean,
        exact.second_moment,
        exact.derivative_second_moment * (variance or 1.0),
    )


def _response_to(function: Function, mean: float, variance: float) -> Response:
    grid = gaussian_grid()
    x = mean + math.sqrt(variance) * grid.nodes
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.clip(np.asarray(function.value(x), np.float64), -_ROOT, _ROOT)
        slopes = np.clip(np.asarray(function.slope(x), np.float64), -_ROOT, _ROOT)
    if np.isnan(values).any() or np.isnan(slopes).any():
        # A root or logarithm: x is not Gaussian, or they would be NaN in the model.
        raise NotDefinedEverywhere(
            "The function is not defined for all that a Gaussian may be."
        )
    slope = min(float(grid.weights @ slopes**2) * (variance or 1.0), _ROOT**2)
    second = float(grid.weights @ values**2)
    return response(values, float(grid.weights @ values), second, slope)


def moments_of(function: Function, signal: Signal) -> tuple[float, float]:
    """Return E[f(x)] and E[f(x)²] for a Gaussian signal x, made even."""
    mean = signal.mean / math.sqrt(signal.unevenness or 1.0)
    deviation = math.sqrt(max(0.0, signal.second - mean**2))
    x = mean + deviation * gaussian_grid().nodes
    weights = gaussian_grid().weights
    return float(weights @ function.value(x)), mean_square(function, x)


def compose(outer: Function, inner: Function) -> Function:
    """Return outer ∘ inner."""
    affine = None
    if outer.affine is not None and inner.affine is not None:
        scale, shift = outer.affine
        affine = (scale * inner.affine[0], scale * inner.affine[1] + shift)
    cases = tuple(
        (p * q, compose(f, g))
        for p, f in outer.cases or ((1.0, outer),)
        for q, g in inner.cases or ((1.0, inner),)
        if outer.cases or inner.cases
    )
    if cases:
        return mixture(cases, by_position=outer.by_position and inner.by_position)
    return Function(
        lambda z: outer.value(inner.value(z)),
        lambda z: outer.slope(inner.value(z)) * inner.slope(z),
        affine,
    )


def mixture(
    cases: Sequence[tuple[float, Function]], *, by_position: bool = True
) -> Function:
    """Return the function that is one of `cases` at random; see `Function`."""
    return Function(
        lambda z: np.asarray(sum(p * f.value(z) for p, f in cases)),
        lambda z: np.asarray(sum(p * f.slope(z) for p, f in cases)),
        cases=tuple(cases),
        by_position=by_position,
    )


def line(scale: float, shift: float = 0.0) -> Function:
    """Return the function scale · x + shift."""
    return Function(
        lambda x: scale * x + shift, lambda x: np.full_like(x, scale), (scale, shift)
    )


def affine(signal: Signal, scale: float = 1.0, shift: float = 0.0) -> Signal:
    """Return scale · x + shift."""
    if scale == 1.0 and shift == 0.0:
        return signal
    if signal.origin.parts:
        return by_parts(signal, lambda part: affine(part, scale, shift))
    vector = scale**2 * signal.vector()
    vector += 2 * scale * shift * signal.mean + shift**2
    pairs, near = signal.split(vector)
    function, inner = line(scale, shift), signal.origin.function
    return signal.evolve(
        mean=scale * signal.mean + shift,
        pairs=pairs,
        near=near,
        profile=shifted_profile(signal, scale, shift, shift**2),
        terms={
            key: (scale * factor, origin)
            for key, (factor, origin) in signal.origins().items()
        },
        base=signal.origin.base or signal,
        function=function if inner is None else compose(function, inner),
        parents=((signal, lambda gradient: gradient.times(scale**2)),),
        lineage=signal.origin.lineage,
    )


def shifted_profile(
    signal: Signal, scale: float, shift: float, shift_second: float
) -> dict[int, Array]:
    """Return the profile of a x + b, from a and the first two moments of b."""
    profile = {}
    for axis, values in signal.profile.items():
        root = np.sqrt(values)
        level = signal.mean / (float(root.mean()) or 1.0)
        moved = scale**2 * signal.second * values + shift_second
        moved = moved + 2 * scale * shift * level * root
        if moved.mean() > 0:
            profile[axis] = moved / moved.mean()
    return profile


def noisy(
    signal: Signal,
    variance: float,
    *,
    same_position: bool = False,
    slope_second: float = 1.0,
    shared: Array | None = None,
    cases: Sequence[tuple[float, Function]] = (),
) -> Signal:
    """Return x plus noise of mean 0 that is independent for all elements.

    Args:
        signal: x.
        variance: E[noise²].
        same_position: whether all positions of a unit share it.
        slope_second: E[(dy/dx)²].
        shared: E[noise noise'] for each kind of pair, where some share it.
        cases: y as functions of x and their probabilities, of which one is drawn.
    """
    if signal.origin.parts and shared is None:
        return by_parts(
            signal,
            lambda part: noisy(
                part,
                variance,
                same_position=same_position,
                slope_second=slope_second,
                cases=cases,
            ),
        )
    noise = _noise(signal, variance, shared, same_position=same_position)
    function = None
    if cases:
        function = mixture(cases, by_position=not same_position)
        if signal.origin.function is not None:
            function = compose(function, signal.origin.function)
        if len(function.cases) > _MOST_CASES:
            function = None
    across = slope_second if same_position else 1.0
    return signal.evolve(
        pairs=signal.pairs + noise.pairs,
        near={axis: values + noise.near[axis] for axis, values in signal.near.items()},
        terms={**signal.origins(), noise.serial: (1.0, noise)},
        base=None if function is None else signal.origin.base or signal,
        function=function,
        parents=((signal, lambda gradient: gradient.times(slope_second, across, 1.0)),),
        lineage=signal.origin.lineage,
    )


def _noise(
    signal: Signal, variance: float, shared: Array | None, *, same_position: bool
) -> Signal:
    """Return the noise that `noisy` adds to a signal."""
    near = {axis: np.zeros(len(values)) for axis, values in signal.near.items()}
    if same_position:
        # Noise that scales what positions have in common, or the same for all of them.
        odds = variance / signal.second if shared is not None and signal.second else 0.0
        near = {
            axis: odds * values if shared is not None else near[axis] + variance
            for axis, values in signal.near.items()
        }
    if shared is None:
        shared = np.zeros((2, 2, 2))
        shared[0, 1, 0] = variance * signal.unevenness if same_position else 0.0
    shared = shared.copy()
    shared[0, 0, 0] = variance
    return signal.evolve(mean=0.0, pairs=shared, near=near)


def _even(signal: Signal, vector: Array, *, undo: bool = False) -> Array:
    """Return the second moments that an even signal of the same kind would have."""
    uneven = signal.unevenness
    if uneven in (0.0, 1.0):
        return vector
    vector = vector.copy()
    vector[:8].reshape(2, 2, 2)[:, 1, :] *= uneven if undo else 1 / uneven
    return vector


def _profile(
    signal: Signal,
    function: Function,
    activation: Activation | None,
    mean: float,
    variance: float,
) -> tuple[dict[int, Array], float]:
    """Return the profile after a function, and E[f²] relative to an even signal's."""
    if not signal.profile or (activation is not None and _is_homogeneous(activation)):
        return signal.profile, 1.0
    levels, at = _levels_of(signal, mean, variance)
    seconds = np.array([mean_square(function, row) for row in at])
    middle = float(np.interp(1.0, levels, seconds))
    if not middle > 0:
        return signal.profile, 1.0
    total, profile = 1.0, {}
    for axis, values in signal.profile.items():
        moved = np.interp(values, levels, seconds) / middle
        level = float(moved.mean())
        total *= level
        if level > 0:
            profile[axis] = moved / level
    return profile, total


def _levels_of(signal: Signal, mean: float, variance: float) -> tuple[Array, Array]:
    """Return levels of an uneven signal's profile, and a grid of values at each."""
    every = np.concatenate([np.ones(1), *signal.profile.values()])
    levels = np.unique(every)
    if len(levels) > _LEVELS:
        above = levels[levels > 1e-6 * levels.max()]
        levels = np.geomspace(above.min(), above.max(), _LEVELS)
        levels = np.concatenate([levels, np.zeros(int(every.min() < above.min()))])
    levels = np.unique(levels)
    row = mean + np.sqrt(variance) * gaussian_grid().nodes
    return levels, np.sqrt(levels)[:, None] * row


def mean_square(function: Function, x: Array, *, slope: bool = False) -> float:
    """Return E[f(x)²], or E[f'(x)²], of values on the grid."""
    cases = function.cases or ((1.0, function),)
    weights = gaussian_grid().weights
    return float(
        sum(
            p * (weights @ np.square(f.slope(x) if slope else f.value(x)))
            for p, f in cases
        )
    )


def _is_homogeneous(activation: Activation) -> bool:
    """Say whether φ(c x) = c φ(x) for c > 0."""
    return activation.family == "relu" and activation.kinks == (0.0,)
