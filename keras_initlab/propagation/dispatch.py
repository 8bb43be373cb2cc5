"""Which rule predicts a layer's or an operation's output.

Rules are registered here and defined in `rules/`, one file for each family.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import keras
from keras import Operation
from keras.layers import Layer

from keras_initlab.propagation.context import RuleContext, UnknownLayer
from keras_initlab.propagation.signal import Mirror, Signal, Signals

Rule = Callable[..., Signals]
MirrorRule = Callable[..., Mirror | None]
R = TypeVar("R", bound=Rule)
M = TypeVar("M", bound=MirrorRule)

_operation_rules: dict[str, Rule] = {}
_layer_mirrors: dict[type, MirrorRule] = {}
_operation_mirrors: dict[str, MirrorRule] = {}


@functools.singledispatch
def _by_type(layer: Layer, *inputs: Signal, context: RuleContext) -> Signals:
    raise UnknownLayer(type(layer).__name__)


def output_moments(layer: Layer, *inputs: Signal, context: RuleContext) -> Signals:
    """Return the signal (or a tuple of them) at the output of `layer` for `inputs`.

    A rule applies to the class for which it is registered and to subclasses that do not
    override `call`. You can register your own in one line; `propagate` and
    `rewrite_initializers` then use it:

    >>> from keras_initlab.propagation import affine, output_moments
    >>> class Halve(keras.layers.Layer):
    ...     def call(self, inputs):
    ...         return inputs / 2
    >>> _ = output_moments.register(Halve, lambda layer, x, context: affine(x, 0.5))

    Args:
        layer: a layer; a rule is found by its class.
        inputs: the signals of the tensors that it is called on.
        context: the prediction; see `RuleContext`.

    Raises:
        UnknownLayer: no rule is registered for it.
    """
    return rule_of(layer)(layer, *inputs, context=context)


def rule_of(layer: Layer) -> Rule:
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


def register(kind: type, rule: Rule | None = None) -> Callable[..., Rule] | Rule:
    """Register a rule for a class of layers; see `output_moments`."""
    return _by_type.register(kind, rule) if rule else _by_type.register(kind)


output_moments.register = register  # type: ignore[attr-defined]


def layer_rule(*names: str) -> Callable[[R], R]:
    """Register a rule for the layers of those names in `keras.layers`.

    Names that this version of Keras does not have are skipped.
    """

    def decorate(rule: R) -> R:
        for kind in _layers_named(names):
            _by_type.register(kind, rule)
        return rule

    return decorate


def _layers_named(names: tuple[str, ...]) -> list[type]:
    return [kind for name in names if (kind := getattr(keras.layers, name, None))]


def operation_rule(*names: str) -> Callable[[R], R]:
    """Register a rule for bare operations, by the name of their class ("Add")."""

    def decorate(rule: R) -> R:
        for name in names:
            _operation_rules[name] = rule
        return rule

    return decorate


def operation_rule_of(operation: Operation) -> Rule:
    """Return the rule for a bare operation.

    Raises:
        UnknownLayer: there is none.
    """
    rule = _operation_rules.get(type(operation).__name__)
    if rule is None:
        raise UnknownLayer(type(operation).__name__)
    return rule


def mirror_rule(*layers: str, operations: tuple[str, ...] = ()) -> Callable[[M], M]:
    """Register what layers (and operations) do to units that come in pairs.

    Such a rule supplements the rule for the layer. It is called as
    `rule(layer, inputs, output, context)` if all inputs have mirrors, and returns the
    output's mirror, or None if its units are not pairs.
    """

    def decorate(rule: M) -> M:
        for kind in _layers_named(layers):
            _layer_mirrors[kind] = rule
        for name in operations:
            _operation_mirrors[name] = rule
        return rule

    return decorate


def mirror_rule_of(operation: Layer | Operation | None) -> MirrorRule | None:
    """Return the rule for pairs of a layer or an operation, None where there is none.

    It holds for subclasses, too.
    """
    if not isinstance(operation, Layer):
        return _operation_mirrors.get(type(operation).__name__)
    rules = (_layer_mirrors.get(kind) for kind in type(operation).__mro__)
    return next((rule for rule in rules if rule is not None), None)
