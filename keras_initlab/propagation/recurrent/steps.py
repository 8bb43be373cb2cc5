"""Moments along the steps of a sequence, from a signal and back into one.

Two elements of a sequence that belong to one unit differ in step, in input or in place
(of a map): `pairs[kind, t, s]` holds E[x_t x'_s] for each kind of pair, one and the
same sequence first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_initlab.propagation.signal import Array, Signal

# The most steps that are simulated; in longer sequences, further steps are as those in
# the middle.
MOST_STEPS = 64
# Steps that a sequence of unknown length is counted as having.
OPEN_STEPS = 64
_WIDEST = 1024


@dataclass(eq=False)
class Steps:
    """Moments of a sequence.

    Attributes:
        mean: E[x_t], of shape (steps,).
        pairs: E[x_t x'_s], of shape (kinds, steps, steps). Kinds are: the sequence with
            itself, with that of another input; and the same two for another place,
            where there are places.
    """

    mean: Array
    pairs: Array

    def extended(self, size: int, *, settled: bool = False) -> Steps:
        """Return `size` steps, of which further ones are as the later half on average.

        Args:
            size: how many steps there are.
            settled: whether all steps are so, because the start no longer matters.
        """
        steps = len(self.mean)
        if size <= steps and not settled:
            return self
        half = steps // 2
        mean = float(self.mean[half:].mean())
        lags = np.arange(size)
        late = np.stack(
            [
                np.diagonal(self.pairs[:, half:, half - lag :], axis1=1, axis2=2).mean(
                    axis=1
                )
                for lag in range(half + 1)
            ],
            axis=1,
        )
        # All steps that are far apart have the same covariance: it is small, but counts
        # in a mean over steps.
        far = late[:, half // 2 :].mean(axis=1, keepdims=True)
        late = np.where(lags <= half, late[:, np.minimum(lags, half)], far)
        pairs = late[:, np.abs(np.subtract.outer(lags, lags))]
        means = np.full(size, mean)
        if not settled:
            pairs[:, :steps, :steps] = self.pairs
            means[:steps] = self.mean
        return Steps(means, pairs)


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
    # The covariance with another input's steps decays like that within one input.
    share = (
        (decay - far) / (second - far) if second - far > 1e-12 * second else decay * 0
    )
    apart = float(signal.pairs[0, 1, 1]) / even
    across = apart + (float(signal.pairs[0, 0, 1]) - apart) * share
    across[0] = signal.pairs[0, 0, 1]
    kinds = [decay, across]
    if places:
        kinds += [np.full(steps, far), np.full(steps, apart)]
    scale = np.outer(root, root)
    mean = signal.mean * root / np.sqrt(even)
    return Steps(mean, np.stack([values[lags] * scale for values in kinds]))


def signal_of_steps(
    steps: Steps, like: Signal, axis: int, length: int | None
) -> Signal:
    """Return a signal of the shape and units of `like` with moments along `axis`.

    Args:
        steps: the moments of the first steps.
        like: gives the shape, the units and the places.
        axis: the steps' axis.
        length: of the sequence; None for one so long that its start does not matter.
    """
    size = counted(length)
    steps = steps.extended(size, settled=length is None)
    full = steps.pairs
    same = np.trace(full, axis1=1, axis2=2) / size
    apart = (full.sum(axis=(1, 2)) - same * size) / max(size * (size - 1), 1)
    second = float(same[0])
    levels = np.diagonal(full[0]) / second if second > 0 else np.ones(size)
    root = np.sqrt(np.maximum(levels, 1e-12))
    even = full[0] / np.multiply.outer(root, root)
    near = np.array([np.diagonal(even, gap).mean() for gap in range(1, size)])
    mean = float(np.mean(steps.mean))
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


def signal_of_last(steps: Steps, like: Signal, length: int | None) -> Signal:
    """Return the signal of the last step, of the shape and units of `like`."""
    size = counted(length)
    steps = steps.extended(size, settled=length is None)
    mean = float(steps.mean[-1])
    pairs = np.full((2, 2, 2), mean**2)
    pairs[0] = steps.pairs[:2, -1, -1]
    if len(steps.pairs) > 2:
        pairs[0, 1] = steps.pairs[2:, -1, -1]
    return like.evolve(mean=mean, pairs=pairs, near={}, profile={})


def counted(length: int | None) -> int:
    """Return how many steps a sequence is assumed to have."""
    return min(length or OPEN_STEPS, _WIDEST)


def _over_positions(same: Array, apart: Array, size: int, places: int) -> Array:
    """Return the second moment of two positions: another step, place, or both."""
    if size * places < 2:
        return same[:2]
    if len(same) == 2:
        return apart
    counts = np.array([size - 1, places - 1, (size - 1) * (places - 1)], float)
    kinds = np.stack([apart[:2], same[2:], apart[2:]])
    average: Array = counts @ kinds / counts.sum()
    return average
