"""Layers and operations that reshape a tensor or reorder its axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from keras import Operation, layers
from keras.layers import Layer

from keras_initlab.propagation.algebra.mirrors import moved_mirror
from keras_initlab.propagation.algebra.shape import reshape, transpose
from keras_initlab.propagation.arguments import axes_of, axis_of
from keras_initlab.propagation.context import RuleContext, UnknownLayer
from keras_initlab.propagation.dispatch import layer_rule, mirror_rule, operation_rule
from keras_initlab.propagation.signal import Mirror, Shape, Signal


@layer_rule("Flatten")
def flatten_layer(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return all positions and units as units."""
    return reshape(x, tuple(layer.compute_output_shape(x.shape)))


@layer_rule("Reshape")
def reshape_layer(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the signal in the layer's shape."""
    return reshape(x, tuple(layer.compute_output_shape(x.shape)))


@layer_rule("Permute")
def permute_layer(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the signal with its axes in another order."""
    return transpose(x, (0, *layer.dims))


def reshaped(x: Signal, shape: Shape) -> Signal:
    """Return x in another shape.

    Raises:
        UnknownLayer: the batch axis is merged with another one, or split.
    """
    before, after = (
        [size for size in sizes[1:] if size is not None] for sizes in (x.shape, shape)
    )
    whole = len(before) == len(x.shape) - 1 and len(after) == len(shape) - 1
    if shape[:1] != x.shape[:1] or (whole and math.prod(before) != math.prod(after)):
        raise UnknownLayer("a reshape of the batch axis")
    return reshape(x, tuple(shape))


@operation_rule("Reshape")
def reshape_operation(
    operation: Operation, x: Signal, *, context: RuleContext
) -> Signal:
    """Return x in the operation's shape, the batch left alone."""
    wanted = [int(size) if size is not None else -1 for size in operation.newshape]
    target = wanted[1:]
    if not wanted or (wanted[0] not in (-1, x.shape[0])):
        raise UnknownLayer("a reshape of the batch axis")
    fixed = [int(size) for size in x.shape[1:] if size is not None]
    if -1 in target:
        # None stands for the batch's own size: `ops.shape(x)[0]` of a symbol.
        if operation.newshape[0] == -1:
            raise UnknownLayer("a reshape of two unknown axes")
        open_size: int | None = None
        if len(fixed) == len(x.shape) - 1:
            open_size = math.prod(fixed) // max(
                math.prod(s for s in target if s > 0), 1
            )
        sizes = [open_size if size == -1 else size for size in target]
    elif len(fixed) < len(x.shape) - 1:
        raise UnknownLayer("a reshape of the batch axis")
    else:
        sizes = list(target)
    return reshaped(x, (x.shape[0], *sizes))


@operation_rule("Ravel")
def ravel(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Refuse, so that it is measured: the batch is merged with all other axes."""
    raise UnknownLayer("a reshape of the batch axis")


@operation_rule("ExpandDims")
def expand_dims(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return x with additional axes of size 1."""
    positions = operation.axis
    positions = positions if isinstance(positions, list | tuple) else [positions]
    rank = len(x.shape) + len(positions)
    axes = {axis_of(int(axis), rank) for axis in positions}
    old = iter(x.shape)
    return reshaped(x, tuple(1 if axis in axes else next(old) for axis in range(rank)))


@operation_rule("Squeeze")
def squeeze(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
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
def transpose_operation(
    operation: Operation, x: Signal, *, context: RuleContext
) -> Signal:
    """Return x with its axes in another order."""
    rank = len(x.shape)
    axes = operation.axes
    order = range(rank)[::-1] if axes is None else [int(a) % rank for a in axes]
    return reordered(x, list(order))


@operation_rule("Swapaxes")
def swapaxes(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return x with two axes exchanged."""
    order = list(range(len(x.shape)))
    first, second = operation.axis1, operation.axis2
    order[first], order[second] = order[second], order[first]
    return reordered(x, order)


@operation_rule("Moveaxis")
def moveaxis(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return x with some axes moved, as by NumPy."""
    rank = len(x.shape)
    source, target = (
        [int(a) % rank for a in (axes if isinstance(axes, list | tuple) else [axes])]
        for axes in (operation.source, operation.destination)
    )
    order = [axis for axis in range(rank) if axis not in source]
    for place, axis in sorted(zip(target, source, strict=True)):
        order.insert(place, axis)
    return reordered(x, order)


@mirror_rule("Flatten", "Reshape", operations=("Reshape",))
def reshape_mirror(
    layer: Layer, inputs: tuple[Signal, ...], output: Signal, context: RuleContext
) -> Mirror | None:
    """Return the mirror of pairs that are still neighbours behind a reshape."""
    (x,) = inputs
    last = len(output.shape) - 1
    size = output.shape[last]
    assert x.mirror is not None
    # Flatten puts channels last.
    innermost = x.mirror.axis == len(x.shape) - 1 or isinstance(layer, layers.Flatten)
    if not innermost or size is None or size % 2:
        return None
    shape = (*output.shape[:last], size // 2)
    return moved_mirror(x.mirror, last, lambda signal: reshape(signal, shape))


@mirror_rule("Permute")
def permute_mirror(
    layer: Layer, inputs: tuple[Signal, ...], output: Signal, context: RuleContext
) -> Mirror | None:
    """Return the mirror of pairs along an axis that moves."""
    (x,) = inputs
    assert x.mirror is not None
    axis = layer.dims.index(x.mirror.axis) + 1
    order = (0, *layer.dims)
    return moved_mirror(x.mirror, axis, lambda signal: transpose(signal, order))
