"""Symbols that stand in for tensors in a `call` that is run to see what it does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import layers

# The layers that ask each of their inputs what only symbols know.
_MERGES = (
    layers.Add,
    layers.Average,
    layers.Concatenate,
    layers.Dot,
    layers.Maximum,
    layers.Minimum,
    layers.Multiply,
    layers.Subtract,
)


@contextmanager
def asked_first() -> Iterator[None]:
    """Let `array + symbol` be an operation on the symbol, as `symbol + array` is.

    JAX takes what has `__jax_array__` for an array, and Keras's symbols refuse to be
    one. Without it, JAX leaves the sum to the symbol. TensorFlow and PyTorch do so by
    themselves.
    """
    name = "__jax_array__"
    refusal = vars(keras.KerasTensor).get(name)
    if refusal is None:
        yield
        return
    delattr(keras.KerasTensor, name)
    try:
        yield
    finally:
        setattr(keras.KerasTensor, name, refusal)


@contextmanager
def merged_with_tensors() -> Iterator[None]:
    """Let `Concatenate()([tensor, symbol])` and the like be called, in this block.

    As when a token of zeros is put before a sequence.
    """

    def lenient(kind: type) -> Any:
        def compute_output_spec(self: Any, inputs: Any, *args: Any) -> Any:
            asked = [
                keras.KerasTensor(x.shape, keras.backend.standardize_dtype(x.dtype))
                if keras.ops.is_tensor(x)
                else x
                for x in inputs
            ]
            return before[kind](self, asked, *args)

        return compute_output_spec

    before: dict[type, Any] = {kind: kind.compute_output_spec for kind in _MERGES}
    own = {kind: vars(kind).get("compute_output_spec") for kind in _MERGES}
    for kind in _MERGES:
        kind.compute_output_spec = lenient(kind)
    try:
        yield
    finally:
        for kind, function in own.items():
            if function is None:
                delattr(kind, "compute_output_spec")
            else:
                kind.compute_output_spec = function
