"""The signals of a model before and after a rewrite, for `Plan.plot`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import keras
import numpy as np

from keras_initlab.measurement import measure
from keras_initlab.model.construction import Construction, constructing
from keras_initlab.model.containers import parts_of
from keras_initlab.model.kernels import quantised_layers
from keras_initlab.propagation.given import Given
from keras_initlab.propagation.propagate import Moment, run_forward
from keras_initlab.schemes import Choice
from keras_initlab.stats import LayerStats

Side = Literal["before", "after"]


def draw(choice: Choice, index: int, initializer: Any) -> Any:
    """Return what an initializer draws for the kernel with this number in a rewrite."""
    kernel = choice.kernel
    construction = Construction(kernel.layer, kernel.weight, kernel.parents, (index,))
    with constructing(construction):
        return initializer(kernel.variable.shape, kernel.variable.dtype)


class PlanSignals:
    """The predicted and measured signals with a plan's old and new initializers.

    Weights that the plan leaves alone count with their current values.

    Args:
        model: the model of the plan.
        choices: those that give a kernel another initializer.
        mean, variance: of the inputs, as the scheme takes them.
        given: moments of the inputs, if the scheme took them from a batch.
    """

    def __init__(
        self,
        model: Any,
        choices: Sequence[Choice],
        mean: Moment | None = None,
        variance: Moment | None = None,
        given: Given | None = None,
    ) -> None:
        self._model, self._choices = model, choices
        self._mean, self._variance, self._given = mean, variance, given

    def predicted(self) -> tuple[list[LayerStats], list[LayerStats]]:
        """Return the prediction before and after, as `propagate` gives it."""
        return self._prediction("before"), self._prediction("after")

    def measured(self, x: Any) -> tuple[list[LayerStats], list[LayerStats]]:
        """Return what `measure` finds on a batch with a draw of either initializers.

        The model has its own weights again afterwards.
        """
        return self._measurement("before", x), self._measurement("after", x)

    def _prediction(self, side: Side) -> list[LayerStats]:
        rewritten = {
            choice.kernel.key
            for choice in self._choices
            if choice.kernel.attribute is not None
        }
        with self._initializers(side):
            return [
                replace(stats, layer=part.outside(stats.layer))
                for part in parts_of(self._model)
                for stats in run_forward(
                    part.model,
                    self._mean,
                    self._variance,
                    from_weights=not quantised_layers(part.model),
                    redrawn=rewritten,
                    given=self._given,
                ).stats
            ]

    def _measurement(self, side: Side, x: Any) -> list[LayerStats]:
        kernels = {
            index: choice
            for index, choice in enumerate(self._choices)
            if getattr(choice.row, side) is not None
            and choice.kernel.variable is not None
        }
        variables = [choice.kernel.variable for choice in kernels.values()]
        # A copy: on PyTorch the array is the variable's own memory.
        before = [np.array(keras.ops.convert_to_numpy(v)) for v in variables]
        try:
            for index, choice in kernels.items():
                initializer = getattr(choice.row, side)
                choice.kernel.variable.assign(draw(choice, index, initializer))
            return measure(self._model, x, gradients=False)
        finally:
            for variable, values in zip(variables, before, strict=True):
                variable.assign(values)

    @contextlib.contextmanager
    def _initializers(self, side: Side) -> Iterator[None]:
        """Let the layers hold the initializers of one side."""
        held = [choice for choice in self._choices if choice.kernel.attribute]
        present = [choice.kernel.initializer for choice in held]
        try:
            for choice in held:
                self._hold(choice, getattr(choice.row, side))
            yield
        finally:
            for choice, initializer in zip(held, present, strict=True):
                self._hold(choice, initializer)

    @staticmethod
    def _hold(choice: Choice, initializer: Any) -> None:
        setattr(choice.kernel.layer, choice.kernel.attribute or "", initializer)
