"""Weighted sums: the effect of a random kernel on a signal, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from keras_initlab.propagation.algebra.windows import Window, distinct
from keras_initlab.propagation.signal import (
    Array,
    Edges,
    Gradient,
    Lineage,
    Origin,
    Pull,
    Shape,
    Signal,
)
from keras_initlab.propagation.weights.moments import WeightMoments


@dataclass(frozen=True)
class RandomKernel:
    """A kernel of independent entries, whose moments may depend on its input.

    Attributes:
        layer, weight: the kernel.
        moments: from the second moment that an output would have if the entries of the
            kernel had second moment 1, to the moments of the kernel.
        seen: receives the second moment of the kernel's output, bias included.
    """

    layer: object
    weight: str
    moments: Callable[[float], WeightMoments]
    seen: Callable[[float], None] = lambda second: None

    @property
    def key(self) -> tuple[int, str]:
        """The kernel, by the id of its layer and its name."""
        return id(self.layer), self.weight


ZERO = WeightMoments(0.0, 0.0)
# A second moment that has exploded stays finite.
_MOST, _ROOT = 1e300, 1e150


def random_linear(
    signal: Signal,
    kernel: RandomKernel,
    *,
    shape: Shape,
    units: tuple[int, ...],
    fan: int,
    copies: float,
    bias: WeightMoments | None = None,
    windows: dict[int, Window] | None = None,
    per_unit: bool = False,
    kept_axes: dict[int, int] | None = None,
    own_positions: float = 0.0,
    read: Signal | None = None,
) -> Signal:
    """Return Σ w x + b over units and windows, for weights drawn independently.

    Args:
        signal: x; the sum is over its units (over one of them if `per_unit`).
        kernel: the kernel.
        shape, units: of the result.
        fan: units that one output sums over (without the window's taps).
        copies: outputs at one position that an input's unit reaches through a tap.
        bias: moments of the bias.
        windows: by axis of `signal`, the window that slides along it.
        per_unit: each unit has a kernel of its own (depthwise).
        kept_axes: positions that stay: from axes of `signal` to axes of the result.
        own_positions: share of pairs of positions that have two kernels.
        read: the tensor that the kernel multiplies, if x is computed from it: a kernel
            of pairs reads two units, and x is their difference.

    Source: Glorot & Bengio 2010, section 4.2; Xiao et al. 2018 for convolutions.
    """
    windows, bias = windows or {}, bias or ZERO
    if kept_axes is None:
        kept_axes = {axis: axis for axis in signal.positions}
    field = math.prod(window.size for window in windows.values())
    diagonal, across, profile = _seen(signal, windows, kept_axes)
    if per_unit:
        profile.update(_profile_of_units(signal, shape, units[-1]))
    count = fan * field
    response = float(signal.pairs[0, 0, 0] * count * diagonal)
    moments = kernel.moments(response)
    pairs = _of_centred_entries(
        signal, moments.variance * count, diagonal, across * (1 - own_positions)
    )
    mean, near = 0.0, {}
    if not own_positions:
        near = _near_of_outputs(signal, windows, kept_axes, moments.variance * count)
    if moments.mean:
        level, common = _common(
            signal, moments.mean, fan, windows, kept_axes, diagonal, per_unit
        )
        pairs, mean = pairs + common, mean + level
        near = _near_common(signal, windows, kept_axes, near, common)
    pairs, near, profile = _with_bias(pairs, near, profile, mean, bias)
    mean = float(np.clip(mean, -_ROOT, _ROOT))
    kernel.seen(float(pairs[0, 0, 0]))
    places = math.prod(
        shape[axis] or 64 for axis in range(1, len(shape)) if axis not in units
    )
    back = _pull(signal, moments.second_moment * copies * field, windows, kept_axes)
    rule = _weight_rule(read or signal, places, windows, kept_axes, own_positions)
    return Signal(
        tuple(shape),
        tuple(units),
        mean + bias.mean,
        pairs,
        near=near,
        profile=profile,
        origin=Origin(
            lineage=_lineage(signal, kernel), measured=signal.origin.measured
        ),
        edges=Edges(
            parents=((signal, back),), weights=((kernel.layer, kernel.weight, rule),)
        ),
    )


def response_of(
    signal: Signal,
    fan: int,
    windows: dict[int, Window],
    kept_axes: dict[int, int] | None = None,
) -> float:
    """Return the second moment after a kernel with entries of second moment 1.

    Args:
        signal, fan, windows, kept_axes: as in `random_linear`.
    """
    if kept_axes is None:
        kept_axes = {axis: axis for axis in signal.positions}
    field = math.prod(window.size for window in windows.values())
    diagonal, _, _ = _seen(signal, windows, kept_axes)
    return float(signal.pairs[0, 0, 0] * fan * field * diagonal)


def _of_centred_entries(
    signal: Signal, factor: float, diagonal: float, across: float
) -> Array:
    """Return the second moments after entries of mean 0: for two units they are 0."""
    pairs = np.zeros((2, 2, 2))
    pairs[0, 0] = factor * diagonal * signal.pairs[0, 0]
    far = signal.pairs[0, 1] / (signal.unevenness or 1.0)
    pairs[0, 1] = factor * across * far
    return pairs


def _near_of_outputs(
    signal: Signal, windows: dict[int, Window], kept_axes: dict[int, int], factor: float
) -> dict[int, Array]:
    """Return the second moments of neighbours behind entries of mean 0."""
    even, near = signal.unevenness or 1.0, {}
    for axis, to in kept_axes.items():
        moved = _near(signal, axis, windows, even)
        if moved is not None:
            near[to] = factor * moved
    return near


def _with_bias(
    pairs: Array,
    near: dict[int, Array],
    profile: dict[int, Array],
    mean: float,
    bias: WeightMoments,
) -> tuple[Array, dict[int, Array], dict[int, Array]]:
    """Return second moments and profile of z + b, which is more even than z's."""
    cross = 2 * bias.mean * mean
    before = float(pairs[0, 0, 0])
    pairs[0] += bias.second_moment + cross
    pairs[1] += bias.mean**2 + cross
    pairs = np.clip(pairs, -_MOST, _MOST)
    second = float(pairs[0, 0, 0])
    if bias.second_moment and second > 0:
        profile = {
            axis: _raised(values, before, mean, bias)
            for axis, values in profile.items()
        }
    near = {a: v + bias.second_moment + cross for a, v in near.items()}
    return pairs, near, profile


def _raised(values: Array, second: float, mean: float, bias: WeightMoments) -> Array:
    """Return the profile of z + b along an axis, from that of z and its moments."""
    root = np.sqrt(values)
    means = mean * root / (float(root.mean()) or 1.0)
    raised = second * values + 2 * bias.mean * means + bias.second_moment
    raised = np.maximum(raised, 0.0)
    level: float = raised.mean()
    return raised / level if level > 0 else values


def _lineage(signal: Signal, kernel: RandomKernel) -> Lineage | None:
    if signal.origin.lineage is None:
        return None
    return (*signal.origin.lineage, kernel.key)


def _seen(
    signal: Signal, windows: dict[int, Window], kept_axes: dict[int, int]
) -> tuple[float, float, dict[int, Array]]:
    """Return the share of the inputs' second moment that outputs see, over taps.

    Returns:
        The share seen by one output; that of an even covariance seen by two outputs at
        different positions; and the outputs' profile.
    """
    diagonal = across = 1.0
    profile = {}
    for axis, to in kept_axes.items():
        values, window = signal.profile.get(axis), windows.get(axis)
        if window is not None:
            mean, cross, values = window.forward(values)
            diagonal *= mean
            across *= cross
        elif values is not None:
            across *= float(np.sqrt(values).mean()) ** 2
        if values is not None:
            profile[to] = values
    if windows:
        across = distinct(across, diagonal, _outputs(windows))
    return diagonal, across, profile


def _outputs(windows: dict[int, Window]) -> float:
    """Return how many positions windows make; infinite if unknown."""
    lengths = [window.output_length for window in windows.values()]
    return math.prod(math.inf if length is None else length for length in lengths)


def _profile_of_units(signal: Signal, shape: Shape, unit: int) -> dict[int, Array]:
    """Return the profile of units that each have a kernel of their own."""
    for axis in signal.units:
        values = signal.profile.get(axis)
        if values is not None:
            return {unit: np.repeat(values, (shape[unit] or 1) // max(len(values), 1))}
    return {}


def _common(
    signal: Signal,
    weight: float,
    fan: int,
    windows: dict[int, Window],
    kept_axes: dict[int, int],
    diagonal: float,
    per_unit: bool,
) -> tuple[float, Array]:
    """Return mean and pairs after a kernel whose entries are all `weight`."""
    field = math.prod(window.size for window in windows.values())
    squares = roots = 1.0
    for axis in kept_axes:
        values, window = signal.profile.get(axis), windows.get(axis)
        if window is not None:
            square, root = window.sums(values)
            squares, roots = squares * square, roots * root
        elif values is not None:
            roots *= float(np.sqrt(values).mean()) ** 2
    even = signal.unevenness or 1.0
    far = signal.pairs[:, 1] / even
    here = signal.pairs[:, 0] - far
    # The sum over units of second moments: at one position, and at any two.
    local, shared = (kind[0] + (fan - 1) * kind[1] for kind in (here, far))
    sums = np.empty((2, 2, 2))
    sums[:, 0] = fan * (local * field * diagonal + shared * squares)
    sums[:, 1] = fan * shared * roots
    if per_unit:
        # The kernels of two units see these two units only.
        sums[1, 0] = here[1] * field * diagonal + far[1] * squares
        sums[1, 1] = far[1] * roots
    mean = weight * fan * signal.mean * math.sqrt(roots / even)
    return mean, weight**2 * sums


def _near_common(
    signal: Signal,
    windows: dict[int, Window],
    kept_axes: dict[int, int],
    near: dict[int, Array],
    common: Array,
) -> dict[int, Array]:
    """Return moments of neighbours whose overlapping windows sum the same inputs."""
    far, excess = common[0, 1, 0], common[0, 0, 0] - common[0, 1, 0]
    shared = {axis: values + far for axis, values in near.items()}
    for axis, window in windows.items():
        steps = np.arange(window.stride, window.size, window.stride)
        if window.transposed or window.dilation > 1 or not len(steps):
            continue
        neighbours = near.get(kept_axes[axis], np.zeros(0))
        values = np.zeros(max(len(neighbours), len(steps)))
        values[: len(neighbours)] = neighbours
        values[: len(steps)] += excess * (1 - steps / window.size)
        shared[kept_axes[axis]] = values + far
    return shared


def _near(
    signal: Signal, axis: int, windows: dict[int, Window], even: float
) -> Array | None:
    """Return the second moments of neighbours along an axis, after windows."""
    neighbours, window = signal.near.get(axis), windows.get(axis)
    share = math.prod(
        window_across.forward(signal.profile.get(across))[0]
        for across, window_across in windows.items()
        if across != axis
    )
    if window is None or window.transposed:
        return None if neighbours is None else neighbours * share
    far = float(signal.pairs[0, 1, 0]) / even
    if neighbours is None and abs(far) < 0.01 * signal.second:
        return None
    seen = window.neighbours(signal.profile.get(axis))
    if neighbours is None and seen is None:
        return None
    moved = (
        np.zeros(0)
        if neighbours is None
        else neighbours[window.stride - 1 :: window.stride]
    )
    if seen is None:
        return moved * share
    values = np.full(len(seen), far)
    values[: len(moved)] = moved[: len(seen)]
    return values * seen * share


def _pull(
    signal: Signal, factor: float, windows: dict[int, Window], kept_axes: dict[int, int]
) -> Pull:
    inputs = math.prod(
        math.inf if window.length is None else window.length
        for window in windows.values()
    )

    def pull(gradient: Gradient) -> Gradient:
        second, every, profile = 1.0, 1.0, {}
        for axis, to in kept_axes.items():
            window = windows.get(axis)
            values = gradient.profile.get(to)
            if window is not None:
                # The profiles of two positions' gradients multiply by their roots.
                root = 1.0 if values is None else float(np.sqrt(values).mean()) ** 2
                mean, cross, values = window.backward(values)
                second *= mean
                every *= cross / (root or 1.0)
            if values is not None:
                profile[axis] = values
        position = distinct(every, second, inputs) if windows else every
        moved = gradient.times(second * factor, position * factor, every * factor)
        return replace(moved, profile=profile)

    return pull


def _weight_rule(
    signal: Signal,
    places: int,
    windows: dict[int, Window],
    kept_axes: dict[int, int],
    own_positions: float,
) -> Callable[[Gradient], float]:
    """Return E[(dL/dw)²] from the gradient at the output, for one input.

    It is the sum of E[x x'] E[g g'] over all pairs of positions, and of inputs where
    their gradients are correlated.
    """

    number = 1 + (places - 1) * (1 - own_positions)  # that share a kernel

    def rule(gradient: Gradient) -> float:
        axes = tuple(kept_axes.values())
        far = float(signal.pairs[0, 1, 0]) / (signal.unevenness or 1.0)
        before = signal.size(signal.positions)
        apart = float(signal.pairs[0, 1, 1]) / (signal.unevenness or 1.0)
        apart += (float(signal.pairs[0, 0, 1]) - apart) / before
        together = gradient.even(axes)
        alone = met = 1.0
        for axis, to in kept_axes.items():
            values, gradient_profile = (
                signal.profile.get(axis),
                gradient.profile.get(to),
            )
            window = windows.get(axis)
            if window is not None:
                mean, roots = window.meetings(values, gradient_profile)
                alone, met = alone * mean, met * roots
            elif values is not None or gradient_profile is not None:
                even = np.ones(1)
                both = (even if values is None else values) * (
                    even if gradient_profile is None else gradient_profile
                )
                alone *= float(both.mean())
                met *= float(np.sqrt(both).mean()) ** 2
        separate = signal.second * gradient.second - far * together
        separate += _neighbourhood(signal, windows, far) * together
        shared = far * together + apart * gradient.inputs
        # The sum is a square, but estimates of its parts may be inconsistent.
        second = number * (alone * separate + met * shared * number)
        # Below 0 by rounding; or its input is impossible, which must remain visible.
        return second if signal.second < 0 else max(0.0, second)

    return rule


def _neighbourhood(signal: Signal, windows: dict[int, Window], far: float) -> float:
    """Return the sum of a position's covariances with its neighbours."""
    spread = signal.second - far
    if spread <= 0:
        return 0.0
    total = 1.0
    for axis, values in signal.near.items():
        window = windows.get(axis)
        step = 1 if window is None or window.transposed else window.stride
        met = values[step - 1 :: step]
        length = (signal.shape[axis] or 64) / step
        gaps = np.maximum(1 - np.arange(1, len(met) + 1) / length, 0.0)
        total += 2 * total * float(gaps @ (met - far)) / spread
    return spread * (total - 1.0)
