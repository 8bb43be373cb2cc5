"""Facts of weights other than kernels: biases, scales, moving averages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_initlab.anatomy.model import Anatomy, is_normalising
from keras_initlab.anatomy.values import values_of
from keras_initlab.diagnosis import LayerFacts
from keras_initlab.model.keras_internals import own_variables
from keras_initlab.model.layers import is_closed, main_weight, places
from keras_initlab.schemes.small_starts import SMALL_GAIN

# Root mean square of biases that put most units to one side of their activation, where
# what comes in has variance 1.
BIASED = 2.0


def broken_weights(anatomy: Anatomy) -> tuple[tuple[str, str, int], ...]:
    """Return which weights other than kernels hold NaN or infinity, and how many."""
    broken = []
    for path, variable in _other_weights(anatomy):
        values = values_of(variable)
        # A mask that is not trained may rightly hold -inf.
        wrong = np.isnan(values) | (np.isinf(values) & bool(variable.trainable))
        if wrong.any():
            broken.append((path, variable.name, int(wrong.sum())))
    return tuple(broken)


def biased_layers(anatomy: Anatomy) -> tuple[tuple[str, float], ...]:
    """Return the layers whose biases are far from 0, and their root mean square.

    Heads are left out: their biases may encode how frequent the classes are.
    """
    return hidden_ones(large_biases(anatomy.model), anatomy.layers)


def hidden_ones(
    biased: Iterable[tuple[str, float]], layers: Mapping[str, LayerFacts]
) -> tuple[tuple[str, float], ...]:
    """Return those of the layers with large biases that are not at the end."""
    return tuple(
        (path, size)
        for path, size in biased
        if path not in layers or not layers[path].ends
    )


def large_biases(model: Any) -> tuple[tuple[str, float], ...]:
    """Return all layers whose biases are far from 0, and their root mean square."""
    biased = []
    for place in places(model) if getattr(model, "built", False) else ():
        for variable in own_variables(place.layer):
            if variable.name in ("bias", "beta") and keras.backend.is_float_dtype(
                variable.dtype
            ):
                size = float(np.sqrt(np.mean(values_of(variable) ** 2)))
                if size > BIASED:
                    biased.append((place.path, size))
    return tuple(biased)


def _other_weights(anatomy: Anatomy) -> Iterator[tuple[str, Any]]:
    seen = {id(k.variable) for k in anatomy.kernels if k.weight != "recurrent_kernel"}
    for place in places(anatomy.model):
        layer = place.layer
        for variable in layer.variables if is_closed(layer) else own_variables(layer):
            if id(variable) in seen:
                continue
            seen.add(id(variable))
            if keras.backend.is_float_dtype(variable.dtype):
                yield place.path, variable


def has_half_weights(model: Any) -> bool:
    """Say whether a weight that is trained is a float16 number."""
    return any(
        keras.backend.standardize_dtype(weight.dtype) == "float16"
        for weight in model.trainable_weights
    )


def frozen_model(model: Any) -> str | None:
    """Return the name of a compiled model of which no weight is trainable."""
    if getattr(model, "optimizer", None) is None or not model.built:
        return None
    return None if model.trainable_weights or not model.weights else str(model.name)


def zero_layers(model: Any) -> frozenset[str]:
    """Return the paths of the layers whose main weight is all zeros, or next to it.

    Such as the factors of ReZero and LayerScale: update ratios mean nothing for them.
    """
    paths = set()
    for place in places(model) if getattr(model, "built", False) else ():
        weight = main_weight(place.layer)
        if weight is None:
            continue
        size = float(np.sqrt(np.mean(values_of(weight) ** 2)))
        # Embeddings start small, and other kernels are held against their fan-in.
        factor = len(weight.shape) < 2 and not is_normalising(place.layer)
        if size == 0 or (factor and size <= SMALL_GAIN):
            paths.add(place.path)
    return frozenset(paths)
