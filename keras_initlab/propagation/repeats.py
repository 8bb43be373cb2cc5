"""Calls that return equal tensors, which are predicted once."""

from __future__ import annotations

from collections.abc import Hashable

from keras.layers import Layer

from keras_initlab.propagation.arguments import beside_signals
from keras_initlab.propagation.context import Arguments
from keras_initlab.propagation.signal import Signal, Signals


class Repeats:
    """Results by the kind of layer and its inputs, for calls that are equal.

    A shared layer on one input, or two deterministic layers without weights and with
    equal configs, have one result, so that their correlation is exact.
    """

    def __init__(self, configs: dict[int, str | None]) -> None:
        """Prepare for a walk; `configs`, by layer, are kept for the next one."""
        self._configs = configs
        self._results: dict[Hashable, list[tuple[Layer, Signals]]] = {}

    def key(
        self, layer: Layer, inputs: tuple[Signal, ...], arguments: Arguments
    ) -> Hashable | None:
        """Return a key that equal calls share; None for a call that is unique."""
        if getattr(layer, "seed_generator", None) is not None:
            return None  # each call draws anew
        if any(hasattr(x, "shape") for x in beside_signals(arguments)):
            return None  # two arrays may differ and be called the same
        kind = id(layer) if layer.weights else type(layer)
        named = {k: v for k, v in arguments[1].items() if not isinstance(v, Signal)}
        serials = tuple(x.serial for x in inputs)
        return (kind, serials, repr(named) if named else "")

    def get(self, key: Hashable | None, layer: Layer) -> Signals | None:
        """Return the result of an equal call, None where there was none."""
        if key is None:
            return None
        for earlier, result in self._results.get(key, ()):
            if self._alike(earlier, layer):
                return result
        return None

    def put(self, key: Hashable | None, layer: Layer, result: Signals) -> None:
        """Keep the result of a call."""
        if key is not None:
            self._results.setdefault(key, []).append((layer, result))

    def _alike(self, layer: Layer, twin: Layer) -> bool:
        """Say whether two layers of one class, without weights, compute the same.

        Configs are read only now: most calls are unique, and on PyTorch and JAX the
        first `get_config` makes Keras import TensorFlow.
        """
        if layer is twin:
            return True
        config = self._config(layer)
        return config is not None and config == self._config(twin)

    def _config(self, layer: Layer) -> str | None:
        if id(layer) not in self._configs:
            try:
                config = {k: v for k, v in layer.get_config().items() if k != "name"}
                self._configs[id(layer)] = repr(config)
            except NotImplementedError:
                self._configs[id(layer)] = None
        return self._configs[id(layer)]
