"""Moves that keep the values: reshape, transpose, slice, pad, repeat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from keras_initlab.propagation.algebra.along_axis import AlongAxis, along, mean_of_all
from keras_initlab.propagation.algebra.elementwise import affine
from keras_initlab.propagation.signal import Array, Pull, Shape, Signal

Move = Callable[[Signal], Signal]

# Stands for a size that is not known, as in `signal`.
_MANY = 64


def _renamed(profile: dict[int, Array], moved: dict[int, int]) -> dict[int, Array]:
    return {moved[axis]: v for axis, v in profile.items() if axis in moved}


def _moved_with_base(moved: Signal, signal: Signal, move: Move) -> Signal:
    """Return a moved signal that still is a function of a Gaussian: the moved one."""
    if signal.origin.base is None or signal.origin.function is None:
        return moved
    return moved.amend(base=move(signal.origin.base), function=signal.origin.function)


def transpose(signal: Signal, order: Sequence[int]) -> Signal:
    """Return the signal with its axes in another order; the batch stays first."""
    moved = {old: new for new, old in enumerate(order)}
    back = dict(enumerate(order))
    transposed = signal.evolve(
        shape=tuple(signal.shape[axis] for axis in order),
        units=tuple(sorted(moved[axis] for axis in signal.units)),
        near=_renamed(signal.near, moved),
        profile=_renamed(signal.profile, moved),
        parts=tuple(transpose(part, order) for part in signal.origin.parts),
        joint=moved.get(signal.origin.joint, 0),
        lineage=signal.origin.lineage,
        parents=((signal, lambda g: replace(g, profile=_renamed(g.profile, back))),),
    )
    return _moved_with_base(transposed, signal, lambda base: transpose(base, order))


def reshape(signal: Signal, shape: Shape) -> Signal:
    """Return the signal in another shape, the batch left alone.

    Axes that are merged with units become units; a size of None fits what is left.
    """
    groups = _groups(signal.shape[1:], tuple(shape)[1:])
    merged_units = set(signal.units)
    for old, _ in groups:
        axes = {axis + 1 for axis in old}
        if axes & merged_units:
            merged_units |= axes
    signal = signal.with_units(tuple(sorted(merged_units)))
    units: list[int] = []
    profile: dict[int, Array] = {}
    near: dict[int, Array] = {}
    same: dict[int, int] = {}
    for old, new in groups:
        old_axes = [axis + 1 for axis in old]
        new_axes = [axis + 1 for axis in new]
        if any(axis in signal.units for axis in old_axes):
            # An axis of size 1 that comes with others numbers nothing.
            wide = [axis for axis in new_axes if shape[axis] != 1]
            units.extend(wide or new_axes[-1:])
        if len(old_axes) == len(new_axes) == 1:
            same[old_axes[0]] = new_axes[0]
            if old_axes[0] in signal.near:
                near[new_axes[0]] = signal.near[old_axes[0]]
        profile.update(_regrouped(signal, old_axes, new_axes, tuple(shape)))
    back = {new: old for old, new in same.items()}
    reshaped = signal.evolve(
        shape=tuple(shape),
        units=tuple(sorted(units)),
        near=near,
        profile=profile,
        parents=((signal, lambda g: replace(g, profile=_renamed(g.profile, back))),),
        lineage=signal.origin.lineage,
    )
    return _moved_with_base(
        _some_units(reshaped), signal, lambda base: reshape(base, shape)
    )


def _some_units(signal: Signal) -> Signal:
    """Return the signal with its last axis as units, if it has lost all of them."""
    if signal.units or len(signal.shape) < 2:
        return signal
    return signal.with_units((len(signal.shape) - 1,))


def _groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Return runs of axes of equal size, old against new."""
    if None in old or None in new:
        # An unknown size can only be matched if all sizes around it agree.
        front = 0
        while front < min(len(old), len(new)) and old[front] == new[front]:
            front += 1
        behind = 0
        while (
            behind < min(len(old), len(new)) - front
            and old[-1 - behind] == new[-1 - behind]
        ):
            behind += 1
        middle = (
            list(range(front, len(old) - behind)),
            list(range(front, len(new) - behind)),
        )
        return [
            *(([i], [i]) for i in range(front)),
            *([middle] if middle[0] or middle[1] else []),
            *(([len(old) - i], [len(new) - i]) for i in range(behind, 0, -1)),
        ]
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left: list[int] = []
        right: list[int] = []
        old_size = new_size = 1
        while True:
            if (
                old_size == new_size
                and (left or right)
                and old_size * new_size > 0
                and left
                and right
            ):
                break
            if (old_size <= new_size and i < len(old)) or j >= len(new):
                if i >= len(old):
                    break
                old_size *= int(old[i] or 1)
                left.append(i)
                i += 1
            else:
                new_size *= int(new[j] or 1)
                right.append(j)
                j += 1
        groups.append((left, right))
    return groups


def _regrouped(
    signal: Signal, old: list[int], new: list[int], shape: Shape
) -> dict[int, Array]:
    """Return the profile of a group of axes in its new axes."""
    if not any(axis in signal.profile for axis in old) or not new:
        return {}
    sizes = [signal.shape[axis] for axis in old]
    if None in sizes or any(shape[axis] is None for axis in new):
        return {}
    whole = np.ones(1)
    for axis in old:
        values = signal.profile.get(axis, np.ones(signal.shape[axis] or 1))
        whole = np.outer(whole, values).ravel()
    table = whole.reshape([shape[axis] or 1 for axis in new])
    profile = {}
    for index, axis in enumerate(new):
        other_axes = tuple(i for i in range(len(new)) if i != index)
        values = table.mean(axis=other_axes)
        if np.ptp(values) > 1e-9 * values.mean():
            profile[axis] = values / values.mean()
    return profile


def take(signal: Signal, axis: int, start: int, stop: int, step: int = 1) -> Signal:
    """Return the elements start, start + step, … before stop along an axis."""
    axis = axis % len(signal.shape)
    length = signal.shape[axis]
    if length is None:
        # A single element exists wherever it stands; of several the number is unknown.
        if stop - start == 1 and start * stop >= 0:
            return along(signal, axis, AlongAxis.of_places(np.arange(1), _MANY))
        shape = tuple(None if a == axis else n for a, n in enumerate(signal.shape))
        return signal.evolve(shape=shape, parents=((signal, _scaled(1.0)),))
    index = np.arange(length)[start:stop:step]
    if signal.origin.parts and signal.origin.joint == axis:
        part = _whole_part(signal, index)
        if part is not None:
            return part
    cut = along(signal, axis, AlongAxis.of_places(index, length))
    return _moved_with_base(
        cut, signal, lambda base: take(base, axis, start, stop, step)
    )


def _whole_part(signal: Signal, index: NDArray[np.intp]) -> Signal | None:
    """Return the part of a joined signal that those places are; None if none is."""
    start, total = 0, signal.shape[signal.origin.joint] or 1
    for part in signal.origin.parts:
        count = part.shape[signal.origin.joint] or 0
        if len(index) == count and (index == np.arange(start, start + count)).all():
            return part.evolve(
                terms=part.origins(),
                base=part.origin.base,
                function=part.origin.function,
                parents=((part, _scaled(1.0)),),
                notes=((signal, _scaled(count / total)),),
            )
        start += count
    return None


def _scaled(factor: float) -> Pull:
    return lambda gradient: gradient.times(factor)


def pad(signal: Signal, axis: int, front: int, behind: int) -> Signal:
    """Return the signal with zeros in front and behind along an axis."""
    axis = axis % len(signal.shape)
    length = signal.shape[axis]
    if not front + behind:
        return signal
    if length is None:
        return signal.evolve(parents=((signal, lambda gradient: gradient),))
    places = np.pad(np.arange(length), (front, behind), constant_values=-1)
    padded = along(signal, axis, AlongAxis.of_places(places, length))
    if signal.origin.function is None or np.any(
        signal.origin.function.value(np.zeros(1))
    ):
        return padded
    # A function that leaves 0 alone may as well come after the padding.
    return _moved_with_base(padded, signal, lambda base: pad(base, axis, front, behind))


def repeat(signal: Signal, axis: int, times: int, *, blocks: bool = False) -> Signal:
    """Return each element `times` times along an axis, in a row or in `blocks`."""
    axis = axis % len(signal.shape)
    if times == 1:
        return signal
    length = signal.shape[axis]
    places = np.arange(_MANY if length is None else length)
    places = np.tile(places, times) if blocks else np.repeat(places, times)
    copies = AlongAxis.of_places(places, len(places) // times)
    if length is None:
        copies = replace(copies, size=None)
    repeated = along(signal, axis, copies)
    return _moved_with_base(
        repeated, signal, lambda base: repeat(base, axis, times, blocks=blocks)
    )


def collapse(
    signal: Signal, axes: Sequence[int], *, total: bool = False, keepdims: bool = False
) -> Signal:
    """Return the mean (or the sum, if `total`) over some axes."""
    axes = tuple(sorted(axis % len(signal.shape) for axis in axes))
    number = signal.size(axes)
    places = [axis for axis in axes if axis in signal.positions]
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(signal.shape))
    collapsed = signal
    if places:
        for axis in places:
            collapsed = along(collapsed, axis, mean_of_all(signal.shape[axis]))
        collapsed = collapsed.amend(lineage=signal.origin.lineage)
    if len(places) < len(axes):
        collapsed = _mean_of_units(collapsed, tuple(a for a in axes if a not in places))
    if total:
        collapsed = affine(collapsed, float(number))
    return _some_units(collapsed if keepdims else _without(collapsed, axes, shape))


def _without(signal: Signal, axes: tuple[int, ...], shape: Shape) -> Signal:
    """Return the signal without axes of size 1."""
    left = [axis for axis in range(len(shape)) if axis not in axes]
    moved = {axis: new for new, axis in enumerate(left)}
    back = dict(enumerate(left))
    return signal.evolve(
        shape=tuple(shape[axis] for axis in left),
        units=tuple(moved[axis] for axis in signal.units if axis in moved),
        near=_renamed(signal.near, moved),
        profile=_renamed(signal.profile, moved),
        parents=((signal, lambda g: replace(g, profile=_renamed(g.profile, back))),),
        lineage=signal.origin.lineage,
    )


def _mean_of_units(signal: Signal, axes: tuple[int, ...]) -> Signal:
    """Return the mean over some axes of units, which are left with size 1."""
    number = signal.size(axes)
    across = signal.size(signal.units) / number
    alike, apart = signal.pairs
    pairs = np.stack([alike + (number - 1) * apart] * 2) / number
    if across > 1:
        pairs[1] = apart
    near = {
        axis: (values + (number - 1) * apart[1, 0]) / number
        for axis, values in signal.near.items()
    }
    return signal.evolve(
        shape=tuple(1 if a in axes else size for a, size in enumerate(signal.shape)),
        pairs=pairs,
        near=near,
        profile={a: v for a, v in signal.profile.items() if a not in axes},
        parents=(
            (
                signal,
                lambda gradient: replace(
                    gradient.times(number**-2.0),
                    profile={
                        a: v for a, v in gradient.profile.items() if a not in axes
                    },
                ),
            ),
        ),
    )
