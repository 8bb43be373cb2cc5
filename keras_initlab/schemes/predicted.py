"""What the schemes share that predict: options, targets, what a plan rests on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from keras_initlab.model.kernels import Kernel
from keras_initlab.model.roles import NORMALISING, Branch, Roles
from keras_initlab.plan import PlanRow
from keras_initlab.propagation.propagate import Forward, run_forward
from keras_initlab.propagation.weights import WeightMoments
from keras_initlab.schemes.choice import Choice, Followed, fans_of

Residual = Literal["scaled", "zero", "keep"]
Criterion = Literal["forward", "balanced"]
RESIDUALS: tuple[str, ...] = get_args(Residual)
CRITERIA: tuple[str, ...] = get_args(Criterion)

# The second moment of a head's logits. Softmax's mean loss is then about
# log(classes) + 0.05, and its gradient is not small.
HEAD_TARGET = 0.1

# By how much inputs are changed to see what grows, and how much growth is reported.
_NUDGE, _UNSTABLE = 1e-3, 10.0


@dataclass(frozen=True)
class Options:
    """The arguments of a scheme that predicts; see `rewrite_initializers`."""

    target: float = 1.0
    residual: Residual = "scaled"
    criterion: Criterion = "forward"
    mean: Any = None
    variance: Any = None
    q: float | None = None


@dataclass(frozen=True)
class Scheme:
    """What a scheme chose, and what it predicts."""

    choices: list[Choice]
    assumptions: tuple[str, ...]


def branch_target(
    branch: Branch, target: float, residual: Residual
) -> tuple[float, bool, str]:
    """Return the target of a kernel that ends a branch, if it is 0, and a note."""
    if residual == "keep":
        return target, False, ""
    if residual == "zero":
        return 0.0, True, "residual branch starts at 0"
    if branch.normalised:
        note = "residual branch, normalised after: its scale does not count"
        return target, False, note
    return target / branch.count, False, f"residual branch, 1 of {branch.count}"


def scaled_row(
    kernel: Kernel,
    follows: Followed,
    chosen: WeightMoments,
    gain: float,
    after: Any,
    target: float,
    note: str,
) -> PlanRow:
    """Return the row of a built kernel that was scaled to a target."""
    fan = fans_of(kernel)
    return PlanRow(
        layer=kernel.path,
        weight=kernel.weight,
        nonlinearity=follows.resolved.name,
        fan_in=None if fan is None else fan.fan_in,
        fan_out=None if fan is None else fan.fan_out,
        gain=gain,
        std=math.sqrt(chosen.second_moment),
        before=kernel.initializer,
        after=after,
        target=target,
        note=note,
    )


def predicted_second(forward: Forward, kernel: Kernel) -> float | None:
    """Return the predicted second moment of what a kernel makes, over its calls."""
    made = forward.propagation.kernel_outputs.get((id(kernel.layer), kernel.weight))
    return float(np.mean(made)) if made else None


def assumptions_of(forward: Forward, roles: Roles, options: Options) -> tuple[str, ...]:
    """Return what a prediction rests on, in sentences."""
    lines = ["E x² is that of kernels' outputs, before the layers' own activations"]
    if options.mean is None and options.variance is None:
        lines.append(
            "inputs: mean 0 and variance 1, behind Normalization and Rescaling, all "
            "elements independent"
        )
    else:
        lines.append(
            f"inputs: mean {options.mean or 0.0}, variance "
            f"{1.0 if options.variance is None else options.variance}, all elements "
            "independent"
        )
    lines.append("training mode: dropout drops, batches are normalised")
    if roles.branches:
        lines.append(
            f"residual={options.residual!r}; kernels that end a residual branch: "
            f"{len(roles.branches)}"
        )
    unknown = [stat.layer for stat in forward.measured]
    if unknown:
        lines.append(f"no rule, measured on a Gaussian sample: {_listed(unknown)}")
    lines.extend(forward.refusals)
    return tuple(lines)


def instability(
    model: Any, designer: Any, after: Forward, moments: dict[str, Any], mend: str
) -> tuple[str, ...]:
    """Return a warning where a small error of the second moment grows with depth.

    What one draw of the weights differs by from the mean over draws is such an error.

    Args:
        model: the model.
        designer: gives every kernel what was chosen for it, whatever reaches it.
        after: the prediction with these kernels.
        moments: the arguments that it was made with.
        mend: what would hold it, beside normalisation and residual branches.
    """
    if any(isinstance(one.layer, NORMALISING) for one in after.propagation.records):
        return ()  # which stops what grows
    nudged = run_forward(model, **moments, designer=designer, input_scale=1 + _NUDGE)
    worst, where = 0.0, ""
    for one, two in zip(
        after.propagation.records, nudged.propagation.records, strict=True
    ):
        if one.signal and two.signal and one.signal.second > 0 < two.signal.second:
            change = abs(math.log(two.signal.second / one.signal.second)) / _NUDGE
            if change > worst:
                worst, where = change, one.path
    if worst <= _UNSTABLE:
        return ()
    return (
        f"unstable: 1 % more at the inputs is {worst:.0f} % more at {where}. One draw "
        "of the weights differs by a few percent from layer to layer, and will not "
        f"stay near these figures; {mend}, normalisation or residual branches would "
        "hold it",
    )


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    return ", ".join(known[:5]) + (
        f" and {len(known) - 5} more" if len(known) > 5 else ""
    )
