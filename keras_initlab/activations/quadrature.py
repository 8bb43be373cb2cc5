"""Expectations under a Gaussian by adaptive quadrature, in NumPy and float64.

The range, mean ± 14 standard deviations, is cut at the given kinks and into panels of
half a standard deviation. On each panel the function is evaluated at 16 Gauss-Legendre
points and at both ends. Where its Legendre series has not converged, or misses the ends
(a kink, a jump, a steep slope), the panel is halved. So kinks need not be given.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["GaussianMoments", "check_law", "gaussian_expectation", "gaussian_moments"]

Array = NDArray[np.float64]
Function = Callable[[Array], ArrayLike]

# exp(2z) shifts the bell to z = 2 and exp(4z) to z = 4: 14 standard deviations leave
# 1e-22 outside for the steepest of them.
_RANGE = 14.0
_PANELS_PER_DEVIATION = 2
_ORDER = 16
# The last coefficients, which must vanish; odd and even functions have every other one.
_TAIL = 4
# 0.6 million points: noisy panels would otherwise be halved for ever. A function that
# needs more is noisier than its dtype (float32 inside, large numbers that cancel).
_MAX_PANELS = 2**15
_NOISE_LEVELS = (0.0, 2.0**-40, 2.0**-30, 2.0**-22, 2.0**-14, 2.0**-8)
_WORTH_A_WARNING = 2.0**-20
# The tail of a series that is dying out, relative to the function's usual values; and
# the probability of panels on which it does not go on to do so.
_FINE, _STALLED = 2.0**-20, 0.1


# Gauss points leave 1/200 of a panel free at each end, where a kink could hide. So the
# series is compared with the function there as well (just inside, as the function may
# jump at the very end).
_END = 1.0 - 1e-12


class _Legendre(NamedTuple):
    """Points, weights, values -> coefficients -> values at the ends, and -> slopes.

    For t in [-1, 1]; the first and last point are the ends and have weight 0.
    """

    points: Array
    weights: Array
    to_coefficients: Array
    to_ends: Array
    to_slopes: Array


@cache
def _legendre() -> _Legendre:
    """Return the tables, computed when first needed, not at import."""
    from numpy.polynomial import legendre

    nodes, weights = legendre.leggauss(_ORDER)
    degree = np.arange(_ORDER)
    basis = legendre.legvander(nodes, _ORDER - 1)
    # Gauss quadrature is exact for the products of the basis: this is its inverse.
    to_coefficients = (degree[:, None] + 0.5) * (basis * weights[:, None]).T
    # The weights have errors of 14 epsilons, which would look like a tail: a Newton
    # step towards the inverse of the basis removes them.
    to_coefficients = 2 * to_coefficients - to_coefficients @ basis @ to_coefficients
    slopes = np.stack(
        [legendre.legval(nodes, legendre.legder(row)) for row in np.eye(_ORDER)], axis=1
    )
    return _Legendre(
        np.concatenate([[-_END], nodes, [_END]]),
        np.pad(weights, 1),
        np.pad(to_coefficients, ((0, 0), (1, 1))),
        legendre.legvander(np.array([-_END, _END]), _ORDER - 1),
        np.pad(slopes @ to_coefficients, 1),
    )


@dataclass(frozen=True)
class GaussianMoments:
    """Moments of f(x) for x ~ N(mean, variance).

    Attributes:
        mean: E[f(x)].
        second_moment: E[f(x)²].
        derivative_second_moment: E[f'(x)²], f' taken almost everywhere (a jump of f
            adds nothing).
    """

    mean: float
    second_moment: float
    derivative_second_moment: float

    @property
    def variance(self) -> float:
        """E[f²] − E[f]², at least 0."""
        return max(0.0, self.second_moment - self.mean**2)


def gaussian_expectation(
    function: Function,
    *,
    mean: float = 0.0,
    variance: float = 1.0,
    kinks: Sequence[float] = (),
) -> float:
    """Return E[f(x)] for x ~ N(mean, variance).

    E[f] = ∫ f(mean + sd·z) exp(−z²/2)/√(2π) dz over |z| ≤ 14, by composite 16-point
    Gauss-Legendre quadrature with bisection. Kinks and jumps are found even if they are
    not given. The error is about 1e-14 of the root mean square of f. A feature narrower
    than the points' distance (0.05 standard deviations) can be missed: give its edges
    as kinks.

    Args:
        function: takes a 1-D float64 array and returns one of the same shape. Results
            in float32 or below are integrated to that precision.
        mean: mean of x, a finite number.
        variance: variance of x, finite and not negative; with 0 the result is f(mean).
        kinks: points x where f or its derivative jumps.

    Raises:
        ValueError: `mean` or `variance` out of range; the function's result is not
            finite, not real or not of the shape of its input.

    Example:
        >>> from keras_initlab.activations.quadrature import gaussian_expectation
        >>> round(gaussian_expectation(lambda x: x**4), 12)
        3.0

    Source: composite Gauss-Legendre quadrature, Davis and Rabinowitz, "Methods of
    Numerical Integration" (1984), sections 2.7 and 6.2; the test for a resolved panel
    is that of Aurentz and Trefethen, "Chopping a Chebyshev series" (2017).
    """
    check_law(mean, variance)
    if variance == 0.0:
        return float(_evaluate(function, np.array([float(mean)]))[0][0])
    return _integrate(function, None, mean, variance, kinks, slopes=False).mean


def gaussian_moments(
    function: Function,
    *,
    derivative: Function | None = None,
    mean: float = 0.0,
    variance: float = 1.0,
    kinks: Sequence[float] = (),
) -> GaussianMoments:
    """Return E[f(x)], E[f(x)²] and E[f'(x)²] for x ~ N(mean, variance).

    As in `gaussian_expectation`. Without `derivative`, f' is that of the polynomial
    through the 16 points of each resolved panel, so that any elementwise callable will
    do. With `variance=0` the moments are f(mean), f(mean)² and f'(mean)².

    Args:
        function: takes a 1-D float64 array and returns one of the same shape. Results
            in float32 or below are integrated to that precision (about 1e-5).
        derivative: f', called as `function` is, or None.
        mean: mean of x, a finite number.
        variance: variance of x, finite and not negative.
        kinks: points x where f or its derivative jumps.

    Raises:
        ValueError: as in `gaussian_expectation`.

    Example:
        >>> import numpy as np
        >>> from keras_initlab.activations.quadrature import gaussian_moments
        >>> relu = gaussian_moments(lambda x: np.maximum(x, 0))
        >>> round(relu.second_moment, 12), round(relu.derivative_second_moment, 12)
        (0.5, 0.5)

    Source: as for `gaussian_expectation`.
    """
    check_law(mean, variance)
    if variance == 0.0:
        return _moments_at_a_point(function, derivative, float(mean))
    return _integrate(function, derivative, mean, variance, kinks, slopes=True)


def check_law(mean: float, variance: float) -> None:
    """Raise a ValueError for a mean or variance that no Gaussian has."""
    if not math.isfinite(mean):
        raise ValueError(
            f"`mean` is expected to be a finite number. Received: mean={mean}. "
            "Check what the mean was computed from."
        )
    if not (math.isfinite(variance) and variance >= 0.0):
        raise ValueError(
            "`variance` is expected to be a finite number that is not negative. "
            f"Received: variance={variance}. Give the variance, not its logarithm or "
            "a standard deviation with a sign."
        )


def _evaluate(function: Function, x: Array) -> tuple[Array, float]:
    """Return the function's values in float64, and the epsilon of their own dtype."""
    # Overflow inside the function is reported below, with a remedy.
    with np.errstate(all="ignore"):
        result: NDArray[Any] = np.asarray(function(x.ravel()))
    if result.shape != (x.size,):
        raise ValueError(
            "The function is expected to return an array of the shape of its input, "
            f"({x.size},). Received: shape {result.shape}. Use elementwise operations "
            "only; for a constant return `c + 0 * x`."
        )
    if np.issubdtype(result.dtype, np.complexfloating):
        raise ValueError(
            "The function is expected to return real numbers. "
            f"Received: dtype {result.dtype}. Return the real part."
        )
    epsilon = float(np.finfo(np.float64).eps)
    if result.dtype.kind not in "iub" and result.dtype.itemsize < 8:
        # finfo does not accept bfloat16, a dtype from outside NumPy.
        native = np.issubdtype(result.dtype, np.floating)
        epsilon = float(np.finfo(result.dtype).eps) if native else 2.0**-7
    values = result.astype(np.float64).reshape(x.shape)
    if not np.isfinite(values).all():
        at = x[~np.isfinite(values)].flat[0]
        raise ValueError(
            "The function is expected to be finite within 14 standard deviations of "
            f"the mean. Received: {values[~np.isfinite(values)].flat[0]} at x={at:g}. "
            "Use a smaller variance, or a form of the function that does not overflow."
        )
    return values, epsilon


@dataclass(frozen=True)
class _Integrand:
    """What is integrated: a function of x = mean + deviation · z, z ~ N(0, 1).

    Attributes:
        function, derivative: f and f'; without f' it is that of the polynomials.
        mean, deviation: of x.
        slopes: whether E[f'²] is wanted.
        edges: where the panels of z begin, and where the last one ends.
    """

    function: Function
    derivative: Function | None
    mean: float
    deviation: float
    slopes: bool
    edges: Array


def _integrate(
    function: Function,
    derivative: Function | None,
    mean: float,
    variance: float,
    kinks: Sequence[float],
    *,
    slopes: bool,
) -> GaussianMoments:
    """As precisely as the function's own noise allows."""
    deviation = math.sqrt(variance)
    edges = np.linspace(
        -_RANGE, _RANGE, int(2 * _RANGE * _PANELS_PER_DEVIATION) + 1, dtype=np.float64
    )
    cuts = (np.asarray(kinks, np.float64).ravel() - mean) / deviation
    edges = np.unique(np.concatenate([edges, cuts[np.abs(cuts) < _RANGE]]))
    integrand = _Integrand(function, derivative, mean, deviation, slopes, edges)
    with np.errstate(over="ignore"):
        for noise in _NOISE_LEVELS:
            total = _bisect(integrand, noise)
            if total is not None:
                break
    if noise >= _WORTH_A_WARNING:
        warnings.warn(
            "A Gaussian expectation did not converge: the function is noisy or has "
            "more than about a thousand kinks or jumps. The result is approximate. "
            "Check that the function is deterministic and smooth between its kinks.",
            RuntimeWarning,
            stacklevel=3,
        )
    assert total is not None  # the last level always answers
    if not np.isfinite(total).all():
        raise ValueError(
            "The function's moments are expected to fit float64. Received: a second "
            "moment that overflows. Scale the function down."
        )
    return GaussianMoments(float(total[0]), float(total[1]), float(total[2]))


def _bisect(integrand: _Integrand, noise: float) -> Array | None:
    """Halve panels until each is resolved, or too light to matter.

    Returns E[f], E[f²] and E[f'²], or None where f is noisier than `noise`: if it takes
    too many panels, or halving them makes no series die out.
    """
    left, right = integrand.edges[:-1], integrand.edges[1:]
    before = np.full(left.size, np.inf)
    total = np.zeros(3)
    evaluated, given_up, is_last = 0, 0.0, noise == _NOISE_LEVELS[-1]
    while left.size:
        panels = _read(integrand, left, right, noise, total)
        done = panels.resolved | _is_light(panels, total)
        evaluated += left.size
        stop = ~done & panels.narrow
        given_up += float(panels.mass[stop].sum())
        exhausted = evaluated > _MAX_PANELS and not (done | stop).all()
        # Halving divides the tail of a smooth function by thousands, next to a kink by
        # two; jumps fill no space. What stays on panels of some weight is noise.
        stalled = ~done & (panels.tail > before / 2) & panels.is_fine
        is_noise = given_up > 0.01 or float(panels.mass[stalled].sum()) > _STALLED
        if (exhausted or is_noise) and not is_last:
            return None
        if exhausted:
            stop = ~done
        parts = panels.parts
        if integrand.derivative is None:
            # A jump: the polynomial's slope there is a delta, which is not wanted.
            parts[stop, 2] = 0.0
        total += parts[done | stop].sum(axis=0)
        again = ~(done | stop)
        middle = (left[again] + right[again]) / 2
        left = np.concatenate([left[again], middle])
        right = np.concatenate([middle, right[again]])
        before = np.tile(panels.tail[again], 2)
    return total


@dataclass(frozen=True)
class _Panels:
    """Panels that were read, a row each.

    Attributes:
        parts: what they add to E[f], E[f²] and E[f'²].
        mass: their probability.
        epsilon: of the function's values, relative to them.
        resolved: whether the series of f (and of f', where it is given) is f.
        narrow: whether the panel's points, or values, differ by little but rounding.
        is_fine: whether the tail is small beside f's usual values.
        tail, slope_tail: how far the series of f and f' may be off.
        largest, steepest: the greatest of |f| and |f'|.
    """

    parts: Array
    mass: Array
    epsilon: float
    resolved: NDArray[np.bool_]
    narrow: NDArray[np.bool_]
    is_fine: NDArray[np.bool_]
    tail: Array
    slope_tail: Array
    largest: Array
    steepest: Array


def _read(
    integrand: _Integrand, left: Array, right: Array, noise: float, total: Array
) -> _Panels:
    """Return f on panels of z, what all others before added up to being `total`."""
    deviation, derivative = integrand.deviation, integrand.derivative
    half = (right - left) / 2
    z = (left + right)[:, None] / 2 + half[:, None] * _legendre().points
    x = integrand.mean + deviation * z
    values, epsilon = _evaluate(integrand.function, x)
    epsilon = max(epsilon, noise)
    if not integrand.slopes:
        slope = np.zeros_like(values)
    elif derivative is not None:
        slope, slope_epsilon = _evaluate(derivative, x)
        epsilon = max(epsilon, slope_epsilon)
    else:
        slope = values @ _legendre().to_slopes.T / (half * deviation)[:, None]

    # The root of the weight, so that f² cannot overflow where the bell is 0.
    root = np.sqrt(half[:, None] * _legendre().weights / math.sqrt(2 * math.pi))
    root = root * np.exp(-(z**2) / 4)
    parts = np.stack(
        [
            (root * (root * values)).sum(axis=1),
            ((root * values) ** 2).sum(axis=1),
            ((root * slope) ** 2).sum(axis=1),
        ],
        axis=1,
    )
    # x and z are rounded, and functions round at the size of their usual values.
    reach = abs(integrand.mean) + deviation * np.abs(z).max(axis=1)
    usual = np.sqrt(total[1:] + parts[:, 1:].sum(axis=0))
    resolved, tail = _is_resolved(values, x, epsilon, reach, usual[0])
    if derivative is None:
        slope_tail = tail * _ORDER / (half * deviation) * integrand.slopes
    else:
        slope_resolved, slope_tail = _is_resolved(slope, x, epsilon, reach, usual[1])
        resolved &= slope_resolved
    return _Panels(
        parts,
        mass=(root**2).sum(axis=1),
        epsilon=epsilon,
        resolved=resolved,
        narrow=2 * half < 512 * epsilon * np.maximum(1.0, reach / deviation),
        is_fine=tail < _FINE * usual[0],
        tail=tail,
        slope_tail=slope_tail,
        largest=np.abs(values).max(axis=1),
        steepest=np.abs(slope).max(axis=1),
    )


def _is_light(panels: _Panels, total: Array) -> NDArray[np.bool_]:
    """Whether what panels may be off by matters for no moment."""
    # What an unresolved panel adds is no yardstick: next to a jump it is huge.
    scale = total + panels.parts[panels.resolved].sum(axis=0)
    tolerance, mass = 4 * panels.epsilon, panels.mass
    tail, slope_tail = panels.tail, panels.slope_tail
    with np.errstate(over="ignore"):
        light = mass * tail <= tolerance * math.sqrt(scale[1])
        light &= mass * tail * (2 * panels.largest + tail) <= tolerance * scale[1]
        light &= (
            mass * slope_tail * (2 * panels.steepest + slope_tail)
            <= tolerance * scale[2]
        )
    return light


def _is_resolved(
    values: Array, x: Array, epsilon: float, reach: Array, usual: float
) -> tuple[NDArray[np.bool_], Array]:
    """Return whether each panel's Legendre series has converged, and its error."""
    coefficients = values @ _legendre().to_coefficients.T
    tail = np.abs(coefficients[:, -_TAIL:]).max(axis=1)
    misfit = np.abs(values[:, [0, -1]] - coefficients @ _legendre().to_ends.T).max(
        axis=1
    )
    # Rounding errors grow fourfold towards the ends.
    tail = np.maximum(tail, misfit / 4)
    width = np.maximum(x[:, -1] - x[:, 0], np.finfo(np.float64).tiny)
    moved = reach * np.ptp(values, axis=1) / width
    noise = 8 * epsilon * (np.maximum(np.abs(values).max(axis=1), usual) + moved)
    return tail <= noise, tail


def _moments_at_a_point(
    function: Function, derivative: Function | None, point: float
) -> GaussianMoments:
    """The limit of variance 0."""
    value, epsilon = _evaluate(function, np.array([point]))
    if derivative is not None:
        slope = float(_evaluate(derivative, np.array([point]))[0][0])
    else:
        half = max(1.0, abs(point)) / 64
        narrowest = 512 * epsilon * max(1.0, abs(point))
        reach = np.array([abs(point)])
        while True:
            x = point + half * _legendre().points[None, :]
            values, _ = _evaluate(function, x)
            if _is_resolved(values, x, epsilon, reach, 0.0)[0][0] or half < narrowest:
                break
            half /= 2
        slopes = values[0] @ _legendre().to_slopes.T / half
        # The point lies between the two middle nodes, where the slope hardly changes.
        slope = float(
            np.polynomial.legendre.legval(0.0, _legendre().to_coefficients @ slopes)
        )
    return GaussianMoments(float(value[0]), float(value[0]) ** 2, slope**2)
