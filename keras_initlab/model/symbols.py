"""Symbols that stand in for tensors in a `call` that is run to see what it does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras


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
