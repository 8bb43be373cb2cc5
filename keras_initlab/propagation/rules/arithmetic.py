"""Sums, products and extremes of tensors: layers, and operators such as `x + y`."""

from __future__ import annotations

from functools import reduce

import numpy as np
from keras import Operation
from keras.layers import Layer

from keras_initlab.propagation.algebra.elementwise import affine, apply, apply_function
from keras_initlab.propagation.algebra.mirrors import mirror_of_function, sum_of_mirrors
from keras_initlab.propagation.algebra.multivariate import multivariate, share_gaussian
from keras_initlab.propagation.algebra.sums import add, largest, multiply
from keras_initlab.propagation.arguments import (
    Operand,
    as_function_of,
    lifted,
    pair,
    signals_in,
)
from keras_initlab.propagation.context import RuleContext, UnknownLayer
from keras_initlab.propagation.dispatch import layer_rule, mirror_rule, operation_rule
from keras_initlab.propagation.signal import Array, Function, Mirror, Signal


@layer_rule("Add")
def add_layer(layer: Layer, *xs: Signal, context: RuleContext) -> Signal:
    """Return the sum."""
    return add(xs)


@layer_rule("Subtract")
def subtract_layer(layer: Layer, *xs: Signal, context: RuleContext) -> Signal:
    """Return the difference of two."""
    return add(xs, [1.0, -1.0])


@layer_rule("Average")
def average_layer(layer: Layer, *xs: Signal, context: RuleContext) -> Signal:
    """Return the mean of several tensors."""
    return add(xs, [1 / len(xs)] * len(xs))


@layer_rule("Multiply")
def multiply_layer(layer: Layer, *xs: Signal, context: RuleContext) -> Signal:
    """Return the product."""
    return reduce(multiply, xs)


@layer_rule("Maximum")
def maximum_layer(layer: Layer, *xs: Signal, context: RuleContext) -> Signal:
    """Return the maximum of several tensors."""
    return reduce(largest, xs)


@layer_rule("Minimum")
def minimum_layer(layer: Layer, *xs: Signal, context: RuleContext) -> Signal:
    """Return the minimum of several tensors."""
    return reduce(lambda x, y: largest(x, y, -1.0), xs)


def sum_of_operands(x: Operand, y: Operand, sign: float) -> Signal:
    """Return x + y or, for sign = -1, x - y."""
    if isinstance(x, Signal) and isinstance(y, float):
        return affine(x, 1.0, sign * y)
    if isinstance(y, Signal) and isinstance(x, float):
        return affine(y, sign, x)
    return add(lifted([x, y]), [1.0, sign])


@operation_rule("Add")
def add_operation(operation: Operation, *_: Signal, context: RuleContext) -> Signal:
    """Return x + y."""
    return sum_of_operands(*pair(context), 1.0)


@operation_rule("Subtract")
def subtract_operation(
    operation: Operation, *_: Signal, context: RuleContext
) -> Signal:
    """Return x - y."""
    return sum_of_operands(*pair(context), -1.0)


@operation_rule("Negative")
def negative(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return -x."""
    return affine(x, -1.0)


def _product(x: Operand, y: Operand) -> Signal:
    if isinstance(x, Signal) and isinstance(y, float):
        return affine(x, y)
    if isinstance(y, Signal) and isinstance(x, float):
        return affine(y, x)
    x, y = lifted([x, y])
    return multiply(x, y)


@operation_rule("Multiply")
def multiply_operation(
    operation: Operation, *_: Signal, context: RuleContext
) -> Signal:
    """Return x · y."""
    return _product(*pair(context))


@operation_rule("Divide", "TrueDivide")
def divide(operation: Operation, *_: Signal, context: RuleContext) -> Signal:
    """Return x / y, as x · (1 / y) if y stays away from 0."""
    x1, x2 = pair(context)
    if not isinstance(x2, Signal):
        if not np.all(x2):
            raise UnknownLayer("a division by 0")
        inverse = 1.0 / np.asarray(x2, np.float64)
        return _product(x1, inverse if inverse.ndim else float(inverse))
    if isinstance(x1, Signal) and share_gaussian(x1, x2):
        if not _clear_of_zero(x2):
            raise UnknownLayer("a division by what may be 0")
        slopes = [lambda x, y: 1 / y, lambda x, y: -x / y**2]
        return multivariate([x1, x2], np.divide, slopes)
    return _product(x1, reciprocal(x2))


# In deviations: beyond, a Gaussian's values are too rare to tell.
_CLEAR = 4.5


def _clear_of_zero(signal: Signal) -> bool:
    """Say whether a signal is practically never near 0."""
    base, function = signal.origin.base or signal, signal.origin.function
    reach = np.linspace(-_CLEAR, _CLEAR, 101)
    z = base.mean + np.sqrt(base.variance) * reach
    values = z if function is None else np.asarray(function.value(z), np.float64)
    return bool(values.min() > 0 or values.max() < 0)


def reciprocal(signal: Signal) -> Signal:
    """Return 1 / x.

    Raises:
        UnknownLayer: x may be 0, where no moment of 1 / x is finite.
    """
    if not _clear_of_zero(signal):
        raise UnknownLayer("a division by what may be 0")
    # A Gaussian has a tail across 0; the norm that it approximates has none.
    base = signal.origin.base or signal
    edge = abs(base.mean) - _CLEAR * np.sqrt(base.variance)
    sign = np.sign(base.mean) or 1.0
    if signal.origin.function is not None or edge <= 0:
        return apply_function(signal, Function(lambda x: 1 / x, lambda x: -1 / x**2))

    def clipped(x: Array) -> Array:
        return np.asarray(sign * np.maximum(sign * x, edge), np.float64)

    return apply_function(
        signal,
        Function(lambda x: 1 / clipped(x), lambda x: -1 / clipped(x) ** 2),
    )


@operation_rule("Reciprocal")
def reciprocal_operation(
    operation: Operation, x: Signal, *, context: RuleContext
) -> Signal:
    """Return 1 / x."""
    return reciprocal(x)


def _elementwise(operation: Operation, context: RuleContext) -> Signal:
    """Return an operation on one tensor and numbers, as a function of that tensor."""
    arguments = context.arguments
    (x,) = signals_in(arguments)

    try:
        return apply(x, as_function_of(x, operation, arguments))
    except (TypeError, ValueError):
        raise UnknownLayer("no function of one tensor") from None


def _extreme(operation: Operation, context: RuleContext, sign: float) -> Signal:
    x1, x2 = pair(context)
    if isinstance(x1, float) or isinstance(x2, float):
        return _elementwise(operation, context)
    x, y = lifted([x1, x2])
    if not share_gaussian(x, y):
        return largest(x, y, sign)

    def first(x: Array, y: Array) -> Array:
        return np.asarray(sign * x >= sign * y, np.float64)

    pick = np.maximum if sign > 0 else np.minimum
    return multivariate([x, y], pick, [first, lambda x, y: 1 - first(x, y)])


@operation_rule("Maximum", "Fmax")
def maximum_operation(operation: Operation, *_: Signal, context: RuleContext) -> Signal:
    """Return the maximum of two."""
    return _extreme(operation, context, 1.0)


@operation_rule("Minimum", "Fmin")
def minimum_operation(operation: Operation, *_: Signal, context: RuleContext) -> Signal:
    """Return the minimum of two."""
    return _extreme(operation, context, -1.0)


@mirror_rule("Add", operations=("Add",))
def add_mirror(
    layer: Layer, inputs: tuple[Signal, ...], output: Signal, context: RuleContext
) -> Mirror | None:
    """Return the mirror of a sum of pairs."""
    if len(inputs) < 2:  # beside a number
        return mirror_of_function(output)
    return sum_of_mirrors(inputs, [1.0] * len(inputs))


@mirror_rule("Subtract", operations=("Subtract",))
def subtract_mirror(
    layer: Layer, inputs: tuple[Signal, ...], output: Signal, context: RuleContext
) -> Mirror | None:
    """Return the mirror of a difference of pairs."""
    if len(inputs) < 2:
        return mirror_of_function(output)
    return sum_of_mirrors(inputs, [1.0, -1.0])


@mirror_rule("Average")
def average_mirror(
    layer: Layer, inputs: tuple[Signal, ...], output: Signal, context: RuleContext
) -> Mirror | None:
    """Return the mirror of a mean of pairs."""
    return sum_of_mirrors(inputs, [1 / len(inputs)] * len(inputs))
