"""What a reset drew again, and what it left, weight by weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras_initlab.model.origins import Draw
from keras_initlab.plan import describe
from keras_initlab.tables import Rows, render_table
from keras_initlab.words import by_reason


@dataclass(frozen=True)
class ResetRow:
    """What became of one weight.

    Attributes:
        layer: the path of the layer that holds it.
        weight: its name in the layer.
        shape: its shape.
        initializer: what drew it, None if it was left as it is.
        note: why it was left.
    """

    layer: str
    weight: str
    shape: tuple[int, ...]
    initializer: Draw | None
    note: str = ""

    @property
    def reset(self) -> bool:
        """Whether the weight was drawn again."""
        return self.initializer is not None


class Reset(Rows[ResetRow]):
    """What `reset_weights` did, weight by weight, in the order of the model's layers.

    `print(reset)` shows it as a table, `reset.records` as a list of flat dicts.
    """

    def __init__(self, rows: Sequence[ResetRow], *, model: str) -> None:
        self.rows = tuple(rows)
        self.model = model

    @property
    def records(self) -> list[dict[str, Any]]:
        """The rows as flat dicts, the initializers as text."""
        return [
            {
                "layer": row.layer,
                "weight": row.weight,
                "shape": row.shape,
                "initializer": describe(row.initializer) if row.reset else None,
                "reset": row.reset,
                "note": row.note,
            }
            for row in self.rows
        ]

    def __str__(self) -> str:
        reset = [row for row in self.rows if row.reset]
        title = f"{self.model}: {len(reset)} of {len(self.rows)} weights drawn again"
        table = render_table(
            title,
            [
                ("layer", "left"),
                ("weight", "left"),
                ("shape", "left"),
                ("initializer", "left"),
            ],
            [
                [
                    row.layer,
                    row.weight,
                    str(row.shape),
                    describe(row.initializer, without="seed"),
                ]
                for row in reset
            ],
        )
        left = [row for row in self.rows if not row.reset]
        names = ((row.note, f"{row.layer}/{row.weight}") for row in left)
        return "\n".join([table, *by_reason("left as it is", names)])

    def __repr__(self) -> str:
        return f"<Reset of {len(self.rows)} weights of {self.model!r}; print it>"
