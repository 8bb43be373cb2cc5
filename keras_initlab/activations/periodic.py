"""Sines of any frequency: the moments they have, and how they are recognised."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_initlab.activations.quadrature import GaussianMoments
from keras_initlab.activations.table import Activation

__all__ = ["rescaled", "sine", "sine_like"]

Array = NDArray[np.float64]

# Steps of the grids on which a frequency is looked for: one of them is short beside
# the period, and long enough to tell it in float32.
_STEPS = (0.5, 2.0**-3, 2.0**-5, 2.0**-7, 2.0**-9)
_POINTS, _REFINEMENTS, _COARSE = 128, 4, 0.05
_TOLERANCE = {8: 1e-8, 4: 2e-6}


@lru_cache(maxsize=256)
def sine(
    frequency: float, amplitude: float = 1.0, phase: float = 0.0, offset: float = 0.0
) -> Activation:
    """offset + amplitude · sin(frequency · x + phase), of family "periodic".

    Args:
        frequency: ω, in radians for each unit of x; above 0.
        amplitude: above 0.
        phase: in radians.
        offset: what is added.

    Example:
        >>> from keras_initlab.activations.periodic import sine
        >>> round(sine(30.0).closed_form(0.0, 1.0).second_moment, 6)
        0.5
    """

    def function(x: Array) -> Array:
        return offset + amplitude * np.sin(frequency * x + phase)

    def derivative(x: Array) -> Array:
        return amplitude * frequency * np.cos(frequency * x + phase)

    def closed_form(mean: float, variance: float) -> GaussianMoments:
        # E cos(a + ωz) = cos(a) exp(−ω² Var / 2).
        at, spread = frequency * mean + phase, frequency**2 * variance
        wave = amplitude * math.sin(at) * math.exp(-spread / 2)
        beat = math.cos(2 * at) * math.exp(-2 * spread)
        power = amplitude**2 / 2
        return GaussianMoments(
            offset + wave,
            offset**2 + 2 * offset * wave + power * (1 - beat),
            frequency**2 * power * (1 + beat),
        )

    return Activation(
        _name(frequency, amplitude, phase, offset),
        function,
        derivative,
        family="periodic",
        closed_form=closed_form,
        frequency=frequency,
    )


def rescaled(activation: Activation, slope: float, offset: float) -> Activation:
    """φ(slope · x + offset) of a periodic φ.

    >>> rescaled(sine(1.0), 30.0, 0.0).name
    'sine(30)'
    """
    assert activation.function is not None
    function = activation.function
    sine = sine_like(lambda x: np.asarray(function(slope * x + offset)))
    return activation if sine is None else sine


def sine_like(evaluate: Callable[[Array], NDArray[Any]]) -> Activation | None:
    """The sine with these values, of whatever frequency; None if there is none.

    Of a sine s about 0, s(x + h) + s(x − h) = 2 cos(ωh) s(x): this gives ω on a grid,
    and least squares the rest (Prony 1795).
    """
    for step in _STEPS:
        x: Array = step * (np.arange(_POINTS, dtype=np.float64) - _POINTS / 2 + 0.3)
        values = np.asarray(evaluate(x))
        if values.shape != x.shape or not np.isfinite(values).all():
            return None
        kind, values = values.dtype.itemsize, values.astype(np.float64)
        wave = values[2:] - values[:-2]  # what is added falls out
        power = 2 * float(wave[1:-1] @ wave[1:-1])
        if not power > 0:
            return None
        cosine = float(wave[1:-1] @ (wave[2:] + wave[:-2])) / power
        if not -1 < cosine < 1:
            continue
        turn = math.acos(cosine)
        if turn * _POINTS < math.pi:
            return None  # half a wave: a parabola would do as well
        sine = _fitted(turn / step, x, values)
        if sine is not None and _agrees(sine, evaluate, kind):
            return sine
    return None


def _fitted(frequency: float, x: Array, values: Array) -> Activation | None:
    """The sine through these values whose frequency is near the given one."""
    for _ in range(_REFINEMENTS):
        waves = np.stack(
            [np.ones_like(x), np.sin(frequency * x), np.cos(frequency * x)], axis=1
        )
        (offset, a, b), *_ = np.linalg.lstsq(waves, values, rcond=None)
        slope = x * (a * waves[:, 2] - b * waves[:, 1])
        error = values - waves @ (offset, a, b)
        scale = math.hypot(a, b)
        if not np.abs(error).max() < _COARSE * scale:
            return None
        # Gauss–Newton, with all that depends on the frequency left as it is.
        frequency += float(slope @ error) / float(slope @ slope)
    return sine(
        *(_rounded(value) for value in (frequency, scale, math.atan2(b, a), offset))
    )


def _agrees(
    sine: Activation, evaluate: Callable[[Array], NDArray[Any]], itemsize: int
) -> bool:
    """Whether the values are the same where the sine was not fitted."""
    assert sine.function is not None
    x = np.concatenate([np.linspace(-7.7, 8.3, 97), np.linspace(-0.31, 0.29, 31)])
    expected = np.asarray(sine.function(x), np.float64)
    error = np.abs(np.asarray(evaluate(x), np.float64) - expected).max()
    # The phase ωx is rounded in the dtype, too.
    allowed = _TOLERANCE.get(itemsize, 1e-2) * (1 + 8 * sine.frequency)
    return bool(error <= allowed * np.ptp(expected))


def _rounded(value: float) -> float:
    """Return the number that is meant by one that was fitted."""
    near = round(float(value), 4)
    return near if abs(near - value) <= 1e-6 * max(1.0, abs(value)) else float(value)


def _name(frequency: float, amplitude: float, phase: float, offset: float) -> str:
    quarters = phase / (math.pi / 2)
    whole = abs(quarters - round(quarters)) < 1e-3
    name = f"{'cosine' if whole and round(quarters) % 2 else 'sine'}({frequency:g})"
    if amplitude != 1.0 or offset or not whole:
        name += f", amplitude {amplitude:g}, phase {phase:g}, offset {offset:g}"
    return name
