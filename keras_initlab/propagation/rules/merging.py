"""Layers that merge several tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_initlab.propagation.combining import add, concatenate, largest, multiply
from keras_initlab.propagation.dispatch import layer_rule
from keras_initlab.propagation.signal import Gradient, Signal


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
    shape = layer.compute_output_shape([x.shape, y.shape])
    result = contract(x.with_units((one,)), y.with_units((two,)), tuple(shape))
    if layer.normalize:
        scale = x.second * y.second * x.size((one,)) ** 2
        result = result.evolve(
            mean=result.mean / scale**0.5,
            pairs=result.pairs / scale,
            parents=((result, lambda gradient: gradient.times(1 / scale)),),
        )
    return result


def contract(x: Signal, y: Signal, shape: tuple[int | None, ...]) -> Signal:
    """Return Σ x y over the units of both, of the given shape.

    The two are taken for independent; positions of the first come before those of
    the second.
    """
    count = x.size(x.units)
    # An output is one position of x and one of y: outputs that differ in the last
    # axis differ in y's position.
    pairs = np.empty((2, 2, 2))
    for unit in (0, 1):
        for place in (0, 1):
            here = x.pairs[0, place] * y.pairs[0, unit]
            apart = x.pairs[1, place] * y.pairs[1, unit]
            pairs[unit, place] = count * here + count * (count - 1) * apart
    x_outputs = y.size(y.positions)
    y_outputs = x.size(x.positions)

    def to_x(gradient: Gradient) -> Gradient:
        return Gradient(gradient.second * x_outputs * y.second)

    def to_y(gradient: Gradient) -> Gradient:
        return Gradient(gradient.second * y_outputs * x.second)

    return Signal(
        shape,
        (len(shape) - 1,) if len(shape) > 1 else (),
        count * x.mean * y.mean,
        pairs,
        parents=((x, to_x), (y, to_y)),
        measured=x.measured or y.measured,
    )
