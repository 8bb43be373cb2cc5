"""Tensors joined along an axis, and operations on each part separately."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from keras_initlab.propagation.signal import Array, Gradient, Pull, Signal

# Stands for a size that is not known, as in `signal`.
_MANY = 64


def concatenate(signals: Sequence[Signal], axis: int) -> Signal:
    """Return the signals joined along `axis`, each with its own second moment."""
    if len(signals) == 1:
        return signals[0]
    axis = axis % len(signals[0].shape)
    units = signals[0].units
    signals = [signal.with_units(units) for signal in signals]
    sizes = [signal.shape[axis] for signal in signals]
    counts = [_MANY if size is None else size for size in sizes]
    shares = np.array(counts) / max(sum(counts), 1)
    profile = joint_profile([math.sqrt(share) for share in shares], signals)
    profile.pop(axis, None)
    if None not in sizes:
        profile.update(_profile_along(signals, axis))
    shape = list(signals[0].shape)
    shape[axis] = None if None in sizes else sum(counts)
    return signals[0].evolve(
        shape=tuple(shape),
        mean=float(sum(w * s.mean for w, s in zip(shares, signals, strict=True))),
        pairs=_joint_pairs(signals, axis, shares, sum(counts)),
        near=_joint_near(signals, axis, shares),
        profile=profile,
        parts=tuple(
            part
            for signal in signals
            for part in (signal.origin.parts if signal.origin.joint == axis else ())
            or (signal,)
        ),
        joint=axis,
        parents=tuple(
            (signal, _piece(axis, start, start + count, sum(counts)))
            for signal, start, count in zip(
                signals, np.cumsum([0, *counts]).tolist(), counts, strict=False
            )
        ),
        measured=any(signal.origin.measured for signal in signals),
    )


def _joint_pairs(
    signals: Sequence[Signal], axis: int, shares: Array, total: int
) -> Array:
    """Return the pairs of joined signals; two parts only have their means in common."""
    alike, apart = np.zeros((2, 2, 2)), np.zeros((2, 2, 2))
    # Two elements that differ along the axis are of one part, or of two.
    whole = max(total - 1, 1)
    mean = sum(
        share * signal.mean for share, signal in zip(shares, signals, strict=True)
    )
    apart += mean**2 * total / whole
    for share, signal in zip(shares, signals, strict=True):
        alike += share * signal.pairs
        apart += share * (share * total - 1) / whole * signal.pairs
        apart -= share**2 * total / whole * signal.mean**2
    if axis in signals[0].units:
        alike[1] = apart[1]
        return alike
    # Positions that differ may still stand at one place along the axis.
    across = signals[0].size(tuple(a for a in signals[0].positions if a != axis))
    beside = (across - 1) / max(across * total - 1, 1)
    alike[:, 1] = beside * alike[:, 1] + (1 - beside) * apart[:, 1]
    return alike


def _joint_near(
    signals: Sequence[Signal], axis: int, shares: Array
) -> dict[int, Array]:
    near = {}
    for name in {a for signal in signals for a in signal.near if a != axis}:
        length = max(len(s.near.get(name, ())) for s in signals)
        total = np.zeros(length)
        for share, signal in zip(shares, signals, strict=True):
            values = signal.near.get(name, np.zeros(0))
            padded = np.full(length, signal.pairs[0, 1, 0])
            padded[: len(values)] = values
            total += share * padded
        near[name] = total
    return near


def _profile_along(signals: Sequence[Signal], axis: int) -> dict[int, Array]:
    """Return the profile along the axis that signals are joined along."""
    pieces = [
        signal.second * signal.profile.get(axis, np.ones(signal.shape[axis] or 0))
        for signal in signals
    ]
    joined = np.concatenate(pieces)
    level = float(joined.mean()) if joined.size else 0.0
    if level > 0 and np.ptp(joined) > 1e-9 * level:
        return {axis: joined / level}
    return {}


def joint_profile(
    scales: Sequence[float], signals: Sequence[Signal]
) -> dict[int, Array]:
    """Return the profile of a sum of signals with factors, second moments added."""
    weights = [f**2 * s.second for f, s in zip(scales, signals, strict=True)]
    if not sum(weights) > 0:
        return {}
    even = np.float64(1.0)
    return {
        axis: np.asarray(
            sum(
                weight * signal.profile.get(axis, even)
                for weight, signal in zip(weights, signals, strict=True)
            )
            / sum(weights)
        )
        for axis in {axis for signal in signals for axis in signal.profile}
    }


def _piece(axis: int, start: int, stop: int, total: int) -> Pull:
    """Return the rule that selects one part's gradient from that of the whole."""

    def pull(gradient: Gradient) -> Gradient:
        whole = gradient.profile.get(axis)
        profile = {a: v for a, v in gradient.profile.items() if a != axis}
        if whole is None or len(whole) != total:
            return replace(gradient, profile=profile)
        piece = whole[start:stop]
        level = float(piece.mean()) if len(piece) else 0.0
        if level > 0:
            profile[axis] = piece / level
        return replace(gradient.times(level), profile=profile)

    return pull


def by_parts(signal: Signal, operation: Callable[[Signal], Signal]) -> Signal:
    """Return `operation` done to each part of a joined signal, joined again.

    The gradient flows from part to part, not through the joined signal, where it is
    only noted.
    """
    joined = concatenate(
        [operation(part) for part in signal.origin.parts], signal.origin.joint
    )
    counts = [part.shape[signal.origin.joint] or _MANY for part in signal.origin.parts]
    old = signal.origin.parts
    steps = joined.edges.parents

    def pull(gradient: Gradient) -> Gradient:
        second = 0.0
        for count, part, (new, piece) in zip(counts, old, steps, strict=True):
            moved = piece(gradient)
            for parent, step in (*new.edges.parents, *new.edges.notes):
                if parent is part:
                    moved = step(moved)
                    break
            second += count * moved.second
        return Gradient(second / sum(counts))

    return joined.amend(notes=((signal, pull),))
