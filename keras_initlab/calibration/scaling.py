"""One kernel in a calibration: what is known about it, and its factor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_initlab.calibration.moments import (
    DEAD,
    Array,
    Mean,
    Moments,
    Statistic,
    factor_for,
    pooled,
)
from keras_initlab.model.kernels import Kernel

# How far off a factor may be if a kernel is fitted in several rounds.
CLOSE = 1e-3
# The power of a factor that a statistic follows: 2 where the output is linear in the
# kernel. Below the least, another scale is no remedy.
_LINEAR, _LEAST_POWER, _MOST_POWER = 2.0, 0.1, 100.0

# The share of a second moment below which what is left without means is rounding.
_FLAT = 1e-10

_NOT_CENTRED = "its output is the same for every input: not centred"
_LEFT_ALONE = "another scale does not change its output: left alone"


@dataclass(eq=False)
class Scaling:
    """One kernel, or several side by side: the gates of a recurrent cell.

    Attributes:
        target: the statistic that its output should have.
        leave: why it is only measured; None if it is scaled.
        note: its role.
        gates: how many kernels it is, along its last axis.
        start: its value before the pass; None if it is not even measured.
        is_drawn: whether that is a new draw, not the value of the variable.
        bias: the variable that is added to its output, if that is not 0.
        bias_start: its values, in the shape in which they are added.
        centre: whether that bias is set so that each unit's mean is 0.
        factors: by which each gate is multiplied.
        moments: of each gate's output without a factor; empty before a call.
        by_output: whether its layer's output is measured, because its product cannot
            be traced.
        finding: what the pass has found out about it.
        order: the number of its first call among those of all kernels.
    """

    kernel: Kernel
    target: float
    leave: str | None = None
    note: str = ""
    gates: int = 1
    start: Any = None
    is_drawn: bool = False
    bias: Any = None
    bias_start: Array | None = None
    centre: bool = False
    factors: list[float] = field(default_factory=list)
    moments: list[Moments] = field(default_factory=list)
    by_output: bool = False
    finding: str = ""
    order: float = math.inf
    _first: list[float] = field(default_factory=list)
    _last: list[tuple[float, float]] = field(default_factory=list)
    _cached: tuple[list[float], Any] = field(default=([], None))

    def __post_init__(self) -> None:
        self.factors = self.factors or [1.0] * self.gates

    @property
    def is_left(self) -> bool:
        """Whether the kernel stays as it is."""
        return self.leave is not None or self.finding.endswith("left alone")

    @property
    def mapping(self) -> Iterator[tuple[Any, Any]]:
        """The variables that the pass changes, with their new values."""
        if self.is_drawn or any(factor != 1 for factor in self.factors):
            yield self.kernel.variable, self._value
        if self.centre and self.moments and not self.is_left:
            values = np.reshape(self._bias, tuple(self.bias.shape))
            yield self.bias, keras.ops.convert_to_tensor(values, self.bias.dtype)

    @property
    def _value(self) -> Any:
        factors, value = self._cached
        if factors != self.factors:
            value = keras.ops.multiply(self.start, self._multiplier)
            self._cached = self.factors, value
        return value

    @property
    def _multiplier(self) -> Any:
        if self.gates == 1:
            return self.factors[0]
        units = int(self.start.shape[-1]) // self.gates
        repeated = np.repeat(np.asarray(self.factors, "float32"), units)
        return keras.ops.cast(repeated, self.start.dtype)

    @property
    def _bias(self) -> Mean:
        if self.bias_start is None:
            return 0.0
        if self.centre and self.moments and not self.is_left:
            return -self.moments[0].mean * self.factors[0]
        return self.bias_start

    def before(self, gate: int, statistic: Statistic) -> float:
        """Return the statistic of its output with its old value and current input."""
        if self.by_output:
            return self._first[gate]
        bias = 0.0 if self.bias_start is None else self.bias_start
        return self.moments[gate].plus(bias).value(statistic)

    def after(self, gate: int, statistic: Statistic) -> float:
        """Return the statistic of its output as it is now."""
        product = self.moments[gate].times(self.factors[gate])
        return product.plus(self._bias).value(statistic)

    def fit(self, calls: Sequence[Sequence[Moments]], statistic: Statistic) -> float:
        """Fit the factors to the kernel's outputs.

        Args:
            calls: moments without the factors, of each call and gate.
            statistic: "second_moment" or "variance".

        Returns:
            How far the factors were off, as a logarithm; they stay if that is little.
        """
        self.moments = [
            pooled([call[gate] for call in calls]) for gate in range(self.gates)
        ]
        now = [self.after(gate, statistic) for gate in range(self.gates)]
        self._first = self._first or now
        if self.finding == DEAD:
            self.finding = ""  # in another call it may not be
        if self.is_left:
            return 0.0
        changes = [
            self._change(gate, now[gate], statistic) for gate in range(self.gates)
        ]
        if self.finding == _LEFT_ALONE:
            self.factors = [1.0] * self.gates
            return math.inf
        self._last = [
            (math.log(factor), math.log(value)) if value > 0 else (0.0, 0.0)
            for factor, value in zip(self.factors, now, strict=True)
        ]
        off = max(abs(change) for change in changes)
        if off > CLOSE:
            self.factors = [
                factor * math.exp(change)
                for factor, change in zip(self.factors, changes, strict=True)
            ]
        return off

    def fit_once(self, moments: Sequence[Moments], statistic: Statistic) -> None:
        """Set the factors from one call, whose output is linear in them."""
        self.moments = list(moments)
        solved = [self._solved(gate, statistic) for gate in range(self.gates)]
        if not self.is_left:
            self.factors = solved

    def _solved(self, gate: int, statistic: Statistic) -> float:
        """Return the factor that fits where the output is linear in the kernel."""
        moments = self.moments[gate]
        bias = 0.0 if self.bias_start is None else self.bias_start
        if self.centre and moments.spread <= _FLAT * moments.value("second_moment"):
            self.centre, self.finding = False, _NOT_CENTRED
        if self.centre:
            # What is left when each unit's mean is taken away.
            moments, bias = Moments(0.0, moments.spread), 0.0
        factor, finding = factor_for(moments, bias, self.target, statistic)
        self.finding = finding or self.finding
        return factor

    def _change(self, gate: int, now: float, statistic: Statistic) -> float:
        """Return the step of a factor's logarithm, by the secant through two rounds."""
        solved = self._solved(gate, statistic)
        step = math.log(solved / self.factors[gate])
        if not self._last or abs(step) <= CLOSE or not now > 0:
            return step
        factor, value = self._last[gate]
        moved = math.log(self.factors[gate]) - factor
        if abs(moved) <= CLOSE:
            return step
        power = (math.log(now) - value) / moved
        if power < _LEAST_POWER and self.by_output:
            self.finding = _LEFT_ALONE
            return 0.0
        return step * _LINEAR / min(max(power, _LEAST_POWER), _MOST_POWER)
