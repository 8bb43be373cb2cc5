"""The findings of a monitor: the rules of `diagnosis` on each window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from keras_initlab import diagnosis
from keras_initlab.anatomy import (
    Anatomy,
    anatomy_of,
    frozen_model,
    has_half_weights,
    head_facts,
    hidden_ones,
    input_facts,
    kernel_facts,
    large_biases,
    zero_layers,
)
from keras_initlab.diagnosis import Facts, Finding, InputFacts
from keras_initlab.diagnosis.causes import folded, follows_from
from keras_initlab.diagnosis.checks.updates import SMALL
from keras_initlab.diagnosis.finding import worse
from keras_initlab.measurement import measure
from keras_initlab.model.containers import Part, parts_of
from keras_initlab.model.keras_internals import optimizer_steps
from keras_initlab.stats import LayerStats

T = TypeVar("T")


class Judge:
    """Goes through the windows of one training run, and reports each fault once.

    A fault that is there at the first step comes from the initial weights, a later one
    from training. What follows from a reported fault is only reported if it is more
    severe.

    Args:
        model: the model, before its first step.
        updates: whether update ratios are measured.
        data: rows of the inputs and targets, None where they are not known.
    """

    def __init__(
        self, model: Any, updates: bool, data: tuple[Any, Any] = (None, None)
    ) -> None:
        self._model = model
        self._data = data
        self._still = updates
        self._steps = _steps_of(model)
        self._from_zero: frozenset[str] = _read(zero_layers, model, frozenset())
        self._biased: tuple[tuple[str, float], ...] = _read(large_biases, model, ())
        self._windows = 0
        self._before: tuple[LayerStats, ...] = ()
        self._first: tuple[LayerStats, ...] = ()
        self._losses: tuple[float, ...] = ()
        self._anatomies: list[tuple[Part, Anatomy]] | None = None
        self._of_graph: dict[str, Any] = {}
        self._at_start: frozenset[str] | None = None
        self._told: dict[str, Finding] = {}

    def findings(
        self,
        stats: Sequence[LayerStats],
        first: Sequence[LayerStats] = (),
        loss: float | None = None,
    ) -> list[Finding]:
        """Return what is wrong in a window and was not in those before.

        Args:
            stats: of the window.
            first: of the training's first step, with the first window.
            loss: of the window.
        """
        self._windows += 1
        reported: list[Finding] = []
        if self._windows == 1 and first:
            self._first = tuple(first)
            of_model = self._of_model(initial=True)
            # Weights are inspected when the window ends: NaN may have appeared since.
            kernels = of_model.get("kernels", ())
            of_model["kernels"] = tuple(replace(k, nonfinite=0) for k in kernels)
            start = diagnosis.all_findings(Facts(stats=self._first, **of_model))
            self._at_start = frozenset(finding.code for finding in start)
            reported = self._new(start, training=False)
        now = tuple(stats)
        ratios = [layer.update_ratio for layer in now if layer.update_ratio is not None]
        self._still = self._still and not any(ratio > SMALL for ratio in ratios)
        if loss is not None:
            self._losses = (*self._losses, loss)
        facts = Facts(
            stats=now,
            earlier=(self._before,) if self._before else (),
            first=self._first,
            updates=self._still,
            at_start=self._at_start,
            losses=self._losses,
            steps=_since(self._steps, _steps_of(self._model)),
            **self._of_model(initial=not self._first and self._windows == 1),
        )
        self._before = now
        training = self._at_start is not None
        return reported + self._new(diagnosis.all_findings(facts), training=training)

    def measured(self) -> list[LayerStats]:
        """Return what the model makes of its data now, where a `fit` has failed."""
        x, _ = self._data
        return [] if x is None else measure(self._model, x)

    def _new(self, findings: list[Finding], *, training: bool) -> list[Finding]:
        """Return the causes that were not reported, and those that became worse."""
        # The layer where a fault begins may move; it is the same fault.
        fresh = [finding for finding in findings if finding.code not in self._told]
        new = []
        inputs = {data.name for data in self._of_graph.get("inputs", ())}
        for finding in folded(fresh, inputs=inputs, training=training):
            causes = [
                cause
                for cause in self._told.values()
                if cause.severity != "info" and follows_from(finding, cause, training)
            ]
            together = (finding, *finding.consequences)
            is_told = causes and not any(
                all(worse(effect.severity, cause.severity) for cause in causes)
                for effect in together
            )
            self._told |= {effect.code: effect for effect in together}
            if not is_told:
                new.append(finding)
        return new

    def _of_model(self, *, initial: bool) -> dict[str, Any]:
        try:
            if self._anatomies is None:
                # A user's own layer may do anything when it is called: a callback must
                # not call it.
                anatomies = [
                    (part, anatomy_of(part.model, predict=False))
                    for part in parts_of(self._model)
                ]
                self._of_graph = self._facts_of_graph(anatomies)
                self._anatomies = anatomies
            of_model = dict(self._of_graph)
            # Units that are not twins do not become twins: to look at all the weights
            # in windows 1, 2, 4, 8 … is enough.
            if self._windows & (self._windows - 1) == 0:
                of_model["kernels"] = tuple(
                    replace(facts, layer=part.outside(facts.layer))
                    for part, anatomy in self._anatomies
                    for facts in kernel_facts(anatomy, initial=initial)
                )
        except Exception:
            # Weights distributed over processes cannot be read here, and a user's layer
            # may do anything: training goes on, with the rules that only need signals.
            return {}
        return of_model

    def _facts_of_graph(self, anatomies: list[tuple[Part, Anatomy]]) -> dict[str, Any]:
        """Return what stays the same throughout a training."""
        x, y = self._data
        alone = len(anatomies) == 1 and not anatomies[0][0].path
        layers = {
            part.outside(path): facts
            for part, anatomy in anatomies
            for path, facts in anatomy.layers.items()
        }
        return {
            "inputs": _inputs(anatomies[0][1], x) if alone else (),
            "layers": layers,
            "biased": hidden_ones(self._biased, layers),
            "from_zero": self._from_zero,
            "frozen": frozen_model(self._model),
            "half": has_half_weights(self._model),
            "heads": tuple(
                replace(head, layer=part.outside(head.layer))
                for part, anatomy in anatomies
                for head in head_facts(anatomy, y if alone else None)
            ),
        }


def _inputs(anatomy: Anatomy, x: Any) -> tuple[InputFacts, ...]:
    """Return the facts of the inputs where it is known what the model does with them.

    A layer or a model of one's own may scale them itself.
    """
    if x is None or anatomy.flat is None:
        return ()
    modules = [type(call.operation).__module__ for call in anatomy.flat.calls]
    if not all(module.partition(".")[0] == "keras" for module in modules):
        return ()
    return input_facts(anatomy, x)


def _read(read: Callable[[Any], T], model: Any, otherwise: T) -> T:
    """Return what is read of a model's weights, or something else if it cannot be."""
    try:
        return read(model)
    except Exception:
        # Weights spread over processes cannot be read, as in `Judge._of_model`.
        return otherwise


def _steps_of(model: Any) -> int | None:
    """Return how many steps the optimizer has made; None if there is none."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return None
    try:
        return optimizer_steps(optimizer)
    except (RuntimeError, TypeError, ValueError):
        # On JAX variables have no value while `fit` is within an epoch.
        return None


def _since(first: int | None, now: int | None) -> int | None:
    return None if first is None or now is None else now - first
