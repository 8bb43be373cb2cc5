"""The arguments of a call as rules read them: signals, numbers, arrays, axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import Operation
from keras.layers import Concatenate, Layer
from numpy.typing import NDArray

from keras_initlab.model.own_weights import is_own, without_views
from keras_initlab.propagation.algebra import sampling
from keras_initlab.propagation.context import Arguments, RuleContext, UnknownLayer
from keras_initlab.propagation.signal import Array, Signal


def signals_in(arguments: Arguments) -> list[Signal]:
    """Return the signals among the arguments of a call, each once."""
    flat = keras.tree.flatten(arguments)
    return list(dict.fromkeys(x for x in flat if isinstance(x, Signal)))


def beside_signals(arguments: Arguments) -> list[Any]:
    """Return the arguments of a call that are not signals."""
    args, named = arguments
    if not named and all(isinstance(x, Signal) for x in args):
        return []  # as in most calls
    return [x for x in keras.tree.flatten(arguments) if not isinstance(x, Signal)]


def is_alone(inputs: Sequence[Signal], arguments: Arguments) -> bool:
    """Whether a call takes one signal, and no array beside it, such as a mask."""
    arrays = [x for x in beside_signals(arguments) if hasattr(x, "shape")]
    return len(inputs) == 1 and not arrays


def as_function_of(
    x: Signal, operation: Operation, arguments: Arguments
) -> Callable[[Any], Any]:
    """Return an operation on one tensor and numbers as a function of that tensor."""
    arguments = without_views(arguments)

    def function(values: Any) -> Any:
        args, kwargs = keras.tree.map_structure(
            lambda argument: values if argument is x else argument, arguments
        )
        return operation.call(*args, **kwargs)

    return function


def array_of(value: Any) -> NDArray[Any]:
    """Return a number, array, tensor or variable as a NumPy array."""
    if isinstance(value, keras.Variable):
        value = value.value
    is_tensor = keras.ops.is_tensor(value)
    return np.asarray(keras.ops.convert_to_numpy(value) if is_tensor else value)


def without_batch(array: NDArray[Any], rank: int) -> NDArray[Any]:
    """Return an array of a signal's rank with a batch of 1, if its rows are all equal.

    As a token has them that was repeated for each input.
    """
    if array.ndim != rank or rank == 0 or len(array) < 2:
        return array
    return array[:1] if np.array_equal(array[1:], array[:-1]) else array


def constant(values: Any, like: Signal) -> Signal:
    """Return the signal of a given array, which is the same for all inputs of a batch.

    Args:
        values: an array that broadcasts to the shape of `like` without its batch axis.
        like: a signal, which gives sizes and units.

    Raises:
        ValueError: the array differs from one input of the batch to the next.
    """
    rank = len(like.shape)
    array = without_batch(np.asarray(array_of(values), np.float64), rank)
    if array.ndim == rank and rank:
        if array.shape[0] != 1:
            raise ValueError(f"a constant for each input, of shape {array.shape}")
        array = array[0]
    if array.ndim >= max(rank, 1):
        raise ValueError(f"a constant of shape {array.shape} beside {like.shape}")
    array = array.reshape((1,) * (rank - 1 - array.ndim) + array.shape)
    # Stretched to the known sizes, so that pairs are counted correctly.
    target = [
        (size or 1) if length == 1 else length
        for length, size in zip(array.shape, like.shape[1:], strict=True)
    ]
    full = np.broadcast_to(array, target)
    # It is the same for two inputs of a batch.
    shape = (*(like.shape[:1] or (None,)), *target)
    signal = sampling.signal_of(np.stack([full, full]), shape, like)
    signal.pairs[..., 1] = signal.pairs[..., 0]
    return signal.evolve(profile=_profile(full), measured=False)


def shared(values: Any) -> Signal:
    """Return the signal of an array that all inputs of a batch share.

    Such as a layer makes of its weights alone. Its batch is of size 1.
    """
    array = array_of(values)
    if array.shape[:1] != (1,):
        array = array[None]
    like = Signal.independent(array.shape)
    return constant(array, like)


def piece(values: Any, like: Signal, axis: int) -> Signal:
    """Return the signal of an array that is joined to `like` along an axis.

    Raises:
        UnknownLayer: the array differs from one input of the batch to the next.
    """
    array = without_batch(array_of(values), len(like.shape))
    if array.ndim != len(like.shape) or array.shape[0] != 1:
        raise UnknownLayer(f"a constant of shape {array.shape}")
    shape = list(like.shape)
    shape[axis] = array.shape[axis]
    return constant(array, replace(like, shape=tuple(shape)))


def _profile(full: Array) -> dict[int, Array]:
    # A profile also means that the mean varies, as in a mask, unlike a position code.
    if full.size and full.min() < 0 < full.max():
        return {}
    squares = full**2
    level = float(squares.mean()) if squares.size else 0.0
    profile = {}
    for axis in range(squares.ndim):
        values = squares.mean(axis=tuple(a for a in range(squares.ndim) if a != axis))
        if level > 0 and np.ptp(values) > 1e-6 * level:
            profile[axis + 1] = values / level
    return profile


def with_constants(
    layer: Layer, inputs: tuple[Signal, ...], arguments: Arguments
) -> tuple[tuple[Signal, ...], Arguments]:
    """Return a layer's inputs, including the arrays that it reads as it reads signals.

    In `Add()([x, table])`, a rule receives the table as a signal, like x; and in
    `MultiHeadAttention()(probe, x)` the probe. An own layer reads arrays as they are.
    """
    args, kwargs = arguments
    row = args[0] if args else None
    if not isinstance(row, list | tuple) or not any(isinstance(x, Signal) for x in row):
        return (inputs, arguments) if is_own(layer) else _with_values(inputs, arguments)
    if all(isinstance(x, Signal) or not hasattr(x, "shape") for x in row):
        return inputs, arguments
    like = max((s for s in row if isinstance(s, Signal)), key=lambda s: len(s.shape))
    lift = constant
    if isinstance(layer, Concatenate):
        lift = partial(piece, axis=layer.axis)
    lifted = [x if isinstance(x, Signal) or x is None else lift(x, like) for x in row]
    leaves = keras.tree.flatten((args[1:], kwargs))
    signals = [x for x in (*lifted, *leaves) if isinstance(x, Signal)]
    return tuple(signals), ((lifted, *args[1:]), kwargs)


def _with_values(
    inputs: tuple[Signal, ...], arguments: Arguments
) -> tuple[tuple[Signal, ...], Arguments]:
    """Return the inputs and arguments of a call with arrays of their rank as signals.

    Arrays of whole numbers or truth are masks, and stay.
    """
    rank = max((len(x.shape) for x in inputs), default=0)
    leaves = [
        _signal_of_values(array_of(leaf))
        if _is_array(leaf) and len(leaf.shape) == rank > 1
        else leaf
        for leaf in keras.tree.flatten(arguments)
    ]
    signals = tuple(x for x in leaves if isinstance(x, Signal))
    if len(signals) <= len(inputs):
        return inputs, arguments
    return signals, keras.tree.pack_sequence_as(arguments, leaves)


def _is_array(value: Any) -> bool:
    is_array = isinstance(value, np.ndarray) or keras.ops.is_tensor(value)
    return is_array and "float" in keras.backend.standardize_dtype(value.dtype)


def _signal_of_values(array: NDArray[Any]) -> Signal:
    """Return the signal of an array with a row for each input of a batch.

    If all rows are the same, all inputs share it.
    """
    like = Signal.independent(array.shape)
    rows = without_batch(array, array.ndim)
    if len(rows) == 1:
        return constant(rows, like)
    return sampling.signal_of(array, array.shape, like).evolve(measured=False)


Operand = Signal | float | NDArray[Any]


def named(context: RuleContext, *names: str) -> list[Any]:
    """Return the arguments of a call in the order of `names`, None for missing ones."""
    args, kwargs = context.arguments
    return [
        args[place] if place < len(args) else kwargs.get(name)
        for place, name in enumerate(names)
    ]


def operands(context: RuleContext, *names: str) -> list[Operand]:
    """Return the arguments of a call in the order of `names`: signals, numbers, arrays.

    Raises:
        UnknownLayer: an array has different values for the inputs of the batch.
    """
    values = named(context, *names)
    rank = max(len(value.shape) for value in values if isinstance(value, Signal))
    return [_operand(value, rank) for value in values]


def _operand(value: Any, rank: int) -> Operand:
    if isinstance(value, Signal):
        return value
    array = array_of(value)
    if array.dtype.kind not in "biuf":  # bfloat16 has a kind of its own
        array = array.astype(np.float64)
    array = without_batch(array, rank)
    if array.size == 1 and array.ndim <= rank:
        return float(array.reshape(-1)[0])
    if array.ndim > rank or (array.ndim == rank and array.shape[0] != 1):
        raise UnknownLayer(f"a constant of shape {array.shape}")
    return array


def pair(context: RuleContext) -> tuple[Operand, Operand]:
    """Return both arguments of an operation on two."""
    x1, x2 = operands(context, "x1", "x2")
    return x1, x2


def lifted(values: Sequence[Operand]) -> list[Signal]:
    """Return all as signals: numbers and arrays as constant ones."""
    like = max((v for v in values if isinstance(v, Signal)), key=lambda v: len(v.shape))
    return [v if isinstance(v, Signal) else constant(v, like) for v in values]


def axis_of(axis: int, rank: int) -> int:
    """Return an axis counted from the front.

    Raises:
        UnknownLayer: it is the batch's.
    """
    axis = axis + rank if axis < 0 else axis
    if axis == 0:
        raise UnknownLayer("an operation on the batch axis")
    return axis


def axes_of(axes: Any, rank: int) -> tuple[int, ...]:
    """Return axes counted from the front; None stands for all, the batch's too."""
    if axes is None:
        raise UnknownLayer("an operation on all axes")
    several = axes if isinstance(axes, list | tuple) else [axes]
    return tuple(axis_of(int(axis), rank) for axis in several)


def spatial_axes(layer: Layer, x: Signal) -> tuple[tuple[int, ...], int]:
    """Return the axes of the positions, and that of the channels."""
    rank = len(x.shape)
    if getattr(layer, "data_format", None) == "channels_first":
        return tuple(range(2, rank)), 1
    return tuple(range(1, rank - 1)), rank - 1
