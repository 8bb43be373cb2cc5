"""Variance: each kernel scaled for the signal that reaches it through the graph."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_initlab import activations
from keras_initlab.initializers import Scaled
from keras_initlab.model.kernels import Kernel
from keras_initlab.propagation.propagate import Forward
from keras_initlab.propagation.weights import WeightMoments
from keras_initlab.schemes.activation import auto_choice
from keras_initlab.schemes.base import Choice, SchemeContext, Selection
from keras_initlab.schemes.kernels import fans_of, sine_variance
from keras_initlab.schemes.options import (
    CRITERIA,
    RESIDUALS,
    Criterion,
    InputMoment,
    Options,
    Residual,
    check_input_moment,
    check_second_moment,
    check_word,
)
from keras_initlab.schemes.spread import spread_of_draws
from keras_initlab.schemes.survey import (
    Design,
    Survey,
    branch_target,
    instability,
)


@dataclass(frozen=True, kw_only=True, repr=False)
class Variance(Options):
    """Scale each kernel for the signal that reaches it: `scheme="variance"`.

    The signal is followed through the whole graph (see `propagate`), and each kernel
    is scaled so that its output, before the layer's own activation, has the second
    moment `target`: `initlab>scaled` with that gain. Kernels that end a residual
    branch get a smaller one, so that depth does not add variance. Subclassed models
    are opened.

    Args:
        target: the second moment of kernels' outputs.
        residual: "scaled" gives the last kernel of each of the n residual branches on
            a stream the target `target / n`, "zero" sets it to 0, "keep" treats it like
            any other kernel.
        head: the second moment of heads' outputs, at most `target`. 0.1 keeps the first
            loss of a softmax near log(classes), but ResNets then learned less well
            (docs/which_scheme.md).
        criterion: "forward", or "balanced" for the harmonic mean with the variance
            that would keep the gradient's second moment, as Glorot did.
        mean, variance: of the inputs, as in `propagate`. If left out, inputs have mean
            0 and variance 1 where the first layers with weights read them, after any
            preprocessing.

    Raises:
        ValueError: a second moment that is not above 0, an unknown word, a variance
            below 0.
        TypeError: a mean or variance that is not a number.

    >>> Variance(target=2, residual="zero")
    Variance(target=2.0, residual='zero')
    >>> Variance(target=1.0) == Variance()
    True

    Source: Bingham & Miikkulainen 2023 for following a graph; Glorot & Bengio 2010;
    Zhang et al. 2019 for residual branches.
    """

    target: float = 1.0
    residual: Residual = "scaled"
    head: float = 1.0
    criterion: Criterion = "forward"
    mean: InputMoment | None = field(default=None, hash=False)  # which may be a dict
    variance: InputMoment | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        target = check_second_moment("target", self.target, "of kernels' outputs")
        head = check_second_moment("head", self.head, "of heads' outputs")
        check_word("residual", self.residual, RESIDUALS)
        check_word("criterion", self.criterion, CRITERIA)
        mean = check_input_moment("mean", self.mean)
        variance = check_input_moment("variance", self.variance, minimum=0.0)
        self._set(target=target, head=head, mean=mean, variance=variance)

    def choose(self, model: Any, context: SchemeContext) -> Selection:
        """Return a scaled initializer for each kernel; see `schemes.base.Scheme`."""
        survey = Survey(
            model,
            context,
            mean=self.mean,
            variance=self.variance,
            residual=self.residual,
        )
        designs = {kernel.key: self._design(kernel, survey) for kernel in survey.free}
        designer = _Designer(designs, self.criterion, context)
        after = designer.run(survey)
        if any(len(design.responses) > 1 for design in designs.values()):
            after = designer.run_shared(survey)
        choices = [
            _choice(context, kernel, designs.get(kernel.key), context.seeds.at(index))
            for index, kernel in enumerate(survey.kernels)
        ]
        growth = instability(survey, designer.keep, after, "scheme='isometric'")
        spread = spread_of_draws(survey, after, self.target)
        return survey.selection(choices, after, (*growth, *spread))

    def _design(self, kernel: Kernel, survey: Survey) -> Design:
        """Return the target of a kernel's output, by its role in the graph."""
        roles = survey.roles
        fixed = sine_variance(kernel, survey.context.nonlinearity(kernel))
        if fixed is not None:
            return Design(kernel, self.target, fixed=fixed)
        target, is_zero, note = self.target, False, ""
        branch = roles.branches.get(kernel.key)
        if branch is not None:
            target, is_zero, note = branch_target(branch, target, self.residual)
        if kernel.key in roles.heads and not is_zero:
            target = min(target, self.head)
            note = f"head; {note}" if note else "head"
        return Design(kernel, target, is_zero, note)


@dataclass(eq=False)
class _Designer:
    """Chooses the scale of each kernel when the prediction reaches it."""

    designs: dict[tuple[int, str], Design]
    criterion: Criterion
    context: SchemeContext
    # The inputs of shared kernels, averaged over their calls.
    mean_responses: dict[tuple[int, str], float] = field(default_factory=dict)

    def run(self, survey: Survey) -> Forward:
        """Return the prediction with the kernels chosen on the way."""
        for design in self.designs.values():
            design.responses.clear()
        return survey.run(self)

    def run_shared(self, survey: Survey) -> Forward:
        """Return the prediction in which a shared kernel has one scale for all calls.

        It fits the mean of their inputs, and changes the inputs of other kernels.
        """
        self.mean_responses = {
            key: float(np.mean(design.responses))
            for key, design in self.designs.items()
            if len(design.responses) > 1
        }
        return self.run(survey)

    def __call__(
        self, layer: Any, weight: str, response: float, current: WeightMoments
    ) -> WeightMoments:
        """Return the moments that give a kernel's output its second moment."""
        key = id(layer), weight
        design = self.designs.get(key)
        if design is None:
            return current
        design.responses.append(response)
        if design.chosen is not None and len(design.responses) > 1:
            return design.chosen
        response = self.mean_responses.get(key, response)
        second = self._second_moment(design, response)
        design.chosen = None if second is None else WeightMoments(0.0, second)
        return design.chosen or current

    def keep(
        self, layer: Any, weight: str, response: float, current: WeightMoments
    ) -> WeightMoments:
        """Return the moments that were chosen, whatever the kernel's input."""
        design = self.designs.get((id(layer), weight))
        return current if design is None or design.chosen is None else design.chosen

    def _second_moment(self, design: Design, response: float) -> float | None:
        """Return E[w²] for the target, from what an output sums over."""
        if design.fixed is not None:
            return design.fixed
        if design.is_zero:
            return 0.0
        if not response > 0 or not math.isfinite(response):
            return None
        forward = design.target / response
        if self.criterion == "forward":
            return forward
        fans = fans_of(design.kernel)
        assert fans is not None
        nonlinearity = self.context.nonlinearity(design.kernel).resolved
        slope = 1.0
        if nonlinearity.function is not None:
            moments = activations.moments(nonlinearity, variance=design.target)
            slope = moments.derivative_second_moment
        backward = 1 / max(fans.fan_out * slope, 1e-12)
        # As in Glorot and Bengio: the harmonic mean of the two directions' variances.
        return 2 / (1 / forward + 1 / backward)


_OUT_OF_REACH = "out of the prediction's reach"


def _choice(
    context: SchemeContext, kernel: Kernel, design: Design | None, seed: int | None
) -> Choice:
    if design is None or design.fixed is not None:
        return auto_choice(context, kernel, seed)
    if design.chosen is None:
        reached = "nothing reaches it" if design.responses else _OUT_OF_REACH
        return auto_choice(context, kernel, seed, f"{reached}: by activation")
    gain = design.gain
    zeros = keras.initializers.Zeros()
    after = zeros if design.is_zero else Scaled(gain=gain, seed=seed)
    return design.choice(context, after, gain)
