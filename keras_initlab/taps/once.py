"""One batch through a model, once: every layer's output, and the gradient there.

Any model goes that Keras can call, also one whose Python looks at values.
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

# Given a shape, the gradient of a loss with respect to a model output of that shape.
Cotangent = Callable[[tuple[int, ...]], np.ndarray]

# Given a layer's output, what goes on in its place.
Tap = Callable[[Any], Any]

# Variables, and the tensors that stand in for their values.
Mapping = Sequence[tuple[Any, Any]]


class Call(NamedTuple):
    """One call of a layer; `gradient` is None where the outputs do not depend on it."""

    key: str
    layer: Any
    output: Any
    gradient: Any | None


class Pass(NamedTuple):
    """What one batch did, in the order in which the calls ended."""

    calls: list[Call]
    weight_gradients: list[Any | None]


def build(model: Any, x: Any) -> None:
    """Make the weights that are still missing, as a first call on `x` would.

    Nothing is done to a model that has them all, or to the state of one that has some.
    """
    if model.built and all(place.layer.built for place in places(model)):
        return
    with unbuilt_on_failure(model):
        try:
            with calls_forgotten(model):
                output_spec(model, keras.tree.map_structure(_spec, x))
        except Exception:
            # Its call needs values; or it is in error, and this will say so.
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

    The model, its weights, its seeds and all other state are as before afterwards.

    Args:
        model: a built model.
        x: as the model takes it.
        training: what the layers are told.
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
        # On JAX the recorded tensor is of a trace that is over; what was tapped is not.
        Call(one.key, one.layer, value, gradient)
        for one, (value, gradient) in zip(
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
