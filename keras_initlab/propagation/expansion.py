"""Functions of Gaussians by Hermite coefficients, at several means.

E[f(z) g(z')] = Σ aₙ bₙ ρⁿ for z, z' of correlation ρ (Mehler's formula), so that the
coefficients at each mean are enough for all pairs of means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_initlab.propagation.hermite import gaussian_grid
from keras_initlab.propagation.signal import Array, Function

_ORDERS = 24


def correlated(rho: Array, coefficients: Array) -> Array:
    """Return Σ cₙ ρⁿ, c along the first axis, ρ within [-1, 1] (Mehler's formula)."""
    rho = np.clip(rho, -1.0, 1.0)
    found = np.polynomial.polynomial.polyval(rho, coefficients, tensor=False)
    return np.asarray(found, np.float64)


@dataclass(frozen=True)
class Expansion:
    """Moments of f(m + σ z) at several m, and its Hermite coefficients there."""

    mean: Array
    second: Array
    slope_mean: Array
    slope_second: Array
    coefficients: Array


def expansion(
    function: Function, means: Array, variance: float | Array, orders: int = _ORDERS
) -> Expansion:
    """Return the moments of f(m + √variance z), z ~ N(0, 1), for each m of `means`."""
    grid = gaussian_grid()
    deviation = np.sqrt(np.broadcast_to(variance, means.shape))
    at = means[:, None] + deviation[:, None] * grid.nodes
    values = np.asarray(function.value(at.ravel()), np.float64).reshape(at.shape)
    slopes = np.asarray(function.slope(at.ravel()), np.float64).reshape(at.shape)
    coefficients = (values * grid.weights) @ grid.hermite[:orders].T
    return Expansion(
        coefficients[:, 0],
        values**2 @ grid.weights,
        slopes @ grid.weights,
        slopes**2 @ grid.weights,
        coefficients,
    )
