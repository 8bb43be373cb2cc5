"""Measures a batch where trained weights read it first.

Everything that a model computes from its inputs without trainable weights, that is
preprocessing and frozen layers, is computed on the batch.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_initlab.model.batch import values_of
from keras_initlab.model.graph import Call, Graph
from keras_initlab.model.keras_internals import calls_forgotten
from keras_initlab.model.layers import learns
from keras_initlab.model.preprocessing import Output
from keras_initlab.propagation.given import Given, MeasuredMoments, SharedTokens
from keras_initlab.propagation.signal import Shape

Array = NDArray[np.float64]

# What draws anew at each call of training, and has a rule.
_NOISE = frozenset(
    "Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D AlphaDropout "
    "GaussianDropout GaussianNoise".split()
)


def given_by(
    model: Any, graph: Graph, shapes: Sequence[tuple[str, Shape]], x: Any
) -> Given:
    """Return the moments, on a batch, of the tensors that trained weights read first.

    Args:
        model: a built model.
        graph: its flat graph.
        shapes: name and shape of each of the model's inputs.
        x: the batch, as the model takes it.

    Raises:
        TypeError: the batch holds no arrays.
        ValueError: it does not fit the inputs, is empty, not finite, or zero.
    """
    leaves = _leaves(shapes, x)
    names = [name for name, _ in shapes]
    reading = _Reading(dict(zip(graph.inputs, leaves, strict=True)), len(leaves[0]))
    inputs = [_measured(*pair) for pair in zip(names, leaves, strict=True)]
    reading.inputs.update(zip(graph.inputs, inputs, strict=True))
    with calls_forgotten(model), keras.StatelessScope():
        for call in graph.calls:
            reading.run(call)
    measured = tuple(reading.measured.values())
    for moments in measured:
        _check_not_zero(moments)
    return Given(inputs, reading.outputs, reading.read, measured)


class _Reading:
    """The tensors that can be computed on a batch, and the moments that are read.

    Attributes:
        inputs: the moments of the model's inputs, by their numbers.
        outputs, read: see `Given`.
        measured: what was read of the batch, by the tensors' numbers.
    """

    def __init__(self, values: dict[int, Any], count: int) -> None:
        self.inputs: dict[int, MeasuredMoments | None] = {}
        self.outputs: dict[Output, MeasuredMoments | SharedTokens] = {}
        self.read: dict[int, MeasuredMoments] = {}
        self.measured: dict[int, MeasuredMoments | SharedTokens] = {}
        self._values = values
        self._count = count
        self._makers: dict[int, tuple[Call, int]] = {}

    def run(self, call: Call) -> None:
        """Compute a call, or measure what it reads where that is not to be done."""
        outputs = _computed(call, self._values)
        if outputs is not None:
            self._values.update(zip(call.outputs, outputs, strict=True))
            places = [(call, place) for place in range(len(outputs))]
            self._makers.update(zip(call.outputs, places, strict=True))
        elif _looks_up(call) and call.inputs[0] in self._values:
            alike = _alike(self._values[call.inputs[0]])
            tokens = SharedTokens(call.path, self._count, alike)
            self.outputs[call.key, 0] = self.measured[call.outputs[0]] = tokens
        else:
            for number in call.inputs:
                moments = self._moments(number)
                if moments is not None:
                    self.read.setdefault(id(call.operation), moments)

    def _moments(self, number: int) -> MeasuredMoments | None:
        """Return the moments of a tensor; None if it depends on trained weights."""
        measured = self.measured.get(number)
        if measured is not None:
            return measured if isinstance(measured, MeasuredMoments) else None
        moments = self.inputs.get(number)
        if number in self._makers:
            maker, place = self._makers[number]
            moments = _measured(maker.path, self._values[number])
            if moments is not None:
                self.outputs[maker.key, place] = moments
        if moments is not None:
            self.measured[number] = moments
        return moments


def _leaves(shapes: Sequence[tuple[str, Shape]], x: Any) -> list[Any]:
    """Return the arrays of a batch, in the order of the model's inputs."""
    names = [name for name, _ in shapes]
    if isinstance(x, Mapping) and set(names) <= set(x):
        arrays = [x[name] for name in names]
    else:
        arrays = keras.tree.flatten(x)
    if len(arrays) != len(shapes):
        raise ValueError(
            f"`x` must have an array for each of the model's inputs, "
            f"{', '.join(map(repr, names))}. Received: {len(arrays)} of them. Pass a "
            "list in this order, or a dict by these names."
        )
    leaves = [
        _checked(name, shape, array)
        for (name, shape), array in zip(shapes, arrays, strict=True)
    ]
    lengths = {len(leaf) for leaf in leaves}
    if len(lengths) > 1:
        raise ValueError(
            "`x` must hold as many of each input. Received: "
            f"{', '.join(str(len(leaf)) for leaf in leaves)}."
        )
    return leaves


def _checked(name: str, shape: Shape, leaf: Any) -> Any:
    if not hasattr(leaf, "shape"):
        raise TypeError(
            "`x` must be a batch of data as the model takes it: an array, a tensor, or "
            f"a list, tuple or dict of these. Received: {reprlib.repr(leaf)} of type "
            f"{type(leaf).__name__} for the input {name!r}. Turn lists of numbers into "
            "NumPy arrays."
        )
    values = values_of(leaf)
    # As Keras does: a last axis of length 1 may be missing.
    if values.ndim == len(shape) - 1 and shape[-1] == 1:
        values = values[..., None]
    fits = values.ndim == len(shape) and all(
        wanted in (None, size)
        for wanted, size in zip(shape[1:], values.shape[1:], strict=True)
    )
    if not fits or not values.size:
        raise ValueError(
            f"`x` must be a batch of shape {shape} for the input {name!r}. Received: "
            f"shape={values.shape}. Pass it as the model is called on it."
        )
    if values.dtype.kind in "fc" and not np.isfinite(values).all():
        wrong = int(np.count_nonzero(~np.isfinite(values)))
        raise ValueError(
            f"`x` must be finite. Received: {wrong} values of NaN or infinity for the "
            f"input {name!r}. Drop or fill them first."
        )
    return values


def _check_not_zero(moments: MeasuredMoments | SharedTokens) -> None:
    if isinstance(moments, MeasuredMoments) and not moments.second > 0:
        raise ValueError(
            f"`x` must tell how large inputs are. Received: a batch that is 0 at "
            f"{moments.name!r}, wherever a layer with weights reads it. Pass other "
            "inputs."
        )


def _computed(call: Call, values: Mapping[int, Any]) -> list[Any] | None:
    """Return the outputs of a call on the batch; None if it must not be run."""
    symbols = call.node.input_tensors
    if not call.inputs or len(symbols) != len(call.inputs) or not _is_fixed(call):
        return None
    if not all(number in values for number in call.inputs):
        return None
    by_symbol = {
        id(symbol): _as_tensor(values[number], symbol.dtype)
        for number, symbol in zip(call.inputs, symbols, strict=True)
    }
    args, kwargs = call.filled(by_symbol)
    outputs = keras.tree.flatten(call.operation(*args, **kwargs))
    return [_as_array(output) for output in outputs]


def _is_fixed(call: Call) -> bool:
    """Whether training does not change what a call computes."""
    if type(call.operation).__name__ in _NOISE:
        return False
    if call.owner is not None or call.kernel is not None:
        return False
    if call.is_layer:
        layer = call.operation
        return not (learns(layer) and layer.trainable)
    arguments = call.node.arguments
    return not any(
        isinstance(value, keras.Variable) and value.trainable
        for value in keras.tree.flatten((arguments.args, arguments.kwargs))
    )


def _looks_up(call: Call) -> bool:
    return isinstance(call.operation, keras.layers.Embedding)


def _as_tensor(values: Any, dtype: str) -> Any:
    if getattr(values, "dtype", None) is not None and values.dtype.kind in "OSU":
        return values
    return keras.ops.convert_to_tensor(values, dtype=dtype)


def _as_array(tensor: Any) -> Any:
    return values_of(keras.ops.stop_gradient(tensor))


def _measured(name: str, values: Any) -> MeasuredMoments | None:
    """Return the moments of an array (batch, ..., units); None where it has none."""
    if values.dtype.kind not in "biuf":
        return None
    wide = values.astype(np.float64)
    if wide.ndim < 2:
        wide = wide.reshape(len(wide), 1)
    stack = wide.reshape(len(wide), -1, wide.shape[-1])
    mean = float(stack.mean())
    return MeasuredMoments(name, len(stack), mean, _pairs(stack, mean**2))


def _pairs(stack: Array, unknown: float) -> Array:
    """Return E[x x'] of two elements of (inputs, positions, units), by what differs.

    `unknown` stands where there are no such two. Index 1 stands for "differs", in the
    order of units, positions, inputs.
    """
    counts = np.ones((2, 2, 2))
    sums = np.zeros((2, 2, 2))
    axes = (2, 1, 0)
    for free in np.ndindex(2, 2, 2):
        summed = tuple(
            axis for axis, is_free in zip(axes, free, strict=True) if is_free
        )
        total = stack.sum(axis=summed) if summed else stack
        sums[free] = np.square(total).sum()
        counts[free] = stack.size * math.prod(stack.shape[axis] for axis in summed)
    for axis in range(3):
        # Of pairs that may differ there, those that do: without those that do not.
        _without_equal(sums, axis)
        _without_equal(counts, axis)
    missing = counts <= 0
    pairs: Array = np.where(missing, unknown, sums / np.where(missing, 1.0, counts))
    return pairs


def _without_equal(table: Array, axis: int) -> None:
    differs, equal = [slice(None)] * 3, [slice(None)] * 3
    differs[axis], equal[axis] = slice(1, 2), slice(0, 1)
    table[tuple(differs)] -= table[tuple(equal)]


def _alike(tokens: Any) -> Array:
    """Return `SharedTokens.alike` for tokens (inputs, ...)."""
    rows = tokens.reshape(len(tokens), -1)
    _, numbers = np.unique(rows, return_inverse=True)
    numbers = numbers.reshape(rows.shape)
    size = int(numbers.max()) + 1
    inputs, positions = rows.shape
    row = np.arange(inputs)[:, None] * size + numbers
    column = np.arange(positions)[None, :] * size + numbers
    # Pairs that hold one token: (equal, any) by position and by input.
    sums = np.array(
        [
            [rows.size, _squares(column)],
            [_squares(row), _squares(numbers)],
        ],
        dtype=np.float64,
    )
    counts = np.array(
        [
            [rows.size, rows.size * inputs],
            [rows.size * positions, rows.size**2],
        ],
        dtype=np.float64,
    )
    for table in (sums, counts):
        table[1, :] -= table[0, :]
        table[:, 1] -= table[:, 0]
    return np.where(counts > 0, sums / np.maximum(counts, 1.0), 0.0)


def _squares(numbers: NDArray[np.int64]) -> float:
    _, counts = np.unique(numbers, return_counts=True)
    return float(np.square(counts.astype(np.float64)).sum())
