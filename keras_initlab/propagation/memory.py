"""A state that a gate lets through: s_t = f_t s_{t-1} + i_t g_t.

A unit's forget gate is alike at all steps as far as its inputs and its bias are: its
pre-activation is a part that it keeps, and one of each step's own. Given the first,
steps are independent, and moments of the state follow step by step; the first is
integrated over a few levels.
"""

from __future__ import annotations

import numpy as np

from keras_initlab.propagation.expansion import expansion, joint_weights, levels
from keras_initlab.propagation.signal import Array, Function
from keras_initlab.propagation.steps import Steps

_SETTLED = 1e-4


class Memory:
    """The moments of a gated state; state t is that before step t.

    Attributes:
        weights: of the levels.
        mean: E[s] of the newest state, by level.
        own: E[s s_r] of the newest state with each state r, by level.
        other: by kind of pair but the first, E[s s'_r] by both units' levels.
        shared: by kind but the first, the correlation of what two gates keep.
        means, squares, inlets: by step and level, E[f], E[f²] and E[i²].
        slope_means, slopes: likewise E[df/dz] and E[(df/dz)²].
        gated: by two steps and level, E[y_t y_r], r ≤ t, y what f is multiplied by: s,
            or s - g where i = 1 - f.
    """

    def __init__(
        self,
        function: Function,
        steps: int,
        start: Array,
        mean: float,
        *,
        complement: bool = False,
    ) -> None:
        """Begin a memory.

        Args:
            function: of the forget gate.
            steps: how many at most.
            start, mean: moments of the state before the first step.
            complement: whether i = 1 - f; else i = 1, and g is all that is added.
        """
        self._function, self._complement = function, complement
        self._nodes, self.weights, _ = levels()
        count, size = steps + 1, len(self.weights)
        self.own = np.zeros((count, size))
        self.own[0] = start[0]
        self.other = np.zeros((len(start) - 1, count, size, size))
        self.other[:, 0] = start[1:, None, None]
        self.mean = np.full(size, mean)
        self.shared = np.zeros(len(start) - 1)
        shape = (steps, size)
        self.means, self.squares = np.zeros(shape), np.zeros(shape)
        self.slopes, self.inlets = np.zeros(shape), np.zeros(shape)
        self.slope_means = np.zeros(shape)
        self.gated = np.zeros((steps, steps, size))
        self._added = np.zeros((steps, steps))
        # What is left in state s of what step r let in, and of the first state.
        self._left = np.zeros((count, steps, size))
        self._first = np.zeros((count, size))
        self._first[0] = mean
        self._states: list[tuple[float, Array]] = []

    def advance(
        self, t: int, mean: float, row: Array, ahead: Array, added: Array, level: float
    ) -> None:
        """Take step t.

        Args:
            t: the step.
            mean, row: of the forget gate's pre-activation at step t, and its covariance
                with those of steps 0 to t, by kinds.
            ahead: the covariance to expect between steps before there are two.
            added: E[g_t g'_r] of steps r up to t, by kinds.
            level: E[g_t].
        """
        kept = self._late(t, row) if t else ahead
        variance = max(float(row[0, t]), 0.0)
        static = float(np.clip(kept[0], 0.0, variance))
        self.shared = np.clip(kept[1:] / static, -1, 1) if static > 0 else 0 * kept[1:]
        gate = expansion(
            self._function, mean + np.sqrt(static) * self._nodes, variance - static
        )
        f, square = gate.mean, gate.second
        if self._complement:
            i, mixed, inlet = 1 - f, f - square, 1 - 2 * f + square
        else:
            i, mixed, inlet = np.ones_like(f), f, np.ones_like(f)
        # E[s_r g_t] of the states r so far
        met = np.einsum("srj,kr->ksj", self._left[: t + 1, :t], added[:, :t])
        met += self._first[: t + 1] * level
        free = variance - static
        self.means[t], self.squares[t] = f, square
        self.slopes[t], self.slope_means[t] = gate.slope_second, gate.slope_mean
        self.inlets[t] = inlet
        self._added[t, : t + 1] = self._added[: t + 1, t] = added[0]
        self.gated[t, : t + 1] = self._gated(t, met[0])
        last = square * self.own[t] + 2 * mixed * met[0, t] + inlet * added[0, t]
        self.own[: t + 1] = f * self.own[: t + 1] + i * met[0]
        self.own[t + 1] = last
        for kind, other in enumerate(self.other, start=1):
            left = float(row[kind, t] - self.shared[kind - 1] * static)
            rho = np.clip(left / free, -1.0, 1.0) if free > 0 else 0.0
            powers = rho ** np.arange(gate.coefficients.shape[1])
            both = (gate.coefficients * powers) @ gate.coefficients.T
            if self._complement:
                cross = f[:, None] - both
                inlets = 1 - f[:, None] - f + both
            else:
                cross = np.broadcast_to(f[:, None], both.shape)
                inlets = np.ones_like(both)
            met_here = met[kind, t]
            last = both * other[t] + inlets * added[kind, t]
            last += cross * met_here[:, None] + cross.T * met_here
            # By the levels of the newest state's unit first.
            other[: t + 1] = (
                f[:, None] * other[: t + 1] + i[:, None] * met[kind][:, None, :]
            )
            other[t + 1] = last
        self._left[t + 1, :t] = f * self._left[t, :t]
        self._left[t + 1, t] = i
        self._first[t + 1] = f * self._first[t]
        self.mean = f * self.mean + i * level
        self._states.append((float(self.weights @ self.mean), self.row(t)[:, t + 1]))

    def _late(self, t: int, rows: Array) -> Array:
        """Return the mean over steps before t, by what is left of each, of rows."""
        weight = np.maximum(self._left[t, :t] @ self.weights, 0.0)
        weight[-1] += 1e-30  # so that the last step counts where nothing is left
        found: Array = rows[:, :t] @ weight / weight.sum()
        return found

    def _gated(self, t: int, met: Array) -> Array:
        """Return E[y_t y_r] of steps r ≤ t; `met` is E[s_r g_t]."""
        if not self._complement:
            return self.own[: t + 1]
        past = slice(0, t + 1)
        added = self._added[past, past]
        # E[s_t g_r]
        other = np.einsum("rj,rs->sj", self._left[t, :t], added[:t])
        found: Array = self.own[past] - met - other + added[t][:, None]
        return found

    def row(self, t: int) -> Array:
        """Return E[s s'_r] of the state behind step t with states r, by kinds."""
        past = slice(0, t + 2)
        rows = [self.own[past] @ self.weights]
        for other, shared in zip(self.other, self.shared, strict=True):
            rows.append((other[past] * joint_weights(shared)).sum(axis=(1, 2)))
        return np.stack(rows)

    def settled(self, t: int) -> bool:
        """Say whether the state behind step t is as the one before."""
        now, before = self._states[t][1], self._states[t - 1][1]
        return bool(np.abs(now - before).max() < _SETTLED * max(now[0], 1e-30))

    def carry(self, steps: int) -> Steps:
        """Return the moments of the states behind the first steps, each by itself."""
        mean = np.array([level for level, _ in self._states[:steps]])
        pairs = np.zeros((len(self.other) + 1, steps, steps))
        for t, (_, seconds) in enumerate(self._states[:steps]):
            pairs[:, t, t] = seconds
        return Steps(mean, pairs)
