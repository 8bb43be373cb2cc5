"""Bare operations that cut a tensor, pad it or repeat what is in it."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_initlab.propagation.along_axis import AlongAxis, along
from keras_initlab.propagation.combining import broadcast
from keras_initlab.propagation.constant import array_of
from keras_initlab.propagation.dispatch import UnknownLayer, operation_rule
from keras_initlab.propagation.rules.operations_moving import (
    axes_of,
    axis_of,
    dropped,
    reshaped,
)
from keras_initlab.propagation.shaping import pad, repeat, take, transpose
from keras_initlab.propagation.signal import Signal


@operation_rule("GetItem")
def item(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return x[key] for slices, whole numbers, `...` and None."""
    args, kwargs = context.arguments
    key = args[1] if len(args) > 1 else kwargs["key"]
    keys = list(key) if isinstance(key, list | tuple) else [key]
    taking = sum(one is not None and one is not Ellipsis for one in keys)
    missing = [slice(None)] * (len(x.shape) - taking)
    at = keys.index(Ellipsis) if Ellipsis in keys else len(keys)
    keys = [*keys[:at], *missing, *keys[at + 1 :]]
    if not keys or keys[0] != slice(None):
        raise UnknownLayer("a slice of the batch")
    axis, gone = 0, False
    shape: list[int | None] = []
    for one in keys:
        if one is None:
            shape.append(1)
            continue
        if isinstance(one, slice):
            x = _sliced(x, axis, one)
            shape.append(x.shape[axis])
        elif isinstance(one, int | np.integer):
            length = x.shape[axis]
            if length is None:
                x = take(x, axis, int(one), int(one) + 1)
            else:
                x = take(x, axis, int(one) % length, int(one) % length + 1)
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
        return take(x, axis, 0, 0)  # nobody knows how many are left
    if (key.step or 1) < 0:
        return along(x, axis, AlongAxis.of_places(np.arange(length)[key], length))
    return take(x, axis, *key.indices(length))


@operation_rule("Slice")
def cut(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return a block of x that starts at given places."""
    args, kwargs = context.arguments
    starts = args[1] if len(args) > 1 else kwargs["start_indices"]
    if any(isinstance(one, Signal) for one in np.ravel([starts])):
        raise UnknownLayer("a slice from a computed place")
    places = [int(one) for one in np.ravel(array_of(starts))]
    sizes = [int(size) for size in operation.shape]
    if places[0] or sizes[0] not in (-1, x.shape[0]):
        raise UnknownLayer("a slice of the batch")
    for axis in range(1, len(places)):
        length = x.shape[axis]
        if length is None:
            raise UnknownLayer("a slice of an axis of unknown length")
        stop = length if sizes[axis] == -1 else places[axis] + sizes[axis]
        if (places[axis], stop) != (0, length):
            x = take(x, axis, places[axis], stop)
    return x


@operation_rule("Take")
def taken(operation: Any, x: Signal, *others: Signal, context: Any) -> Signal:
    """Return what stands at given places along an axis."""
    args, kwargs = context.arguments
    source = args[0] if args else kwargs["x"]
    indices = args[1] if len(args) > 1 else kwargs["indices"]
    if others or not isinstance(source, Signal) or operation.axis is None:
        raise UnknownLayer("a look-up by computed places")
    axis = axis_of(operation.axis, len(x.shape))
    index = np.asarray(array_of(indices)).astype(int)
    length = x.shape[axis]
    if length is None or index.ndim > 1:
        raise UnknownLayer("a look-up along an axis of unknown length")
    places = np.ravel(index) % length
    found = along(x, axis, AlongAxis.of_places(places, length))
    return found if index.ndim else dropped(found, [axis])


@operation_rule("Pad")
def padded(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return x with zeros around it."""
    args, kwargs = context.arguments
    value = args[1] if len(args) > 1 else kwargs.get("constant_values")
    if operation.mode != "constant" or np.any(array_of(value or 0) != 0):
        raise UnknownLayer(f"padding by {operation.mode!r}, {value!r}")
    widths = np.broadcast_to(np.asarray(operation.pad_width, int), (len(x.shape), 2))
    if widths[0].any():
        raise UnknownLayer("padding of the batch")
    for axis, (front, behind) in enumerate(widths):
        x = pad(x, axis, int(front), int(behind)) if front or behind else x
    return x


@operation_rule("Repeat")
def repeated(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return each element several times in a row."""
    axis = axes_of(operation.axis, len(x.shape))[0]
    times = np.ravel(array_of(operation.repeats)).astype(int)
    if times.size == 1:
        return repeat(x, axis, int(times[0]))
    length = x.shape[axis]
    if length is None:
        raise UnknownLayer("a repetition along an axis of unknown length")
    places = np.repeat(np.arange(length), times)
    return along(x, axis, AlongAxis.of_places(places, length))


@operation_rule("Tile")
def tiled(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return x several times in a row."""
    times = [int(one) for one in np.ravel(array_of(operation.repeats))]
    if len(times) > len(x.shape):
        raise UnknownLayer("a repetition along the batch")
    times = [1] * (len(x.shape) - len(times)) + times
    if times[0] != 1:
        raise UnknownLayer("a repetition along the batch")
    for axis, number in enumerate(times[1:], 1):
        x = repeat(x, axis, number, blocks=True) if number != 1 else x
    return x


@operation_rule("BroadcastTo")
def broadcasted(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return x stretched to a shape."""
    shape = tuple(operation.shape)
    if len(shape) != len(x.shape) or shape[0] not in (None, -1, x.shape[0]):
        raise UnknownLayer("a broadcast of the batch axis")
    return broadcast(x, (x.shape[0], *shape[1:]))


def _blocks(operation: Any, x: Signal) -> tuple[int, int, int]:
    if operation.data_format == "channels_first" or len(x.shape) != 4:
        raise UnknownLayer("blocks of a map whose channels come first")
    height, width, channels = x.shape[1:]
    if height is None or width is None or channels is None:
        raise UnknownLayer("blocks of a map of unknown size")
    return int(height), int(width), int(channels)


def patches(x: Signal, tall: int, wide: int) -> Signal:
    """Return blocks of a map of shape (batch, h, w, c) as one position's units."""
    height, width, channels = (int(size or 0) for size in x.shape[1:])
    high, far = height // tall, width // wide
    x = take(x, 1, 0, high * tall) if height % tall else x
    x = take(x, 2, 0, far * wide) if width % wide else x
    x = x.with_units((3,))
    cut_up = reshaped(x, (x.shape[0], high, tall, far, wide, channels))
    gathered = transpose(cut_up, (0, 1, 3, 2, 4, 5)).with_units((3, 4, 5))
    return reshaped(gathered, (x.shape[0], high, far, tall * wide * channels))


@operation_rule("SpaceToDepth")
def to_depth(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return blocks of positions as units."""
    _blocks(operation, x)
    return patches(x, operation.block_size, operation.block_size)


@operation_rule("ExtractPatches")
def extracted(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return patches that do not overlap as one position's units."""
    _blocks(operation, x)
    size, strides = tuple(operation.size), operation.strides
    strides = tuple(strides) if isinstance(strides, list | tuple) else (strides,) * 2
    dilated = operation.dilation_rate not in (1, (1, 1), [1, 1])
    even = not (x.shape[1] or 1) % size[0] and not (x.shape[2] or 1) % size[-1]
    if strides != size or dilated or len(size) != 2:
        raise UnknownLayer("patches that overlap")
    if operation.padding == "same" and not even:
        raise UnknownLayer("patches beyond the border")
    return patches(x, *size)


@operation_rule("DepthToSpace")
def to_space(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return units as blocks of positions."""
    height, width, channels = _blocks(operation, x)
    size = operation.block_size
    left = channels // size**2
    x = x.with_units((3,))
    cut_up = reshaped(x, (x.shape[0], height, width, size, size, left))
    spread = transpose(cut_up.with_units((5,)), (0, 1, 3, 2, 4, 5))
    return reshaped(spread, (x.shape[0], height * size, width * size, left))
