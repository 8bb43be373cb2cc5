"""Runs one batch through a model: every layer's output, and the gradient there.

Any model that Keras can call will do, even one whose Python code reads values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_initlab.model.keras_internals import (
    calls_forgotten,
    output_spec,
    unbuilt_on_failure,
)
from keras_initlab.model.layers import places
from keras_initlab.taps import backends
from keras_initlab.taps.recorder import Recorder

WHO = "measure"

# From the shape of a model output to the gradient of a loss with respect to it.
Cotangent = Callable[[tuple[int, ...]], np.ndarray]

# From a layer's output to the tensor that the model continues with.
Tap = Callable[[Any], Any]

# Pairs of a variable and a tensor to use as its value.
Mapping = Sequence[tuple[Any, Any]]


class Call(NamedTuple):
    """One call of a layer; `gradient` is None where the outputs do not depend on it."""

    key: str
    layer: Any
    output: Any
    gradient: Any | None


class Pass(NamedTuple):
    """The results of one batch; calls in the order in which they ended."""

    calls: list[Call]
    weight_gradients: list[Any | None]


def build(model: Any, x: Any) -> None:
    """Create missing weights, as a first call on `x` would.

    A model that has all its weights is left alone; if it has some, its state is kept.
    """
    if model.built and all(place.layer.built for place in places(model)):
        return
    with unbuilt_on_failure(model):
        try:
            with calls_forgotten(model):
                output_spec(model, keras.tree.map_structure(_spec, x))
        except Exception:
            # The call reads values; or it is faulty, and this raises its own error.
            with keras.StatelessScope() if model.built else calls_forgotten(model):
                model(x)


def run(
    model: Any,
    x: Any,
    *,
    training: bool,
    weights: Sequence[Any] = (),
    cotangent: Cotangent | None = None,
) -> Pass:
    """Call `model` on `x` and return what its layers' calls returned.

    The model, its weights, its seeds and all other state stay as they are.

    Args:
        model: a built model.
        x: inputs in the form that the model takes.
        training: the mode in which the layers are called.
        weights: trainable variables to return gradients for.
        cotangent: draws the gradient at each output of the model; with None nothing
            is differentiated.
    """
    backend = backends.load(WHO)
    with calls_forgotten(model), backend.isolated(model, cotangent is not None):
        recorder = Recorder(model, backend, who=WHO)

        def forward(x: Any, tap: Tap, mapping: Mapping) -> list[Any]:
            with keras.StatelessScope(mapping), recorder.recording(tap):
                outputs = keras.tree.flatten(model(x, training=training))
            return [y for y in outputs if backend.is_tensor(y) and _is_float(y)]

        def cotangents(outputs: list[Any]) -> list[Any]:
            assert cotangent is not None
            return [
                keras.ops.convert_to_tensor(cotangent(tuple(y.shape)), y.dtype)
                for y in outputs
            ]

        tensors, weight_gradients = backend.differentiate(
            forward,
            x,
            model.variables,
            weights,
            None if cotangent is None else cotangents,
        )
    calls = [
        # On JAX the recorded tensors belong to a finished trace; tapped ones do not.
        Call(output.key, output.layer, value, gradient)
        for output, (value, gradient) in zip(
            recorder.outputs(recorder.take()), tensors, strict=True
        )
    ]
    return Pass(calls, weight_gradients)


def _is_float(x: Any) -> bool:
    return bool(keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype)))


def _spec(x: Any) -> Any:
    if not hasattr(x, "shape"):
        return x
    return keras.KerasTensor(x.shape, keras.backend.standardize_dtype(x.dtype))
