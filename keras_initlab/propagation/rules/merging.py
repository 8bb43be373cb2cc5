"""Layers that merge several tensors."""

from __future__ import annotations

from typing import Any

from keras_initlab.propagation.combining import add, concatenate, largest, multiply
from keras_initlab.propagation.dispatch import layer_rule
from keras_initlab.propagation.rules.operations_contracting import product
from keras_initlab.propagation.shaping import reshape
from keras_initlab.propagation.signal import Signal


@layer_rule("Add")
def added(layer: Any, *xs: Signal, context: Any) -> Signal:
    """Return the sum."""
    return add(xs)


@layer_rule("Subtract")
def subtracted(layer: Any, *xs: Signal, context: Any) -> Signal:
    """Return the difference of two."""
    return add(xs, [1.0, -1.0])


@layer_rule("Average")
def averaged(layer: Any, *xs: Signal, context: Any) -> Signal:
    """Return the mean of several tensors."""
    return add(xs, [1 / len(xs)] * len(xs))


@layer_rule("Multiply")
def multiplied(layer: Any, *xs: Signal, context: Any) -> Signal:
    """Return the product."""
    result = xs[0]
    for x in xs[1:]:
        result = multiply(result, x)
    return result


@layer_rule("Maximum")
def greatest(layer: Any, *xs: Signal, context: Any) -> Signal:
    """Return the greatest of several tensors."""
    result = xs[0]
    for x in xs[1:]:
        result = largest(result, x)
    return result


@layer_rule("Minimum")
def least(layer: Any, *xs: Signal, context: Any) -> Signal:
    """Return the least of several tensors."""
    result = xs[0]
    for x in xs[1:]:
        result = largest(result, x, -1.0)
    return result


@layer_rule("Concatenate")
def concatenated(layer: Any, *xs: Signal, context: Any) -> Signal:
    """Return the tensors joined along the layer's axis."""
    return concatenate(xs, layer.axis)


@layer_rule("Dot")
def dot(layer: Any, x: Signal, y: Signal, *, context: Any) -> Signal:
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
