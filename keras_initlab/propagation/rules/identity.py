"""Layers and operations that return their input."""

from __future__ import annotations

from keras import Operation
from keras.layers import Layer

from keras_initlab.propagation.context import RuleContext
from keras_initlab.propagation.dispatch import layer_rule, operation_rule
from keras_initlab.propagation.signal import Signal


@layer_rule("Identity", "Masking", "ActivityRegularization")
def identity(layer: Layer, x: Signal, *_: Signal, context: RuleContext) -> Signal:
    """Return the signal itself; masked steps are assumed to be few."""
    return x


@operation_rule("Copy", "ConvertToTensor", "Array", "NanToNum")
def copied(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return x."""
    return x


@operation_rule("StopGradient")
def stop_gradient(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return x, whose gradient ends here."""
    return x.evolve(terms=x.origins())
