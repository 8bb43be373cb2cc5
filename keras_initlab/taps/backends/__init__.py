"""The taps of each backend of Keras: one file each, implementing `base.Backend`."""

from __future__ import annotations

import importlib

import keras

from keras_initlab.taps.backends.base import Backend

NAMES = ("tensorflow", "jax", "torch")


def load(who: str) -> Backend:
    """Return the taps of the current backend; an error names `who` needs them.

    Raises:
        ValueError: Keras runs on a backend that has no gradients.
    """
    name = keras.backend.backend()
    if name not in NAMES:
        raise ValueError(
            f"{who} needs a backend that trains: tensorflow, jax or torch. "
            f"Received: {name}. Set KERAS_BACKEND before importing Keras."
        )
    module = importlib.import_module(f"keras_initlab.taps.backends.{name}")
    backend: Backend = module.BACKEND
    return backend
