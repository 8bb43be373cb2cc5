"""What recurrent cells of many units make of a sequence, step by step.

The weights are the same at every step, so pre-activations of two steps are Gaussians
whose covariance is that of the inputs and of the states before: E[z_t z_s] =
n E[w²] E[x_t x_s] + m E[u²] E[h_{t-1} h_{s-1}]. All moments follow by induction over
steps, for one sequence and for two at once.

Source: Yang 2019, "Wide feedforward or recurrent neural networks of any architecture
are Gaussian processes", for weights shared by all steps; Chen, Pennington & Schoenholz
2018, "Dynamical isometry and a mean field theory of RNNs"; Gilboa et al. 2019,
"Dynamical isometry and a mean field theory of LSTMs and GRUs".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_initlab.propagation.memory import Memory
from keras_initlab.propagation.signal import Array, Function
from keras_initlab.propagation.steps import Nonlinearity, Steps, hermite, joint_weights

# Moments that move less than this from step to step, and keep to it, have settled.
_SETTLED, _IN_A_ROW = 1e-4, 4


@dataclass(frozen=True)
class Back:
    """Second moments of a gradient behind a cell.

    Attributes:
        steps: at the gates' pre-activations of each step, the mean over gates.
        pairs: E[g_t g_s] there of a step t and a later one s; 0 for all others.
        start: at the states before the first step.
    """

    steps: Array
    pairs: Array
    start: tuple[float, ...]


# From E[g_t²] at the states of each step, E[g_t g_s] there and E[g²] at the last carry.
Backward = Callable[[Array, float, float], Back]


@dataclass(frozen=True)
class Gate:
    """A function of the pre-activation of one gate, and the moments of its bias."""

    function: Function
    mean: float = 0.0
    variance: float = 0.0


@dataclass(frozen=True)
class Recurrent:
    """The recurrent kernel of one gate.

    Attributes:
        gains: of the second moment of each kind of pair, Σ E[u²].
        mean: E[Σ u], which carries means on.
        loss: what mean² takes from the covariance.
        back: of the gradient's second moment, Σ E[u²] over the units it comes from.
    """

    gains: Array
    mean: float
    loss: float
    back: float

    def covariance(self, pairs: Array, means: Array) -> Array:
        """Return the covariance row that states with `pairs` before give."""
        gained: Array = self.gains[:, None] * pairs
        return gained - self.loss * means[-1] * means


@dataclass
class Start:
    """Moments of the state before the first step, by kinds of pairs."""

    seconds: Array
    mean: float = 0.0


@dataclass(eq=False)
class Run:
    """What a cell did: its states by steps, and the way back.

    `backward` takes second moments of the gradient: at each step's state, of two
    steps' states, and at the last carry.
    """

    hidden: Steps
    carry: Steps | None
    backward: Backward


@dataclass(eq=False)
class _Track:
    """States' moments while they are found; state t is that before step t."""

    steps: int
    start: Start
    mean: Array = field(init=False)
    pairs: Array = field(init=False)
    _calm: int = 0

    def __post_init__(self) -> None:
        self.mean = np.zeros(self.steps + 1)
        self.pairs = np.zeros((len(self.start.seconds), self.steps + 1, self.steps + 1))
        self.mean[0] = self.start.mean
        self.pairs[:, 0, 0] = self.start.seconds

    def before(self, t: int) -> tuple[Array, Array]:
        """Return pairs and means of the states before steps 0 to t."""
        return self.pairs[:, t, : t + 1], self.mean[: t + 1]

    def put(self, t: int, mean: float, row: Array) -> None:
        """Set the state behind step t; `row` is of it with states 0 to t + 1."""
        self.mean[t + 1] = mean
        self.pairs[:, t + 1, : t + 2] = row
        self.pairs[:, : t + 2, t + 1] = row

    def settled(self, t: int, inputs: Steps) -> bool:
        """Say whether the states behind step t and a few before are all alike."""
        reach = min(t, _IN_A_ROW)
        now = self.pairs[:, t + 1, t + 1 - reach : t + 2]
        before = self.pairs[:, t, t - reach : t + 1]
        scale = max(float(now[0, -1]), 1e-30)
        even = np.ptp(inputs.seconds[t:]) <= _SETTLED * inputs.seconds[t]
        calm = even and float(np.abs(now - before).max()) < _SETTLED * scale
        self._calm = self._calm + 1 if calm else 0
        return self._calm >= _IN_A_ROW

    def found(self, steps: int) -> Steps:
        """Return the states behind the first `steps` steps."""
        kept = slice(1, steps + 1)
        return Steps(self.mean[kept], self.pairs[:, kept, kept])


def _covariance(inputs: Steps, t: int) -> Array:
    means = inputs.mean
    found: Array = inputs.pairs[:, t, : t + 1] - means[t] * means[: t + 1]
    return found


def run_simple(inputs: Steps, gate: Gate, recurrent: Recurrent, start: Start) -> Run:
    """Follow h_t = φ(x_t + U h_{t-1} + b), for x_t the inputs' share of z_t."""
    count = len(inputs.mean)
    track = _Track(count, start)
    phi = Nonlinearity(gate.function, count)
    t = 0
    for t in range(count):
        pairs, means = track.before(t)
        row = _covariance(inputs, t) + recurrent.covariance(pairs, means)
        mean = inputs.mean[t] + recurrent.mean * means[-1] + gate.mean
        made = phi.advance(t, mean, row + gate.variance)
        first = np.full((len(made), 1), start.mean * phi.mean[t])
        track.put(t, phi.mean[t], np.concatenate([first, made], axis=1))
        if track.settled(t, inputs):
            break
    last, slopes, slope_both = t, phi.slope_second, phi.slope_mean**2

    def backward(out: Array, shared: float, carry: float) -> Back:
        back, gradient = np.zeros(len(out)), 0.0
        for t in reversed(range(len(out))):
            back[t] = (out[t] + recurrent.back * gradient) * slopes[min(t, last)]
            gradient = back[t]
        # What comes through the recurrent kernel is another mixture at each step.
        pairs = np.triu(np.full((len(out), len(out)), shared * slope_both[last]), 1)
        return Back(back, pairs, (recurrent.back * gradient,))

    return Run(track.found(last + 1), None, backward)


def _positive(variance: Array) -> Array:
    """Return 1 where a variance is 0, so that dividing by it leaves a slope alone."""
    found: Array = np.where(variance > 0, variance, 1.0)
    return found


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
    track = _Track(count, start)
    memory = Memory(gates[1].function, count, carry_start.seconds, carry_start.mean)
    i, g, o = (Nonlinearity(gates[n].function, count) for n in (0, 2, 3))
    squashed = _Squashed(activation, count, memory)
    alike = np.zeros((3, count, count))  # E[x_t x_s] of i, g and ψ(c)
    t = 0
    for t in range(count):
        pairs, means = track.before(t)
        row = _covariance(inputs, t) + recurrent.covariance(pairs, means)
        mean = inputs.mean[t] + recurrent.mean * means[-1]
        one, two, out = (
            part.advance(t, mean + gates[n].mean, row + gates[n].variance)
            for part, n in ((i, 0), (g, 2), (o, 3))
        )
        memory.advance(
            t,
            mean + gates[1].mean,
            row + gates[1].variance,
            _ahead(inputs) + gates[1].variance,
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
            steps, past = _lagged(t, len(out), last)
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


def _lagged(t: int, count: int, last: int) -> tuple[Any, Any]:
    """Return where to look for steps behind t with t: what was found last serves on."""
    steps = np.arange(t + 1, count)
    found = np.minimum(steps, last)
    return found, np.maximum(found - (steps - t), 0)


def _ahead(inputs: Steps) -> Array:
    """Return the inputs' covariance of the first two steps, by kinds."""
    if len(inputs.mean) < 2:
        return np.zeros(len(inputs.pairs))
    found: Array = inputs.pairs[:, 1, 0] - inputs.mean[1] * inputs.mean[0]
    return found


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
        found = hermite(self._function, mean, variance)
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
        made[0] = _summed(rho, both) @ weights
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
            made[kind] = (_summed(rho, both) * joint).sum(axis=(1, 2))
        return made


def _summed(rho: Array, coefficients: Array) -> Array:
    """Return Σ a_n b_n ρⁿ."""
    found: Array = np.polynomial.polynomial.polyval(
        np.clip(rho, -1.0, 1.0), coefficients, tensor=False
    )
    return found


def run_gru(
    inputs: Steps,
    gates: tuple[Gate, Gate, Gate],
    candidate: Gate | None,
    recurrent: Recurrent,
    start: Start,
) -> Run:
    """Follow h_t = z h_{t-1} + (1 - z) φ(x + …); gates in the order z, r, candidate.

    Args:
        inputs, gates, recurrent, start: as for the others.
        candidate: the candidate's recurrent bias (its function does not count), where
            the reset gate comes after the kernel: r ⊙ (U h + b). None where it comes
            before: U (r ⊙ h).
    """
    count, kinds = len(inputs.mean), len(inputs.pairs)
    track = _Track(count, start)
    memory = Memory(
        gates[0].function, count, start.seconds, start.mean, complement=True
    )
    r, phi = (Nonlinearity(gates[n].function, count) for n in (1, 2))
    inner = Steps(np.zeros(count), np.zeros((kinds, count, count)))
    t = 0
    for t in range(count):
        pairs, means = track.before(t)
        across, through = _covariance(inputs, t), recurrent.covariance(pairs, means)
        mean, carried = inputs.mean[t], recurrent.mean * means[-1]
        reset = r.advance(
            t, mean + carried + gates[1].mean, across + through + gates[1].variance
        )
        if candidate is None:
            inner.mean[t] = carried * r.mean[t]
            row = recurrent.covariance(reset * pairs, r.mean[: t + 1] * means)
            inner.pairs[:, t, : t + 1] = reset * pairs
        else:
            level = carried + candidate.mean
            known = recurrent.mean * means + candidate.mean
            square = through + candidate.variance + level * known
            inner.mean[t] = r.mean[t] * level
            row = reset * square - inner.mean[t] * inner.mean[: t + 1]
            inner.pairs[:, t, : t + 1] = square
        made = phi.advance(
            t,
            mean + gates[2].mean + inner.mean[t],
            across + gates[2].variance + row,
        )
        memory.advance(
            t,
            mean + carried + gates[0].mean,
            across + through + gates[0].variance,
            _ahead(inputs) + gates[0].variance,
            made,
            phi.mean[t],
        )
        track.put(t, float(memory.weights @ memory.mean), memory.row(t))
        if track.settled(t, inputs):
            break
    last = t
    seconds = np.diagonal(track.pairs[0])

    def backward(out: Array, shared: float, carry: float) -> Back:
        weights, push = memory.weights, np.sqrt(shared)
        back, rest, pairs = np.zeros(len(out)), 0.0, np.zeros((len(out), len(out)))
        at_state, common = np.zeros(len(weights)), np.zeros(len(weights))
        later, commons = (np.zeros((len(out), len(weights))) for _ in range(2))
        for t in reversed(range(len(out))):
            n = min(t, last)
            at_state = at_state + out[t] + rest + 2 * push * common
            update = float(weights @ (at_state * memory.gated[n, n] * memory.slopes[n]))
            level = float(weights @ (at_state * memory.inlets[n]))
            level *= phi.slope_second[n]
            if candidate is None:
                before = recurrent.back * level
                switch = before * seconds[n] * r.slope_second[n]
                rest = recurrent.back * (update + switch) + before * r.second[n]
            else:
                switch = level * inner.pairs[0, n, n] * r.slope_second[n]
                rest = recurrent.back * (update + switch + level * r.second[n])
            back[t] = (update + switch + level) / 3
            common, later = common + push, later + push * commons
            steps, past = _lagged(t, len(out), last)
            known = memory.gated[steps, past] * memory.slope_means[n] ** 2
            through = (1 - memory.means[n]) ** 2 * phi.slope_mean[n] ** 2
            known += through
            if candidate is not None:
                met = inner.pairs[0, steps, past] * r.slope_mean[n] ** 2
                known += through * met[:, None]
            pairs[t, t + 1 :] = (later[t + 1 :] * known) @ weights / 3
            commons[t], later[t] = common, at_state
            later, common = later * memory.means[n], common * memory.means[n]
            at_state = at_state * memory.squares[n]
        start = (rest + float(weights @ at_state),)
        return Back(back, pairs, start)

    return Run(track.found(last + 1), None, backward)
