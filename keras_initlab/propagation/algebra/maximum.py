"""The maximum over a window."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np

from keras_initlab.propagation.algebra.concatenation import by_parts
from keras_initlab.propagation.algebra.elementwise import affine
from keras_initlab.propagation.algebra.hermite import gaussian_grid, response
from keras_initlab.propagation.algebra.mirrors import wholly
from keras_initlab.propagation.algebra.windows import Window
from keras_initlab.propagation.signal import (
    Array,
    Function,
    Gradient,
    Mirror,
    Pull,
    Signal,
)

# How many windows are sampled, for maxima of pairs.
_WINDOWS = 4096
# Nodes for the common part of a window, and for the maximum of the rest.
_NODES, _STEPS = 65, 97


def maximum(signal: Signal, windows: dict[int, Window]) -> Signal:
    """Return the maximum over each window.

    The window's values are assumed to be exchangeable: x = φ(√c a + √(v - c) b), with a
    common to the window, b different at each position, and c the mean covariance of two
    of its positions. As activations are (nearly) monotonic, max φ(z) is φ(max z).

    Source: order statistics of exchangeable normal variables, Owen & Steck 1962.
    """
    if signal.origin.parts and signal.origin.joint not in windows:
        return by_parts(signal, lambda part: maximum(part, windows))
    shape = list(signal.shape)
    for axis, window in windows.items():
        shape[axis] = window.output_length
    random = signal.origin.function is not None and bool(signal.origin.function.cases)
    origin = signal.origin
    base, function = signal, None
    if origin.base is not None and not random:
        base, function = _rising(origin.base.with_units(signal.units), origin.function)
    filled, counts = _filled(base, windows)
    law = _unpadded(base, filled or 1.0)
    common = float(np.clip(_window_covariance(law, windows), 0.0, law.variance))
    number = math.prod(float(values.mean()) for values in counts.values())
    top = _greatest(function, law.mean, law.variance, common, number)
    vector = _second_moments(top, law, common)
    alike = common / law.variance if law.variance > 0 else 1.0
    levels = _levels(signal, windows, alike, number)
    for axis, values in counts.items():
        edges = _edges(values, number, function, law, common, top.second)
        if edges is not None:
            levels[axis] = levels.get(axis, np.ones(len(edges))) * edges
    level = math.prod(float(values.mean()) for values in levels.values())
    pairs, _ = law.split(vector * level)
    profile = {
        **{a: v for a, v in signal.profile.items() if a not in windows},
        **{a: v / v.mean() for a, v in levels.items() if np.ptp(v) > 1e-9},
    }
    result = signal.evolve(
        shape=tuple(shape),
        pairs=pairs.copy(),
        near=_near(pairs, windows),
        profile=profile,
        lineage=signal.origin.lineage,
    )
    uneven = result.unevenness
    result.pairs[:, 1] *= uneven
    result = replace(result, mean=top.mean * math.sqrt(level * uneven))
    # One element of a window gets the gradient: the maximum, where φ is steep.
    to_base = _pull(windows, top.slope_second, top.slopes_together)
    if function is None:
        return result.amend(parents=((signal, to_base),))
    return result.amend(
        parents=((base, to_base),),
        notes=((signal, _pull(windows, 1.0, 1.0)),),
    )


def _second_moments(top: _Greatest, law: Signal, common: float) -> Array:
    """Return the greatest values' second moments, laid out as `Signal.vector`."""
    if common > 0:
        nodes, mass = _outer()
        full = np.interp(gaussian_grid().nodes, nodes, top.smooth)
        spread = float(mass @ top.smooth**2)
        answer = response(full, top.mean, spread, spread)
        covariance = (law.vector() - law.mean**2) / common
        vector = answer.correlated(np.clip(covariance, -1.0, 1.0))
    else:
        vector = np.full(law.vector().size, top.mean**2)
    vector[0] = max(top.second, top.mean**2)
    return vector


def _near(pairs: Array, windows: dict[int, Window]) -> dict[int, Array]:
    """Return the second moments of neighbours, whose windows overlap."""
    near = {}
    for axis, window in windows.items():
        overlap = np.arange(window.stride, window.size, window.stride)
        if len(overlap):
            share = 1 - overlap / window.size
            near[axis] = pairs[0, 1, 0] + (pairs[0, 0, 0] - pairs[0, 1, 0]) * share
    return near


def _rising(base: Signal, function: Function | None) -> tuple[Signal, Function | None]:
    """Return z and an increasing φ with the same φ(z): -z if φ is decreasing."""
    if function is None:
        return base, None
    reach = math.sqrt(base.variance)
    low, high = function.value(base.mean + np.array([-reach, reach]))
    if high >= low:
        return base, function
    turned = affine(base, -1.0).amend(base=None, function=None)
    falling = function
    return turned, Function(lambda z: falling.value(-z), lambda z: -falling.slope(-z))


@dataclass(frozen=True)
class _Greatest:
    """The maximum over a window: moments, given its common part, and slopes."""

    mean: float
    second: float
    smooth: Array
    slope_second: float
    slopes_together: float


@cache
def _outer() -> tuple[Array, Array]:
    """Return nodes and weights for N(0, 1)."""
    nodes = np.linspace(-6.0, 6.0, _NODES)
    weights = np.exp(-(nodes**2) / 2)
    return nodes, weights / weights.sum()


def _greatest(
    function: Function | None,
    mean: float,
    variance: float,
    common: float,
    count: float,
) -> _Greatest:
    steps, weights = _order_statistic(count)
    nodes, mass = _outer()
    inner = math.sqrt(max(variance - common, 0.0)) * steps
    outer = math.sqrt(common) * nodes
    z = mean + outer[:, None] + inner[None, :]
    values, slopes = z, np.ones(z.shape)
    if function is not None:
        values = np.asarray(function.value(z.ravel()), np.float64).reshape(z.shape)
        slopes = np.asarray(function.slope(z.ravel()), np.float64).reshape(z.shape)
    smooth = values @ weights
    return _Greatest(
        float(mass @ smooth),
        float(mass @ (values**2 @ weights)),
        smooth,
        float(mass @ (slopes**2 @ weights)),
        float(mass @ (slopes @ weights) ** 2),
    )


def _filled(base: Signal, windows: dict[int, Window]) -> tuple[float, dict[int, Array]]:
    """Return the share of positions that are not padding, and windows' sizes inside."""
    filled, counts = 1.0, {}
    for axis, window in windows.items():
        counts[axis] = np.array([float(window.size)])
        if window.length is None:
            continue
        index, valid = window.taps_inside()
        profile = base.profile.get(axis)
        if profile is not None and len(profile) == window.length:
            # What was padded with zeros is outside, too.
            valid = valid & (profile[index] > 0)
            filled *= float((profile > 0).mean())
        counts[axis] = np.maximum(valid.sum(axis=1), 1.0)
    return filled, counts


def _edges(
    counts: Array,
    number: float,
    function: Function | None,
    law: Signal,
    common: float,
    second: float,
) -> Array | None:
    """Return each output's second moment where windows at an edge hold fewer values.

    Relative to `second`, that of a window of `number` values; None where all hold as
    many.
    """
    if np.ptp(counts) == 0 or not second > 0:
        return None
    seconds = {
        count: _greatest(
            function, law.mean, law.variance, common, number * count / counts.mean()
        ).second
        for count in np.unique(counts)
    }
    return np.array([seconds[count] for count in counts]) / second


def _pull(windows: dict[int, Window], slope: float, together: float) -> Pull:
    scale = math.prod(
        (window.output_length or 1) / window.length
        if window.length
        else 1 / window.stride
        for window in windows.values()
    )

    def pull(gradient: Gradient) -> Gradient:
        across = scale**2 * together
        return replace(
            gradient.times(scale * slope, across),
            profile={a: v for a, v in gradient.profile.items() if a not in windows},
        )

    return pull


def _levels(
    signal: Signal, windows: dict[int, Window], alike: float, number: float
) -> dict[int, Array]:
    """Return each window's second moment along an uneven axis, relative to an even one.

    If positions are one variable at several levels, the highest level wins. If they
    differ by more than their levels (`alike` is their correlation), any may win, those
    of high levels more often. A window holds `number` positions, over all axes.
    """
    levels = {}
    for axis, window in windows.items():
        profile = signal.profile.get(axis)
        if profile is None or window.length != len(profile):
            continue
        index, valid = window.taps_inside()
        inside = profile[index] / profile[profile > 0].mean()
        there = valid & (inside > 0)
        mean = (inside * there).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
        top = np.where(there, inside, 0.0).max(axis=1)
        apart = np.sqrt(top) - np.sqrt(mean)
        differ = math.sqrt(2 * max(0.0, 1 - alike))
        wins = apart / np.maximum(apart + differ, 1e-12)
        expected = np.array(
            [
                _level_of_greatest(tuple(np.sort(row[present]).round(3)), number)
                for row, present in zip(inside, there, strict=True)
            ]
        )
        levels[axis] = expected + wins * (top - expected)
    return levels


@lru_cache(maxsize=1024)
def _level_of_greatest(levels: tuple[float, ...], number: float) -> float:
    """Return E[max²] of `number` independent N(0, level) values, at level 1 being 1."""
    if not levels or not max(levels) > 0:
        return 0.0
    nodes, weights = _order_statistic(number)
    even = float(weights @ nodes**2)
    edges = np.linspace(-9.0, 9.0, _STEPS) * math.sqrt(max(levels))
    inside = np.ones(len(edges))
    for level in levels:
        share = number / len(levels)
        below = [
            0.5 * math.erfc(-z / math.sqrt(2 * level)) if level else float(z >= 0)
            for z in edges
        ]
        inside *= np.array(below) ** share
    middles = (edges[:-1] + edges[1:]) / 2
    return float(np.diff(inside) @ middles**2) / even if even > 0 else 1.0


def _unpadded(signal: Signal, filled: float) -> Signal:
    """Return the part that is not padding, a share `filled`, made even."""
    uneven = signal.unevenness or 1.0
    inside = signal.pairs / filled
    inside[:, 1] /= uneven
    return replace(
        signal,
        mean=signal.mean / math.sqrt(uneven * filled),
        pairs=inside,
        near={axis: values / filled for axis, values in signal.near.items()},
        profile={},
    )


def _window_covariance(signal: Signal, windows: dict[int, Window]) -> float:
    """Return the mean covariance of two positions of a window."""
    far = float(signal.pairs[0, 1, 0]) - signal.mean**2
    spread = signal.variance - far
    if not any(axis in signal.near for axis in windows) or spread <= 0:
        return far
    together = number = 1.0
    for axis, window in windows.items():
        size = window.size
        neighbours = (
            signal.near.get(axis, np.zeros(0))[: size - 1] - signal.mean**2 - far
        )
        decay = neighbours / spread
        gaps = size - np.arange(1, len(neighbours) + 1)
        together *= size + 2 * float(gaps @ decay)
        number *= size**2
    same = math.prod(window.size for window in windows.values())
    return far + spread * (together - same) / max(number - same, 1)


@lru_cache(maxsize=256)
def _order_statistic(count: float) -> tuple[Array, Array]:
    """Return nodes and weights of the greatest of `count` N(0, 1) values."""
    edges = np.linspace(-9.0, 9.0, _STEPS)
    inside = np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in edges]) ** count
    weights = np.diff(inside)
    nodes = (edges[:-1] + edges[1:]) / 2
    keep = weights > 1e-15
    return nodes[keep], weights[keep] / weights[keep].sum()


def mirror_of_maximum(x: Signal, output: Signal, size: float) -> Mirror | None:
    """Return the mirror after the maximum over `size` positions, from a sample.

    Args:
        x: the input, whose units come in pairs.
        output: the greatest values.
        size: positions of a window.
    """
    mirror = x.mirror
    if mirror is None:
        return None
    law, shared = mirror.base, -1.0  # of z and -z
    if law is None and (mirror.unpaired is not None or mirror.before is not None):
        law, differences = mirror.before or (x, mirror.odd)
        shared = 1 - differences.second / (2 * law.variance or 1.0)
    if law is None or not law.variance > 0:
        return None
    axis = mirror.axis if len(output.shape) == len(x.shape) else 1
    count = int(min(size, 256))
    common = float(law.pairs[0, 1, 0] - law.mean**2) / law.variance
    common = min(max(common, 0.0), 1.0)
    generator = np.random.default_rng(0)

    def positions(second: float) -> Array:
        draws = generator.standard_normal((_WINDOWS, count + 1))
        z = math.sqrt(common) * draws[:, :1] + math.sqrt(1 - common) * draws[:, 1:]
        return np.asarray(z * math.sqrt(second))

    odd = positions(law.variance * (1 - shared) / 2)
    even = law.mean + positions(law.variance * (1 + shared) / 2)
    value = (lambda v: v) if mirror.function is None else mirror.function.value
    first, second = (np.asarray(value(z)).max(axis=1) for z in (even + odd, even - odd))
    apart = np.mean((first - second) ** 2)
    level = float(apart / np.mean((first**2 + second**2) / 2))
    pairs = mirror.odd.pairs / (mirror.odd.second or 1.0) * level * output.second
    return wholly(output, replace(mirror, axis=axis), pairs)
