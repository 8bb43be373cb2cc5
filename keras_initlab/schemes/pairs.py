"""Kernels with paired units: which sides may be paired, which are, and the scale."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import keras
import numpy as np

from keras_initlab.model.kernels import Kernel
from keras_initlab.propagation.propagate import Forward
from keras_initlab.propagation.signal import Signal
from keras_initlab.propagation.weights import WeightMoments
from keras_initlab.schemes.kernels import has_field, layout_of
from keras_initlab.schemes.survey import Design, Survey

# How often, at most, the mean input of shared kernels is updated.
_MOST_ROUNDS = 12

_PAIRING = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)
_ATTENTION = tuple(
    getattr(keras.layers, name)
    for name in ("MultiHeadAttention", "GroupQueryAttention")
    if hasattr(keras.layers, name)
)


@dataclass(eq=False, kw_only=True)
class PairDesign(Design):
    """A design that knows which sides of its kernel come in pairs.

    Attributes:
        base: the kernel that is drawn between pairs.
        against_reading, against_making: why its inputs, and its outputs, cannot come
            in pairs; None where they can.
        reads: whether it reads pairs.
        meets_pairs: whether pairs reach it.
        mean_response: what an output sums over, averaged over a shared kernel's calls.
        theta: the angle by which its outputs leave their pairs; see `initlab>mirrored`.
        odd: whether what follows is odd, as tanh: pairs of it would never part.
    """

    base: Literal["orthogonal", "delta_orthogonal"]
    is_head: bool
    against_reading: str | None
    against_making: str | None
    reads: bool = False
    meets_pairs: bool = False
    mean_response: float | None = None
    theta: float = 0.0
    odd: bool = False


@dataclass(eq=False)
class PairDesigner:
    """Chooses kernels as the prediction reaches them.

    `pairs` are the kernels whose outputs come in pairs; `read` are those of them that
    some kernel reads as pairs.
    """

    designs: dict[tuple[int, str], PairDesign]
    pairs: set[tuple[int, str]]
    read: set[tuple[int, str]] = field(default_factory=set)
    has_chosen: bool = False

    def run(self, survey: Survey) -> Forward:
        """Return the prediction with kernels chosen on the way."""
        for design in self.designs.values():
            design.responses.clear()
        return survey.run(self)

    def settle(self, survey: Survey, after: Forward) -> Forward:
        """Return the prediction in which shared kernels have one scale for all calls.

        The input of such a kernel depends on its scale, so the mean is updated until it
        is stable.
        """
        designs = self.designs.values()
        shared = [design for design in designs if len(design.responses) > 1]
        for _ in range(_MOST_ROUNDS if shared else 0):
            off = 0.0
            for design in shared:
                mean = float(np.mean(design.responses))
                last = design.mean_response or design.responses[0]
                if not 0 < mean * last < math.inf:
                    continue
                off = max(off, abs(math.log(mean / last)))
                design.mean_response = math.sqrt(mean * last)
            after = self.run(survey)
            if off < 0.01:
                break
        return after

    def structure(
        self, layer: Any, weight: str, signal: Signal, current: WeightMoments
    ) -> WeightMoments:
        """Return which sides of a kernel come in pairs, given what it meets."""
        design = self.designs.get((id(layer), weight))
        if design is None:
            return current
        mirror = signal.mirror
        odd = 0.0 if mirror is None else mirror.odd.second
        design.meets_pairs = mirror is not None
        design.reads = (
            mirror is not None
            and design.against_reading is None
            and mirror.axis == _unit_axis(layer, signal)
            and odd > 1e-9 * signal.second
        )
        if design.reads and mirror is not None:
            self.read |= mirror.sources
        makes = design.kernel.key in self.pairs
        has_base = design.reads or makes or design.odd
        centred = has_base and has_field(design.kernel) and design.base != "orthogonal"
        mixing = math.sin(design.theta) ** 2 if makes else 0.0
        return WeightMoments(
            0.0, 1.0, centred, paired=(design.reads, makes), mixing=mixing
        )

    def __call__(
        self, layer: Any, weight: str, response: float, current: WeightMoments
    ) -> WeightMoments:
        """Return the moments that give a kernel's output its second moment."""
        design = self.designs.get((id(layer), weight))
        if design is None:
            return current
        if self.has_chosen:
            return design.chosen or current
        if not design.responses:
            design.chosen = None
        design.responses.append(response)
        if design.mean_response is not None:
            response = design.mean_response
        if design.chosen is None:
            if not 0 < response < math.inf:
                return current
            second = 0.0 if design.is_zero else design.target / response
            if design.fixed is not None:
                second = design.fixed
            design.chosen = WeightMoments(0.0, second)
        return design.chosen


def obstacles(kernel: Kernel, before: Forward) -> tuple[str | None, str | None]:
    """Return why a kernel's inputs, and its outputs, cannot come in pairs."""
    layer, propagation = kernel.layer, before.propagation
    if any(isinstance(parent, _ATTENTION) for parent in kernel.parents):
        return ("inside attention",) * 2
    if not isinstance(layer, _PAIRING) or kernel.weight != "kernel":
        return (f"{type(layer).__name__}'s {kernel.weight}",) * 2
    calls = len(propagation.kernel_outputs.get(kernel.key, ()))
    if calls != 1:
        return ("shared" if calls else "out of the prediction's reach",) * 2
    shape = tuple(kernel.variable.shape)
    layout = layout_of(kernel)
    against: list[str | None] = []
    for side, blocks, axis in zip(
        ("inputs", "outputs"), (1, layout.blocks), layout.unit_axes, strict=True
    ):
        width = 0 if axis is None else shape[axis] // blocks
        odd = f"{width} {side}, which is odd" if width else f"no {side} of its own"
        against.append(odd if width % 2 or not width else None)
    bias = propagation.optional_weight(layer, "bias")
    if bias is not None and bias.second_moment and against[1] is None:
        against[1] = "its bias does not start at 0"
    return against[0], against[1]


def _unit_axis(layer: Any, signal: Signal) -> int:
    if getattr(layer, "data_format", None) == "channels_first":
        return 1
    return len(signal.shape) - 1
