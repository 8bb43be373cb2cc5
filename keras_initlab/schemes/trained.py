"""Whether a model's weights hold more than a fresh draw."""

from __future__ import annotations

import math
from typing import Any

import keras

from keras_initlab.model.keras_internals import (
    all_layers,
    optimizer_steps,
    variables_made_trainable,
)
from keras_initlab.propagation.weights import current_moments, weight_moments


def what_was_learned(model: keras.Model) -> str | None:
    """Return the evidence that a model was trained or given weights, or None.

    Its optimizer has made steps, or most of the biases and scales that start at a
    constant have changed.
    """
    optimizer = getattr(model, "optimizer", None)
    steps = 0 if optimizer is None else optimizer_steps(optimizer)
    if steps:
        return f"its optimizer has made {steps} step{'s' if steps > 1 else ''}"
    left = [_has_left_its_start(*held) for held in _biases_and_scales(model)]
    if sum(left) * 2 > len(left):
        return "its biases and scales are not where their initializers put them"
    return None


def _biases_and_scales(model: keras.Model) -> list[tuple[Any, Any]]:
    return [
        (layer, variable)
        for layer in all_layers(model)
        for variable in variables_made_trainable(layer)
        if len(variable.shape) == 1 and keras.backend.is_float_dtype(variable.dtype)
    ]


def _has_left_its_start(layer: Any, variable: Any) -> bool:
    start = weight_moments(layer, variable.name, variable)
    if start.variance or start.sampled:
        return False  # drawn, not set
    now = current_moments(variable)
    distance = abs(now.mean - start.mean) + math.sqrt(now.variance)
    return distance > 1e-6 + 1e-3 * abs(start.mean)
