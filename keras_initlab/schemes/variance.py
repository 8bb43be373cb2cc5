"""scheme="variance": each kernel scaled to what reaches it, all through the graph."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from keras_initlab import activations
from keras_initlab.initializers import Scaled
from keras_initlab.model.kernels import Kernel, kernels_of
from keras_initlab.model.roles import Roles, roles_of
from keras_initlab.plan import PlanRow
from keras_initlab.propagation.propagate import Forward, run_forward
from keras_initlab.propagation.weights import WeightMoments
from keras_initlab.schemes import activation
from keras_initlab.schemes.choice import (
    Choice,
    Finder,
    Followed,
    Seeds,
    fans_of,
    followed,
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


@dataclass(eq=False)
class _Design:
    """What is chosen for one kernel, and what reached it."""

    kernel: Kernel
    follows: Followed
    target: float
    zero: bool = False
    responses: list[float] = field(default_factory=list)
    chosen: WeightMoments | None = None
    note: str = ""


def choose(
    model: Any, seeds: Seeds, skipped: set[int], finder: Finder, options: Options
) -> Scheme:
    """Return a choice for each kernel of the model, which is left as it is."""
    kernels = kernels_of(model)
    moments = {"mean": options.mean, "variance": options.variance}
    before = run_forward(model, **moments)
    moments["known"] = before.propagation.known
    roles = roles_of(before.propagation.flat_graph, kernels)
    alone = [left_alone(kernel, skipped, False) for kernel in kernels]
    designs = {
        (id(kernel.layer), kernel.weight): _design(kernel, finder, roles, options)
        for kernel, reason in zip(kernels, alone, strict=True)
        if reason is None
    }
    after = _designed(model, designs, options, moments)
    if any(len(design.responses) > 1 for design in designs.values()):
        # A shared kernel has one scale for all that reaches it: their mean, which
        # changes what reaches the others.
        after = _designed(model, designs, options, moments, shared=True)
    choices = []
    for index, (kernel, reason) in enumerate(zip(kernels, alone, strict=True)):
        design = designs.get((id(kernel.layer), kernel.weight))
        if design is None or design.chosen is None:
            row = activation.choose(kernel, finder, seeds.at(index), skipped).row
            if design is not None:
                reason = design.note or "out of the prediction's reach: by activation"
                row = replace(row, note="; ".join(filter(None, [row.note, reason])))
        else:
            row = _row(kernel, design, seeds.at(index))
        row = replace(
            row,
            predicted_before=predicted_second(before, kernel),
            predicted_after=predicted_second(after, kernel),
        )
        choices.append(Choice(kernel, row))
    assumptions = assumptions_of(after, roles, options)

    def chosen(
        layer: Any, weight: str, response: float, current: WeightMoments
    ) -> WeightMoments:
        design = designs.get((id(layer), weight))
        return current if design is None or design.chosen is None else design.chosen

    growth = instability(model, chosen, after, moments, "scheme='isometric'")
    return Scheme(choices, (*assumptions, *growth))


def _design(kernel: Kernel, finder: Finder, roles: Roles, options: Options) -> _Design:
    """Return what a kernel's output should be, by its role in the graph."""
    key = (id(kernel.layer), kernel.weight)
    follows = followed(kernel, finder)
    design = _Design(kernel, follows, options.target, note=follows.note)
    notes = [follows.note]
    if key in roles.heads:
        design.target = min(options.target, HEAD_TARGET)
        notes.append("head")
    elif key in roles.branches:
        design.target, design.zero, note = branch_target(
            roles.branches[key], options.target, options.residual
        )
        notes.append(note)
    design.note = "; ".join(note for note in notes if note)
    return design


def _designed(
    model: Any,
    designs: dict[tuple[int, str], _Design],
    options: Options,
    moments: dict[str, Any],
    *,
    shared: bool = False,
) -> Forward:
    """Run the prediction and choose each kernel as it is reached."""
    known = {key: list(design.responses) for key, design in designs.items()}
    for design in designs.values():
        design.responses.clear()

    def designer(
        layer: Any, weight: str, response: float, current: WeightMoments
    ) -> WeightMoments:
        design = designs.get((id(layer), weight))
        if design is None:
            return current
        design.responses.append(response)
        if design.chosen is not None and len(design.responses) > 1:
            return design.chosen
        before = known[id(layer), weight]
        if shared and len(before) > 1:
            response = float(np.mean(before))
        second = _second_moment(design, response, options)
        if second is None:
            design.note = "nothing reaches it: by activation"
            design.chosen = None
            return current
        design.chosen = WeightMoments(0.0, second)
        return design.chosen

    return run_forward(model, **moments, designer=designer)


def _second_moment(design: _Design, response: float, options: Options) -> float | None:
    """Return E[w²] for the target, from what an output sums over."""
    if design.zero:
        return 0.0
    if not response > 0 or not math.isfinite(response):
        return None
    forward = design.target / response
    if options.criterion == "forward":
        return forward
    fan = fans_of(design.kernel)
    assert fan is not None
    slope = 1.0
    if design.follows.resolved.function is not None:
        slope = activations.moments(
            design.follows.resolved, variance=design.target
        ).derivative_second_moment
    backward = 1 / max(fan.fan_out * slope, 1e-12)
    # As Glorot and Bengio: the harmonic mean of what the two ways ask for.
    return 2 / (1 / forward + 1 / backward)


def _row(kernel: Kernel, design: _Design, seed: int | None) -> PlanRow:
    fan = fans_of(kernel)
    assert fan is not None
    assert design.chosen is not None
    gain = math.sqrt(design.chosen.second_moment * fan.fan_in)
    after = keras.initializers.Zeros() if design.zero else Scaled(gain=gain, seed=seed)
    target = 0.0 if design.zero else design.target
    return scaled_row(
        kernel, design.follows, design.chosen, gain, after, target, design.note
    )
