"""What a rewrite chose, kernel by kernel, apart from doing it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras

from keras_initlab import markup, numerals, plots
from keras_initlab.stats import LayerStats
from keras_initlab.tables import Justify, Rows, render_table
from keras_initlab.words import by_reason


@dataclass(frozen=True)
class PlanRow:
    """The choice for one kernel.

    Attributes:
        layer: the layer's path inside the model.
        weight: the weight's name in the layer.
        nonlinearity: what the kernel's output meets, by name ("linear" if nothing).
        fan_in, fan_out: see `keras_initlab.model.fans`; None until the layer is built.
        gain: the factor of Var(w) = gain² / fan; None where the kernel is left alone.
        std: the standard deviation of the draw; None if unknown or left alone.
        before, after: the initializers; the same one where the kernel is left alone.
        note: what a reader should know, such as why it was left alone.
        target: the second moment that the kernel's output was scaled to have, before
            the layer's own activation; None where it was not scaled to one.
        predicted_before, predicted_after: the predicted second moment of the kernel's
            output with either initializer; None where nothing was predicted.
        inputs: "measured" where a batch was given to choose by, else "assumed".
    """

    layer: str
    weight: str
    nonlinearity: str
    fan_in: float | None
    fan_out: float | None
    gain: float | None
    std: float | None
    before: Any
    after: Any
    note: str = ""
    target: float | None = None
    predicted_before: float | None = None
    predicted_after: float | None = None
    inputs: str = "assumed"

    @property
    def changed(self) -> bool:
        """Whether the kernel gets a new initializer."""
        return self.after is not self.before


@dataclass(frozen=True)
class UnlistedWeight:
    """A weight of two or more axes that is no kernel, and was left alone.

    Attributes:
        layer: the layer's path inside the model.
        weight: the weight's name in the layer.
        reason: why it is no kernel: "added, not multiplied".
    """

    layer: str
    weight: str
    reason: str

    def __str__(self) -> str:
        return f"{self.layer}/{self.weight}"


class Signals(Protocol):
    """Provides the signals that a plan plots."""

    def predicted(self) -> tuple[list[LayerStats], list[LayerStats]]:
        """Return the prediction before and after the rewrite."""

    def measured(self, x: Any) -> tuple[list[LayerStats], list[LayerStats]]:
        """Return what is measured on a batch before and after it."""


class Plan(Rows[PlanRow]):
    """The rows of a rewrite, in the order of the model's layers.

    `print(plan)` shows them as a table, `plan.plot()` as a figure of the signal before
    and after, `plan.records` as a list of flat dicts.
    `plan.assumptions` are the sentences under the table: the assumptions of the
    prediction; `plan.measured` those on the moments of the inputs on a batch, and
    `plan.inputs` the same as flat dicts.
    `plan.unlisted` are the weights of two or more axes that have no row, with reasons.
    """

    def __init__(
        self,
        rows: Sequence[PlanRow],
        *,
        model: str,
        applied: bool,
        assumptions: Sequence[str] = (),
        unlisted: Sequence[UnlistedWeight] = (),
        measured: Sequence[str] = (),
        inputs: Sequence[dict[str, Any]] = (),
        signals: Signals | None = None,
    ) -> None:
        self.rows = tuple(rows)
        self.model = model
        self.applied = applied
        self.assumptions = tuple(assumptions)
        self.unlisted = tuple(unlisted)
        self.measured = tuple(measured)
        self.inputs = tuple(inputs)
        self._signals = signals

    @property
    def records(self) -> list[dict[str, Any]]:
        """The rows as flat dicts, the initializers as text."""
        return [
            {**vars(row), "before": describe(row.before), "after": describe(row.after)}
            for row in self.rows
        ]

    def plot(self, x: Any = None, figure: Any = None) -> Any:
        """Return a figure of each layer's variance before and after the rewrite.

        Lines are predicted, as by `propagate`. With `x`, dots are measured on it, with
        weights drawn by the initializers, whatever the model has learned since; its own
        weights are restored afterwards. Weights that the plan leaves alone count with
        their current values.

        Args:
            x: a batch, as `measure` takes it; None leaves out the dots.
            figure: a matplotlib Figure or SubFigure to draw on; None makes a new one.

        Raises:
            ImportError: matplotlib is missing.
            ValueError: the model is not built, or the plan was not made by
                `rewrite_initializers`.
        """
        if self._signals is None:
            raise ValueError(
                "A plan draws the signals of the model that it was made for. Received: "
                f"a plan for {self.model!r} without one. Use the plan that "
                "il.rewrite_initializers returns."
            )
        measured = None if x is None else self._signals.measured(x)
        return plots.before_after(self._signals.predicted(), measured, figure)

    def __str__(self) -> str:
        headings, rows = self._table()
        columns: list[tuple[str, Justify]] = [
            (head.text, "right" if head.number else "left") for head in headings
        ]
        table = render_table(self._title(), columns, rows)
        return "\n".join([table, *self._remarks()])

    def _repr_html_(self) -> str:
        headings, rows = self._table()
        parts = [
            markup.title(self._title()),
            *markup.table(headings, map(markup.Row, rows)),
            *markup.bullets(self._remarks()),
        ]
        return markup.fragment(markup.report(parts))

    def _title(self) -> str:
        changed = sum(row.changed for row in self.rows)
        done = "rewritten" if self.applied else "to rewrite (dry run)"
        return f"{self.model}: {changed} of {len(self.rows)} kernels {done}"

    def _remarks(self) -> list[str]:
        return [
            *(f"measured: {line}" for line in self.measured),
            *(f"assumed: {line}" for line in self.assumptions),
            *self._left(),
        ]

    def _table(self) -> tuple[list[markup.Heading], list[list[str]]]:
        """Return the columns of which something is known, and the rows' cells."""
        columns = _COLUMNS
        if any(row.predicted_after is not None for row in self.rows):
            columns += _PREDICTED
        if any(row.note for row in self.rows):
            columns += _NOTE
        headings = [heading for heading, _ in columns]
        return headings, [[cell(row) for _, cell in columns] for row in self.rows]

    def _left(self) -> list[str]:
        left = ((weight.reason, str(weight)) for weight in self.unlisted)
        return by_reason("left alone", left)

    def __repr__(self) -> str:
        return f"<Plan of {len(self.rows)} kernels of {self.model!r}; print it>"


def describe(initializer: Any, without: str | None = None) -> str:
    """Return an initializer as a short text: its name and what is not default.

    `without` names an argument to leave out.

    >>> describe(keras.initializers.HeNormal(seed=3))
    'HeNormal(seed=3)'
    """
    if initializer is None:
        return "-"
    name = keras.saving.get_registered_name(type(initializer))
    name = name if name.startswith("initlab>") else type(initializer).__name__
    if not hasattr(initializer, "get_config"):
        return getattr(initializer, "__name__", name)
    config = initializer.get_config()
    # Keras's draw a seed for themselves.
    state = random.getstate()
    try:
        default = type(initializer)().get_config()
    except TypeError:
        default = {}
    finally:
        random.setstate(state)
    shown = [
        f"{key}={_short(value)}"
        for key, value in config.items()
        if key != without and (key not in default or default[key] != value)
    ]
    return f"{name}({', '.join(shown)})" if shown else name


def _short(value: Any) -> str:
    if isinstance(value, dict) and "class_name" in value:
        return str(value["class_name"])
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else numerals.number(value, digits)


def _after(row: PlanRow) -> str:
    return describe(row.after, without="seed") if row.changed else "(left alone)"


_Columns = tuple[tuple[markup.Heading, Callable[[PlanRow], str]], ...]
_COLUMNS: _Columns = (
    (markup.Heading("layer"), lambda row: row.layer),
    (markup.Heading("weight"), lambda row: row.weight),
    (markup.Heading("nonlinearity", code=True), lambda row: row.nonlinearity),
    (markup.Heading("fan_in", number=True), lambda row: _number(row.fan_in, 6)),
    (markup.Heading("fan_out", number=True), lambda row: _number(row.fan_out, 6)),
    (
        markup.Heading("gain", number=True),
        lambda row: "-" if row.gain is None else format(row.gain, ".4f"),
    ),
    (markup.Heading("std", number=True), lambda row: _number(row.std, 4)),
    (
        markup.Heading("before", code=True),
        lambda row: describe(row.before, without="seed"),
    ),
    (markup.Heading("after", code=True), _after),
)
_PREDICTED: _Columns = (
    (markup.Heading("target", number=True), lambda row: _number(row.target)),
    (
        markup.Heading("E x² before", number=True),
        lambda row: _number(row.predicted_before),
    ),
    (markup.Heading("after", number=True), lambda row: _number(row.predicted_after)),
)
_NOTE: _Columns = ((markup.Heading("note"), lambda row: row.note),)
