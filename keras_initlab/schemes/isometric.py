"""Isometric: mirrored kernels, with which networks of any depth start linear."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import keras

from keras_initlab import activations
from keras_initlab.initializers import Mirrored, Orthogonal
from keras_initlab.initializers.mirrored import checked_theta
from keras_initlab.model.kernels import Kernel
from keras_initlab.model.roles import NORMALISING
from keras_initlab.propagation.weights import WeightMoments
from keras_initlab.schemes.activation import auto_choice
from keras_initlab.schemes.averages import (
    averaged_kernels,
    averaged_q,
    averaged_theta,
    within_growth,
)
from keras_initlab.schemes.base import Choice, SchemeContext, Selection
from keras_initlab.schemes.kernels import fans_of, layout_of, sine_variance
from keras_initlab.schemes.options import (
    RESIDUALS,
    InputMoment,
    Options,
    Residual,
    check_input_moment,
    check_second_moment,
    check_word,
)
from keras_initlab.schemes.pairs import PairDesign, PairDesigner, obstacles
from keras_initlab.schemes.survey import (
    HEAD_TARGET,
    Survey,
    branch_target,
    instability,
)

# The least and most second moment that pre-activations may have.
_TINY, _MOST = 1e-6, 1.0
# The second moment that kernels of pairs read in networks of this many layers or more,
# and the growth of gradients that is allowed over the whole depth.
_READ, _DEEP, _GROWTH = 0.05, 50, 0.2
# The most kernels of a network of ordinary depth: it was measured up to 16 layers.
_ORDINARY = 20
# A cell's recurrent kernel, with the gain that keeps the length of its state.
_RECURRENT, _RECURRENT_GAIN = "recurrent_kernel", 1.0
Base = Literal["orthogonal", "delta_orthogonal"]


@lru_cache(maxsize=1024)
def default_q(nonlinearity: activations.Activation, depth: int) -> float:
    """Return the second moment of pre-activations at which a deep network starts.

    With ψ the odd part of φ, which kernels of pairs read, it is 0.05 / ψ'(0)² from 50
    layers on, so that they read a signal of equal variance for every φ; 50 / depth
    times that, up to 1, for fewer layers, which have to be more nonlinear each; and
    less if ψ is so nonlinear that gradients would grow by more than a fifth over the
    whole depth, (q E[ψ'²] / E[ψ²])ᵈᵉᵖᵗʰ > 1.2. It was chosen by validation accuracy,
    for depths of 50 and 200 and ten activations (`examples/benchmarks/depth.py --parts
    q`); for four layers, see `examples/benchmarks/architectures.py --parts circles`.

    >>> [round(default_q(activations.resolve(name), 50), 4)
    ...     for name in ("relu", "gelu", "tanh", "sigmoid")]
    [0.05, 0.05, 0.0125, 0.2]
    >>> round(default_q(activations.resolve("tanh"), 4), 3)
    0.156
    >>> default_q(activations.resolve("tanh"), 2000) < 0.0125
    True
    """
    read = _READ * max(1.0, _DEEP / depth)
    if nonlinearity.function is None or nonlinearity.family == "linear":
        return min(read, _MOST)
    odd = activations.odd_part(nonlinearity)
    slope = activations.moments(odd, variance=_TINY).derivative_second_moment
    q = min(read / max(slope, _TINY), _MOST)
    return within_growth(odd, q, depth, _GROWTH) or min(read, _MOST)


@lru_cache(maxsize=1024)
def is_odd(nonlinearity: activations.Activation) -> bool:
    """Whether φ(−z) = −φ(z), as for tanh and the identity.

    >>> [is_odd(activations.resolve(name)) for name in ("tanh", "linear", "sigmoid")]
    [True, True, False]
    """
    if nonlinearity.family == "linear":
        return True
    if nonlinearity.function is None:
        return False
    odd = activations.moments(activations.odd_part(nonlinearity), variance=1.0)
    whole = activations.moments(nonlinearity, variance=1.0)
    return math.isclose(odd.second_moment, 4 * whole.second_moment, rel_tol=1e-6)


@dataclass(frozen=True, kw_only=True, repr=False)
class Isometric(Options):
    """Mirror units in pairs, so that any depth starts linear: `scheme="isometric"`.

    Units come in pairs that mirror each other wherever the graph lets a kernel read
    them as pairs: `initlab>mirrored`. At first the network then computes with the odd
    part of its activations, which is linear for ReLU, GELU, SiLU and softplus and
    nearly so for others at a small second moment `q` of pre-activations: signals and
    gradients keep their lengths and angles at any depth. It is meant for plain
    networks, without normalisation or skip connections. Convolutions start at their
    centre tap, except those of few inputs in networks of up to 20 kernels, and those in
    networks where skips or normalisation carry the signal. After an odd function, such
    as tanh or the identity, pairs would stay pairs for ever: in plain networks kernels
    before one are orthogonal, without pairs. Kernels that cannot come in pairs (odd
    widths, shared layers, recurrent, depthwise and attention kernels) are orthogonal
    and scaled as by `Variance`; the plan says which, and why.

    Args:
        q: the second moment of pre-activations. The default for 50 layers is 0.05 for
            ReLU, GELU, SiLU and softplus, 0.2 for the sigmoid, 0.0125 for tanh; it is
            larger for fewer layers, and smaller for very deep networks whose activation
            has a nonlinear odd part: see `schemes.isometric.default_q`.
        theta: the angle in radians by which outputs leave their pairs, as in
            `initlab>mirrored`. The default is 0, except for convolutions before a
            global average: see `schemes.averages`, also for their q.
        residual, mean, variance: as for `Variance`.

    Raises:
        ValueError: a second moment that is not above 0, an unknown word, a variance
            below 0.
        TypeError: a mean or variance that is not a number.

    >>> Isometric(q=0.1)
    Isometric(q=0.1)

    Source: Balduzzi et al. 2017 for mirrored units; see `initlab>mirrored`.
    """

    q: float | None = None
    theta: float | None = None
    residual: Residual = "scaled"
    mean: InputMoment | None = field(default=None, hash=False)  # which may be a dict
    variance: InputMoment | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        q = self.q
        if q is not None:
            q = check_second_moment("q", q, "of pre-activations")
        theta = None if self.theta is None else checked_theta(self.theta)
        check_word("residual", self.residual, RESIDUALS)
        mean = check_input_moment("mean", self.mean)
        variance = check_input_moment("variance", self.variance, minimum=0.0)
        self._set(q=q, theta=theta, mean=mean, variance=variance)

    def choose(self, model: Any, context: SchemeContext) -> Selection:
        """Return a mirrored or orthogonal initializer for each kernel."""
        survey = Survey(
            model,
            context,
            mean=self.mean,
            variance=self.variance,
            residual=self.residual,
            recurrent=True,
        )
        survey.start_from(_recurrent_moments(survey))
        carried = bool(survey.roles.branches) or any(
            isinstance(record.layer, NORMALISING)
            for record in survey.before.propagation.records
        )
        is_deep = len(survey.free) > _ORDINARY
        designs = {
            kernel.key: self._design(kernel, survey, _base(kernel, carried, is_deep))
            for kernel in survey.free
        }
        graph = survey.before.propagation.flat_graph
        averaged = set() if carried else averaged_kernels(graph, survey.free)
        pairs = {
            key for key, design in designs.items() if design.against_making is None
        }
        odd = set() if carried else self._odd(pairs - averaged, designs, context)
        pairs -= odd
        while True:
            self._set_targets(designs, len(pairs) + len(odd), survey, averaged)
            designer = PairDesigner(designs, pairs)
            after = designer.run(survey)
            if pairs <= designer.read:
                break
            pairs &= designer.read
        after = designer.settle(survey, after)
        choices = [
            _choice(
                context,
                kernel,
                designs.get(kernel.key),
                kernel.key in pairs,
                context.seeds.at(index),
            )
            for index, kernel in enumerate(survey.kernels)
        ]
        designer.has_chosen = True
        lines = (
            _summary(designs, pairs),
            *instability(survey, designer, after, "even widths"),
        )
        return survey.selection(choices, after, lines)

    def _design(self, kernel: Kernel, survey: Survey, base: Base) -> PairDesign:
        """Return which sides of a kernel can come in pairs, and its role."""
        roles, before = survey.roles, survey.before
        fixed = sine_variance(kernel, survey.context.nonlinearity(kernel))
        against_reading, against_making = obstacles(kernel, before)
        if fixed is not None:
            against_reading = against_making = "it feeds a sine"
        is_zero, note = False, ""
        branch = roles.branches.get(kernel.key)
        if branch is not None:
            _, is_zero, note = branch_target(branch, 1.0, self.residual)
        if kernel.key in roles.heads and not is_zero:
            note = f"head; {note}" if note else "head"
        return PairDesign(
            kernel,
            target=1.0,
            is_zero=is_zero,
            note=note,
            base=base,
            fixed=fixed,
            is_head=kernel.key in roles.heads,
            against_reading=against_reading,
            against_making=against_making,
        )

    def _odd(
        self,
        keys: set[tuple[int, str]],
        designs: dict[tuple[int, str], PairDesign],
        context: SchemeContext,
    ) -> set[tuple[int, str]]:
        """Return the kernels before an odd function, which are to make no pairs.

        There the two of a pair get opposite gradients, and would stay a pair.
        """
        if self.theta:
            return set()
        odd = {
            key
            for key in keys
            if not designs[key].is_head
            and is_odd(context.nonlinearity(designs[key].kernel).resolved)
        }
        for key in odd:
            designs[key].against_making = "behind an odd function pairs never part"
        for key, design in designs.items():
            reads = design.is_head and design.against_reading is None
            design.odd = key in odd or bool(odd and reads)
        return odd

    def _set_targets(
        self,
        designs: dict[tuple[int, str], PairDesign],
        pairs: int,
        survey: Survey,
        averaged: set[tuple[int, str]],
    ) -> None:
        """Give each kernel its output's second moment, and the angle of its pairs."""
        roles = survey.roles
        for key, design in designs.items():
            nonlinearity = survey.context.nonlinearity(design.kernel).resolved
            depth = max(pairs, 1)
            if key in averaged:
                target = self.q or averaged_q(nonlinearity, depth)
                theta = averaged_theta(nonlinearity, depth, target)
            else:
                target = self.q or default_q(nonlinearity, depth)
                theta = 0.0
            design.theta = theta if self.theta is None else self.theta
            if key in roles.heads:
                target = HEAD_TARGET
            elif key in roles.branches:
                branch = roles.branches[key]
                target, _, _ = branch_target(branch, target, self.residual)
            design.target = target


def _base(kernel: Kernel, carried: bool, is_deep: bool) -> Base:
    """Return what is drawn between pairs: over all taps, or at the centre alone.

    Over all taps where skips or normalisation carry the signal, and in the stem of a
    network of ordinary depth, if it has more than twice as many outputs as inputs: at
    one tap its pairs would be alike. Of three plain convolutions on digits, test
    accuracy is 97.1 % so and 95.3 % at the centre; of 50, before a Flatten, both reach
    97.5 %, but two of four runs fail at a learning rate at which none did.
    """
    if carried:
        return "orthogonal"
    shape = tuple(kernel.variable.shape)
    _, inputs, outputs = layout_of(kernel).stack(shape, with_field=False)
    is_wide = outputs > 2 * inputs and not is_deep
    return "orthogonal" if is_wide else "delta_orthogonal"


def _recurrent_moments(survey: Survey) -> dict[tuple[int, str], WeightMoments]:
    """Return the moments of recurrent kernels, which no prediction reaches."""
    moments = {}
    for kernel in survey.free:
        if kernel.weight == _RECURRENT:
            fan_in = layout_of(kernel).fans(kernel.variable.shape).fan_in
            moments[kernel.key] = WeightMoments(0.0, _RECURRENT_GAIN**2 / fan_in)
    return moments


def _choice(
    context: SchemeContext,
    kernel: Kernel,
    design: PairDesign | None,
    makes: bool,
    seed: int | None,
) -> Choice:
    if design is None or design.fixed is not None:
        return auto_choice(context, kernel, seed)
    if design.chosen is None:
        return _unreached(context, design, seed)
    gain = design.gain
    after: Any
    if design.is_zero:
        after = keras.initializers.Zeros()
    elif design.reads or makes or design.odd:
        if design.reads:
            gain /= math.sqrt(2)  # of half as many inputs
        after = Mirrored(
            gain=gain,
            base=design.base,
            inputs=design.reads,
            outputs=makes,
            seed=seed,
            theta=design.theta if makes else 0.0,
        )
    else:
        after = Orthogonal(gain=gain, seed=seed)
    is_mirrored = design.reads and (makes or design.is_head)
    note = "" if is_mirrored else _why(design, makes)
    return design.choice(context, after, gain, note)


def _unreached(context: SchemeContext, design: PairDesign, seed: int | None) -> Choice:
    """Return the choice for a kernel that no prediction reaches: orthogonal.

    For example a cell's recurrent kernel: gate by gate, with gain 1.
    """
    kernel = design.kernel
    is_recurrent = kernel.weight == _RECURRENT
    gain = context.nonlinearity(kernel).rule.gain or 1.0
    gain = _RECURRENT_GAIN if is_recurrent else gain
    fans = fans_of(kernel)
    return context.choice(
        kernel,
        Orthogonal(gain=gain, seed=seed),
        gain=gain,
        std=None if fans is None else gain / math.sqrt(fans.fan_in),
        note=f"not mirrored: {design.against_making}",
    )


def _why(design: PairDesign, makes: bool) -> str:
    """Say which side of a kernel does not come in pairs, and why."""
    if design.odd and not design.reads:
        return "no pairs reach it" if design.is_head else str(design.against_making)
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
    designs: dict[tuple[int, str], PairDesign], pairs: set[tuple[int, str]]
) -> str:
    sides = [int(design.reads) + (key in pairs) for key, design in designs.items()]
    both, single, none = sides.count(2), sides.count(1), sides.count(0)
    line = f"mirrored kernels: {both}, and {single} with one side; others: {none}"
    if not both + single:
        line += ". Without pairs this is variance scaling with orthogonal kernels"
    return line
