"""Functions of Gaussians by Hermite coefficients: moments, and covariances.

E[f(z) g(z')] = Σ aₙ bₙ ρⁿ for z, z' of correlation ρ (Mehler's formula).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from keras_initlab.propagation.signal import Array, Function

# The number of Hermite coefficients. The rest of E[f²] is one term, of an order that
# gives the right E[f'²], so that the response is right for correlations near 1.
_ORDERS = 48
_DEGREES = np.arange(_ORDERS)
_REACH, _PANELS, _POINTS = 9.0, 90, 16


class _Grid(NamedTuple):
    nodes: Array
    weights: Array
    hermite: Array


@cache
def gaussian_grid() -> _Grid:
    """Return nodes and weights for N(0, 1), and normalised Hermite polynomials."""
    points, weights = np.polynomial.legendre.leggauss(_POINTS)
    edges = np.linspace(-_REACH, _REACH, _PANELS + 1)
    half = np.diff(edges)[:, None] / 2
    nodes = ((edges[:-1] + edges[1:])[:, None] / 2 + half * points).ravel()
    mass = (half * weights).ravel() * np.exp(-(nodes**2) / 2) / np.sqrt(2 * np.pi)
    hermite = np.empty((_ORDERS, nodes.size))
    hermite[0], hermite[1] = 1.0, nodes
    for n in range(1, _ORDERS - 1):
        before = np.sqrt(n) * hermite[n - 1]
        hermite[n + 1] = (nodes * hermite[n] - before) / np.sqrt(n + 1)
    return _Grid(nodes, mass, hermite)


@dataclass(frozen=True)
class Response:
    """A function's response to a Gaussian: moments, and covariance by correlation.

    E[f(z) f(z')] = Σ aₙ² ρⁿ for z, z' of correlation ρ (Mehler's formula); the last
    term stands for all orders that are not kept.
    """

    mean: float
    second: float
    slope_second: float  # of df/dz, z of unit variance
    powers: Array  # aₙ², n = 0, 1, …
    remainder: float
    remainder_order: float

    def correlated(self, rho: Array) -> Array:
        """Return E[f(z) f(z')] at correlations `rho`, within [-1, 1]."""
        rho = np.clip(rho, -1.0, 1.0)
        series = np.power(rho[..., None], _DEGREES) @ self.powers
        # Even and odd orders alike, which cancel at a negative rho.
        last = self.remainder * np.maximum(rho, 0.0) ** self.remainder_order
        return np.asarray(series + last, np.float64)

    def scaled(self, factor: float) -> Response:
        """Return the response of factor · f."""
        square = factor**2
        return Response(
            self.mean * factor,
            self.second * square,
            self.slope_second * square,
            self.powers * square,
            self.remainder * square,
            self.remainder_order,
        )

    def slopes_correlated(self, rho: float) -> float:
        """Return E[f'(z) f'(z')] at correlation `rho`."""
        rho = float(np.clip(rho, -1.0, 1.0))
        slopes = _DEGREES[1:] * self.powers[1:]
        total = np.power(rho, _DEGREES[:-1]) @ slopes
        last = (
            self.remainder
            * self.remainder_order
            * max(rho, 0.0) ** (self.remainder_order - 1)
        )
        return float(total + last)


def response(
    values: Array, mean: float, second: float, slope_second: float
) -> Response:
    """Return the response with the given moments; `values` are f's on the grid."""
    grid = gaussian_grid()
    coefficients = grid.hermite @ (grid.weights * values)
    coefficients[0] = mean
    powers = coefficients**2
    remainder = second - powers.sum()
    if remainder > 1e-9 * second:
        order = (slope_second - float(_DEGREES @ powers)) / remainder
        order = float(np.clip(order, _ORDERS, 1e6))
    else:
        # Rounding, or f is a polynomial: there is no remainder.
        powers[1:] *= max(0.0, second - powers[0]) / max(powers[1:].sum(), 1e-300)
        remainder, order = 0.0, float(_ORDERS)
    return Response(mean, second, slope_second, powers, remainder, order)


_FEW_ORDERS = 24


def correlated(rho: Array, coefficients: Array) -> Array:
    """Return Σ cₙ ρⁿ, c along the first axis, ρ within [-1, 1] (Mehler's formula)."""
    rho = np.clip(rho, -1.0, 1.0)
    moments = np.polynomial.polynomial.polyval(rho, coefficients, tensor=False)
    return np.asarray(moments, np.float64)


@dataclass(frozen=True)
class Expansion:
    """Moments of f(m + σ z) at several m, and its Hermite coefficients there."""

    mean: Array
    second: Array
    slope_mean: Array
    slope_second: Array
    coefficients: Array


def expansion(
    function: Function, means: Array, variance: float | Array, orders: int = _FEW_ORDERS
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
