"""Products that sum over axes: Dot, matmul, einsum, tensordot."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import Operation
from keras.layers import Layer

from keras_initlab.propagation.algebra.contraction import contract
from keras_initlab.propagation.algebra.shape import reshape
from keras_initlab.propagation.arguments import array_of, constant, named
from keras_initlab.propagation.context import RuleContext, UnknownLayer
from keras_initlab.propagation.dispatch import layer_rule, operation_rule
from keras_initlab.propagation.signal import Signal


@layer_rule("Dot")
def dot_layer(layer: Layer, x: Signal, y: Signal, *, context: RuleContext) -> Signal:
    """Return products summed along an axis of each."""
    axes = layer.axes if isinstance(layer.axes, list | tuple) else [layer.axes] * 2
    axis_x, axis_y = axes[0] % len(x.shape), axes[1] % len(y.shape)
    left, right = "bcdefgh"[: len(x.shape)], "b" + "ijklmno"[: len(y.shape) - 1]
    right = right[:axis_y] + left[axis_x] + right[axis_y + 1 :]
    of_result = left.replace(left[axis_x], "") + right[1:].replace(left[axis_x], "")
    result = product(context, x, y, (left, right, of_result))
    if len(of_result) == 1:
        result = reshape(result, (*result.shape, 1))
    if layer.normalize:
        scale = x.second * y.second * x.size((axis_x,)) ** 2
        result = result.evolve(
            mean=result.mean / scale**0.5,
            pairs=result.pairs / scale,
            parents=((result, lambda gradient: gradient.times(1 / scale)),),
        )
    return result


def product(
    context: RuleContext, x: Any, y: Any, letters: tuple[str, str, str]
) -> Signal:
    """Return Σ x y by letters; one of the two may be a given array without a batch.

    Raises:
        UnknownLayer: the batch axis is not alone in front; x and y are one tensor.
    """
    of_x, of_y, of_result = letters
    if isinstance(x, Signal) and isinstance(y, Signal):
        if (
            of_x[:1] != of_y[:1]
            or of_x[:1] != of_result[:1]
            or of_x[0] in of_x[1:] + of_y[1:]
        ):
            raise UnknownLayer("a product along the batch axis")
        if context.origin(x) is context.origin(y):
            raise UnknownLayer("a product of a tensor with itself")
        return contract(x, y, letters)
    if isinstance(y, Signal):
        return product(context, y, x, (of_y, of_x, of_result))
    if of_x[:1] != of_result[:1] or of_x[0] in of_y:
        raise UnknownLayer("a product along the batch axis")
    array = array_of(y)
    like = Signal.independent((None, *array.shape))
    given = constant(array, like)
    return contract(x, given, (of_x, of_x[0] + of_y, of_result))


@operation_rule("Matmul")
def matmul(operation: Operation, *_: Signal, context: RuleContext) -> Signal:
    """Return the matrix product of the last two axes of each."""
    x, y = named(context, "x1", "x2")
    ranks = [len(of_x.shape) for of_x in (x, y)]
    if min(ranks) < 2:
        raise UnknownLayer("a product with a vector")
    signals = [isinstance(of_x, Signal) for of_x in (x, y)]
    if (all(signals) and min(ranks) < 3) or ranks[0] < 2 or not signals[0]:
        raise UnknownLayer("a product along the batch axis")
    front = "abcdefghij"[: max(ranks) - 2]
    of_x = front[len(front) - ranks[0] + 2 :] + "mk"
    of_y = front[len(front) - ranks[1] + 2 :] + "kn"
    if not front:  # (batch, k) times (k, n)
        return product(context, x, y, ("mk", "kn", "mn"))
    return product(context, x, y, (of_x, of_y, front + "mn"))


@operation_rule("Einsum")
def einsum(operation: Operation, *_: Signal, context: RuleContext) -> Signal:
    """Return the product of two tensors by an equation."""
    operands = context.arguments[0]
    equation = operation.subscripts.replace(" ", "")
    if len(operands) != 2 or "->" not in equation or "..." in equation:
        raise UnknownLayer(f"einsum {equation!r}")
    read, of_result = equation.split("->")
    of_x, of_y = read.split(",")
    if any(len(set(part)) != len(part) for part in (of_x, of_y, of_result)):
        raise UnknownLayer("a diagonal")
    return product(context, operands[0], operands[1], (of_x, of_y, of_result))


@operation_rule("Dot")
def dot_operation(operation: Operation, *_: Signal, context: RuleContext) -> Signal:
    """Return a product with a given matrix."""
    x, y = named(context, "x1", "x2")
    if not isinstance(x, Signal) or isinstance(y, Signal) or np.ndim(y) != 2:
        raise UnknownLayer("a product along the batch axis")
    front = "abcdefghij"[: len(x.shape) - 1]
    return product(context, x, y, (front + "k", "kn", front + "n"))


@operation_rule("Tensordot")
def tensordot(operation: Operation, *_: Signal, context: RuleContext) -> Signal:
    """Return a product with a given array, over axes that are named."""
    x, y = named(context, "x1", "x2")
    if not isinstance(x, Signal) or isinstance(y, Signal):
        raise UnknownLayer("a product along the batch axis")
    rank, array, axes = len(x.shape), array_of(y), operation.axes
    if isinstance(axes, int):
        mine, its = range(rank - axes, rank), range(axes)
    else:
        mine, its = (  # type: ignore[assignment]
            [of_x] if isinstance(of_x, int) else list(of_x) for of_x in axes
        )
    of_x, of_y = "abcdefgh"[:rank], list("ijklmnop"[: array.ndim])
    for axis, other in zip(mine, its, strict=True):
        of_y[other] = of_x[axis]
    kept = [a for a in of_x if a not in of_y] + [a for a in of_y if a not in of_x]
    return product(context, x, y, (of_x, "".join(of_y), "".join(kept)))
