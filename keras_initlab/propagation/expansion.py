"""Functions of Gaussians by Hermite coefficients: of several steps, at several levels.

E[f(z) g(z')] = Σ aₙ bₙ ρⁿ for z, z' of correlation ρ (Mehler's formula), so that the
coefficients of each step are enough for all pairs of steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from keras_initlab.propagation.hermite import gaussian_grid
from keras_initlab.propagation.signal import Array, Function

_ORDERS = 24
# Values at which what a unit keeps over all steps is looked at.
_LEVELS = 9


class Nonlinearity:
    """f(z_t) of Gaussians z_t: moments of each step, and of it with all before.

    Source: Poole et al. 2016, equation 5, by Hermite coefficients (Daniely et al.
    2016, section 4), which E[f(z_t) f(z_s)] takes from both steps.
    """

    def __init__(self, function: Function, steps: int) -> None:
        self._function = function
        self._coefficients = np.zeros((_ORDERS, steps))
        self.variance = np.zeros(steps)
        self.mean, self.second = np.zeros(steps), np.zeros(steps)
        self.slope_mean, self.slope_second = np.zeros(steps), np.zeros(steps)

    def advance(self, t: int, mean: float, row: Array) -> Array:
        """Return E[f_t f'_s] for s ≤ t, by the covariances `row[kind, s]` of z."""
        variance = max(float(row[0, t]), 0.0)
        answer = expansion(self._function, np.array([mean]), variance)
        self._coefficients[:, t] = answer.coefficients[0]
        self.variance[t] = variance
        self.mean[t], self.second[t] = answer.mean[0], answer.second[0]
        self.slope_mean[t] = answer.slope_mean[0]
        self.slope_second[t] = answer.slope_second[0]
        scale = np.sqrt(variance * self.variance[: t + 1])
        rho = np.asarray(row / np.where(scale > 0, scale, np.inf), np.float64)
        both = self._coefficients[:, : t + 1] * self._coefficients[:, t, None]
        found = correlated(rho, both[:, None, :])
        found[0, t] = self.second[t]
        return found


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


@cache
def levels() -> tuple[Array, Array, Array]:
    """Return nodes and weights for N(0, 1), and polynomials on them, by rows."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_LEVELS)
    rows = np.ones((_LEVELS, _LEVELS))
    rows[1] = nodes
    for n in range(1, _LEVELS - 1):
        rows[n + 1] = (nodes * rows[n] - np.sqrt(n) * rows[n - 1]) / np.sqrt(n + 1)
    return nodes, weights / weights.sum(), rows


def joint_weights(rho: float) -> Array:
    """Return the weights of pairs of levels, of correlation `rho` (Mehler's formula).

    >>> bool(np.allclose(joint_weights(1.0), np.diag(levels()[1])))
    True
    """
    _, weights, rows = levels()
    powers = float(np.clip(rho, -1.0, 1.0)) ** np.arange(len(rows))
    found: Array = np.outer(weights, weights) * ((rows.T * powers) @ rows)
    return found
