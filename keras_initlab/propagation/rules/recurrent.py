"""Recurrent layers: one rule for all, by the cell's equations."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from keras_initlab import activations
from keras_initlab.context import Construction
from keras_initlab.initializers import ForgetGateBias
from keras_initlab.initializers import Identity as OwnIdentity
from keras_initlab.propagation.dispatch import UnknownLayer, layer_rule
from keras_initlab.propagation.drawn import moments_of_draw
from keras_initlab.propagation.elementwise import function_of
from keras_initlab.propagation.entries import WeightMoments, current_moments
from keras_initlab.propagation.mixing import mix
from keras_initlab.propagation.recurrence import (
    Back,
    Gate,
    Recurrent,
    Run,
    Start,
    run_gru,
    run_lstm,
    run_simple,
)
from keras_initlab.propagation.signal import Array, Function, Gradient, Signal
from keras_initlab.propagation.steps import (
    MOST_STEPS,
    OPEN_STEPS,
    Steps,
    signal_of_step,
    signal_of_steps,
    steps_of,
    turned,
)
from keras_initlab.propagation.windows import Window

_TIME = 1
_ConvLSTMs = tuple(getattr(keras.layers, f"ConvLSTM{rank}D") for rank in (1, 2, 3))


@layer_rule("SimpleRNN", "LSTM", "GRU", "RNN")
@layer_rule("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
def recurrent(layer: Any, x: Signal, *_: Signal, context: Any) -> Any:
    """Return the signal of all steps or of the last one, and of the states if asked.

    Weights count as drawn independently; an orthogonal recurrent kernel makes the same
    of wide layers. States are zero before the first step, unless they are passed; a
    stateful layer's first batch is meant. Masked steps are taken to be few. Of more
    steps than `steps.MOST_STEPS` the later ones are as the last.

    Raises:
        UnknownLayer: a cell of a kind that nobody has written down here.
    """
    cells = _cells(layer.cell)
    given = _initial_state(layer, cells, context)
    if layer.go_backwards:
        x = turned(x)
    states: list[Signal] = []
    for cell, start in zip(cells, given, strict=True):
        x, after = _run(cell, x, start, context)
        states.extend(after)
    out = turned(x) if layer.go_backwards else x
    last = states[-_state_count(cells[-1])]
    first = out if layer.return_sequences else last
    if not layer.return_state:
        return first
    return (first, *states)


def _cells(cell: Any) -> list[Any]:
    """Return the cells that a layer runs, one on top of the other."""
    if type(cell) is keras.layers.StackedRNNCells:
        return [one for inner in cell.cells for one in _cells(inner)]
    if _kind(cell) is None:
        raise UnknownLayer(type(cell).__name__)
    return [cell]


def _kind(cell: Any) -> str | None:
    """Return which equations a cell follows; None where its own."""
    for name in ("SimpleRNNCell", "LSTMCell", "GRUCell"):
        known = getattr(keras.layers, name)
        if isinstance(cell, known) and type(cell).call is known.call:
            return name
    return "ConvLSTMCell" if type(cell).__name__ == "ConvLSTMCell" else None


def _state_count(cell: Any) -> int:
    return 2 if "LSTM" in str(_kind(cell)) else 1


def _initial_state(
    layer: Any, cells: list[Any], context: Any
) -> list[list[Signal | None]]:
    """Return the states before the first step, of each cell; None stands for zeros."""
    args, named = context.arguments
    passed = keras.tree.flatten((args[1:], named.get("initial_state")))
    flat = [one for one in passed if isinstance(one, Signal)]
    counts = [_state_count(cell) for cell in cells]
    if len(flat) != sum(counts):
        flat = [None] * sum(counts)  # type: ignore[list-item]
    found, at = [], 0
    for count in counts:
        found.append(list(flat[at : at + count]))
        at += count
    return found  # type: ignore[return-value]


@dataclass(frozen=True)
class _Shape:
    """Where a cell's units and places lie in its output, and how they are reached."""

    units: int
    channel: int
    shape: tuple[int | None, ...]  # of all steps
    windows: dict[int, Window]  # of the input's kernel
    inner: dict[int, Window]  # of the recurrent kernel


def _shape(cell: Any, x: Signal) -> _Shape:
    if _kind(cell) != "ConvLSTMCell":
        shape = (*x.shape[:-1], cell.units)
        return _Shape(cell.units, len(x.shape) - 1, shape, {}, {})
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
    return _Shape(cell.filters, channel, tuple(sizes), windows, inner)


def _run(
    cell: Any, x: Signal, given: list[Signal | None], context: Any
) -> tuple[Signal, list[Signal]]:
    """Return the signal of all steps of a cell, and its last states."""
    shape = _shape(cell, x)
    x = x.with_units((shape.channel,))
    x = _masked(x, cell.dropout if context.training else 0.0)
    gates = {"SimpleRNNCell": 1, "GRUCell": 3}.get(str(_kind(cell)), 4)
    z = mix(
        x,
        context.draw(cell, "kernel"),
        shape=shape.shape,
        units=(shape.channel,),
        fan=int(x.shape[shape.channel] or 1),
        copies=gates * shape.units,
        windows=shape.windows,
    )
    z = _weighing(z)
    length = x.shape[_TIME]
    steps = min(length or OPEN_STEPS, MOST_STEPS)
    inputs = steps_of(z, _TIME, steps, places=bool(shape.windows))
    kinds = len(inputs.pairs)
    starts = [_start(one, kinds) for one in given]
    kernel = _recurrent(cell, shape, kinds, context)
    run = _follow(cell, inputs, kernel, starts, context)
    return _signals(run, inputs, z, given, length, shape)


@dataclass(frozen=True)
class _AtSteps(Gradient):
    """A gradient that also knows what two steps share of it, as inputs weigh them."""

    weighed: float = 0.0


def _weighing(z: Signal) -> Signal:
    """Return the signal, its kernel's gradient by which steps' inputs are alike."""
    ((layer, weight, rule),) = z.weights

    def weighed(gradient: Gradient) -> float:
        if isinstance(gradient, _AtSteps):
            gradient = replace(gradient, position=gradient.weighed)
        return rule(gradient)

    return replace(z, weights=((layer, weight, weighed),))


def _at_steps(back: Back, inputs: Steps, length: int | None) -> Gradient:
    """Return the gradient at the inputs' share of pre-activations."""
    size, mean = len(back.steps), float(back.steps.mean())
    if not mean > 0:
        return Gradient(0.0)
    shape = back.steps / mean
    root = np.sqrt(shape)
    at = np.minimum(np.arange(size), len(inputs.mean) - 1)
    # By what the inputs of two steps share; all pairs alike where that is nothing.
    shared = np.triu(np.outer(root, root) * np.abs(inputs.pairs[0][np.ix_(at, at)]), 1)
    if shared.sum() < 1e-9 * inputs.seconds.max():
        shared = np.triu(np.outer(root, root), 1)
    level = float((back.pairs * shared / np.outer(root, root)).sum() / shared.sum())
    pairs = max(size * (size - 1) / 2, 1)
    return _AtSteps(
        mean,
        level * float(root.mean()) ** 2,
        {_TIME: shape} if size == length else {},
        weighed=level * float(root.mean()) ** 2,
    )


def _masked(x: Signal, rate: float) -> Signal:
    """Return the signal behind dropout that drops the same units at every step."""
    if not 0 < rate < 1:
        return x
    pairs = x.pairs.copy()
    pairs[0, 0, 0] /= 1 - rate
    # Steps share the mask. Where there are places as well, these do not: few steps
    # are then told from places by what is near.
    pairs[0, 1, 0] /= (1 - rate) if len(x.positions) == 1 else 1.0
    near = {axis: values / (1 - rate) for axis, values in x.near.items()}
    pull = (x, lambda gradient: gradient.times(1 / (1 - rate)))
    return x.evolve(pairs=pairs, near=near, parents=(pull,))


def _start(signal: Signal | None, kinds: int) -> Start:
    if signal is None:
        return Start(np.zeros(kinds))
    return Start(signal.pairs[0].ravel()[:kinds], signal.mean)


def _recurrent(cell: Any, shape: _Shape, kinds: int, context: Any) -> Recurrent:
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
    initializer = getattr(cell, "recurrent_initializer", None)
    identity = isinstance(initializer, keras.initializers.Identity | OwnIdentity)
    if identity and not context.from_values:
        # Each unit is handed its own state: no sum that would make it Gaussian.
        raise UnknownLayer("a recurrent kernel that is an identity")
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


def _follow(
    cell: Any, inputs: Steps, kernel: Recurrent, starts: list[Start], context: Any
) -> Run:
    kind, activation = _kind(cell), _function(cell.activation)
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


def _signals(
    run: Run,
    inputs: Steps,
    z: Signal,
    given: list[Signal | None],
    length: int | None,
    shape: _Shape,
) -> tuple[Signal, list[Signal]]:
    """Return the signal of all steps and those of the last states, with the way back.

    A gradient at one output does not know that at another.
    """
    size = min(length or OPEN_STEPS, 1024)
    last = len(run.hidden.mean) - 1
    alone = tuple(axis - 1 for axis in z.axes if axis != _TIME)
    one_step = Signal(
        (z.shape[0], *z.shape[2:]), (shape.channel - 1,), 0.0, np.zeros((2, 2, 2))
    )
    places = tuple(axis for axis in alone if axis != shape.channel - 1)

    def parents(spread: Any) -> tuple[tuple[Signal, Any], ...]:
        def to_steps(gradient: Gradient) -> Gradient:
            return _at_steps(run.backward(*spread(gradient)), inputs, length)

        def to_start(index: int) -> Any:
            def pull(gradient: Gradient) -> Gradient:
                return Gradient(run.backward(*spread(gradient)).start[index])

            return pull

        starts = [(one, to_start(i)) for i, one in enumerate(given) if one is not None]
        return ((z, to_steps), *starts)

    def at_steps(gradient: Gradient) -> tuple[Array, float, float]:
        level = np.full(size, gradient.second)
        profile = gradient.profile.get(_TIME)
        if profile is not None and len(profile) >= size:
            level = gradient.second * profile[:size]
        return level, max(gradient.position, 0.0), 0.0

    def at_end(gradient: Gradient) -> tuple[Array, float, float]:
        level = np.zeros(size)
        level[-1] = gradient.second
        return level, 0.0, 0.0

    def at_carry(gradient: Gradient) -> tuple[Array, float, float]:
        return np.zeros(size), 0.0, gradient.second

    out = signal_of_steps(run.hidden, z, _TIME, length, backwards=False)
    out = out.evolve(parents=parents(at_steps))
    end = signal_of_step(run.hidden, one_step, last, places)
    states = [end.evolve(parents=parents(at_end), measured=z.measured)]
    if run.carry is not None:
        end = signal_of_step(run.carry, one_step, last, places)
        states.append(end.evolve(parents=parents(at_carry), measured=z.measured))
    return out, states
