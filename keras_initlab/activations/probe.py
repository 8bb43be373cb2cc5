"""Evaluates any activation on NumPy arrays, and recognises it by its values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_initlab.activations.table import (
    NAMED,
    Activation,
    gelu_tanh,
    leaky_relu,
)

__all__ = ["in_numpy", "is_elementwise", "recognise", "recognise_rows"]

Array = NDArray[np.float64]

# Dense where activations bend, close to the points where they jump, and far out for
# activations that are clipped far from 0.
_KINKS = np.array(sorted({kink for row in NAMED.values() for kink in row.kinks}))
_FAR = np.array([-1000.0, -100.0, -30.0, -15.0, 15.0, 30.0, 100.0, 1000.0])
_GRID = np.concatenate(
    [np.linspace(-8.05, 8.03, 200), _KINKS - 1e-5, _KINKS + 1e-5, _FAR]
)
_CHUNK = 1024
_ROWS = np.linspace(-1.7, 2.3, 24).reshape(3, 8) * np.array([[1.0], [-1.0], [0.5]])

# The two forms of gelu differ by 5e-4. Errors of float32 and of the backends' shortcuts
# are smaller (PyTorch: softplus(x) = x above 20; TensorFlow: a float32 slope; XLA: tanh
# is off by 2e-7 at 8).
_TOLERANCE = {8: 5e-7, 4: 2e-5}
_COARSE = 2e-2


def _jax_x64() -> AbstractContextManager[Any]:
    import jax

    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)  # type: ignore[no-any-return]
    from jax.experimental import enable_x64  # before JAX 0.8

    return enable_x64()  # type: ignore[no-any-return]


def _evaluation_scope(device: str | None) -> ExitStack:
    """Evaluate eagerly and in up to float64, even while a model is being traced."""
    stack = ExitStack()
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        stack.enter_context(tf.init_scope())
    elif backend == "jax":
        import jax

        stack.enter_context(jax.ensure_compile_time_eval())
        stack.enter_context(_jax_x64())
    elif backend == "torch":
        import torch

        stack.enter_context(torch.no_grad())
    stack.enter_context(keras.device(device) if device else nullcontext())
    return stack


def _attempts() -> Iterator[tuple[str | None, str]]:
    # The CPU first: PyTorch traces on the "meta" device, which holds no values. A
    # callable that has weights may need the device of these.
    devices = ("cpu", None) if keras.backend.backend() == "torch" else (None,)
    for device in devices:
        for dtype in ("float64", "float32"):
            yield device, dtype


def in_numpy(function: Callable[[Any], Any]) -> Callable[[Array], NDArray[Any]]:
    """Return the callable for NumPy arrays, run in float64 if it accepts that.

    Otherwise it runs in float32. Results keep their dtype, which shows their precision.
    """

    def evaluate(x: Array) -> NDArray[Any]:
        if keras.backend.backend() != "jax" or x.ndim != 1:
            return attempted(x)
        # JAX compiles anew for every shape: one shape, then.
        size, padded = x.size, -(-x.size // _CHUNK) * _CHUNK
        chunks = np.pad(x, (0, padded - size), mode="edge").reshape(-1, _CHUNK)
        every = [attempted(chunk) for chunk in chunks]
        # An answer of another shape is for the caller to refuse.
        odd = [values for values in every if values.shape != (_CHUNK,)]
        return odd[0] if odd else np.concatenate(every)[:size]

    def attempted(x: Array) -> NDArray[Any]:
        problem: Exception | None = None
        for device, dtype in _attempts():
            try:
                with _evaluation_scope(device):
                    result = function(keras.ops.convert_to_tensor(x, dtype=dtype))
                    return np.asarray(keras.ops.convert_to_numpy(result))
            except Exception as error:  # whatever a user's function may raise
                problem = problem or error
        assert problem is not None
        raise problem

    return evaluate


def _agree(values: NDArray[Any], reference: NDArray[Any]) -> bool:
    tolerance = _TOLERANCE.get(values.dtype.itemsize, _COARSE)
    with np.errstate(all="ignore"):
        values, reference = values.astype(np.float64), np.asarray(reference)
        # Points where either overflows are ignored.
        finite = np.isfinite(values) & np.isfinite(reference)
        error = np.abs(values - reference)[finite]
        scale = 1.0 + np.abs(reference)[finite]
    return bool(finite.mean() > 0.9 and (error <= tolerance * scale).all())


def is_elementwise(evaluate: Callable[[Array], NDArray[Any]]) -> bool:
    """Whether each value depends on its own input alone, the same way in each call."""
    values = evaluate(_GRID)
    if values.shape != _GRID.shape:
        return False
    subset = slice(3, 200, 5)  # without the far points, so that the maximum changes
    pairs = [
        (values, evaluate(_GRID[::-1])[::-1]),
        (values[subset], evaluate(_GRID[subset])),
    ]
    return all(
        second.shape == first.shape
        and _agree(
            np.nan_to_num(first),
            np.nan_to_num(second.astype(first.dtype, copy=False)),
        )
        for first, second in pairs
    )


def recognise(evaluate: Callable[[Array], NDArray[Any]]) -> Activation | None:
    """Return the named activation or leaky ReLU that has these values, or None."""
    values = evaluate(_GRID)
    with np.errstate(all="ignore"):
        for row in (*NAMED.values(), gelu_tanh):
            if row.function and _agree(values, np.asarray(row.function(_GRID))):
                return row
        slope = -float(evaluate(np.array([-1.0]))[0])
        # TensorFlow keeps the slope in float32 even for float64 inputs.
        if abs(slope - round(slope, 6)) <= 1e-7 * abs(slope):
            slope = round(slope, 6)
        if not np.isfinite(slope):
            return None
        leaky = leaky_relu(slope)
        assert leaky.function is not None
        return leaky if _agree(values, np.asarray(leaky.function(_GRID))) else None


def _softmax(x: Array) -> Array:
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def _sparsemax(x: Array, *, as_keras: bool = False) -> Array:
    ordered = -np.sort(-x, axis=-1)
    excess = np.cumsum(ordered, axis=-1)
    support = ordered * np.arange(1, x.shape[-1] + 1) > excess - 1.0
    size = support.sum(axis=-1, keepdims=True)
    # Keras (3.15) sums the cumulative sums, so that its rows do not add up to 1.
    total = (excess * support).sum(axis=-1, keepdims=True)
    if not as_keras:
        total = np.take_along_axis(excess, size - 1, axis=-1)
    return np.asarray(np.maximum(x - (total - 1.0) / size, 0.0))


def recognise_rows(evaluate: Callable[[Array], NDArray[Any]]) -> Activation | None:
    """Return the activation along the last axis (softmax, glu, …) with these values."""
    try:
        values = evaluate(_ROWS)
    except Exception:  # it may need vectors, which are tried next
        return None
    half = _ROWS.shape[-1] // 2
    references = [
        ("softmax", _softmax(_ROWS)),
        ("log_softmax", np.log(_softmax(_ROWS))),
        ("sparsemax", _sparsemax(_ROWS)),
        ("sparsemax", _sparsemax(_ROWS, as_keras=True)),
        ("glu", _ROWS[:, :half] / (1.0 + np.exp(-_ROWS[:, half:]))),
    ]
    for name, reference in references:
        if values.shape == reference.shape and _agree(values, reference):
            return NAMED[name]
    return None
