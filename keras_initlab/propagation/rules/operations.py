"""Bare arithmetic in a graph: `x + y`, `2 * x`, `keras.ops.maximum(x, y)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_initlab.propagation.combining import add, largest, multiply
from keras_initlab.propagation.constant import array_of, constant
from keras_initlab.propagation.dispatch import UnknownLayer, operation_rule
from keras_initlab.propagation.elementwise import affine, apply, apply_function
from keras_initlab.propagation.jointly import jointly, root_of
from keras_initlab.propagation.measuring import signals_in
from keras_initlab.propagation.signal import Array, Function, Signal

Operand = Signal | float | NDArray[Any]


def named(context: Any, *names: str) -> list[Any]:
    """Return the arguments of a call in the order of `names`, None for missing ones."""
    args, kwargs = context.arguments
    return [
        args[place] if place < len(args) else kwargs.get(name)
        for place, name in enumerate(names)
    ]


def operands(context: Any, *names: str) -> list[Operand]:
    """Return the arguments of a call in the order of `names`: signals, numbers, arrays.

    Raises:
        UnknownLayer: an array meets each input of the batch with other values.
    """
    values = named(context, *names)
    rank = max(len(one.shape) for one in values if isinstance(one, Signal))
    return [_operand(value, rank) for value in values]


def _operand(value: Any, rank: int) -> Operand:
    if isinstance(value, Signal):
        return value
    array = array_of(value)
    if array.dtype.kind not in "biuf":  # bfloat16 has a kind of its own
        array = array.astype(np.float64)
    if array.size == 1 and array.ndim <= rank:
        return float(array.reshape(-1)[0])
    if array.ndim > rank or (array.ndim == rank and array.shape[0] != 1):
        raise UnknownLayer(f"a constant of shape {array.shape}")
    return array


def pair(context: Any) -> tuple[Operand, Operand]:
    """Return both arguments of an operation on two."""
    one, two = operands(context, "x1", "x2")
    return one, two


def lifted(values: Sequence[Operand]) -> list[Signal]:
    """Return all as signals: numbers and arrays as constant ones."""
    like = max((v for v in values if isinstance(v, Signal)), key=lambda v: len(v.shape))
    return [v if isinstance(v, Signal) else constant(v, like) for v in values]


def are_of_one(*signals: Signal) -> bool:
    """Say whether all are functions of one Gaussian, in which chance has no part."""
    drawn = any(one.function is not None and one.function.cases for one in signals)
    return not drawn and root_of(signals) is not None


def total(one: Operand, two: Operand, sign: float) -> Signal:
    """Return x + y or, for sign = -1, x - y."""
    if isinstance(one, Signal) and isinstance(two, float):
        return affine(one, 1.0, sign * two)
    if isinstance(two, Signal) and isinstance(one, float):
        return affine(two, sign, one)
    return add(lifted([one, two]), [1.0, sign])


@operation_rule("Add")
def added(operation: Any, *_: Signal, context: Any) -> Signal:
    """Return x + y."""
    return total(*pair(context), 1.0)


@operation_rule("Subtract")
def subtracted(operation: Any, *_: Signal, context: Any) -> Signal:
    """Return x - y."""
    return total(*pair(context), -1.0)


@operation_rule("Negative")
def negated(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return -x."""
    return affine(x, -1.0)


def _product(one: Operand, two: Operand) -> Signal:
    if isinstance(one, Signal) and isinstance(two, float):
        return affine(one, two)
    if isinstance(two, Signal) and isinstance(one, float):
        return affine(two, one)
    x, y = lifted([one, two])
    return multiply(x, y)


@operation_rule("Multiply")
def multiplied(operation: Any, *_: Signal, context: Any) -> Signal:
    """Return x · y."""
    return _product(*pair(context))


@operation_rule("Divide", "TrueDivide")
def divided(operation: Any, *_: Signal, context: Any) -> Signal:
    """Return x / y, as x · (1 / y) for a y that keeps clear of 0."""
    one, two = pair(context)
    if not isinstance(two, Signal):
        if not np.all(two):
            raise UnknownLayer("a division by 0")
        inverse = 1.0 / np.asarray(two, np.float64)
        return _product(one, inverse if inverse.ndim else float(inverse))
    if isinstance(one, Signal) and are_of_one(one, two):
        if not _clear_of_zero(two):
            raise UnknownLayer("a division by what may be 0")
        slopes = [lambda x, y: 1 / y, lambda x, y: -x / y**2]
        return jointly([one, two], np.divide, slopes)
    return _product(one, reciprocal(two))


# In deviations: beyond, a Gaussian's values are too rare to tell.
_CLEAR = 4.5


def _clear_of_zero(signal: Signal) -> bool:
    """Say whether a signal is as good as never near 0."""
    base, function = signal.base or signal, signal.function
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
    # Gaussians have tails across 0 that what they stand for (a norm) has not.
    base = signal.base or signal
    edge = abs(base.mean) - _CLEAR * np.sqrt(base.variance)
    sign = np.sign(base.mean) or 1.0
    if signal.function is not None or edge <= 0:
        return apply_function(signal, Function(lambda x: 1 / x, lambda x: -1 / x**2))

    def clipped(x: Array) -> Array:
        return np.asarray(sign * np.maximum(sign * x, edge), np.float64)

    return apply_function(
        signal,
        Function(lambda x: 1 / clipped(x), lambda x: -1 / clipped(x) ** 2),
    )


@operation_rule("Reciprocal")
def inverted(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return 1 / x."""
    return reciprocal(x)


def _elementwise(operation: Any, context: Any) -> Signal:
    """Return an operation on one tensor and numbers, as a function of that tensor."""
    arguments = context.arguments
    (x,) = signals_in(arguments)

    def function(values: Any) -> Any:
        args, kwargs = keras.tree.map_structure(
            lambda one: values if one is x else one, arguments
        )
        return operation.call(*args, **kwargs)

    try:
        return apply(x, function)
    except (TypeError, ValueError):
        raise UnknownLayer("no function of one tensor") from None


def _extreme(operation: Any, context: Any, sign: float) -> Signal:
    one, two = pair(context)
    if isinstance(one, float) or isinstance(two, float):
        return _elementwise(operation, context)
    x, y = lifted([one, two])
    if not are_of_one(x, y):
        return largest(x, y, sign)

    def first(x: Array, y: Array) -> Array:
        return np.asarray(sign * x >= sign * y, np.float64)

    pick = np.maximum if sign > 0 else np.minimum
    return jointly([x, y], pick, [first, lambda x, y: 1 - first(x, y)])


@operation_rule("Maximum", "Fmax")
def greater(operation: Any, *_: Signal, context: Any) -> Signal:
    """Return the greater of two."""
    return _extreme(operation, context, 1.0)


@operation_rule("Minimum", "Fmin")
def lesser(operation: Any, *_: Signal, context: Any) -> Signal:
    """Return the lesser of two."""
    return _extreme(operation, context, -1.0)
