"""A comparison as text: a table of the candidates, then the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from keras_initlab.bench.columns import Column, columns_of
from keras_initlab.report.text import check_width
from keras_initlab.tables import Justify, build_table, fit, needed, plain, render

if TYPE_CHECKING:
    from keras_initlab.bench.comparison import Comparison

# Lines of prose are no longer than this, even below a wider table.
PROSE = 88
# A candidate's name gets this share of the line before it is folded; findings, this
# many characters.
NAME, FINDINGS = 0.4, 30


def as_text(
    comparison: Comparison, width: int | None = None, color: bool = False
) -> str:
    """Return the report; see `Comparison.text`."""
    check_width(width)
    columns = columns_of(comparison)
    shown, widths = _fitting(columns, width)
    omitted = [column.name for i, column in enumerate(columns) if i not in shown]
    blocks = [
        render([plain(summary(comparison))], width, color),
        render([_table(comparison, columns, shown, widths)], width, color),
        "",
        render(_prose(comparison, omitted), min(width or PROSE, PROSE), color),
    ]
    return "\n".join(blocks).rstrip()


def summary(comparison: Comparison) -> str:
    """Return the first line of a report."""
    counts = [
        (len(comparison.results), "candidate"),
        (len(comparison.seeds), "seed"),
        (comparison.epochs, "epoch"),
    ]
    rates = len(comparison.learning_rates)
    if rates > 1:
        counts.append((rates, "learning rate"))
    parts = [f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts]
    return f"Comparison: {', '.join(parts)}"


def legend(comparison: Comparison) -> str:
    """Return what the figures of the table are."""
    parts = ["* best."]
    if len(comparison.seeds) > 1:
        parts.append("Mean ± standard deviation over the seeds.")
    if any(result.start for result in comparison.results):
        first = comparison.seeds[0]
        parts.append(
            f"Signals: the smallest to the largest over depth, of seed {first}."
        )
    return " ".join(parts)


def _fitting(
    columns: Sequence[Column], width: int | None
) -> tuple[list[int], list[int] | None]:
    """Return which columns fit on a line, and how wide each may be."""
    if width is None:
        return list(range(len(columns))), None
    widths = [
        needed([column.header, *(plain(cell or "").plain for cell in column.cells)])
        for column in columns
    ]
    for index, column in enumerate(columns):
        if column.long and index:
            widths[index] = min(widths[index], FINDINGS)
    order = sorted(range(len(columns)), key=lambda index: columns[index].rank)
    room = width - 4  # the mark of the best
    return fit(widths, order, room, least=int(NAME * room))


def _table(
    comparison: Comparison,
    columns: Sequence[Column],
    shown: Sequence[int],
    widths: Sequence[int] | None,
) -> Table:
    heads: list[tuple[str, Justify]] = [("", "left")]
    heads += [
        (columns[i].header, "right" if columns[i].number else "left") for i in shown
    ]
    rows = []
    for index, result in enumerate(comparison.results):
        best = result.candidate == comparison.best
        cells = [plain(columns[i].cells[index] or "-") for i in shown]
        if best:
            cells[0].stylize("bold")
        rows.append([Text("*" if best else "", style="green"), *cells])
    return build_table(heads, rows, widths=[1, *widths] if widths else None)


def _prose(comparison: Comparison, omitted: Sequence[str]) -> Iterator[Any]:
    for sentence in comparison.verdict:
        yield plain(sentence)
    yield Text("")
    yield Text(legend(comparison), style="dim")
    if omitted:
        yield Text(f"Left out at this width: {'; '.join(omitted)}.", style="dim")
