"""scheme="isometric": mirrored kernels, with which any depth starts linear."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import keras
import numpy as np

from keras_initlab import activations
from keras_initlab.initializers import Mirrored, Orthogonal
from keras_initlab.model.kernels import Kernel, kernels_of
from keras_initlab.model.roles import NORMALISING, Roles, roles_of
from keras_initlab.plan import PlanRow
from keras_initlab.propagation.propagate import Forward, run_forward
from keras_initlab.propagation.signal import Signal
from keras_initlab.propagation.weights import WeightMoments
from keras_initlab.schemes import activation
from keras_initlab.schemes.choice import (
    Choice,
    Finder,
    Followed,
    Seeds,
    fans_of,
    followed,
    layout_of,
    left_alone,
)
from keras_initlab.schemes.predicted import (
    HEAD_TARGET,
    Options,
    Scheme,
    assumptions_of,
    branch_target,
    instability,
    predicted_second,
    scaled_row,
)

# The second moment of what kernels of pairs read, and the most and least that
# pre-activations may have for it.
_READ, _MOST, _TINY = 0.05, 1.0, 1e-6
# What a cell reads its own state with, at the gain that keeps its length.
_RECURRENT, _RECURRENT_GAIN = "recurrent_kernel", 1.0
# By how much gradients may grow over the whole depth.
_GROWTH = 0.2

# How often what reaches shared kernels is looked at anew.
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


@lru_cache(maxsize=1024)
def default_q(known: activations.Activation, depth: int) -> float:
    """Return the second moment of pre-activations at which a deep network starts.

    ψ being the odd part of φ, which is what kernels of pairs read: 0.05 / ψ'(0)², so
    that what they read varies alike for every φ; and less where ψ bends so much that
    gradients would grow by more than a fifth over the whole depth,
    (q E[ψ'²] / E[ψ²])ᵈᵉᵖᵗʰ > 1.2. Chosen by validation accuracy, over depths of 50 and
    200 and ten activations: `examples/benchmarks/depth.py --parts q`.

    >>> [round(default_q(activations.resolve(name), 50), 4)
    ...     for name in ("relu", "gelu", "tanh", "sigmoid")]
    [0.05, 0.05, 0.0125, 0.2]
    >>> default_q(activations.resolve("tanh"), 2000) < 0.0125
    True
    """
    if known.function is None or known.family == "linear":
        return _READ
    odd = activations.odd_part(known)
    slope = activations.moments(odd, variance=_TINY).derivative_second_moment
    q = min(_READ / max(slope, _TINY), _MOST)
    while q > _TINY:
        at = activations.moments(odd, variance=q)
        if not at.second_moment > 0:
            break  # an even function: nothing reads pairs behind it
        if depth * (q * at.derivative_second_moment / at.second_moment - 1) <= _GROWTH:
            return float(q)
        q *= 0.9
    return _READ


@dataclass(eq=False)
class _Design:
    """What is chosen for one kernel, and what is known of its place."""

    kernel: Kernel
    follows: Followed
    target: float
    base: str
    zero: bool
    is_head: bool
    note: str
    # Why a side cannot come in pairs; None where it can.
    against_reading: str | None
    against_making: str | None
    reads: bool = False
    meets_pairs: bool = False
    chosen: WeightMoments | None = None
    responses: list[float] = field(default_factory=list)
    # What an output sums over, where a shared kernel's calls have been averaged.
    mean_response: float | None = None

    @property
    def key(self) -> tuple[int, str]:
        return id(self.kernel.layer), self.kernel.weight


@dataclass(eq=False)
class _Designer:
    """Chooses kernels as the prediction reaches them.

    `making` are the kernels whose outputs come in pairs; `read` are told which of them
    some kernel reads as pairs.
    """

    designs: dict[tuple[int, str], _Design]
    making: set[tuple[int, str]]
    read: set[tuple[int, str]] = field(default_factory=set)
    has_chosen: bool = False

    def run(self, model: Any, moments: dict[str, Any]) -> Forward:
        """Return the prediction with kernels chosen on the way."""
        for design in self.designs.values():
            design.responses.clear()
        return run_forward(model, **moments, designer=self)

    def structure(
        self, layer: Any, weight: str, signal: Signal, known: WeightMoments
    ) -> WeightMoments:
        """Return which sides of a kernel come in pairs, given what it meets."""
        design = self.designs.get((id(layer), weight))
        if design is None:
            return known
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
        makes = design.key in self.making
        paired = design.reads or makes
        centred = paired and _has_field(design.kernel) and design.base != "orthogonal"
        return WeightMoments(0.0, 1.0, centred, paired=(design.reads, makes))

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
            second = 0.0 if design.zero else design.target / response
            design.chosen = WeightMoments(0.0, second)
        return design.chosen


def choose(
    model: Any, seeds: Seeds, skipped: set[int], finder: Finder, options: Options
) -> Scheme:
    """Return a choice for each kernel of the model, which is left as it is."""
    kernels = kernels_of(model, recurrent=True)
    moments: dict[str, Any] = {"mean": options.mean, "variance": options.variance}
    before = run_forward(model, **moments)
    roles = roles_of(before.propagation.flat_graph, kernels)
    alone = [left_alone(kernel, skipped, False) for kernel in kernels]
    known = before.propagation.known
    recurrent = {
        (id(kernel.layer), kernel.weight): WeightMoments(
            0.0,
            _RECURRENT_GAIN**2 / layout_of(kernel).fans(kernel.variable.shape).fan_in,
        )
        for kernel, reason in zip(kernels, alone, strict=True)
        if reason is None and kernel.weight == _RECURRENT
    }
    moments["known"] = replace(known, moments={**known.moments, **recurrent})
    designs = {}
    for kernel, reason in zip(kernels, alone, strict=True):
        if reason is None:
            design = _design(kernel, finder, roles, options, before)
            designs[design.key] = design
    making = {one.key for one in designs.values() if one.against_making is None}
    while True:
        _set_targets(designs, making, roles, options)
        designer = _Designer(designs, making)
        after = designer.run(model, moments)
        if making <= designer.read:
            break
        making &= designer.read
    after = _settled(designer, model, moments, after)
    choices = []
    for index, kernel in enumerate(kernels):
        found = designs.get((id(kernel.layer), kernel.weight))
        if found is None or found.chosen is None:
            row = _beyond(kernel, found, finder, seeds.at(index), skipped)
        else:
            row = _row(found, found.key in making, seeds.at(index))
        row = replace(
            row,
            predicted_before=predicted_second(before, kernel),
            predicted_after=predicted_second(after, kernel),
        )
        choices.append(Choice(kernel, row))
    designer.has_chosen = True
    lines = (
        *assumptions_of(after, roles, options),
        *_summary(designs, making),
        *instability(model, designer, after, moments, "even widths"),
    )
    return Scheme(choices, lines)


def _settled(
    designer: _Designer, model: Any, moments: dict[str, Any], after: Forward
) -> Forward:
    """Return the prediction in which shared kernels have one scale for all calls.

    What reaches such a kernel depends on its scale; it is looked at again and again.
    """
    shared = [one for one in designer.designs.values() if len(one.responses) > 1]
    for _ in range(_MOST_ROUNDS if shared else 0):
        off = 0.0
        for design in shared:
            mean = float(np.mean(design.responses))
            last = design.mean_response or design.responses[0]
            if not 0 < mean * last < math.inf:
                continue
            off = max(off, abs(math.log(mean / last)))
            design.mean_response = math.sqrt(mean * last)
        after = designer.run(model, moments)
        if off < 0.01:
            break
    return after


def _design(
    kernel: Kernel, finder: Finder, roles: Roles, options: Options, before: Forward
) -> _Design:
    key = (id(kernel.layer), kernel.weight)
    reading, making = _obstacles(kernel, before)
    follows = followed(kernel, finder)
    carried = bool(roles.branches) or any(
        isinstance(one.layer, NORMALISING) for one in before.propagation.records
    )
    notes = [follows.note]
    zero = False
    if key in roles.heads:
        notes.append("head")
    elif key in roles.branches:
        _, zero, note = branch_target(roles.branches[key], 1.0, options.residual)
        notes.append(note)
    return _Design(
        kernel,
        follows,
        target=1.0,
        # Where skips or normalisation carry the signal all taps may take part.
        base="orthogonal" if carried else "delta_orthogonal",
        zero=zero,
        is_head=key in roles.heads,
        note="; ".join(note for note in notes if note),
        against_reading=reading,
        against_making=making,
    )


def _obstacles(kernel: Kernel, before: Forward) -> tuple[str | None, str | None]:
    """Return why a kernel's inputs, and its outputs, cannot come in pairs."""
    layer, propagation = kernel.layer, before.propagation
    if any(isinstance(one, _ATTENTION) for one in kernel.parents):
        return ("inside attention",) * 2
    if not isinstance(layer, _PAIRING) or kernel.weight != "kernel":
        return (f"{type(layer).__name__}'s {kernel.weight}",) * 2
    calls = len(propagation.kernel_outputs.get((id(layer), kernel.weight), ()))
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


def _has_field(kernel: Kernel) -> bool:
    shape = tuple(kernel.variable.shape)
    return bool(math.prod(shape[axis] for axis in layout_of(kernel).field) > 1)


def _set_targets(
    designs: dict[tuple[int, str], _Design],
    making: set[tuple[int, str]],
    roles: Roles,
    options: Options,
) -> None:
    """Give each kernel the second moment that its output shall have."""
    depth = max(len(making), 1)
    for key, design in designs.items():
        known = design.follows.resolved
        target = options.q or default_q(known, depth)
        if key in roles.heads:
            target = HEAD_TARGET
        elif key in roles.branches:
            target, _, _ = branch_target(roles.branches[key], target, options.residual)
        design.target = target


def _beyond(
    kernel: Kernel,
    design: _Design | None,
    finder: Finder,
    seed: int | None,
    skipped: set[int],
) -> PlanRow:
    """Return the row of a kernel that is left alone, or that nothing is known to reach.

    Such as a cell's recurrent kernel: orthogonal, gate by gate, at gain 1.
    """
    row = activation.choose(kernel, finder, seed, skipped).row
    if design is None or not row.changed:
        return row
    gain = _RECURRENT_GAIN if kernel.weight == _RECURRENT else row.gain or 1.0
    std = None if row.fan_in is None else gain / math.sqrt(row.fan_in)
    note = "; ".join(filter(None, [row.note, f"not mirrored: {design.against_making}"]))
    after = Orthogonal(gain=gain, seed=seed)
    return replace(row, after=after, gain=gain, std=std, note=note)


def _row(design: _Design, makes: bool, seed: int | None) -> PlanRow:
    kernel, chosen = design.kernel, design.chosen
    fan = fans_of(kernel)
    assert fan is not None
    assert chosen is not None
    gain = math.sqrt(chosen.second_moment * fan.fan_in)
    notes = [design.note]
    after: Any
    if design.zero:
        after = keras.initializers.Zeros()
    elif design.reads or makes:
        if design.reads:
            gain /= math.sqrt(2)  # of half as many inputs
        after = Mirrored(
            gain=gain,
            base=design.base,  # type: ignore[arg-type]
            inputs=design.reads,
            outputs=makes,
            seed=seed,
        )
    else:
        after = Orthogonal(gain=gain, seed=seed)
    if not (design.reads and (makes or design.is_head)):
        notes.append(_why(design, makes))
    target = 0.0 if design.zero else design.target
    note = "; ".join(note for note in notes if note)
    return scaled_row(kernel, design.follows, chosen, gain, after, target, note)


def _why(design: _Design, makes: bool) -> str:
    """Say which side of a kernel does not come in pairs, and why."""
    reading = "no pairs reach it"
    if design.meets_pairs:
        reading = design.against_reading or "they have no odd part"
    making = design.against_making or "nothing reads pairs behind it"
    if design.reads:
        return f"reads pairs, makes none: {making}"
    if makes:
        return f"makes pairs, reads none: {reading}"
    if design.against_reading == design.against_making is not None:
        return f"not mirrored: {making}"
    return f"not mirrored: {reading}; {making}"


def _summary(
    designs: dict[tuple[int, str], _Design], making: set[tuple[int, str]]
) -> tuple[str, ...]:
    both = sum(one.reads and one.key in making for one in designs.values())
    ends = sum(one.reads != (one.key in making) for one in designs.values())
    rest = len(designs) - both - ends
    line = f"mirrored kernels: {both}, and {ends} with one side; others: {rest}"
    if not both + ends:
        line += ". Without pairs this is variance scaling with orthogonal kernels"
    return (line,)
