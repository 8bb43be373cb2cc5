"""The operations that figures are computed with, for the current backend."""

from __future__ import annotations

import importlib
from typing import Any

import keras

_LEAN = {"torch": "keras_initlab.taps.backends.torch_ops"}
ops: Any = importlib.import_module(_LEAN.get(keras.backend.backend(), "keras.ops"))
