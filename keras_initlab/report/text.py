"""An inspection as text: a table like that of `model.summary()`, then findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from keras_initlab.report.columns import Grid, grid
from keras_initlab.report.findings import (
    Group,
    code_spans,
    grouped,
    mark_of,
    summary,
    worst_by_layer,
)
from keras_initlab.tables import (
    Justify,
    build_table,
    fit,
    needed,
    paragraph,
    plain,
    render,
)

if TYPE_CHECKING:
    from keras_initlab.report.record import Inspection

COLORS = {"error": "bold red", "warning": "yellow", "info": "cyan"}
# Fewer characters cannot hold a layer's name and a figure.
NARROWEST = 30
# Lines of prose are no longer than this, even below a wider table.
PROSE = 88
# Where space is short, an initializer with many arguments is folded at this width, and
# a layer's path at this share of the line.
INITIALIZER, PATH = 30, 0.4
# Findings of a group that are shown with their evidence.
SHOWN = 5


def check_width(width: int | None) -> None:
    """Raise a ValueError if a line of that many characters is too narrow."""
    if width is not None and (
        isinstance(width, bool) or not isinstance(width, int) or width < NARROWEST
    ):
        raise ValueError(
            f"`width` must be an int of {NARROWEST} characters or more. "
            f"Received: width={width!r}. Leave it out for as wide as the table needs."
        )


def as_text(
    inspection: Inspection, width: int | None = None, color: bool = False
) -> str:
    """Return the report; see `Inspection.text`."""
    check_width(width)
    cells = grid(inspection.layers)
    marks = worst_by_layer(inspection.findings)
    shown, widths = _fitting(cells, bool(marks), width)
    head = plain(f"{inspection.model}: {summary(inspection)}")
    table = _table(cells, marks, shown, widths)
    omitted = [
        column.heading.name for i, column in enumerate(cells.columns) if i not in shown
    ]
    prose = min(width or PROSE, PROSE)
    blocks = [
        render([head], width, color),
        render([table], width, color) if cells.rows else "",
        "",
        render(_prose(inspection, omitted), prose, color),
    ]
    return "\n".join(blocks).rstrip()


def _fitting(
    grid: Grid, marked: bool, width: int | None
) -> tuple[list[int], list[int] | None]:
    """Return which columns fit on a line, and how wide each may be."""
    if width is None:
        return list(range(len(grid.columns))), None
    widths = []
    for index, column in enumerate(grid.columns):
        cells = (row[index] or "" for row in grid.rows)
        widths.append(
            needed([column.heading.text, *(plain(cell).plain for cell in cells)])
        )
        if column.long and index:
            widths[-1] = min(widths[-1], INITIALIZER)
    order = sorted(range(len(widths)), key=lambda index: grid.columns[index].rank)
    room = width - (4 if marked else 0)
    return fit(widths, order, room, least=int(PATH * room))


def _table(
    grid: Grid,
    marks: Mapping[str, str],
    shown: Sequence[int],
    widths: Sequence[int] | None,
) -> Table:
    columns: list[tuple[str, Justify]] = [
        (heading.text, "right" if heading.number else "left")
        for heading in (grid.columns[i].heading for i in shown)
    ]
    rows = [[_cell(row[i], first=i == 0) for i in shown] for row in grid.rows]
    if marks:
        columns.insert(0, ("", "left"))
        widths = [1, *widths] if widths is not None else None
        rows = [
            [_mark(row[0] or "", marks), *cells]
            for row, cells in zip(grid.rows, rows, strict=True)
        ]
    return build_table(columns, rows, widths=widths)


def _cell(text: str | None, first: bool) -> Text:
    cell = plain("-" if text is None else text)
    if first:
        # The names of the layers around it are dimmed.
        cell.stylize("dim", 0, cell.plain.rfind("/") + 1)
    return cell


def _mark(layer: str, marks: Mapping[str, str]) -> Text:
    """Return the first letter of a layer's worst severity."""
    severity = mark_of(layer, marks)
    return Text(severity[:1].upper(), style=COLORS.get(severity, ""))


def _prose(inspection: Inspection, omitted: Sequence[str]) -> Iterator[Any]:
    if omitted:
        yield plain(f"Left out at this width: {'; '.join(omitted)}.")
        yield Text("")
    for group in grouped(inspection.findings):
        yield from _group(group)
        yield Text("")
    for note in inspection.notes:
        yield _hanging("note", "dim", paragraph(note))


def _group(group: Group) -> Iterator[Any]:
    first, *further = group.findings
    where = f"{len(group.findings)} layers" if further else first.layer
    title = plain(f"{group.code} in {where}")
    title.stylize("bold")
    yield _hanging(group.severity, COLORS[group.severity], title)
    for finding in group.findings[:SHOWN]:
        lead = f"{finding.layer}: " if further else ""
        yield _indented(paragraph(lead + finding.evidence))
    if len(group.findings) > SHOWN:
        count = len(group.findings) - SHOWN
        yield _indented(plain(f"… and {count} more; all are in inspection.findings."))
    remedy = Text("→ ")
    for piece, code in code_spans(group.remedy):
        part = paragraph(piece)
        if code:
            part.stylize("green")
        remedy.append_text(part)
    yield _indented(remedy)
    for follows in filter(None, (finding.follows for finding in group.findings)):
        yield _indented(paragraph(follows))


def _hanging(label: str, style: str, text: Text) -> Table:
    """Return a label with a text beside it, folded within its own column."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=7)
    table.add_column(overflow="fold")
    table.add_row(Text(label, style=style), text)
    return table


def _indented(text: Text) -> Padding:
    text.overflow = "fold"
    return Padding(text, (0, 0, 0, 9))
