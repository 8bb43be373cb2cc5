"""The equations of recurrent cells in NumPy, and their derivatives.

Arrays have the shape (draws, inputs, places, units); pre-activations and their
gradients have a block of units for each gate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np
from keras.layers import Layer
from numpy.typing import NDArray

from keras_initlab import activations
from keras_initlab.propagation.algebra.elementwise import function_of
from keras_initlab.propagation.context import UnknownLayer

Values = NDArray[Any]
States = tuple[Values, ...]


@dataclass(frozen=True, eq=False)
class Nonlinearity:
    """An activation y = φ(z), and its derivative as a function of z and y."""

    value: Callable[[Values], Values]
    slope: Callable[[Values, Values], Values]

    @property
    def is_odd(self) -> bool:
        """Whether φ(-z) = -φ(z)."""
        z = np.linspace(0.0, 4.0, 17)
        return bool(np.allclose(self.value(-z), -self.value(z), atol=1e-9))


def _sigmoid(z: Values) -> Values:
    y: Values = np.tanh(z * 0.5)
    y *= 0.5
    y += 0.5
    return y


# Faster than what serves values of any size in float64.
_OF_MOST_CELLS = {
    "sigmoid": Nonlinearity(_sigmoid, lambda z, y: y - y * y),
    "tanh": Nonlinearity(np.tanh, lambda z, y: 1 - y * y),
}


def nonlinearity(activation: Any) -> Nonlinearity:
    """Return the activation of a gate.

    Raises:
        UnknownLayer: it is not elementwise.
    """
    try:
        resolved = activations.resolve(activation)
    except (TypeError, ValueError):
        raise UnknownLayer(repr(activation)) from None
    if resolved.function is None:
        raise UnknownLayer(resolved.name)
    function = function_of(resolved)
    in_double = Nonlinearity(
        lambda z: function.value(z).astype(z.dtype),
        lambda z, y: function.slope(z.astype(np.float64)).astype(z.dtype),
    )
    return _OF_MOST_CELLS.get(resolved.name, in_double)


@dataclass(frozen=True, eq=False)
class RecurrentKernel:
    """The recurrent kernel of all gates: U h + b.

    Attributes:
        values: of shape (draws, taps · units, gates · units).
        bias: that is added to U h, for each gate.
        taps: of a convolution. Places stand in a ring, and tap k reads the place k
            further on.
        mask: that dropout multiplies h by, the same at every step.
    """

    values: Values
    bias: Values
    taps: int = 1
    mask: Values | None = None

    def __call__(self, state: Values, gates: slice = slice(None)) -> Values:
        """Return what the kernel adds to the pre-activations of some gates."""
        if self.mask is not None:
            state = state * self.mask
        if self.taps > 1:
            rolled = [np.roll(state, -tap, axis=2) for tap in range(self.taps)]
            state = np.concatenate(rolled, axis=-1)
        return _product(state, self.values[..., gates]) + self.bias[..., gates]

    def back(self, gradient: Values, gates: slice = slice(None)) -> Values:
        """Return the gradient at h from that at the pre-activations of some gates."""
        state = _product(gradient, self.values[..., gates].swapaxes(-1, -2))
        if self.taps > 1:
            parts = np.split(state, self.taps, axis=-1)
            rolled = [np.roll(part, tap, axis=2) for tap, part in enumerate(parts)]
            state = np.sum(rolled, axis=0)
        return state if self.mask is None else state * self.mask


def _product(rows: Values, weights: Values) -> Values:
    flat = rows.reshape(rows.shape[0], -1, rows.shape[-1]) @ weights
    return flat.reshape(*rows.shape[:-1], -1)


class Cell(Protocol):
    """The equations of a cell.

    Attributes:
        gates: blocks of units in the pre-activations.
        states: how many states there are; the first is the output.
        candidate: the block with the new value, which is not a gate.
        phi: the activation of that block.
    """

    gates: int
    states: int
    candidate: int
    phi: Nonlinearity

    def step(self, x: Values, states: States, kernel: RecurrentKernel) -> Any:
        """Return the states after a step, and what `back` needs of it.

        Args:
            x: the share of the inputs in the pre-activations, bias included.
            states: before the step.
            kernel: the recurrent kernel.
        """

    def back(self, memory: Any, gradients: States, kernel: RecurrentKernel) -> Any:
        """Return the gradients at x and at the states before the step.

        Args:
            memory: what `step` has returned.
            gradients: at the states after the step.
            kernel: the recurrent kernel.
        """


class SimpleRNN:
    """h' = φ(x + U h)."""

    gates, states, candidate = 1, 1, 0

    def __init__(self, cell: Layer) -> None:
        self.phi = nonlinearity(cell.activation)

    def step(self, x: Values, states: States, kernel: RecurrentKernel) -> Any:
        """Return h', and z and φ(z)."""
        z = x + kernel(states[0])
        h = self.phi.value(z)
        return (h,), (z, h)

    def back(self, memory: Any, gradients: States, kernel: RecurrentKernel) -> Any:
        """Return the gradients at x and h."""
        at_x = gradients[0] * self.phi.slope(*memory)
        return at_x, (kernel.back(at_x),)


class LSTM:
    """c' = f c + i g, h' = o φ(c'); gates in the order i, f, g, o."""

    gates, states, candidate = 4, 2, 2

    def __init__(self, cell: Layer) -> None:
        self.phi = nonlinearity(cell.activation)
        gate = nonlinearity(cell.recurrent_activation)
        self._by_gate = (gate, gate, self.phi, gate)

    def step(self, x: Values, states: States, kernel: RecurrentKernel) -> Any:
        """Return h' and c', and pre-activations, gates, c, c' and φ(c')."""
        z = np.split(x + kernel(states[0]), 4, axis=-1)
        gates = [phi.value(at) for phi, at in zip(self._by_gate, z, strict=True)]
        i, f, g, o = gates
        carry = f * states[1] + i * g
        squashed = self.phi.value(carry)
        return (o * squashed, carry), (z, gates, states[1], carry, squashed)

    def back(self, memory: Any, gradients: States, kernel: RecurrentKernel) -> Any:
        """Return the gradients at x, h and c."""
        z, gates, before, carry, squashed = memory
        i, f, g, o = gates
        at_carry = gradients[0] * o * self.phi.slope(carry, squashed) + gradients[1]
        at_output = gradients[0] * squashed
        at_gates = (at_carry * g, at_carry * before, at_carry * i, at_output)
        rows = zip(at_gates, self._by_gate, z, gates, strict=True)
        at_x = np.concatenate([g * phi.slope(z, y) for g, phi, z, y in rows], axis=-1)
        return at_x, (kernel.back(at_x), at_carry * f)


class GRU:
    """h' = u h + (1 - u) φ(x + …); gates in the order u, r, candidate.

    The candidate reads U (r ⊙ h), or r ⊙ (U h + b) with `reset_after`.
    """

    gates, states, candidate = 3, 1, 2

    def __init__(self, cell: Layer) -> None:
        self.phi = nonlinearity(cell.activation)
        self._gate = nonlinearity(cell.recurrent_activation)
        self._after = bool(cell.reset_after)

    def step(self, x: Values, states: States, kernel: RecurrentKernel) -> Any:
        """Return h', and pre-activations, gates, what r multiplies and h."""
        (h,), (switches, block) = states, _blocks(states[0])
        through = kernel(h, slice(None) if self._after else switches)
        z = x[..., switches] + through[..., switches]
        gates = self._gate.value(z)
        update, reset = np.split(gates, 2, axis=-1)
        inner = through[..., block] if self._after else h
        recurrent = reset * inner if self._after else kernel(reset * h, block)
        before = x[..., block] + recurrent
        candidate = self.phi.value(before)
        after = candidate + update * (h - candidate)
        return (after,), (z, gates, before, candidate, inner, h)

    def back(self, memory: Any, gradients: States, kernel: RecurrentKernel) -> Any:
        """Return the gradients at x and h."""
        z, gates, before, candidate, inner, h = memory
        (at_h,), (switches, block) = gradients, _blocks(h)
        update, reset = np.split(gates, 2, axis=-1)
        at_before = at_h * (1 - update) * self.phi.slope(before, candidate)
        at_inner = at_before if self._after else kernel.back(at_before, block)
        at_z = np.concatenate([at_h * (h - candidate), at_inner * inner], axis=-1)
        at_z *= self._gate.slope(z, gates)
        at_state = at_h * update
        if self._after:
            at_all = np.concatenate([at_z, at_before * reset], axis=-1)
            at_state += kernel.back(at_all)
        else:
            at_state += kernel.back(at_z, switches) + at_inner * reset
        return np.concatenate([at_z, at_before], axis=-1), (at_state,)


def _blocks(state: Values) -> tuple[slice, slice]:
    """Return where a GRU's two gates are, and where its candidate is."""
    end = 2 * state.shape[-1]
    return slice(0, end), slice(end, None)


def is_convolutional(cell: Layer) -> bool:
    """Say whether a cell is that of ConvLSTM, which `keras.layers` does not name."""
    kind = type(cell)
    return kind.__name__ == "ConvLSTMCell" and kind.__module__.startswith("keras.")


def equations_of(cell: Layer) -> Cell:
    """Return the equations of a Keras cell.

    Raises:
        UnknownLayer: the cell has a `call` of its own; an activation that is not
            elementwise.
    """
    if is_convolutional(cell):
        return LSTM(cell)
    for equations in (SimpleRNN, LSTM, GRU):
        kind = getattr(keras.layers, f"{equations.__name__}Cell")
        if isinstance(cell, kind) and type(cell).call is kind.call:
            return equations(cell)
    raise UnknownLayer(type(cell).__name__)
