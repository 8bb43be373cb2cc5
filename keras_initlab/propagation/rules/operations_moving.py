"""Bare operations that move, cut, join, pad or repeat values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from keras_initlab.propagation.along_axis import AlongAxis, along, turned
from keras_initlab.propagation.combining import concatenate
from keras_initlab.propagation.constant import array_of, constant
from keras_initlab.propagation.dispatch import UnknownLayer, operation_rule
from keras_initlab.propagation.shaping import reshape, take, transpose
from keras_initlab.propagation.signal import Shape, Signal


def axis_of(axis: int, rank: int) -> int:
    """Return an axis counted from the front.

    Raises:
        UnknownLayer: it is the batch's.
    """
    axis = axis + rank if axis < 0 else axis
    if axis == 0:
        raise UnknownLayer("an operation on the batch axis")
    return axis


def axes_of(axes: Any, rank: int) -> tuple[int, ...]:
    """Return axes counted from the front; None stands for all, the batch's too."""
    if axes is None:
        raise UnknownLayer("an operation on all axes")
    several = axes if isinstance(axes, list | tuple) else [axes]
    return tuple(axis_of(int(axis), rank) for axis in several)


def reshaped(x: Signal, shape: Shape) -> Signal:
    """Return x in another shape.

    Raises:
        UnknownLayer: the batch is merged with another axis, or split.
    """
    before, after = (
        [size for size in one[1:] if size is not None] for one in (x.shape, shape)
    )
    whole = len(before) == len(x.shape) - 1 and len(after) == len(shape) - 1
    if shape[:1] != x.shape[:1] or (whole and math.prod(before) != math.prod(after)):
        raise UnknownLayer("a reshape of the batch axis")
    return reshape(x, tuple(shape))


@operation_rule("Reshape")
def reshape_operation(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return x in the operation's shape, the batch left alone."""
    wanted = [int(size) if size is not None else -1 for size in operation.newshape]
    rest = wanted[1:]
    if not wanted or (wanted[0] not in (-1, x.shape[0])):
        raise UnknownLayer("a reshape of the batch axis")
    known = [int(size) for size in x.shape[1:] if size is not None]
    if -1 in rest:
        if wanted[0] == -1:
            raise UnknownLayer("a reshape of two unknown axes")
        open_size: int | None = None
        if len(known) == len(x.shape) - 1:
            open_size = math.prod(known) // max(math.prod(s for s in rest if s > 0), 1)
        sizes = [open_size if size == -1 else size for size in rest]
    elif len(known) < len(x.shape) - 1:
        raise UnknownLayer("a reshape of the batch axis")
    else:
        sizes = list(rest)
    return reshaped(x, (x.shape[0], *sizes))


@operation_rule("Ravel")
def raveled(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Leave it to be measured: the batch is merged with all else."""
    raise UnknownLayer("a reshape of the batch axis")


@operation_rule("ExpandDims")
def expanded(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return x with axes of size 1 put in."""
    given = operation.axis
    given = given if isinstance(given, list | tuple) else [given]
    rank = len(x.shape) + len(given)
    axes = {axis_of(int(axis), rank) for axis in given}
    old = iter(x.shape)
    return reshaped(x, tuple(1 if axis in axes else next(old) for axis in range(rank)))


@operation_rule("Squeeze")
def squeezed(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return x without axes of size 1."""
    if operation.axis is None:
        axes = tuple(axis for axis, size in enumerate(x.shape) if size == 1)
        axes = axes_of(axes, len(x.shape))
    else:
        axes = axes_of(operation.axis, len(x.shape))
    return dropped(x, axes)


def dropped(x: Signal, axes: Sequence[int]) -> Signal:
    """Return x without some axes of size 1."""
    shape = tuple(size for axis, size in enumerate(x.shape) if axis not in axes)
    return reshaped(x, shape)


def reordered(x: Signal, order: Sequence[int]) -> Signal:
    """Return x with its axes in another order.

    Raises:
        UnknownLayer: the batch does not stay in front.
    """
    if order[0] != 0:
        raise UnknownLayer("a transpose of the batch axis")
    return transpose(x, order)


@operation_rule("Transpose")
def transposed(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return x with its axes in another order."""
    rank = len(x.shape)
    axes = operation.axes
    order = range(rank)[::-1] if axes is None else [int(a) % rank for a in axes]
    return reordered(x, list(order))


@operation_rule("Swapaxes")
def swapped(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return x with two axes exchanged."""
    order = list(range(len(x.shape)))
    one, two = operation.axis1, operation.axis2
    order[one], order[two] = order[two], order[one]
    return reordered(x, order)


@operation_rule("Moveaxis")
def moved(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return x with some axes elsewhere, as NumPy counts them."""
    rank = len(x.shape)
    source, target = (
        [int(a) % rank for a in (one if isinstance(one, list | tuple) else [one])]
        for one in (operation.source, operation.destination)
    )
    rest = [axis for axis in range(rank) if axis not in source]
    for place, axis in sorted(zip(target, source, strict=True)):
        rest.insert(place, axis)
    return reordered(x, rest)


@operation_rule("Flip")
def flipped(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return x in reverse order: the same moments at other places."""
    axes = operation.axis
    rank = len(x.shape)
    if axes is None:
        axes = range(rank)
    for axis in [axes] if isinstance(axes, int) else axes:
        x = turned(x, int(axis) % rank)
    return x


@operation_rule("Roll")
def rolled(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return x with what falls out at one end put in at the other."""
    axes = axes_of(operation.axis, len(x.shape))
    shifts = operation.shift
    shifts = shifts if isinstance(shifts, list | tuple) else [shifts] * len(axes)
    for axis, shift in zip(axes, shifts, strict=True):
        length = x.shape[axis]
        if length is not None:
            places = np.roll(np.arange(length), shift)
            x = along(x, axis, AlongAxis.of_places(places, length))
    return x


@operation_rule("Concatenate")
def joined(operation: Any, *_: Signal, context: Any) -> Signal:
    """Return the tensors in a row along the operation's axis."""
    return _joined(_row(context), operation.axis)


@operation_rule("Hstack")
def joined_aside(operation: Any, *_: Signal, context: Any) -> Signal:
    """Return the tensors in a row along the second axis."""
    return _joined(_row(context), 1)


@operation_rule("Append")
def appended(operation: Any, *_: Signal, context: Any) -> Signal:
    """Return one tensor behind another."""
    args, kwargs = context.arguments
    row = [*args, *(kwargs[name] for name in ("x1", "x2") if name in kwargs)]
    axes = axes_of(operation.axis, len(row[0].shape))
    return _joined(row, axes[0])


def _row(context: Any) -> list[Any]:
    args, kwargs = context.arguments
    first = args[0] if args else next(iter(kwargs.values()))
    if isinstance(first, Signal):
        raise UnknownLayer("a tensor in the place of several")
    return list(first)


def _joined(row: list[Any], axis: int) -> Signal:
    like = next(one for one in row if isinstance(one, Signal))
    axis = axis_of(axis, len(like.shape))
    signals = [
        one if isinstance(one, Signal) else _piece(one, like, axis) for one in row
    ]
    return concatenate(signals, axis)


def _piece(value: Any, like: Signal, axis: int) -> Signal:
    array = array_of(value)
    if array.ndim != len(like.shape) or array.shape[0] != 1:
        raise UnknownLayer(f"a constant of shape {array.shape}")
    shape = list(like.shape)
    shape[axis] = array.shape[axis]
    return constant(array, replace(like, shape=tuple(shape)))


@operation_rule("Stack")
def stacked(operation: Any, *_: Signal, context: Any) -> Signal:
    """Return the tensors in a row along an axis of their own."""
    row = _row(context)
    if not all(isinstance(one, Signal) for one in row):
        raise UnknownLayer("a constant among what is stacked")
    rank = len(row[0].shape) + 1
    axis = axis_of(operation.axis, rank)
    shape = list(row[0].shape)
    shape.insert(axis, 1)
    units = row[0].units
    kept = tuple(a + (a >= axis) for a in units) or (rank - 1,)
    lifted = [reshaped(one, tuple(shape)).with_units(kept) for one in row]
    return concatenate(lifted, axis)


@operation_rule("Split", "ArraySplit")
def split(operation: Any, x: Signal, *, context: Any) -> tuple[Signal, ...]:
    """Return the tensor's sections along an axis."""
    axis = axis_of(operation.axis, len(x.shape))
    length = x.shape[axis]
    if length is None:
        raise UnknownLayer("a split of unknown length")
    where = operation.indices_or_sections
    if not isinstance(where, int):
        where = [int(one) for one in np.asarray(array_of(where)).reshape(-1)]
    sections = np.array_split(np.arange(length), where)
    return tuple(
        take(x, axis, int(part[0]), int(part[-1]) + 1) for part in sections if len(part)
    )


@operation_rule("Unstack")
def unstacked(operation: Any, x: Signal, *, context: Any) -> tuple[Signal, ...]:
    """Return the tensor's slices along an axis."""
    axis = axis_of(operation.axis, len(x.shape))
    length = x.shape[axis] or operation.num
    return tuple(
        dropped(take(x, axis, place, place + 1), [axis]) for place in range(length)
    )
