"""Moments along the steps of a sequence, and functions of Gaussians along them.

Two elements of a sequence that belong to one unit differ in step, in input or in place
(of a map): `pairs[kind, t, s]` holds E[x_t x'_s] for each kind of pair, one and the
same sequence first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from keras_initlab.propagation.elementwise import gaussian_grid
from keras_initlab.propagation.signal import Array, Function, Gradient, Signal

# A sequence is followed over so many steps at most; further ones repeat the last.
MOST_STEPS = 192
# Steps that a sequence of unknown length is counted as having.
OPEN_STEPS = 64
_WIDEST = 1024
_ORDERS = 24
# Values at which what a unit keeps over all steps is looked at.
_LEVELS = 9


@dataclass(eq=False)
class Steps:
    """Moments of a sequence.

    Attributes:
        mean: E[x_t], of shape (steps,).
        pairs: E[x_t x'_s], of shape (kinds, steps, steps). Kinds are: the sequence with
            itself, with another input's; and the same two for another place, where
            there are places.
    """

    mean: Array
    pairs: Array

    @property
    def seconds(self) -> Array:
        """E[x_t²]."""
        return np.diagonal(self.pairs[0])


def steps_of(signal: Signal, axis: int, steps: int, places: bool) -> Steps:
    """Return the moments of a signal along `axis`, of its first `steps` steps.

    Args:
        signal: of any shape; positions along other axes are `places`.
        axis: the steps' axis.
        steps: how many; what the profile does not cover has its last value.
        places: whether pairs at different places are asked for.
    """
    profile = signal.profile.get(axis, np.ones(1))
    root = np.sqrt(profile[np.minimum(np.arange(steps), len(profile) - 1)])
    even = float(np.sqrt(profile).mean()) ** 2 or 1.0
    second, far = signal.second, float(signal.pairs[0, 1, 0]) / even
    decay = np.full(steps, far)
    near = signal.near.get(axis, np.zeros(0))[: steps - 1]
    decay[1 : 1 + len(near)] = near
    decay[0] = second
    lags = np.abs(np.subtract.outer(np.arange(steps), np.arange(steps)))
    # Another input's steps lose what they share as one input's do.
    share = (
        (decay - far) / (second - far) if second - far > 1e-12 * second else decay * 0
    )
    apart = float(signal.pairs[0, 1, 1]) / even
    other = apart + (float(signal.pairs[0, 0, 1]) - apart) * share
    other[0] = signal.pairs[0, 0, 1]
    kinds = [decay, other]
    if places:
        kinds += [np.full(steps, far), np.full(steps, apart)]
    scale = np.outer(root, root)
    mean = signal.mean * root / np.sqrt(even)
    return Steps(mean, np.stack([values[lags] * scale for values in kinds]))


def signal_of_steps(
    found: Steps, like: Signal, axis: int, length: int | None, *, backwards: bool
) -> Signal:
    """Return a signal of the shape and units of `like` with moments along `axis`.

    Args:
        found: the moments of the first steps; later ones are as the last.
        like: gives the shape, the units and the places.
        axis: the steps' axis.
        length: of the sequence; None for one that has long forgotten its beginning.
        backwards: the last step comes first.
    """
    first = len(found.mean)
    size = min(length or OPEN_STEPS, _WIDEST)
    at = np.minimum(np.arange(size), first - 1) if length else np.full(size, first - 1)
    lag = np.subtract.outer(np.arange(size), np.arange(size))
    later = np.where(lag >= 0, at[:, None], at[None, :])
    earlier = np.maximum(later - np.abs(lag), 0)
    full = found.pairs[:, later, earlier]
    levels = np.diagonal(full[0]).copy()
    second = float(levels.mean())
    mean = found.mean[at]
    profile = levels / second if second > 0 else np.ones(size)
    root = np.sqrt(np.maximum(profile, 1e-12))
    even = full / np.multiply.outer(root, root)
    near = np.array([np.diagonal(even[0], gap).mean() for gap in range(1, size)])
    same = np.array([np.trace(one) / size for one in full])
    apart = (full.sum(axis=(1, 2)) - same * size) / max(size * (size - 1), 1)
    places = like.size(tuple(a for a in like.positions if a != axis))
    pairs = np.full((2, 2, 2), float(mean.mean()) ** 2)
    pairs[0, 0] = same[:2]
    pairs[0, 1] = _over_positions(same, apart, size, places)
    if backwards:
        profile = profile[::-1]
    flat = length is None or np.ptp(profile) < 1e-6
    if length is not None and length > size:
        pad = np.full(length - size, profile[0 if backwards else -1])
        profile = np.concatenate([pad, profile] if backwards else [profile, pad])
        profile = profile / profile.mean()
    return like.evolve(
        mean=float(mean.mean()),
        pairs=pairs,
        near={axis: near} if size > 1 else {},
        profile={} if flat else {axis: profile},
    )


def turned(x: Signal, axis: int = 1) -> Signal:
    """Return the signal with its steps along an axis in reverse."""
    if axis not in x.profile:
        return x

    def turn(profile: dict[int, Array]) -> dict[int, Array]:
        return {a: v[::-1] if a == axis else v for a, v in profile.items()}

    def pull(gradient: Gradient) -> Gradient:
        return replace(gradient, profile=turn(gradient.profile))

    return x.evolve(profile=turn(x.profile), parents=((x, pull),))


def _over_positions(same: Array, apart: Array, size: int, places: int) -> Array:
    """Return the second moment of two positions: another step, place, or both."""
    if size * places < 2:
        return same[:2]
    if len(same) == 2:
        return apart
    counts = np.array([size - 1, places - 1, (size - 1) * (places - 1)], float)
    kinds = np.stack([apart[:2], same[2:], apart[2:]])
    found: Array = counts @ kinds / counts.sum()
    return found


def signal_of_step(
    found: Steps, like: Signal, at: int, places_axes: tuple[int, ...]
) -> Signal:
    """Return the signal of one step, of the shape and units of `like`."""
    mean = float(found.mean[at])
    pairs = np.full((2, 2, 2), mean**2)
    pairs[0, 0] = found.pairs[:2, at, at]
    apart = found.pairs[2:4, at, at] if len(found.pairs) > 2 else pairs[0, 0]
    pairs[0, 1] = apart if places_axes else pairs[0, 0]
    return like.evolve(mean=mean, pairs=pairs, near={}, profile={})


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
        answer = hermite(self._function, np.array([mean]), variance)
        self._coefficients[:, t] = answer.coefficients[0]
        self.variance[t] = variance
        self.mean[t], self.second[t] = answer.mean[0], answer.second[0]
        self.slope_mean[t] = answer.slope_mean[0]
        self.slope_second[t] = answer.slope_second[0]
        scale = np.sqrt(variance * self.variance[: t + 1])
        rho = np.clip(row / np.where(scale > 0, scale, np.inf), -1.0, 1.0)
        both = self._coefficients[:, : t + 1] * self._coefficients[:, t, None]
        found: Array = np.polynomial.polynomial.polyval(
            rho, both[:, None, :], tensor=False
        )
        found[0, t] = self.second[t]
        return found


@dataclass(frozen=True)
class Hermite:
    """Moments of f(m + σ z) at several m, and its Hermite coefficients there."""

    mean: Array
    second: Array
    slope_mean: Array
    slope_second: Array
    coefficients: Array


def hermite(
    function: Function, means: Array, variance: float | Array, orders: int = _ORDERS
) -> Hermite:
    """Return the moments of f(m + √variance z), z ~ N(0, 1), for each m of `means`."""
    grid = gaussian_grid()
    deviation = np.sqrt(np.broadcast_to(variance, means.shape))
    at = means[:, None] + deviation[:, None] * grid.nodes
    values = np.asarray(function.value(at.ravel()), np.float64).reshape(at.shape)
    slopes = np.asarray(function.slope(at.ravel()), np.float64).reshape(at.shape)
    coefficients = (values * grid.weights) @ grid.hermite[:orders].T
    second, slope_second = values**2 @ grid.weights, slopes**2 @ grid.weights
    slope = slopes @ grid.weights
    return Hermite(coefficients[:, 0], second, slope, slope_second, coefficients)


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
