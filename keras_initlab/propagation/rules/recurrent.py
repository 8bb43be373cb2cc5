"""Recurrent layers: one rule for all, by the equations of the cell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras.layers import Layer
from numpy.typing import NDArray

from keras_initlab.initializers import ForgetGateBias
from keras_initlab.initializers import Identity as OwnIdentity
from keras_initlab.initializers import Orthogonal as OwnOrthogonal
from keras_initlab.model.construction import Construction
from keras_initlab.propagation.algebra.along_axis import turned
from keras_initlab.propagation.algebra.random_linear import random_linear
from keras_initlab.propagation.algebra.windows import Window
from keras_initlab.propagation.context import RuleContext, UnknownLayer
from keras_initlab.propagation.dispatch import layer_rule
from keras_initlab.propagation.recurrent.cells import (
    Cell,
    RecurrentKernel,
    Values,
    equations_of,
    is_convolutional,
)
from keras_initlab.propagation.recurrent.draws import (
    Size,
    draw_kernel,
    draw_mask,
    draw_sequences,
)
from keras_initlab.propagation.recurrent.simulation import Gradients, Simulation
from keras_initlab.propagation.recurrent.steps import (
    MOST_STEPS,
    OPEN_STEPS,
    Steps,
    counted,
    signal_of_last,
    signal_of_steps,
    steps_of,
)
from keras_initlab.propagation.rules.convolution import windows_of
from keras_initlab.propagation.signal import Array, Gradient, Signal
from keras_initlab.propagation.weights.initial import moments_of_draw

_TIME = 1
# Wider cells are simulated on drawn weights even if the values of theirs count.
_MOST_UNITS_BY_VALUE = 256
# A common part of the pre-activations below this share of them is not simulated.
_LEAST_SHARED = 1e-3


@layer_rule("SimpleRNN", "LSTM", "GRU", "RNN")
@layer_rule("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
def recurrent(layer: Layer, x: Signal, *_: Signal, context: RuleContext) -> Any:
    """Return the signal of all steps or of the last one, and of the states if asked.

    States are zero before the first step, unless they are passed; a stateful layer is
    predicted for its first batch. Masked steps are assumed to be few.

    Raises:
        UnknownLayer: a cell with its own `call`; an activation that is not elementwise;
            a recurrent kernel that passes each unit its own state.
    """
    cells = _cells_of(layer.cell, context)
    starts = _initial_states([equations.states for _, equations in cells], context)
    if layer.go_backwards:
        x = turned(x, _TIME)
    states: list[Signal] = []
    for (cell, equations), start in zip(cells, starts, strict=True):
        x, after = _run(cell, equations, x, start, context)
        states.extend(after)
    output = x if layer.return_sequences else after[0]
    return (output, *states) if layer.return_state else output


def _cells_of(cell: Layer, context: RuleContext) -> list[tuple[Any, Cell]]:
    """Return the cells that a layer runs, one on top of the other."""
    if type(cell) is keras.layers.StackedRNNCells:
        return [pair for inner in cell.cells for pair in _cells_of(inner, context)]
    equations = equations_of(cell)
    identity = keras.initializers.Identity | OwnIdentity
    if not context.from_values and isinstance(cell.recurrent_initializer, identity):
        raise UnknownLayer("a recurrent kernel that is an identity")
    return [(cell, equations)]


def _initial_states(
    counts: list[int], context: RuleContext
) -> list[list[Signal | None]]:
    """Return the states before the first step, of each cell; None stands for zeros."""
    args, named = context.arguments
    passed = keras.tree.flatten((args[1:], named.get("initial_state")))
    flat = [state for state in passed if isinstance(state, Signal)]
    if len(flat) != sum(counts):
        return [[None] * count for count in counts]
    ends = np.cumsum(counts)
    return [
        list(flat[end - count : end]) for count, end in zip(counts, ends, strict=True)
    ]


@dataclass(frozen=True)
class _Geometry:
    """Where the units and places of a cell lie in its output, and its windows."""

    units: int
    channel: int
    shape: tuple[int | None, ...]  # of all steps
    windows: dict[int, Window]  # of the input kernel
    inner: tuple[Window, ...]  # of the recurrent kernel

    @property
    def taps(self) -> int:
        return math.prod(window.size for window in self.inner)


def _geometry_of(cell: Layer, x: Signal) -> _Geometry:
    rank = len(x.shape)
    if not is_convolutional(cell):
        shape = (*x.shape[:-1], cell.units)
        return _Geometry(cell.units, rank - 1, shape, {}, ())
    channel = 2 if cell.data_format == "channels_first" else rank - 1
    places = [axis for axis in range(2, rank) if axis != channel]
    windows, inner, sizes = windows_of(cell, x, places), [], list(x.shape)
    for axis, window in windows.items():
        sizes[axis] = window.output_length
        inner.append(Window(sizes[axis], window.size, padding="same"))
    sizes[channel] = cell.filters
    return _Geometry(cell.filters, channel, tuple(sizes), windows, tuple(inner))


def _run(
    cell: Layer,
    equations: Cell,
    x: Signal,
    start: list[Signal | None],
    context: RuleContext,
) -> tuple[Signal, list[Signal]]:
    """Return the signal of all steps of a cell, and its last states."""
    geometry = _geometry_of(cell, x)
    x = x.with_units((geometry.channel,))
    x = _masked(x, cell.dropout if context.training else 0.0)
    z = random_linear(
        x,
        context.kernel(cell, "kernel"),
        shape=geometry.shape,
        units=(geometry.channel,),
        fan=int(x.shape[geometry.channel] or 1),
        copies=equations.gates * geometry.units,
        windows=geometry.windows,
    )
    if not geometry.windows:
        z = _with_weight_gradient_by_steps(z, x)
    length = x.shape[_TIME]
    steps = min(length or OPEN_STEPS, MOST_STEPS)
    inputs = steps_of(z, _TIME, steps, places=bool(geometry.windows))
    alike = _shared_by_units(z, steps, places=bool(geometry.windows))
    by_value = context.from_values and geometry.units <= _MOST_UNITS_BY_VALUE
    size = Size.of(geometry.units, equations.gates, geometry.taps, whole=by_value)
    bias = _bias_of(cell, equations.gates, size, context)
    by_gate = bias.reshape(2, -1, equations.gates, size.units)
    means: list[Any] = [inputs.mean, by_gate[:, :, equations.candidate]]
    means += [context.weight(cell, "recurrent_kernel").mean]
    means += [state.mean for state in start if state is not None]
    simulation = Simulation(
        equations,
        _kernel_of(cell, equations.gates, geometry, size, bias[1], context),
        size,
        inputs,
        bias[0],
        tuple(_start_of(s, size, len(inputs.pairs), i) for i, s in enumerate(start)),
        shared=alike,
        centred=equations.phi.is_odd
        and alike is None
        and not by_value
        and not any(map(np.any, means)),
    )
    return _signals(simulation, z, start, length, geometry)


def _shared_by_units(z: Signal, steps: int, *, places: bool) -> Steps | None:
    """Return the common part of all units and gates, without its mean, or None.

    After a kernel whose entries have a mean, it is the inputs' sum times this mean.
    """
    between = z.evolve(pairs=np.stack([z.pairs[1]] * 2), near={}, profile=z.profile)
    law = steps_of(between, _TIME, steps, places)
    pairs = law.pairs - np.outer(law.mean, law.mean)
    if np.diagonal(pairs[0]).max() < _LEAST_SHARED * z.second:
        return None
    return Steps(0 * law.mean, pairs)


def _kernel_of(
    cell: Layer,
    gates: int,
    geometry: _Geometry,
    size: Size,
    bias: Values,
    context: RuleContext,
) -> RecurrentKernel:
    """Return the recurrent kernel, of the simulation's size."""
    moments = context.weight(cell, "recurrent_kernel")
    # On average over places; beyond the border the state is 0.
    inside = math.prod(window.forward(None)[0] for window in geometry.inner)
    scale = geometry.units / size.units
    if context.from_values and size.units == geometry.units:
        values = np.asarray(keras.ops.convert_to_numpy(cell.recurrent_kernel))
        values = values.reshape(1, -1, values.shape[-1]).astype(np.float32)
    else:
        orthogonal = keras.initializers.Orthogonal | OwnOrthogonal
        values = draw_kernel(
            size,
            gates,
            moments.mean * scale,
            moments.variance * scale,
            orthogonal=isinstance(cell.recurrent_initializer, orthogonal),
        )
    rate = cell.recurrent_dropout if context.training else 0.0
    return RecurrentKernel(
        values * np.float32(math.sqrt(inside)),
        bias,
        size.places,
        draw_mask(size, rate) if 0 < rate < 1 else None,
    )


def _bias_of(cell: Layer, gates: int, size: Size, context: RuleContext) -> Values:
    """Return the biases of the inputs' share and of the recurrent kernel's.

    They are of shape (2, draws, 1, 1, gates · units).
    """
    bias: Values = np.zeros((2, size.draws, gates, size.units), np.float32)
    if cell.use_bias:
        rows, initializer = 2 if len(cell.bias.shape) == 2 else 1, cell.bias_initializer
        forgets = getattr(cell, "unit_forget_bias", False)
        values = cell.bias if context.from_values or initializer is None else None
        if isinstance(initializer, ForgetGateBias) and values is None and not forgets:
            where = Construction(cell, "bias", ())
            values = initializer.values(tuple(cell.bias.shape), "float32", where)
        if values is not None:
            table = np.asarray(keras.ops.convert_to_numpy(values))
            table = table.reshape(rows, 1, gates, -1)
            units = np.arange(size.units) * table.shape[-1] // size.units
            bias[:rows] = table[..., units]
        else:
            # One call of the initializer for all gates: they are drawn alike.
            count = math.prod(cell.bias.shape) // (rows * gates)
            moments = moments_of_draw(initializer, (count,), None)
            noise = np.random.default_rng(7).standard_normal(bias[:rows].shape)
            bias[:rows] = moments.mean + math.sqrt(moments.variance) * noise
            if forgets:
                bias[0, :, 1] = 1.0
    return bias.reshape(2, size.draws, 1, 1, -1)


def _start_of(signal: Signal | None, size: Size, kinds: int, state: int) -> Values:
    """Return a state before the first step."""
    if signal is None:
        return np.zeros(size.shape(), np.float32)
    pairs = signal.pairs[0].ravel()[:kinds, None, None]
    law = Steps(np.array([signal.mean]), pairs.astype(np.float32))
    draw: Values = draw_sequences(law, size, seed=20 + state)[0]
    return draw


@dataclass(frozen=True)
class _GradientAtSteps(Gradient):
    """A gradient with its sum with the inputs, Σ E[g_t g_s] E[z_t z_s] over steps."""

    with_inputs: float = 0.0


def _with_weight_gradient_by_steps(z: Signal, x: Signal) -> Signal:
    """Return z with its kernel's gradient by the moments of each pair of steps."""
    ((layer, weight, rule),) = z.edges.weights
    gain = z.second / x.second if x.second > 0 else 0.0

    def by_steps(gradient: Gradient) -> float:
        if isinstance(gradient, _GradientAtSteps) and gain > 0:
            return gradient.with_inputs / gain
        return rule(gradient)

    return z.amend(weights=((layer, weight, by_steps),))


def _masked(x: Signal, rate: float) -> Signal:
    """Return the signal after dropout that drops the same units at every step."""
    if not 0 < rate < 1:
        return x
    pairs = x.pairs.copy()
    pairs[0, 0, 0] /= 1 - rate
    # Steps share the mask, but places do not: then a few steps are distinguished from
    # places by the moments of neighbours.
    pairs[0, 1, 0] /= (1 - rate) if len(x.positions) == 1 else 1.0
    near = {axis: values / (1 - rate) for axis, values in x.near.items()}
    pull = (x, lambda gradient: gradient.times(1 / (1 - rate)))
    return x.evolve(pairs=pairs, near=near, parents=(pull,))


def _signals(
    simulation: Simulation,
    z: Signal,
    start: list[Signal | None],
    length: int | None,
    geometry: _Geometry,
) -> tuple[Signal, list[Signal]]:
    """Return the signal of all steps and those of the last states, with the way back.

    Gradients at several of them are assumed to be independent.
    """
    moments = simulation.forward()
    size, steps = counted(length), len(simulation.inputs.mean)
    # The simulated step for each step: those that are not simulated are as the middle.
    at = np.arange(size)
    at = np.where(at < steps // 2, at, np.maximum(at - size + steps, steps // 2))

    def parents(levels: Any) -> tuple[tuple[Signal, Any], ...]:
        latest: dict[float, Gradients] = {}

        def run(gradient: Gradient) -> Gradients:
            if gradient.second not in latest:
                latest.clear()
                output, shared, last = levels(gradient)
                first = np.unique(at, return_index=True)[1]
                latest[gradient.second] = simulation.backward(
                    output[first], shared, last
                )
            return latest[gradient.second]

        def to_steps(gradient: Gradient) -> Gradient:
            return _at_steps(run(gradient), simulation.inputs, at, length)

        def to_start(state: int) -> Any:
            return lambda gradient: Gradient(run(gradient).start[state])

        states = [(s, to_start(i)) for i, s in enumerate(start) if s is not None]
        return ((z, to_steps), *states)

    def at_output(gradient: Gradient) -> tuple[Array, float, float]:
        profile = gradient.profile.get(_TIME, np.ones(size))
        profile = profile if len(profile) >= size else np.ones(size)
        return gradient.second * profile[:size], max(gradient.position, 0.0), 0.0

    def at_end(gradient: Gradient) -> tuple[Array, float, float]:
        return gradient.second * (np.arange(size) == size - 1), 0.0, 0.0

    def at_carry(gradient: Gradient) -> tuple[Array, float, float]:
        return np.zeros(size), 0.0, gradient.second

    out = signal_of_steps(moments[0], z, _TIME, length)
    out = out.evolve(parents=parents(at_output))
    shape = (z.shape[0], *z.shape[2:])
    like = Signal(shape, (geometry.channel - 1,), 0.0, np.zeros((2, 2, 2)))
    states = []
    for state, levels in zip(moments, (at_end, at_carry), strict=False):
        last = signal_of_last(state, like, length)
        states.append(last.evolve(parents=parents(levels), measured=z.origin.measured))
    return out, states


def _at_steps(
    back: Gradients, inputs: Steps, at: NDArray[np.intp], length: int | None
) -> Gradient:
    """Return the gradient at the inputs' share of the pre-activations."""
    size = len(at)
    levels = back.steps[at]
    mean = float(levels.mean())
    if not 0 < mean < np.inf:
        return Gradient(mean)
    root = np.sqrt(levels / mean)
    lags = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    later = np.maximum.outer(at, at)
    shared = back.pairs[later, np.maximum(later - lags, 0)]
    alike = inputs.extended(size).pairs[0]
    # Steps that are near are more correlated, in the gradient as in the inputs; if
    # inputs are not, all pairs of steps count.
    weight = np.abs(np.triu(alike, 1))
    if weight.sum() < 1e-9 * np.trace(alike):
        weight = np.triu(np.ones_like(alike), 1)
    total = float((weight * np.outer(root, root)).sum())
    position = float((weight * shared).sum()) / total if total > 0 else 0.0
    return _GradientAtSteps(
        mean,
        position * float(root.mean()) ** 2,
        {_TIME: levels / mean} if size == length else {},
        with_inputs=float((shared * alike).sum()),
    )
