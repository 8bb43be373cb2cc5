"""Finds the file that holds a tap for the backend in use."""

from __future__ import annotations

import importlib
from types import ModuleType

import keras


def load(kind: str, who: str) -> ModuleType:
    """Return the module of this `kind` ("step", "once") for Keras's backend.

    Raises:
        ValueError: Keras runs on a backend that has no gradients; `who` asks.
    """
    name = keras.backend.backend()
    if name not in ("tensorflow", "jax", "torch"):
        raise ValueError(
            f"{who} needs a backend that trains: tensorflow, jax or torch. "
            f"Received: {name}. Set KERAS_BACKEND before importing Keras."
        )
    return importlib.import_module(f"keras_initlab.taps.{name}_{kind}")
