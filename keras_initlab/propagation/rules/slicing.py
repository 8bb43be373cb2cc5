"""Slices, flips and rolls along axes."""

from __future__ import annotations

import numpy as np
from keras import Operation

from keras_initlab.propagation.algebra.along_axis import AlongAxis, along, turned
from keras_initlab.propagation.algebra.shape import take
from keras_initlab.propagation.arguments import array_of, axes_of, axis_of
from keras_initlab.propagation.context import RuleContext, UnknownLayer
from keras_initlab.propagation.dispatch import operation_rule
from keras_initlab.propagation.rules.reshaping import dropped, reshaped
from keras_initlab.propagation.signal import Signal


@operation_rule("GetItem")
def get_item(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return x[key] for slices, whole numbers, `...` and None."""
    args, kwargs = context.arguments
    key = args[1] if len(args) > 1 else kwargs["key"]
    keys = list(key) if isinstance(key, list | tuple) else [key]
    taking = sum(index is not None and index is not Ellipsis for index in keys)
    missing = [slice(None)] * (len(x.shape) - taking)
    at = keys.index(Ellipsis) if Ellipsis in keys else len(keys)
    keys = [*keys[:at], *missing, *keys[at + 1 :]]
    if not keys or keys[0] != slice(None):
        raise UnknownLayer("a slice of the batch")
    axis, gone = 0, False
    shape: list[int | None] = []
    for index in keys:
        if index is None:
            shape.append(1)
            continue
        if isinstance(index, slice):
            x = _sliced(x, axis, index)
            shape.append(x.shape[axis])
        elif isinstance(index, int | np.integer):
            length = x.shape[axis]
            if length is None:
                x = take(x, axis, int(index), int(index) + 1)
            else:
                x = take(x, axis, int(index) % length, int(index) % length + 1)
            gone = True
        else:
            raise UnknownLayer("an index that is an array")
        axis += 1
    return reshaped(x, tuple(shape)) if gone or None in keys else x


def _sliced(x: Signal, axis: int, key: slice) -> Signal:
    if key == slice(None):
        return x
    length = x.shape[axis]
    if length is None:
        return take(x, axis, 0, 0)  # of unknown length
    if (key.step or 1) < 0:
        return along(x, axis, AlongAxis.of_places(np.arange(length)[key], length))
    return take(x, axis, *key.indices(length))


@operation_rule("Slice")
def slice_operation(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return a block of x that starts at given places."""
    args, kwargs = context.arguments
    starts = args[1] if len(args) > 1 else kwargs["start_indices"]
    if any(isinstance(place, Signal) for place in np.ravel([starts])):
        raise UnknownLayer("a slice from a computed place")
    places = [int(place) for place in np.ravel(array_of(starts))]
    # None is a size that a call has read from its symbols: as long as the axis is.
    sizes = [
        int(size) if size is not None else x.shape[axis] or -1
        for axis, size in enumerate(operation.shape)
    ]
    if places[0] or sizes[0] not in (-1, x.shape[0]):
        raise UnknownLayer("a slice of the batch")
    for axis in range(1, len(places)):
        length = x.shape[axis]
        if length is None and (places[axis], sizes[axis]) == (0, -1):
            continue
        if length is None:
            raise UnknownLayer("a slice of an axis of unknown length")
        stop = length if sizes[axis] == -1 else places[axis] + sizes[axis]
        if (places[axis], stop) != (0, length):
            x = take(x, axis, places[axis], stop)
    return x


@operation_rule("Take")
def take_operation(
    operation: Operation, x: Signal, *computed: Signal, context: RuleContext
) -> Signal:
    """Return the values at given places along an axis."""
    args, kwargs = context.arguments
    source = args[0] if args else kwargs["x"]
    indices = args[1] if len(args) > 1 else kwargs["indices"]
    if computed or not isinstance(source, Signal) or operation.axis is None:
        raise UnknownLayer("a look-up by computed places")
    axis = axis_of(operation.axis, len(x.shape))
    index = np.asarray(array_of(indices)).astype(int)
    length = x.shape[axis]
    if length is None or index.ndim > 1:
        raise UnknownLayer("a look-up along an axis of unknown length")
    places = np.ravel(index) % length
    rows = along(x, axis, AlongAxis.of_places(places, length))
    return rows if index.ndim else dropped(rows, [axis])


@operation_rule("Flip")
def flip(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return x in reverse order: the same moments at other places."""
    axes = operation.axis
    rank = len(x.shape)
    if axes is None:
        axes = range(rank)
    for axis in [axes] if isinstance(axes, int) else axes:
        x = turned(x, int(axis) % rank)
    return x


@operation_rule("Roll")
def roll(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return x shifted along axes, wrapping around."""
    axes = axes_of(operation.axis, len(x.shape))
    shifts = operation.shift
    shifts = shifts if isinstance(shifts, list | tuple) else [shifts] * len(axes)
    for axis, shift in zip(axes, shifts, strict=True):
        length = x.shape[axis]
        if length is not None:
            places = np.roll(np.arange(length), shift)
            x = along(x, axis, AlongAxis.of_places(places, length))
    return x
