"""Layers and operations that repeat a tensor's values."""

from __future__ import annotations

import numpy as np
from keras import Operation
from keras.layers import Layer

from keras_initlab.propagation.algebra.along_axis import AlongAxis, along
from keras_initlab.propagation.algebra.shape import repeat, reshape
from keras_initlab.propagation.algebra.sums import broadcast
from keras_initlab.propagation.arguments import array_of, axes_of
from keras_initlab.propagation.context import RuleContext, UnknownLayer
from keras_initlab.propagation.dispatch import layer_rule, mirror_rule, operation_rule
from keras_initlab.propagation.mirrors import moved_by_rule
from keras_initlab.propagation.signal import Signal


@layer_rule("RepeatVector")
def repeat_vector(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the vector at each of n positions."""
    lifted = reshape(x, (x.shape[0], 1, *x.shape[1:]))
    return repeat(lifted.with_units((2,)), 1, layer.n)


@operation_rule("Repeat")
def repeat_operation(
    operation: Operation, x: Signal, *, context: RuleContext
) -> Signal:
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
def tile(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return x several times in a row."""
    times = [int(number) for number in np.ravel(array_of(operation.repeats))]
    if len(times) > len(x.shape):
        raise UnknownLayer("a repetition along the batch")
    times = [1] * (len(x.shape) - len(times)) + times
    if times[0] != 1:
        raise UnknownLayer("a repetition along the batch")
    for axis, number in enumerate(times[1:], 1):
        x = repeat(x, axis, number, blocks=True) if number != 1 else x
    return x


@operation_rule("BroadcastTo")
def broadcast_to(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return x stretched to a shape."""
    shape = tuple(operation.shape)
    if len(shape) != len(x.shape) or shape[0] not in (None, -1, x.shape[0]):
        raise UnknownLayer("a broadcast of the batch axis")
    return broadcast(x, (x.shape[0], *shape[1:]))


mirror_rule("RepeatVector")(moved_by_rule)
