"""Shared by the schemes that follow the signal: survey, targets, assumptions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from keras_initlab.model.kernels import Kernel
from keras_initlab.model.layers import every_place
from keras_initlab.model.roles import NORMALISING, Branch, roles_of
from keras_initlab.propagation.propagate import Forward, run_forward
from keras_initlab.propagation.weights import WeightMoments
from keras_initlab.propagation.weights.book import Designer
from keras_initlab.schemes.base import Choice, SchemeContext, Selection
from keras_initlab.schemes.kernels import fans_of
from keras_initlab.schemes.options import InputMoment, Residual
from keras_initlab.schemes.unreached import unreached_moments
from keras_initlab.words import listed

# The second moment of a head's logits. Softmax's mean loss is then about
# log(classes) + 0.05, and its gradient is not small.
HEAD_TARGET = 0.1

# What kernels behind an embedding are scaled for.
_STANDARDISED = WeightMoments(0.0, 1.0)

# By how much inputs are changed to see what grows, and how much growth is reported.
_NUDGE, _UNSTABLE = 1e-3, 10.0


class Survey:
    """The model before the rewrite: signal, kernels' roles, and which may change.

    Attributes:
        kernels: every kernel, in the order of the plan.
        free: those that may get another initializer.
        before: the prediction with the initializers that the model has.
        roles: which kernels end a residual branch, and which are heads.
    """

    def __init__(
        self,
        model: Any,
        context: SchemeContext,
        *,
        mean: InputMoment | None,
        variance: InputMoment | None,
        residual: Residual,
        recurrent: bool = False,
    ) -> None:
        if context.only_unbuilt:
            raise ValueError(
                "`only_unbuilt` belongs to scheme='activation': a signal can be "
                f"followed through built layers alone. Received: "
                f"scheme={context.scheme!r}. Build the model, and name the layers to "
                "leave alone in `skip`."
            )
        self.model, self.context = model, context
        self.mean, self.variance, self.residual = mean, variance, residual
        self.kernels = context.kernels(recurrent=recurrent)
        self.free = [k for k in self.kernels if context.reason_to_leave(k) is None]
        # Everything that is not drawn anew keeps its values: frozen, skipped, loaded.
        self._redrawn = frozenset(kernel.key for kernel in self.free)
        self.before = run_forward(
            model,
            mean,
            variance,
            from_weights=True,
            redrawn=self._redrawn,
            given=context.given,
        )
        # What every further prediction of this model starts from.
        self.index = self.before.propagation.index
        self.lookups = _lookups_that_grow(model)
        self.start_from(dict.fromkeys(self.lookups, _STANDARDISED))
        self.roles = roles_of(self.before.propagation.flat_graph, self.kernels)
        self.start_from(unreached_moments(self.free, self.before, context))

    def start_from(self, moments: dict[tuple[int, str], WeightMoments]) -> None:
        """Let further predictions start from these moments of weights."""
        self.index = replace(
            self.index,
            moments={**self.index.moments, **moments},
            prescribed={**self.index.prescribed, **moments},
        )

    def run(self, designer: Designer, *, input_scale: float = 1.0) -> Forward:
        """Predict the signal with the kernels that `designer` chooses on the way."""
        return run_forward(
            self.model,
            self.mean,
            self.variance,
            from_weights=True,
            redrawn=self._redrawn,
            designer=designer,
            input_scale=input_scale,
            index=self.index,
            given=self.context.given,
        )

    def selection(
        self, choices: Iterable[Choice], after: Forward, lines: Sequence[str]
    ) -> Selection:
        """Return the choices with what is predicted before and after them."""
        choices = [
            replace(
                choice,
                row=replace(
                    choice.row,
                    predicted_before=_second_moment(self.before, choice.kernel),
                    predicted_after=_second_moment(after, choice.kernel),
                ),
            )
            for choice in choices
        ]
        return Selection(choices, (*self._assumptions(after), *lines))

    def _assumptions(self, after: Forward) -> list[str]:
        """Return the assumptions of the prediction, in sentences."""
        lines = ["E x² is that of kernels' outputs, before the layers' own activations"]
        if self.context.given is not None:
            lines.append(
                "inputs: Gaussian with the moments of the batch; any two positions "
                "are as alike as the mean of all"
            )
        elif self.mean is None and self.variance is None:
            names = sorted(set((self.index.standard or {}).values()))
            behind = f", behind {listed(names)}" if names else ""
            lines.append(
                f"inputs: mean 0 and variance 1{behind}, all elements independent"
            )
        else:
            lines.append(
                f"inputs: mean {self.mean or 0.0}, variance "
                f"{1.0 if self.variance is None else self.variance}, all elements "
                "independent"
            )
        if self.lookups:
            lines.append(
                "embeddings that are trained: mean 0 and variance 1, however small "
                "they start"
            )
        lines.append("training mode: dropout drops, batches are normalised")
        if self.roles.branches:
            lines.append(
                f"residual={self.residual!r}; kernels that end a residual branch: "
                f"{len(self.roles.branches)}"
            )
        without_rule = [stat.layer for stat in after.measured]
        if without_rule:
            lines.append(
                f"no rule, measured on a Gaussian sample: {listed(without_rule)}"
            )
        return [*lines, *after.assumptions]


@dataclass(eq=False)
class Design:
    """The choice for one kernel, and the signal that reaches it.

    Attributes:
        target: the second moment that its output should have.
        is_zero: whether it starts at 0 instead.
        fixed: its variance if that does not depend on its input; None if it does.
        responses: for each of its calls, the second moment of its output with weights
            of second moment 1.
        chosen: the moments of its weights; None while nothing has reached it.
    """

    kernel: Kernel
    target: float
    is_zero: bool = False
    note: str = ""
    fixed: float | None = None
    responses: list[float] = field(default_factory=list)
    chosen: WeightMoments | None = None

    @property
    def gain(self) -> float:
        """The factor of Var(w) = gain² / fan_in for the chosen moments."""
        fans = fans_of(self.kernel)
        assert fans is not None
        assert self.chosen is not None
        return math.sqrt(self.chosen.second_moment * fans.fan_in)

    def choice(
        self, context: SchemeContext, initializer: Any, gain: float, *notes: str
    ) -> Choice:
        """Return the choice of an initializer that draws the chosen moments."""
        assert self.chosen is not None
        return context.choice(
            self.kernel,
            initializer,
            gain=gain,
            std=math.sqrt(self.chosen.second_moment),
            target=0.0 if self.is_zero else self.target,
            note="; ".join(text for text in (self.note, *notes) if text),
        )


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


def instability(
    survey: Survey, designer: Designer, after: Forward, mend: str
) -> tuple[str, ...]:
    """Return a warning if a small error of the second moment grows with depth.

    The difference of a single draw of the weights from the mean over draws is such an
    error.

    Args:
        survey: the model before the rewrite.
        designer: gives every kernel the moments chosen for it, whatever its input.
        after: the prediction with these kernels.
        mend: what would prevent it, besides normalisation and residual branches.
    """
    records = after.propagation.records
    if any(isinstance(record.layer, NORMALISING) for record in records):
        return ()  # which stops what grows
    nudged = survey.run(designer, input_scale=1 + _NUDGE)
    worst, path = 0.0, ""
    for record, shifted in zip(records, nudged.propagation.records, strict=True):
        if record.signal is None or shifted.signal is None:
            continue
        if record.signal.second > 0 < shifted.signal.second:
            ratio = shifted.signal.second / record.signal.second
            change = abs(math.log(ratio)) / _NUDGE
            if change > worst:
                worst, path = change, record.path
    if worst <= _UNSTABLE:
        return ()
    return (
        f"unstable: 1 % more at the inputs is {worst:.0f} % more at {path}. One draw "
        "of the weights differs by a few percent from layer to layer, and will not "
        f"stay near these figures; {mend}, normalisation or residual branches would "
        "hold it. calibrate(model, x) sets them for the draw at hand and the mean "
        "over a batch, and helps in part: inputs longer or shorter than these still "
        "part by as much",
    )


def _lookups_that_grow(model: Any) -> list[tuple[int, str]]:
    """Return the keys of the embeddings that are trained.

    They start small, so that each step matters, and grow: a kernel that makes up for
    their start is soon too large. Measured on small text classification:
    `examples/benchmarks/architectures.py --parts text`.
    """
    return [
        (id(place.layer), "embeddings")
        for place in every_place(model)
        if isinstance(place.layer, keras.layers.Embedding) and place.layer.trainable
    ]


def _second_moment(forward: Forward, kernel: Kernel) -> float | None:
    """Return the predicted second moment of a kernel's output, over its calls."""
    outputs = forward.propagation.kernel_outputs.get(kernel.key)
    return float(np.mean(outputs)) if outputs else None
