"""Calls that give the very same tensor, predicted once."""

from __future__ import annotations

from collections.abc import Hashable

from keras.layers import Layer

from keras_initlab.propagation.arguments import beside_signals
from keras_initlab.propagation.context import Arguments
from keras_initlab.propagation.signal import Signal, Signals


class Repeats:
    """Results by what makes calls equal: the layer's kind and its inputs.

    A shared layer on one input, or two layers without weights or chance and of one
    config, give one result, and what is computed from both is fully correlated.
    """

    def __init__(self, kinds: dict[int, Hashable]) -> None:
        self._kinds = kinds
        self._results: dict[Hashable, Signals] = {}

    def key(
        self, layer: Layer, inputs: tuple[Signal, ...], arguments: Arguments
    ) -> Hashable | None:
        """Return what equal calls have in common; None for a call like no other."""
        if id(layer) not in self._kinds:
            self._kinds[id(layer)] = _kind_of(layer)
        kind = self._kinds[id(layer)]
        if kind is None or any(hasattr(x, "shape") for x in beside_signals(arguments)):
            return None  # two arrays may differ and be called the same
        named = {k: v for k, v in arguments[1].items() if not isinstance(v, Signal)}
        serials = tuple(x.serial for x in inputs)
        return (kind, serials, repr(named) if named else "")

    def get(self, key: Hashable | None) -> Signals | None:
        """Return the result of an equal call, None where there was none."""
        return None if key is None else self._results.get(key)

    def put(self, key: Hashable | None, result: Signals) -> None:
        """Keep the result of a call."""
        if key is not None:
            self._results[key] = result


def _kind_of(layer: Layer) -> Hashable | None:
    """Return what two layers that compute the same have in common; None for chance."""
    if getattr(layer, "seed_generator", None) is not None:
        return None  # each call draws anew
    if layer.weights:
        return id(layer)
    try:
        config = {k: v for k, v in layer.get_config().items() if k != "name"}
        return (type(layer), repr(config))
    except NotImplementedError:
        return id(layer)
