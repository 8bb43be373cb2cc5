"""What a calibration did, kernel by kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras_initlab.tables import Rows, render_table


@dataclass(frozen=True)
class CalibrationRow:
    """One kernel, or one gate of it.

    Attributes:
        layer: the layer's path inside the model.
        weight: the weight's name in the layer.
        gate: the number of the gate in a recurrent kernel; None of a whole kernel.
        target: the statistic that its output should have; None where it is left alone.
        before: the statistic of its output with the kernel's old values, on its current
            input, with the kernels before it calibrated; None if it was not measured.
        after: the same with the kernel's new values.
        factor: by which the kernel was multiplied; 1.0 if it was left alone.
        note: its role, or why it was left alone.
    """

    layer: str
    weight: str
    gate: int | None
    target: float | None
    before: float | None
    after: float | None
    factor: float
    note: str = ""

    @property
    def changed(self) -> bool:
        """Whether the kernel was scaled."""
        return self.target is not None


class CalibrationReport(Rows[CalibrationRow]):
    """The rows of a calibration, in the order in which the kernels were first called.

    `print(report)` shows them as a table, `report.records` as a list of flat dicts.
    `report.remarks` are the sentences under the table.
    """

    def __init__(
        self,
        rows: Sequence[CalibrationRow],
        *,
        model: str,
        statistic: str,
        passes: int,
        remarks: Sequence[str] = (),
    ) -> None:
        self.rows = tuple(rows)
        self.model = model
        self.statistic = statistic
        self.passes = passes
        self.remarks = tuple(remarks)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The rows as flat dicts."""
        return [dict(vars(row)) for row in self.rows]

    def __str__(self) -> str:
        changed = sum(row.changed for row in self.rows)
        with_gates = any(row.gate is not None for row in self.rows)
        with_notes = any(row.note for row in self.rows)
        symbol = "E x²" if self.statistic == "second_moment" else "Var x"
        columns: list[tuple[str, Any]] = [
            ("layer", "left"),
            ("weight", "left"),
            *([("gate", "right")] if with_gates else []),
            ("target", "right"),
            (f"{symbol} before", "right"),
            ("after", "right"),
            ("factor", "right"),
            *([("note", "left")] if with_notes else []),
        ]
        rows = [
            [
                row.layer,
                row.weight,
                *(["" if row.gate is None else str(row.gate)] if with_gates else []),
                _number(row.target),
                _number(row.before),
                _number(row.after),
                _number(row.factor) if row.changed else "(left alone)",
                *([row.note] if with_notes else []),
            ]
            for row in self.rows
        ]
        passes = "pass" if self.passes == 1 else "passes"
        title = (
            f"{self.model}: {changed} of {len(self.rows)} kernels calibrated in "
            f"{self.passes} forward {passes}"
        )
        return "\n".join([render_table(title, columns, rows), *self.remarks])

    def __repr__(self) -> str:
        return (
            f"<CalibrationReport of {len(self.rows)} kernels of {self.model!r}; "
            "print it>"
        )


def _number(value: float | None) -> str:
    return "-" if value is None else format(value, ".4g")
