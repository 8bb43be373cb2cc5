"""Tables as plain text, laid out by rich."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar, overload

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

Justify = Literal["left", "right", "center"]

# Characters in a line where no width is given: more than any terminal has.
ENDLESS = 10_000


Row = TypeVar("Row")


class Rows(Sequence[Row]):
    """A sequence of rows: what plans and reports are beside what they print."""

    rows: tuple[Row, ...]

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Row, ...]: ...
    def __getitem__(self, index: int | slice) -> Row | tuple[Row, ...]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)


def render_table(
    title: str,
    columns: Sequence[tuple[str, Justify]],
    rows: Iterable[Sequence[str]],
    width: int | None = None,
) -> str:
    """Return a table as text without colour codes.

    Args:
        title: the line above the table.
        columns: header and alignment of each column.
        rows: a string for each column.
        width: characters to fit into; None makes the table as wide as needed.

    >>> columns = [("name", "left"), ("g", "right")]
    >>> print(render_table("Gains", columns, [["relu", "1"]]))
    Gains
     name   g
    ──────────
     relu   1
    """
    texts = [[plain(cell) for cell in row] for row in rows]
    return render([build_table(columns, texts, title=title)], width)


def build_table(
    columns: Sequence[tuple[str, Justify]],
    rows: Iterable[Sequence[Text]],
    *,
    title: str | None = None,
    widths: Sequence[int] | None = None,
) -> Table:
    """Return a rich table; columns are as wide as needed, or as `widths` says."""
    table = Table(
        title=plain(title) if title is not None else None,
        title_justify="left",
        title_style="",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    for index, (header, justify) in enumerate(columns):
        table.add_column(
            Text(header),
            justify=justify,
            overflow="fold",
            width=widths[index] if widths else None,
        )
    for row in rows:
        table.add_row(*row)
    return table


def fit(
    widths: Sequence[int], order: Sequence[int], room: int, least: int
) -> tuple[list[int], list[int]]:
    """Choose which columns of a table are shown in a line of `room` characters.

    Args:
        widths: the characters that each column needs.
        order: the columns' indices, the most important first. That column is always
            shown, and folded if it needs more than the space left.
        room: characters in a line.
        least: characters that the first column of `order` gets at least.

    Returns:
        The indices of the columns that fit, in their own order, and their widths.

    >>> fit([10, 5, 30, 4], order=[0, 3, 2, 1], room=30, least=8)
    ([0, 1, 3], [10, 5, 4])
    """
    first = order[0]
    taken = _padded(min(widths[first], least))
    shown = [first]
    for index in order[1:]:
        if taken + 1 + _padded(widths[index]) <= room:
            taken += 1 + _padded(widths[index])
            shown.append(index)
    spare = room - taken + min(widths[first], least)
    shown.sort()
    return shown, [min(widths[i], spare) if i == first else widths[i] for i in shown]


def _padded(width: int) -> int:
    """Return the width of a column with the spaces on its sides."""
    return width + 2


def needed(lines: Iterable[str]) -> int:
    """Return the width in characters that a column of these cells needs."""
    return max(
        (cell_len(part) for line in lines for part in line.split("\n")), default=0
    )


def render(parts: Iterable[Any], width: int | None = None, color: bool = False) -> str:
    """Return rich's output as text, without colour codes unless asked for.

    >>> render([plain("[red]a")])
    '[red]a'
    """
    console = Console(
        file=io.StringIO(),
        width=width or ENDLESS,
        color_system="standard" if color else None,
        force_terminal=color,
        force_jupyter=False,
        no_color=not color,
        legacy_windows=False,
        highlight=False,
    )
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def plain(text: str) -> Text:
    r"""Return text that rich takes neither for markup nor for terminal codes.

    >>> print(plain("[red]:smile:\x1b[31m"))
    [red]:smile:\x1b[31m
    """
    return Text(printable(text))


def paragraph(text: str) -> Text:
    """Return `plain` text that keeps its line breaks."""
    return Text("\n").join(map(plain, text.split("\n")))


def printable(text: str) -> str:
    r"""Return `text` with control characters escaped.

    >>> printable("a\x1b[31mb\n²")
    'a\\x1b[31mb\\n²'
    """
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape").decode()
        for character in text
    )
