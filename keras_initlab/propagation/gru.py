"""The moments of a GRU's states: h_t = z h_{t-1} + (1 - z) φ(…)."""

from __future__ import annotations

import numpy as np

from keras_initlab.propagation.expansion import Nonlinearity
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
from keras_initlab.propagation.signal import Array
from keras_initlab.propagation.steps import Steps


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
    track = Track(count, start)
    memory = Memory(
        gates[0].function, count, start.seconds, start.mean, complement=True
    )
    r, phi = (Nonlinearity(gates[n].function, count) for n in (1, 2))
    inner = Steps(np.zeros(count), np.zeros((kinds, count, count)))
    t = 0
    for t in range(count):
        pairs, means = track.before(t)
        across, through = covariance_row(inputs, t), recurrent.covariance(pairs, means)
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
            ahead(inputs) + gates[0].variance,
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
            steps, past = lagged(t, len(out), last)
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
