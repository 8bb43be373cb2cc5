"""Moments along the steps of a sequence, from a signal and back into one.

Two elements of a sequence that belong to one unit differ in step, in input or in place
(of a map): `pairs[kind, t, s]` holds E[x_t x'_s] for each kind of pair, one and the
same sequence first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from keras_initlab.propagation.signal import Array, Gradient, Signal

# A sequence is followed over so many steps at most; further ones repeat the last.
MOST_STEPS = 192
# Steps that a sequence of unknown length is counted as having.
OPEN_STEPS = 64
_WIDEST = 1024


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


def extended(pairs: Array, size: int, *, settled: bool = False) -> Array:
    """Return pairs of `size` steps, of which those not known are as the last known.

    Args:
        pairs: of the first steps, the last two axes being theirs.
        size: how many steps there are.
        settled: whether all steps are as the last, their beginning long forgotten.
    """
    at = np.minimum(np.arange(size), pairs.shape[-1] - 1)
    if settled:
        at[:] = pairs.shape[-1] - 1
    later = np.maximum.outer(at, at)
    gap = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    found: Array = pairs[..., later, np.maximum(later - gap, 0)]
    return found


def signal_of_steps(
    found: Steps, like: Signal, axis: int, length: int | None
) -> Signal:
    """Return a signal of the shape and units of `like` with moments along `axis`.

    Args:
        found: the moments of the first steps; later ones are as the last.
        like: gives the shape, the units and the places.
        axis: the steps' axis.
        length: of the sequence; None for one that has long forgotten its beginning.
    """
    size = counted(length)
    full = extended(found.pairs, size, settled=length is None)
    same = np.trace(full, axis1=1, axis2=2) / size
    apart = (full.sum(axis=(1, 2)) - same * size) / max(size * (size - 1), 1)
    second = float(same[0])
    levels = np.diagonal(full[0]) / second if second > 0 else np.ones(size)
    root = np.sqrt(np.maximum(levels, 1e-12))
    even = full[0] / np.multiply.outer(root, root)
    near = np.array([np.diagonal(even, gap).mean() for gap in range(1, size)])
    at = (
        len(found.mean) - 1
        if length is None
        else np.minimum(np.arange(size), len(found.mean) - 1)
    )
    mean = float(np.mean(found.mean[at]))
    pairs = np.full((2, 2, 2), mean**2)
    pairs[0, 0] = same[:2]
    places = like.size(tuple(a for a in like.positions if a != axis))
    pairs[0, 1] = _over_positions(same, apart, size, places)
    profile = {}
    if length is not None and np.ptp(levels) > 1e-6:
        profile = {axis: np.pad(levels, (0, length - size), mode="edge")}
        profile[axis] /= profile[axis].mean()
    return like.evolve(
        mean=mean, pairs=pairs, near={axis: near} if size > 1 else {}, profile=profile
    )


def counted(length: int | None) -> int:
    """Return how many steps a sequence is counted as having."""
    return min(length or OPEN_STEPS, _WIDEST)


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
