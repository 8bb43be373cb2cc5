"""Units that come in pairs, followed layer by layer."""

from __future__ import annotations

from dataclasses import replace

from keras import Operation
from keras.layers import Layer

from keras_initlab.propagation.algebra.mirrors import (
    mirror_behind_function,
    mirror_behind_parts,
    mirror_of_function,
    mirror_of_parts,
    moved_mirror,
)
from keras_initlab.propagation.context import RuleContext
from keras_initlab.propagation.dispatch import (
    mirror_rule_of,
    operation_rule_of,
    rule_of,
)
from keras_initlab.propagation.signal import Mirror, Signal, Signals


def with_mirror(
    operation: Layer | Operation | None,
    inputs: tuple[Signal, ...],
    output: Signals,
    context: RuleContext,
) -> Signals:
    """Return an output with its mirror, where the inputs' units come in pairs.

    Args:
        operation: a layer or bare operation, None for a layer's own activation.
        inputs: the signals that it was called on.
        output: what its rule returned.
        context: the prediction.
    """
    # Of parts each may be pairs, and the whole not.
    if not any(x.mirror or x.origin.parts for x in inputs):
        return output
    if not isinstance(output, Signal) or output.mirror is not None:
        return output
    mirror = _mirror_of(operation, inputs, output, context)
    if mirror is None:
        return output
    if mirror.whole:
        odd = mirror.odd.amend(parents=((output, lambda gradient: gradient),))
        mirror = replace(mirror, odd=odd)
    return output.amend(mirror=mirror)


def _mirror_of(
    operation: Layer | Operation | None,
    inputs: tuple[Signal, ...],
    output: Signal,
    context: RuleContext,
) -> Mirror | None:
    rule = mirror_rule_of(operation)
    if rule is None:
        mirror = mirror_of_function(output) or mirror_of_parts(output)
        if mirror is not None:
            return mirror
    if not all(x.mirror is not None for x in inputs):
        return None
    if rule is not None:
        return rule(operation, inputs, output, context)
    if len(inputs) != 1:
        return None
    if output.origin.parts:
        return mirror_behind_parts(inputs[0], output)
    return mirror_behind_function(inputs[0], output)


def moved_by_rule(
    layer: Layer | Operation,
    inputs: tuple[Signal, ...],
    output: Signal,
    context: RuleContext,
) -> Mirror | None:
    """Return the mirror after a layer that moves or averages positions.

    It does to differences what it does to the units themselves.
    """
    (x,) = inputs
    assert x.mirror is not None
    find = rule_of if isinstance(layer, Layer) else operation_rule_of
    rule = find(layer)
    # Where positions are gone units are left.
    axis = x.mirror.axis if len(output.shape) == len(x.shape) else 1

    def move(signal: Signal) -> Signal:
        moved = rule(layer, signal, context=context)
        assert isinstance(moved, Signal)
        return moved

    return moved_mirror(x.mirror, axis, move)
