"""Recurrent layers: one rule for all, by the cell's equations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from keras_initlab.propagation.cells import (
    CellShape,
    cells_of,
    follow,
    kind_of,
    recurrent_of,
    shape_of,
    state_count,
)
from keras_initlab.propagation.dispatch import layer_rule
from keras_initlab.propagation.mixing import mix
from keras_initlab.propagation.recurrence import Back, Run, Start
from keras_initlab.propagation.signal import Array, Gradient, Signal
from keras_initlab.propagation.steps import (
    MOST_STEPS,
    OPEN_STEPS,
    Steps,
    counted,
    extended,
    signal_of_step,
    signal_of_steps,
    steps_of,
    turned,
)

_TIME = 1


@layer_rule("SimpleRNN", "LSTM", "GRU", "RNN")
@layer_rule("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
def recurrent(layer: Any, x: Signal, *_: Signal, context: Any) -> Any:
    """Return the signal of all steps or of the last one, and of the states if asked.

    Weights count as drawn independently; an orthogonal recurrent kernel makes the same
    of wide layers. States are zero before the first step, unless they are passed; a
    stateful layer's first batch is meant. Masked steps are taken to be few. Of more
    steps than `steps.MOST_STEPS` the later ones are as the last.

    Raises:
        UnknownLayer: see `cells_of`.
    """
    cells = cells_of(layer.cell, context)
    given = _initial_state(layer, cells, context)
    if layer.go_backwards:
        x = turned(x)
    states: list[Signal] = []
    for cell, start in zip(cells, given, strict=True):
        x, after = _run(cell, x, start, context)
        states.extend(after)
    last = states[-state_count(cells[-1])]
    first = x if layer.return_sequences else last
    if not layer.return_state:
        return first
    return (first, *states)


def _initial_state(
    layer: Any, cells: list[Any], context: Any
) -> list[list[Signal | None]]:
    """Return the states before the first step, of each cell; None stands for zeros."""
    args, named = context.arguments
    passed = keras.tree.flatten((args[1:], named.get("initial_state")))
    flat = [one for one in passed if isinstance(one, Signal)]
    counts = [state_count(cell) for cell in cells]
    if len(flat) != sum(counts):
        flat = [None] * sum(counts)  # type: ignore[list-item]
    found, at = [], 0
    for count in counts:
        found.append(list(flat[at : at + count]))
        at += count
    return found  # type: ignore[return-value]


def _run(
    cell: Any, x: Signal, given: list[Signal | None], context: Any
) -> tuple[Signal, list[Signal]]:
    """Return the signal of all steps of a cell, and its last states."""
    shape = shape_of(cell, x)
    x = x.with_units((shape.channel,))
    x = _masked(x, cell.dropout if context.training else 0.0)
    gates = {"SimpleRNNCell": 1, "GRUCell": 3}.get(str(kind_of(cell)), 4)
    z = mix(
        x,
        context.draw(cell, "kernel"),
        shape=shape.shape,
        units=(shape.channel,),
        fan=int(x.shape[shape.channel] or 1),
        copies=gates * shape.units,
        windows=shape.windows,
    )
    if not shape.windows:
        z = _meeting(z, x)
    length = x.shape[_TIME]
    steps = min(length or OPEN_STEPS, MOST_STEPS)
    inputs = steps_of(z, _TIME, steps, places=bool(shape.windows))
    kinds = len(inputs.pairs)
    starts = [_start(one, kinds) for one in given]
    kernel = recurrent_of(cell, shape, kinds, context)
    run = follow(cell, inputs, kernel, starts, context)
    return _signals(run, inputs, z, given, length, shape)


@dataclass(frozen=True)
class _AtSteps(Gradient):
    """A gradient that knows its sum with inputs, Σ E[g_t g_s] E[z_t z_s] over steps."""

    met: float = 0.0


def _at_steps(back: Back, inputs: Steps, length: int | None) -> Gradient:
    """Return the gradient at the inputs' share of pre-activations."""
    size, mean = len(back.steps), float(back.steps.mean())
    if not 0 < mean < np.inf:
        return Gradient(mean)
    root = np.sqrt(back.steps / mean)
    alike = extended(inputs.pairs[0], size)
    met = float(back.steps @ np.diagonal(alike) + 2 * (back.pairs * alike).sum())
    # Steps that are near share more, of the gradient as of the inputs; where these
    # share nothing all pairs of steps count.
    weight = np.abs(np.triu(alike, 1))
    if weight.sum() < 1e-9 * np.trace(alike):
        weight = np.triu(np.ones_like(alike), 1)
    total = float((weight * np.outer(root, root)).sum())
    shared = float((weight * back.pairs).sum()) / total if total > 0 else 0.0
    return _AtSteps(
        mean,
        shared * float(root.mean()) ** 2,
        {_TIME: back.steps / mean} if size == length else {},
        met=met,
    )


def _meeting(z: Signal, x: Signal) -> Signal:
    """Return z with its kernel's gradient by what is known of each pair of steps."""
    ((layer, weight, rule),) = z.weights
    gain = z.second / x.second if x.second > 0 else 0.0

    def by_steps(gradient: Gradient) -> float:
        if isinstance(gradient, _AtSteps) and gain > 0:
            return gradient.met / gain
        return rule(gradient)

    return replace(z, weights=((layer, weight, by_steps),))


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


def _signals(
    run: Run,
    inputs: Steps,
    z: Signal,
    given: list[Signal | None],
    length: int | None,
    shape: CellShape,
) -> tuple[Signal, list[Signal]]:
    """Return the signal of all steps and those of the last states, with the way back.

    A gradient at one output does not know that at another.
    """
    size = counted(length)
    last = len(run.hidden.mean) - 1
    alone = tuple(axis - 1 for axis in z.axes if axis != _TIME)
    one_step = Signal(
        (z.shape[0], *z.shape[2:]), (shape.channel - 1,), 0.0, np.zeros((2, 2, 2))
    )
    places = tuple(axis for axis in alone if axis != shape.channel - 1)

    def parents(spread: Any) -> tuple[tuple[Signal, Any], ...]:
        def to_steps(gradient: Gradient) -> Gradient:
            with np.errstate(over="ignore", invalid="ignore"):
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

    out = signal_of_steps(run.hidden, z, _TIME, length)
    out = out.evolve(parents=parents(at_steps))
    end = signal_of_step(run.hidden, one_step, last, places)
    states = [end.evolve(parents=parents(at_end), measured=z.measured)]
    if run.carry is not None:
        end = signal_of_step(run.carry, one_step, last, places)
        states.append(end.evolve(parents=parents(at_carry), measured=z.measured))
    return out, states
