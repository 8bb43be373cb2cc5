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

from keras_initlab.propagation.expansion import Nonlinearity
from keras_initlab.propagation.signal import Array, Function
from keras_initlab.propagation.steps import Steps

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
        found: Array = self.gains[:, None] * pairs - self.loss * means[-1] * means
        return found


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
class Track:
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


def covariance_row(inputs: Steps, t: int) -> Array:
    """Return the covariance of step t with steps up to it, by kinds."""
    means = inputs.mean
    found: Array = inputs.pairs[:, t, : t + 1] - means[t] * means[: t + 1]
    return found


def lagged(t: int, count: int, last: int) -> tuple[Any, Any]:
    """Return where to look for steps behind t with t: what was found last serves on."""
    steps = np.arange(t + 1, count)
    found = np.minimum(steps, last)
    return found, np.maximum(found - (steps - t), 0)


def ahead(inputs: Steps) -> Array:
    """Return the inputs' covariance of the first two steps, by kinds."""
    if len(inputs.mean) < 2:
        return np.zeros(len(inputs.pairs))
    found: Array = inputs.pairs[:, 1, 0] - inputs.mean[1] * inputs.mean[0]
    return found


def run_simple(inputs: Steps, gate: Gate, recurrent: Recurrent, start: Start) -> Run:
    """Follow h_t = φ(x_t + U h_{t-1} + b), for x_t the inputs' share of z_t."""
    count = len(inputs.mean)
    track = Track(count, start)
    phi = Nonlinearity(gate.function, count)
    t = 0
    for t in range(count):
        pairs, means = track.before(t)
        row = covariance_row(inputs, t) + recurrent.covariance(pairs, means)
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
