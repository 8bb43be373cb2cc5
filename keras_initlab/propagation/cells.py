"""What a recurrent cell is made of: its equations, shape, kernels and biases."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_initlab import activations
from keras_initlab.initializers import ForgetGateBias
from keras_initlab.initializers import Identity as OwnIdentity
from keras_initlab.model.construction import Construction
from keras_initlab.propagation.dispatch import UnknownLayer
from keras_initlab.propagation.drawn import moments_of_draw
from keras_initlab.propagation.elementwise import function_of
from keras_initlab.propagation.entries import WeightMoments, current_moments
from keras_initlab.propagation.gru import run_gru
from keras_initlab.propagation.lstm import run_lstm
from keras_initlab.propagation.recurrence import (
    Gate,
    Recurrent,
    Run,
    Start,
    run_simple,
)
from keras_initlab.propagation.signal import Function, Signal
from keras_initlab.propagation.steps import Steps
from keras_initlab.propagation.windows import Window


def cells_of(cell: Any, context: Any) -> list[Any]:
    """Return the cells that a layer runs, one on top of the other.

    Raises:
        UnknownLayer: a cell of its own kind; an activation that is not elementwise; a
            recurrent kernel that hands each unit its own state, with no sum that would
            make it Gaussian.
    """
    if type(cell) is keras.layers.StackedRNNCells:
        return [one for inner in cell.cells for one in cells_of(inner, context)]
    if kind_of(cell) is None:
        raise UnknownLayer(type(cell).__name__)
    _function(cell.activation)
    _function(getattr(cell, "recurrent_activation", None))
    identity = keras.initializers.Identity | OwnIdentity
    if not context.from_values and isinstance(cell.recurrent_initializer, identity):
        raise UnknownLayer("a recurrent kernel that is an identity")
    return [cell]


def kind_of(cell: Any) -> str | None:
    """Return which equations a cell follows; None where its own."""
    for name in ("SimpleRNNCell", "LSTMCell", "GRUCell"):
        known = getattr(keras.layers, name)
        if isinstance(cell, known) and type(cell).call is known.call:
            return name
    kind = type(cell)  # the one cell that `keras.layers` does not name
    own = kind.__name__ == "ConvLSTMCell" and kind.__module__.startswith("keras.")
    return "ConvLSTMCell" if own else None


def state_count(cell: Any) -> int:
    """Return how many states a cell has."""
    return 2 if "LSTM" in str(kind_of(cell)) else 1


@dataclass(frozen=True)
class CellShape:
    """Where a cell's units and places lie in its output, and how they are reached."""

    units: int
    channel: int
    shape: tuple[int | None, ...]  # of all steps
    windows: dict[int, Window]  # of the input's kernel
    inner: dict[int, Window]  # of the recurrent kernel


def shape_of(cell: Any, x: Signal) -> CellShape:
    """Return the shape of what a cell makes of x, units along one axis."""
    if kind_of(cell) != "ConvLSTMCell":
        shape = (*x.shape[:-1], cell.units)
        return CellShape(cell.units, len(x.shape) - 1, shape, {}, {})
    rank = len(x.shape)
    first = cell.data_format == "channels_first"
    channel = 2 if first else rank - 1
    places = [axis for axis in range(2, rank) if axis != channel]
    windows, inner, sizes = {}, {}, list(x.shape)
    for i, axis in enumerate(places):
        windows[axis] = Window(
            x.shape[axis],
            cell.kernel_size[i],
            cell.strides[i],
            cell.dilation_rate[i],
            cell.padding,
        )
        sizes[axis] = windows[axis].output_length
        inner[axis] = Window(sizes[axis], cell.kernel_size[i], padding="same")
    sizes[channel] = cell.filters
    return CellShape(cell.filters, channel, tuple(sizes), windows, inner)


def recurrent_of(cell: Any, shape: CellShape, kinds: int, context: Any) -> Recurrent:
    """Return what the recurrent kernel does to moments."""
    moments = context.weight(cell, "recurrent_kernel")
    field = math.prod(window.size for window in shape.inner.values())
    count = shape.units * field
    alone = across = 1.0
    for window in shape.inner.values():
        mean, cross, _ = window.forward(None)
        alone, across = alone * mean, across * cross
    gains = np.array([alone, alone, across, across][:kinds]) * count
    gains *= moments.second_moment
    back = float(gains[0])
    if context.training and 0 < cell.recurrent_dropout < 1:
        gains[0] /= 1 - cell.recurrent_dropout
        back /= 1 - cell.recurrent_dropout
    mean = moments.mean * count * math.sqrt(alone)
    return Recurrent(gains, mean, count * moments.mean**2, back)


def _function(activation: Any) -> Function:
    """Return a gate's function; any that is not elementwise is left to be measured."""
    try:
        known = activations.resolve(activation)
    except (TypeError, ValueError):
        raise UnknownLayer(repr(activation)) from None
    if known.function is None:
        raise UnknownLayer(known.name)
    return function_of(known)


def follow(
    cell: Any, inputs: Steps, kernel: Recurrent, starts: list[Start], context: Any
) -> Run:
    """Return what a cell makes of its inputs' share of pre-activations."""
    kind, activation = kind_of(cell), _function(cell.activation)
    if kind == "SimpleRNNCell":
        (bias,) = _biases(cell, 1, context)
        return run_simple(inputs, _gate(activation, bias), kernel, starts[0])
    opening = _function(cell.recurrent_activation)
    if kind == "GRUCell":
        made = _biases(cell, 3, context)
        after = cell.reset_after and cell.use_bias
        # Two biases: that of the inputs' share and that of the state's.
        z, r, h = made[:3]
        twice = (
            (_gate(opening, z, made[3]), _gate(opening, r, made[4])) if after else ()
        )
        once = (_gate(opening, z), _gate(opening, r))
        candidate = _gate(activation, made[5] if after else None)
        return run_gru(
            inputs,
            (*(twice or once), _gate(activation, h)),
            candidate if cell.reset_after else None,
            kernel,
            starts[0],
        )
    i, f, g, o = _biases(cell, 4, context)
    gates = (
        _gate(opening, i),
        _gate(opening, f),
        _gate(activation, g),
        _gate(opening, o),
    )
    return run_lstm(inputs, gates, activation, kernel, starts[0], starts[1])


def _gate(function: Function, *biases: WeightMoments | None) -> Gate:
    known = [one for one in biases if one is not None]
    return Gate(
        function, sum(one.mean for one in known), sum(one.variance for one in known)
    )


def _biases(cell: Any, gates: int, context: Any) -> list[WeightMoments | None]:
    """Return the moments of each gate's bias; of a GRU's two rows one after the other.

    One call of the initializer for all gates would mix them, as their mean does.
    """
    if not cell.use_bias:
        return [None] * gates
    bias, initializer = cell.bias, cell.bias_initializer
    rows = bias.shape[0] if len(bias.shape) == 2 else 1
    count = gates * rows
    forgets = getattr(cell, "unit_forget_bias", False)
    fixed = isinstance(initializer, ForgetGateBias) and not forgets
    if context.from_values or initializer is None or fixed:
        values = bias
        if fixed and not context.from_values:
            known = Construction(cell, "bias", ())
            values = initializer.values(tuple(bias.shape), "float32", known)
        flat = keras.ops.convert_to_numpy(values).reshape(count, -1)
        return [current_moments(part) for part in flat]
    size = math.prod(bias.shape) // count
    found = moments_of_draw(initializer, (size,), None)
    made: list[WeightMoments | None] = [found] * count
    if forgets:
        made[1] = WeightMoments(1.0, 1.0)
    return made
