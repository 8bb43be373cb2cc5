"""Activations, elementwise or not: layers and operations."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import Operation
from keras.layers import Layer

from keras_initlab import activations
from keras_initlab.propagation.algebra.elementwise import NotDefinedEverywhere, apply
from keras_initlab.propagation.algebra.shape import take
from keras_initlab.propagation.algebra.softmax import softmax_moments
from keras_initlab.propagation.algebra.sums import multiply
from keras_initlab.propagation.arguments import axes_of, axis_of, named
from keras_initlab.propagation.context import RuleContext, UnknownLayer
from keras_initlab.propagation.dispatch import layer_rule, operation_rule
from keras_initlab.propagation.signal import Gradient, Signal


@layer_rule("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU")
def activation(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the signal after an activation layer."""
    function = getattr(layer, "activation", None)
    return activate(x, layer if function is None else function)


@layer_rule("Lambda")
def anonymous(layer: Layer, x: Any, *, context: RuleContext) -> Signal:
    """Return the signal after a function, if that is elementwise."""
    if layer.arguments or not isinstance(x, Signal):
        raise UnknownLayer("Lambda")
    try:
        return apply(x, layer.function)
    except (TypeError, ValueError):
        raise UnknownLayer("Lambda") from None


@layer_rule("Softmax")
def softmax_layer(layer: Layer, x: Signal, *_: Signal, context: RuleContext) -> Signal:
    """Return the signal after a softmax along the layer's axis.

    Raises:
        UnknownLayer: a mask leaves out some of the logits.
    """
    _, mask = named(context, "inputs", "mask")
    if mask is not None:
        raise UnknownLayer("a softmax of some of the logits")
    axis = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    return softmax(x.with_units(tuple(axis)))


@operation_rule("Softmax")
def softmax_operation(
    operation: Operation, x: Signal, *, context: RuleContext
) -> Signal:
    """Return the softmax along the operation's axes."""
    return softmax(x.with_units(axes_of(operation.axis, len(x.shape))))


@operation_rule("Glu")
def glu(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return one half of the units times the sigmoid of the other."""
    axis = axis_of(operation.axis, len(x.shape))
    half = (x.shape[axis] or 2) // 2
    left, right = take(x, axis, 0, half), take(x, axis, half, 2 * half)
    return multiply(left, apply(right, "sigmoid"))


def activate(x: Signal, function: Any) -> Signal:
    """Return φ(x) for any activation: elementwise, softmax, GLU.

    Raises:
        UnknownLayer: nothing is known about φ.
    """
    try:
        resolved = activations.resolve(function)
    except (TypeError, ValueError):
        raise UnknownLayer(repr(function)) from None
    if resolved.name == "softmax":
        return softmax(x.with_units((len(x.shape) - 1,)))
    if resolved.name == "glu":
        half = (x.shape[-1] or 2) // 2
        # Units of the two halves are as correlated as any two units.
        left, right = take(x, -1, 0, half), take(x, -1, half, 2 * half)
        return multiply(left, apply(right, "sigmoid"))
    if resolved.function is None:
        raise UnknownLayer(resolved.name)
    try:
        return apply(x, resolved)
    except NotDefinedEverywhere:
        raise UnknownLayer(resolved.name) from None


# Logits of such a variance may be no Gaussian's: masks set some to -100 (Swin), -1e4 or
# less. A sample tells; of Gaussian logits it gives what the integral gives.
_MASKED = 100.0


def softmax(x: Signal) -> Signal:
    """Return eˣ / Σ eˣ over the units of Gaussian logits.

    A common shift of the logits of one input and position has no effect.

    Raises:
        UnknownLayer: some logits may be masked, and it is not known which.
    """
    count = x.size(x.units)
    centred = x.pairs[0] - x.pairs[1]
    spread = max(0.0, float(centred[0, 0]))
    if not spread < _MASKED:
        raise UnknownLayer("a softmax of logits that a mask has moved")
    moments = softmax_moments(count, round(spread, 12))
    mean = 1.0 / count
    pairs = np.empty((2, 2, 2))
    # E[a a'] between two draws grows with the covariance of their logits as for small
    # ones, e^cov, up to that of a draw with itself.
    top = np.log(max(moments.second / mean**2, 1.0))
    share = np.clip(centred / spread, 0.0, 1.0) if spread > 0 else np.ones((2, 2))
    pairs[0] = mean**2 * np.exp(top * share)
    # The units of a position sum to 1: Σᵢⱼ aᵢ a'ⱼ = 1.
    pairs[1] = (1 - count * pairs[0]) / max(count * (count - 1), 1)
    slope = moments.jacobian

    def pull(gradient: Gradient) -> Gradient:
        return Gradient(gradient.second * slope)

    return x.evolve(mean=mean, pairs=pairs, near={}, parents=((x, pull),))
