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
    one, two = axes[0] % len(x.shape), axes[1] % len(y.shape)
    left, right = "bcdefgh"[: len(x.shape)], "b" + "ijklmno"[: len(y.shape) - 1]
    right = right[:two] + left[one] + right[two + 1 :]
    made = left.replace(left[one], "") + right[1:].replace(left[one], "")
    result = product(context, x, y, (left, right, made))
    if len(made) == 1:
        result = reshape(result, (*result.shape, 1))
    if layer.normalize:
        scale = x.second * y.second * x.size((one,)) ** 2
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
    one, two, made = letters
    if isinstance(x, Signal) and isinstance(y, Signal):
        if one[:1] != two[:1] or one[:1] != made[:1] or one[0] in one[1:] + two[1:]:
            raise UnknownLayer("a product along the batch axis")
        if context.origin(x) is context.origin(y):
            raise UnknownLayer("a product of a tensor with itself")
        return contract(x, y, letters)
    if isinstance(y, Signal):
        return product(context, y, x, (two, one, made))
    if one[:1] != made[:1] or one[0] in two:
        raise UnknownLayer("a product along the batch axis")
    array = array_of(y)
    like = Signal.independent((None, *array.shape))
    given = constant(array, like)
    return contract(x, given, (one, one[0] + two, made))


@operation_rule("Matmul")
def matmul(operation: Operation, *_: Signal, context: RuleContext) -> Signal:
    """Return the matrix product of the last two axes of each."""
    x, y = named(context, "x1", "x2")
    ranks = [len(one.shape) for one in (x, y)]
    if min(ranks) < 2:
        raise UnknownLayer("a product with a vector")
    signals = [isinstance(one, Signal) for one in (x, y)]
    if (all(signals) and min(ranks) < 3) or ranks[0] < 2 or not signals[0]:
        raise UnknownLayer("a product along the batch axis")
    front = "abcdefghij"[: max(ranks) - 2]
    one = front[len(front) - ranks[0] + 2 :] + "mk"
    two = front[len(front) - ranks[1] + 2 :] + "kn"
    if not front:  # (batch, k) times (k, n)
        return product(context, x, y, ("mk", "kn", "mn"))
    return product(context, x, y, (one, two, front + "mn"))


@operation_rule("Einsum")
def einsum(operation: Operation, *_: Signal, context: RuleContext) -> Signal:
    """Return the product of two tensors by an equation."""
    operands = context.arguments[0]
    equation = operation.subscripts.replace(" ", "")
    if len(operands) != 2 or "->" not in equation or "..." in equation:
        raise UnknownLayer(f"einsum {equation!r}")
    read, made = equation.split("->")
    one, two = read.split(",")
    if any(len(set(part)) != len(part) for part in (one, two, made)):
        raise UnknownLayer("a diagonal")
    return product(context, operands[0], operands[1], (one, two, made))


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
            [one] if isinstance(one, int) else list(one) for one in axes
        )
    one, two = "abcdefgh"[:rank], list("ijklmnop"[: array.ndim])
    for axis, other in zip(mine, its, strict=True):
        two[other] = one[axis]
    kept = [a for a in one if a not in two] + [a for a in two if a not in one]
    return product(context, x, y, (one, "".join(two), "".join(kept)))
