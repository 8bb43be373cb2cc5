"""The moments of an LSTM's states: c_t = f c_{t-1} + i g, h_t = o ψ(c_t)."""

from __future__ import annotations

import numpy as np

from keras_initlab.propagation.expansion import (
    Nonlinearity,
    correlated,
    expansion,
    joint_weights,
)
from keras_initlab.propagation.memory import Memory
from keras_initlab.propagation.recurrence import (
    Back,
    Gate,
    Recurrent,
    Run,
    Start,
    Track,
    ahead,
    covariance_row,
    lagged,
)
from keras_initlab.propagation.signal import Array, Function
from keras_initlab.propagation.steps import Steps


def run_lstm(
    inputs: Steps,
    gates: tuple[Gate, Gate, Gate, Gate],
    activation: Function,
    recurrent: Recurrent,
    start: Start,
    carry_start: Start,
) -> Run:
    """Follow c_t = f c_{t-1} + i g, h_t = o ψ(c_t); gates in the order i, f, g, o.

    c_t is taken for Gaussian, given what its forget gate keeps over all steps.
    """
    count, kinds = len(inputs.mean), len(inputs.pairs)
    track = Track(count, start)
    memory = Memory(gates[1].function, count, carry_start.seconds, carry_start.mean)
    i, g, o = (Nonlinearity(gates[n].function, count) for n in (0, 2, 3))
    squashed = _Squashed(activation, count, memory)
    alike = np.zeros((3, count, count))  # E[x_t x_s] of i, g and ψ(c)
    t = 0
    for t in range(count):
        pairs, means = track.before(t)
        row = covariance_row(inputs, t) + recurrent.covariance(pairs, means)
        mean = inputs.mean[t] + recurrent.mean * means[-1]
        one, two, out = (
            part.advance(t, mean + gates[n].mean, row + gates[n].variance)
            for part, n in ((i, 0), (g, 2), (o, 3))
        )
        memory.advance(
            t,
            mean + gates[1].mean,
            row + gates[1].variance,
            ahead(inputs) + gates[1].variance,
            one * two,
            i.mean[t] * g.mean[t],
        )
        made = squashed.advance(t)
        alike[:, t, : t + 1] = one[0], two[0], made[0]
        made = made * out
        first = np.full((kinds, 1), start.mean * o.mean[t] * squashed.mean)
        track.put(t, o.mean[t] * squashed.mean, np.concatenate([first, made], axis=1))
        if track.settled(t, inputs) and memory.settled(t):
            break
    last = t

    def backward(out: Array, shared: float, carry: float) -> Back:
        weights = memory.weights
        back, rest, pairs = np.zeros(len(out)), 0.0, np.zeros((len(out), len(out)))
        at_carry = np.full(len(weights), carry)
        # Of the gradient at c: what comes from all steps alike; its product with that
        # of each later step; what was common there.
        common = np.zeros(len(weights))
        later, commons = (np.zeros((len(out), len(weights))) for _ in range(2))
        for t in reversed(range(len(out))):
            n = min(t, last)
            push = np.sqrt(shared) * o.mean[n] * squashed.slopes[n]
            hidden = out[t] + recurrent.back * rest
            at_carry = at_carry + hidden * o.second[n] * squashed.slope_seconds[n]
            at_carry = at_carry + 2 * push * common
            level = float(weights @ at_carry)
            rest = (
                float(weights @ (at_carry * memory.gated[n, n] * memory.slopes[n]))
                + level * g.second[n] * i.slope_second[n]
                + level * i.second[n] * g.slope_second[n]
                + hidden * squashed.seconds[n] * o.slope_second[n]
            )
            back[t] = rest / 4
            common, later = common + push, later + push * commons
            steps, past = lagged(t, len(out), last)
            known = memory.gated[steps, past] * memory.slope_means[n] ** 2
            both = alike[:, steps, past]
            known += (both[1] * i.slope_mean[n] ** 2)[:, None]
            known += (both[0] * g.slope_mean[n] ** 2)[:, None]
            pairs[t, t + 1 :] = (later[t + 1 :] * known) @ weights / 4
            pairs[t, t + 1 :] += shared * both[2] * o.slope_mean[n] ** 2 / 4
            commons[t], later[t] = common, at_carry
            later, common = later * memory.means[n], common * memory.means[n]
            at_carry = at_carry * memory.squares[n]
        start = (recurrent.back * rest, float(weights @ at_carry))
        return Back(back, pairs, start)

    return Run(track.found(last + 1), memory.carry(last + 1), backward)


class _Squashed:
    """ψ(c_t) of a memory's states."""

    def __init__(self, function: Function, steps: int, memory: Memory) -> None:
        self._function, self._memory = function, memory
        shape = (steps, len(memory.weights))
        self._coefficients = np.zeros((24, *shape))
        self._variance, self._mean = np.zeros(shape), np.zeros(shape)
        self.mean = 0.0
        self.seconds = np.zeros(steps)
        self.slopes, self.slope_seconds = np.zeros(shape), np.zeros(shape)

    def advance(self, t: int) -> Array:
        """Return E[ψ(c_t) ψ(c'_s)] of steps s ≤ t, by kinds."""
        memory, weights = self._memory, self._memory.weights
        mean, own = memory.mean, memory.own[1 : t + 2]
        variance = np.maximum(own[t] - mean**2, 0.0)
        found = expansion(self._function, mean, variance)
        self._coefficients[:, t] = found.coefficients.T
        self._variance[t], self._mean[t] = variance, mean
        self.mean = float(weights @ found.mean)
        self.seconds[t] = float(weights @ found.second)
        self.slope_seconds[t] = found.slope_second
        deviation = np.sqrt(_positive(variance))
        self.slopes[t] = found.slope_mean
        made = np.empty((len(memory.other) + 1, t + 1))
        past = slice(0, t + 1)
        scale = np.sqrt(_positive(self._variance[past]))
        rho = (own - mean * self._mean[past]) / (deviation * scale)
        both = self._coefficients[:, past] * self._coefficients[:, t, None]
        made[0] = correlated(rho, both) @ weights
        made[0, t] = self.seconds[t]
        for kind in range(1, len(made)):
            other = memory.other[kind - 1][1 : t + 2]
            centre = mean[:, None] * self._mean[past, None, :]
            rho = (other - centre) / (deviation[:, None] * scale[:, None, :])
            both = (
                self._coefficients[:, t, None, :, None]
                * self._coefficients[:, past, None, :]
            )
            joint = joint_weights(memory.shared[kind - 1])
            made[kind] = (correlated(rho, both) * joint).sum(axis=(1, 2))
        return made


def _positive(variance: Array) -> Array:
    """Return 1 where a variance is 0, so that dividing by it leaves a slope alone."""
    found: Array = np.where(variance > 0, variance, 1.0)
    return found
