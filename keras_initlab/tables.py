"""Tables as plain text, laid out by rich."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

Justify = Literal["left", "right", "center"]


def render_table(
    title: str,
    columns: Sequence[tuple[str, Justify]],
    rows: Iterable[Sequence[str]],
    width: int | None = None,
) -> str:
    """Return a table as text without colour codes.

    Args:
        title: the line above it.
        columns: header and alignment of each column.
        rows: a string for each column.
        width: characters to fit into; None makes the table as wide as it needs.

    >>> columns = [("name", "left"), ("g", "right")]
    >>> print(render_table("Gains", columns, [["relu", "1"]]))
    Gains
     name   g
    ──────────
     relu   1
    """
    table = Table(
        title=title,
        title_justify="left",
        title_style="",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    for header, justify in columns:
        table.add_column(header, justify=justify, overflow="fold")
    for row in rows:
        # Layer names may hold what rich reads as markup.
        table.add_row(*map(escape, row))
    console = Console(file=io.StringIO(), width=width or 10_000, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())
