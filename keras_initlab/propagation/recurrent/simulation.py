"""A recurrent cell, simulated on drawn weights, forward and backward through time.

The input kernel's share of the pre-activations is Gaussian, with moments that are
predicted as for any kernel. Such pre-activations are drawn for a few inputs, recurrent
kernels for a few networks, and the cell is run, with its own width up to a limit. The
scale of the recurrent kernel is preserved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keras_initlab.propagation.recurrent.cells import Cell, RecurrentKernel, Values
from keras_initlab.propagation.recurrent.draws import Size, draw_sequences
from keras_initlab.propagation.recurrent.steps import Steps
from keras_initlab.propagation.signal import Array

# Values whose squares fit in float32; larger ones need float64.
_GREAT = 1e15


@dataclass(frozen=True)
class Gradients:
    """Second moments of gradients at the inputs and states of a cell.

    Attributes:
        steps: at the pre-activations of each step, the mean over gates.
        pairs: E[g_t g_s] there.
        start: at the states before the first step.
    """

    steps: Array
    pairs: Array
    start: tuple[float, ...]


@dataclass(eq=False)
class Simulation:
    """One cell and all that is drawn for it.

    Attributes:
        cell: the equations.
        kernel: the recurrent kernel.
        size: of the simulation.
        inputs: moments of the inputs' share in the pre-activations.
        bias: of that share, by gate and unit.
        start: the states before the first step.
        shared: the part of the inputs that all units and gates have in common, of
            mean 0.
        centred: whether each draw is as likely as one with opposite states: means are
            then 0.
    """

    cell: Cell
    kernel: RecurrentKernel
    size: Size
    inputs: Steps
    bias: Values
    start: tuple[Values, ...]
    shared: Steps | None = None
    centred: bool = False
    _dtype: Any = np.float32

    def forward(self) -> list[Steps]:
        """Return the moments of the states; for all but the first, at the last step."""
        states, _ = self._run(self._dtype)
        if not _is_small(states[-1]):
            self._dtype = np.float64
            states, _ = self._run(self._dtype)
        kinds = len(self.inputs.pairs)
        moments = [_moments(np.stack([state[0] for state in states]), kinds)]
        moments += [_moments(state[None], kinds) for state in states[-1][1:]]
        if self.centred:
            return [replace(state, mean=0 * state.mean) for state in moments]
        return moments

    def backward(self, output: Array, shared: float, last: float) -> Gradients:
        """Return the gradients that follow from those at the states.

        Args:
            output: E[g_t²] at the output of each step.
            shared: E[g_t g_s] there.
            last: E[g²] at the last carry.
        """
        level = max(float(output.max()), last)
        if not 0 < level < np.inf:
            steps = np.full(len(output), level)
            return Gradients(steps, np.diag(steps), (level,) * self.cell.states)
        scaled = output / level, shared / level, last / level
        at_x, at_start = self._back(*scaled, self._dtype)
        if not _is_small((*at_x[:1], *at_start)):
            at_x, at_start = self._back(*scaled, np.float64)
        rows = np.stack(at_x).reshape(len(at_x), -1)
        pairs = level / rows.shape[1] * (rows @ rows.T).astype(np.float64)
        start = [level * float((at.astype(np.float64) ** 2).mean()) for at in at_start]
        return Gradients(np.diagonal(pairs), pairs, tuple(start))

    def _run(self, dtype: Any) -> tuple[list[tuple[Values, ...]], list[Any]]:
        """Return the states after each step, and what the backward pass needs."""
        pairs = self.inputs.pairs - (0 if self.shared is None else self.shared.pairs)
        law = Steps(self.inputs.mean.astype(dtype), pairs.astype(dtype))
        inputs = draw_sequences(law, self.size, self.cell.gates, seed=1)
        if self.shared is not None:
            common = Steps(law.mean * 0, self.shared.pairs.astype(dtype))
            inputs = inputs + draw_sequences(
                common, replace(self.size, units=1), seed=4
            )
        state, states, memories = self.start, [], []
        with np.errstate(over="ignore", invalid="ignore"):
            for x in inputs:
                state, memory = self.cell.step(x + self.bias, state, self.kernel)
                states.append(state)
                memories.append(memory)
        return states, memories

    def _back(
        self, output: Array, shared: float, last: float, dtype: Any
    ) -> tuple[list[Values], tuple[Values, ...]]:
        """Return the gradients at the pre-activations and at the first states."""
        _, memories = self._run(dtype)
        separate = np.maximum(output - shared, 0.0)
        at_output = self._gradient(np.diag(separate) + shared, dtype, seed=2)
        ends = [np.zeros(self.size.shape(), dtype) for _ in range(self.cell.states)]
        if last:
            ends[-1] = self._gradient(np.array([[last]]), dtype, seed=3)[0]
        at_states, at_x = tuple(ends), []
        with np.errstate(over="ignore", invalid="ignore"):
            for memory, at in zip(reversed(memories), at_output[::-1], strict=True):
                at_states = (at_states[0] + at, *at_states[1:])
                before, at_states = self.cell.back(memory, at_states, self.kernel)
                at_x.append(before)
        return at_x[::-1], at_states

    def _gradient(self, pairs: Array, dtype: Any, seed: int) -> Values:
        """Return a gradient of E[g_t g_s], independent in all but the steps."""
        kinds = np.zeros((len(self.inputs.pairs), *pairs.shape), dtype)
        kinds[0] = pairs
        return draw_sequences(Steps(np.zeros(len(pairs)), kinds), self.size, seed=seed)


def _is_small(arrays: tuple[Values, ...]) -> bool:
    return all(float(np.abs(values).max()) < _GREAT for values in arrays)


def _moments(states: Values, kinds: int) -> Steps:
    """Return the moments of states of shape (steps, draws, inputs, places, units)."""
    steps, _, inputs, places, _ = states.shape

    def products(values: Values) -> Array:
        flat = values.reshape(steps, -1)
        gram: Array = (flat @ flat.T).astype(np.float64) / states[0].size
        return gram

    mean = states.reshape(steps, -1).mean(axis=1, dtype=np.float64)
    same, by_input = products(states), products(states.sum(axis=2))
    pairs = [same, (by_input - same) / (inputs - 1)]
    if kinds == 4:
        by_place = products(states.sum(axis=3))
        every = products(states.sum(axis=(2, 3)))
        pairs += [
            (by_place - same) / (places - 1),
            (every - by_input - by_place + same) / ((inputs - 1) * (places - 1)),
        ]
    return Steps(mean, np.stack(pairs))
