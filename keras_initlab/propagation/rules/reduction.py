"""Sums, means and extremes over axes, and running sums."""

from __future__ import annotations

import numpy as np
from keras import Operation

from keras_initlab.propagation.algebra.along_axis import AlongAxis, along
from keras_initlab.propagation.algebra.elementwise import affine
from keras_initlab.propagation.algebra.maximum import maximum
from keras_initlab.propagation.algebra.shape import collapse
from keras_initlab.propagation.algebra.windows import Window
from keras_initlab.propagation.arguments import axes_of
from keras_initlab.propagation.context import RuleContext, UnknownLayer
from keras_initlab.propagation.dispatch import operation_rule
from keras_initlab.propagation.rules.reshaping import dropped, reshaped
from keras_initlab.propagation.signal import Signal


@operation_rule("Mean", "Average")
def mean(
    operation: Operation, x: Signal, *weights: Signal, context: RuleContext
) -> Signal:
    """Return the mean over some axes."""
    args, kwargs = context.arguments
    if weights or len(args) > 1 or kwargs.get("weights") is not None:
        raise UnknownLayer("a weighted mean")
    axes = axes_of(operation.axis, len(x.shape))
    return collapse(x, axes, keepdims=getattr(operation, "keepdims", False))


@operation_rule("Sum")
def sum_operation(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return the sum over some axes."""
    axes = axes_of(operation.axis, len(x.shape))
    return collapse(x, axes, total=True, keepdims=operation.keepdims)


@operation_rule("Max", "Amax")
def max_operation(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return the greatest value along some axes."""
    if getattr(operation, "initial", None) is not None:
        raise UnknownLayer("a maximum with an initial value")
    return _maximum_along(x, axes_of(operation.axis, len(x.shape)), operation.keepdims)


@operation_rule("Min", "Amin")
def min_operation(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return the least value along some axes."""
    return affine(max_operation(operation, affine(x, -1.0), context=context), -1.0)


def _maximum_along(x: Signal, axes: tuple[int, ...], keepdims: bool) -> Signal:
    remaining = tuple(axis for axis in x.axes if axis not in axes)
    bare = not remaining
    if bare:  # over all of an input's elements: an axis of size 1 counts units
        x = reshaped(x, (*x.shape, 1))
        remaining = (len(x.shape) - 1,)
    units = tuple(axis for axis in x.units if axis in remaining) or remaining[-1:]
    windows = {axis: Window(x.shape[axis], x.shape[axis] or 64) for axis in axes}
    greatest = maximum(x.with_units(units), windows)
    if bare:
        greatest = dropped(greatest, remaining)
    return greatest if keepdims else dropped(greatest, axes)


def _length(operation: Operation, x: Signal) -> tuple[int, int]:
    axis = axes_of(operation.axis, len(x.shape))[0]
    length = x.shape[axis]
    if length is None:
        raise UnknownLayer("a sum along an axis of unknown length")
    return axis, length


@operation_rule("Cumsum")
def cumsum(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return running sums along an axis."""
    axis, length = _length(operation, x)
    return along(x, axis, AlongAxis.of_matrix(np.tri(length)))


@operation_rule("Diff")
def diff(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return the differences of neighbours along an axis."""
    axis, length = _length(operation, x)
    return along(
        x, axis, AlongAxis.of_matrix(np.diff(np.eye(length), operation.n, axis=0))
    )
