"""Products that sum over axes: Dot, matmul, einsum, tensordot."""

from __future__ import annotations

from typing import Any

from keras import Operation
from keras.layers import Layer

from keras_initlab.model.contractions import CONTRACTIONS, factors_of, letters_of
from keras_initlab.model.own_weights import WeightView
from keras_initlab.propagation.algebra.contraction import contract
from keras_initlab.propagation.algebra.shape import reshape
from keras_initlab.propagation.arguments import array_of, constant
from keras_initlab.propagation.context import RuleContext, UnknownLayer
from keras_initlab.propagation.dispatch import layer_rule, operation_rule
from keras_initlab.propagation.rules.linear import contracted
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
    """Return Σ x y by letters; one of the two may be a weight or a given array.

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
    if isinstance(y, WeightView):
        return contracted(
            y.layer, y.name, x, letters, y.shape, context, factor=y.factor
        )
    array = array_of(y)
    like = Signal.independent((None, *array.shape))
    factor = constant(array, like)
    return contract(x, factor, (of_x, of_x[0] + of_y, of_result))


@operation_rule(*CONTRACTIONS)
def contraction(operation: Operation, *_: Signal, context: RuleContext) -> Signal:
    """Return a product that sums over axes."""
    factors = factors_of(operation, context.arguments)
    if factors is None:
        raise UnknownLayer("a product of more than two")
    x, y = factors
    letters = letters_of(operation, (len(x.shape), len(y.shape)))
    if letters is None:
        raise UnknownLayer("a product with a vector, or a diagonal")
    return product(context, x, y, letters)
