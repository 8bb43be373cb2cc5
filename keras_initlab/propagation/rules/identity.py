"""Layers and operations that return what they are given."""

from __future__ import annotations

from typing import Any

from keras_initlab.propagation.dispatch import layer_rule, operation_rule
from keras_initlab.propagation.signal import Signal


@layer_rule("Identity", "Masking", "ActivityRegularization")
def identity(layer: Any, x: Signal, *_: Signal, context: Any) -> Signal:
    """Return the signal itself; masked steps are taken to be few."""
    return x


@operation_rule("Copy", "ConvertToTensor", "Array", "NanToNum")
def copied(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return x."""
    return x


@operation_rule("StopGradient")
def stop_gradient(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return x, whose gradient ends here."""
    return x.evolve(terms=x.origins())
