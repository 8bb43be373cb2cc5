"""Bare operations that sum, average, pool, normalise or contract."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np

from keras_initlab.propagation.along_axis import AlongAxis, along
from keras_initlab.propagation.combining import multiply
from keras_initlab.propagation.dispatch import UnknownLayer, operation_rule
from keras_initlab.propagation.elementwise import affine, apply
from keras_initlab.propagation.pooling import maximum
from keras_initlab.propagation.rules import activation, pooling
from keras_initlab.propagation.rules.operations_moving import (
    axes_of,
    axis_of,
    dropped,
    reshaped,
)
from keras_initlab.propagation.shaping import collapse, take
from keras_initlab.propagation.signal import Signal
from keras_initlab.propagation.windows import Window


@operation_rule("Mean", "Average")
def mean(operation: Any, x: Signal, *others: Signal, context: Any) -> Signal:
    """Return the mean over some axes."""
    args, kwargs = context.arguments
    if others or len(args) > 1 or kwargs.get("weights") is not None:
        raise UnknownLayer("a weighted mean")
    axes = axes_of(operation.axis, len(x.shape))
    return collapse(x, axes, keepdims=getattr(operation, "keepdims", False))


@operation_rule("Sum")
def total(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return the sum over some axes."""
    axes = axes_of(operation.axis, len(x.shape))
    return collapse(x, axes, total=True, keepdims=operation.keepdims)


@operation_rule("Max", "Amax")
def greatest(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return the greatest value along some axes."""
    if getattr(operation, "initial", None) is not None:
        raise UnknownLayer("a maximum with an initial value")
    return _greatest(x, axes_of(operation.axis, len(x.shape)), operation.keepdims)


@operation_rule("Min", "Amin")
def least(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return the least value along some axes."""
    return affine(greatest(operation, affine(x, -1.0), context=context), -1.0)


def _greatest(x: Signal, axes: tuple[int, ...], keepdims: bool) -> Signal:
    rest = tuple(axis for axis in x.axes if axis not in axes)
    bare = not rest
    if bare:  # all of an input's elements: an axis of size 1 is what numbers units
        x = reshaped(x, (*x.shape, 1))
        rest = (len(x.shape) - 1,)
    units = tuple(axis for axis in x.units if axis in rest) or rest[-1:]
    windows = {axis: Window(x.shape[axis], x.shape[axis] or 64) for axis in axes}
    made = maximum(x.with_units(units), windows)
    if bare:
        made = dropped(made, rest)
    return made if keepdims else dropped(made, axes)


@operation_rule("Softmax")
def softmax(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return the softmax along the operation's axes."""
    return activation.softmax(x.with_units(axes_of(operation.axis, len(x.shape))))


@operation_rule("Glu")
def gated(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return one half of the units times the sigmoid of the other."""
    axis = axis_of(operation.axis, len(x.shape))
    half = (x.shape[axis] or 2) // 2
    left, right = take(x, axis, 0, half), take(x, axis, half, 2 * half)
    return multiply(left, apply(right, "sigmoid"))


def _pooled(operation: Any, x: Signal, **sizes: Any) -> Any:
    """Return what a pooling layer of the operation's settings would be asked for."""
    rank = len(x.shape) - 2
    several = {
        name: tuple(size) if isinstance(size, list | tuple) else (size,) * rank
        for name, size in sizes.items()
    }
    return SimpleNamespace(
        data_format=operation.data_format or keras.config.image_data_format(),
        padding=getattr(operation, "padding", "valid"),
        **several,
    )


def _windowed(operation: Any, x: Signal) -> Any:
    strides = operation.strides
    strides = operation.pool_size if strides is None else strides
    return _pooled(operation, x, pool_size=operation.pool_size, strides=strides)


@operation_rule("MaxPool")
def max_pool(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return the greatest value of each window."""
    made: Signal = pooling.greatest(_windowed(operation, x), x, context=context)
    return made


@operation_rule("AveragePool")
def average_pool(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return the mean of each window."""
    made: Signal = pooling.average(_windowed(operation, x), x, context=context)
    return made


@operation_rule("AdaptiveAveragePool")
def adaptive_average_pool(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return the means of as many windows as are asked for."""
    like = _pooled(operation, x, output_size=operation.output_size)
    made: Signal = pooling.adaptive_average(like, x, context=context)
    return made


@operation_rule("AdaptiveMaxPool")
def adaptive_max_pool(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return the greatest values of as many windows as are asked for."""
    like = _pooled(operation, x, output_size=operation.output_size)
    made: Signal = pooling.adaptive_greatest(like, x, context=context)
    return made


def _length(operation: Any, x: Signal) -> tuple[int, int]:
    axis = axes_of(operation.axis, len(x.shape))[0]
    length = x.shape[axis]
    if length is None:
        raise UnknownLayer("a sum along an axis of unknown length")
    return axis, length


@operation_rule("Cumsum")
def running_sum(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return sums of all that comes before along an axis."""
    axis, length = _length(operation, x)
    return along(x, axis, AlongAxis.of_matrix(np.tri(length)))


@operation_rule("Diff")
def differences(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return the differences of neighbours along an axis."""
    axis, length = _length(operation, x)
    return along(
        x, axis, AlongAxis.of_matrix(np.diff(np.eye(length), operation.n, axis=0))
    )


@operation_rule("Resize")
def resize(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return images at another size."""
    return resized(x, operation, operation.size, operation.data_format)


def resized(x: Signal, how: Any, size: Any, data_format: str) -> Signal:
    """Return images at another size, each axis by the weights that Keras gives it.

    Args:
        x: images.
        how: has the settings of `keras.ops.image.resize` as attributes.
        size: new height and width.
        data_format: of the images.
    """
    if len(x.shape) != 4 or how.crop_to_aspect_ratio or how.pad_to_aspect_ratio:
        raise UnknownLayer("a resize that crops or pads")
    first = data_format == "channels_first"
    x = x.with_units((1 if first else 3,))
    for axis, new in zip((2, 3) if first else (1, 2), size, strict=True):
        length = x.shape[axis]
        if length is None:
            raise UnknownLayer("a resize of a map of unknown size")

        if length != new:
            identity = np.eye(length, dtype="float32")
            resized = keras.ops.image.resize(
                identity[:, :, None, None],
                (int(new), 1),
                interpolation=how.interpolation,
                antialias=getattr(how, "antialias", False),
                data_format="channels_last",
            )
            weights = np.asarray(keras.ops.convert_to_numpy(resized), np.float64)
            weights = weights.reshape(length, int(new)).T
            x = along(x, axis, AlongAxis.of_matrix(weights))
    return x
