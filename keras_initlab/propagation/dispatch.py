"""Which rule predicts a layer's output: `output_moments`, one function a layer type."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras

from keras_initlab.propagation.signal import Signal

Rule = Callable[..., Any]
_operation_rules: dict[str, Rule] = {}


class UnknownLayer(LookupError):
    """No rule says what a layer does to a signal."""


@functools.singledispatch
def _by_type(layer: Any, *inputs: Signal, context: Any) -> Any:
    raise UnknownLayer(type(layer).__name__)


def output_moments(layer: Any, *inputs: Signal, context: Any) -> Any:
    """Return the signal (or a tuple of them) that `layer` makes of `inputs`.

    A rule holds for the class that it is registered for and for subclasses that leave
    `call` alone; one that overrides it may do anything. Register a rule of your own
    in a line, for `propagate` and `rewrite_initializers` to use:

    >>> from keras_initlab.propagation import affine, output_moments
    >>> class Halve(keras.layers.Layer):
    ...     def call(self, inputs):
    ...         return inputs / 2
    >>> _ = output_moments.register(Halve, lambda layer, x, context: affine(x, 0.5))

    Args:
        layer: a layer; a rule is found by its class.
        inputs: the signals of the tensors that it is called on.
        context: the propagation, which knows `training` and the layer's weights.

    Raises:
        UnknownLayer: no rule is registered for it.
    """
    return rule_of(layer)(layer, *inputs, context=context)


def rule_of(layer: Any) -> Rule:
    """Return the rule for a layer.

    Raises:
        UnknownLayer: see `output_moments`.
    """
    kind = type(layer)
    rule = _by_type.dispatch(kind)
    owner = next(
        (base for base in kind.__mro__ if _by_type.registry.get(base) is rule), object
    )
    if owner is object or getattr(kind, "call", None) is not getattr(
        owner, "call", None
    ):
        raise UnknownLayer(kind.__name__)
    return rule


def register(kind: type, rule: Rule | None = None) -> Any:
    """Register a rule for a class of layers; see `output_moments`."""
    return _by_type.register(kind, rule) if rule else _by_type.register(kind)


output_moments.register = register  # type: ignore[attr-defined]


def layer_rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for the layers of those names in `keras.layers`.

    A name that this version of Keras has not got yet is passed over.
    """

    def decorate(rule: Rule) -> Rule:
        for kind in _known(names):
            _by_type.register(kind, rule)
        return rule

    return decorate


def _known(names: Iterable[str]) -> list[type]:
    found = [getattr(keras.layers, name, None) for name in names]
    return [kind for kind in found if kind is not None]


def operation_rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for bare operations, by the name of their class ("Add")."""

    def decorate(rule: Rule) -> Rule:
        for name in names:
            _operation_rules[name] = rule
        return rule

    return decorate


def operation_rule_of(operation: Any) -> Rule:
    """Return the rule for a bare operation.

    Raises:
        UnknownLayer: there is none.
    """
    rule = _operation_rules.get(type(operation).__name__)
    if rule is None:
        raise UnknownLayer(type(operation).__name__)
    return rule
