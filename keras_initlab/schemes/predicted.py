"""What the schemes share that predict: options, targets, what a plan rests on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from keras_initlab.kernels import Kernel
from keras_initlab.propagation.forward import Forward
from keras_initlab.propagation.residual import Branch, Roles
from keras_initlab.schemes.choice import Choice

Residual = Literal["scaled", "zero", "keep"]
Criterion = Literal["forward", "balanced"]
RESIDUALS: tuple[str, ...] = get_args(Residual)
CRITERIA: tuple[str, ...] = get_args(Criterion)

# The second moment of a head's logits. Softmax's mean loss is then about
# log(classes) + 0.05, and its gradient is not small.
HEAD_TARGET = 0.1


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
    return tuple(lines)


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    return ", ".join(known[:5]) + (
        f" and {len(known) - 5} more" if len(known) > 5 else ""
    )
