"""Tensors joined along an axis, and split."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import Operation
from keras.layers import Layer

from keras_initlab.propagation.algebra.concatenation import concatenate
from keras_initlab.propagation.algebra.mirrors import concatenated_mirror
from keras_initlab.propagation.algebra.shape import take
from keras_initlab.propagation.arguments import (
    array_of,
    axes_of,
    axis_of,
    piece,
)
from keras_initlab.propagation.context import RuleContext, UnknownLayer
from keras_initlab.propagation.dispatch import layer_rule, mirror_rule, operation_rule
from keras_initlab.propagation.rules.reshaping import dropped, reshaped
from keras_initlab.propagation.signal import Mirror, Signal


@layer_rule("Concatenate")
def concatenate_layer(layer: Layer, *xs: Signal, context: RuleContext) -> Signal:
    """Return the tensors joined along the layer's axis."""
    return concatenate(xs, layer.axis)


@operation_rule("Concatenate")
def concatenate_operation(
    operation: Operation, *_: Signal, context: RuleContext
) -> Signal:
    """Return the tensors in a row along the operation's axis."""
    return _concatenated(_operands(context), operation.axis)


@operation_rule("Hstack")
def hstack(operation: Operation, *_: Signal, context: RuleContext) -> Signal:
    """Return the tensors in a row along the second axis."""
    return _concatenated(_operands(context), 1)


@operation_rule("Append")
def append(operation: Operation, *_: Signal, context: RuleContext) -> Signal:
    """Return one tensor after another."""
    args, kwargs = context.arguments
    row = [*args, *(kwargs[name] for name in ("x1", "x2") if name in kwargs)]
    axes = axes_of(operation.axis, len(row[0].shape))
    return _concatenated(row, axes[0])


def _operands(context: RuleContext) -> list[Any]:
    args, kwargs = context.arguments
    first = args[0] if args else next(iter(kwargs.values()))
    if isinstance(first, Signal):
        raise UnknownLayer("a tensor in the place of several")
    return list(first)


def _concatenated(row: list[Any], axis: int) -> Signal:
    like = next(value for value in row if isinstance(value, Signal))
    axis = axis_of(axis, len(like.shape))
    signals = [
        value if isinstance(value, Signal) else piece(value, like, axis)
        for value in row
    ]
    return concatenate(signals, axis)


@operation_rule("Stack")
def stack(operation: Operation, *_: Signal, context: RuleContext) -> Signal:
    """Return the tensors stacked along a new axis."""
    row = _operands(context)
    if not all(isinstance(signal, Signal) for signal in row):
        raise UnknownLayer("a constant among what is stack")
    rank = len(row[0].shape) + 1
    axis = axis_of(operation.axis, rank)
    shape = list(row[0].shape)
    shape.insert(axis, 1)
    units = row[0].units
    moved = tuple(a + (a >= axis) for a in units) or (rank - 1,)
    lifted = [reshaped(signal, tuple(shape)).with_units(moved) for signal in row]
    return concatenate(lifted, axis)


@operation_rule("Split", "ArraySplit")
def split(
    operation: Operation, x: Signal, *, context: RuleContext
) -> tuple[Signal, ...]:
    """Return the tensor's sections along an axis."""
    axis = axis_of(operation.axis, len(x.shape))
    length = x.shape[axis]
    if length is None:
        raise UnknownLayer("a split of unknown length")
    where = operation.indices_or_sections
    if not isinstance(where, int):
        where = [int(place) for place in np.asarray(array_of(where)).reshape(-1)]
    sections = np.array_split(np.arange(length), where)
    return tuple(
        take(x, axis, int(part[0]), int(part[-1]) + 1) for part in sections if len(part)
    )


@operation_rule("Unstack")
def unstack(
    operation: Operation, x: Signal, *, context: RuleContext
) -> tuple[Signal, ...]:
    """Return the tensor's slices along an axis."""
    axis = axis_of(operation.axis, len(x.shape))
    length = x.shape[axis] or operation.num
    return tuple(
        dropped(take(x, axis, place, place + 1), [axis]) for place in range(length)
    )


@mirror_rule("Concatenate", operations=("Concatenate",))
def concatenate_mirror(
    layer: Layer, inputs: tuple[Signal, ...], output: Signal, context: RuleContext
) -> Mirror | None:
    """Return the mirror of joined pairs."""
    return concatenated_mirror(inputs, layer.axis % len(output.shape))
