"""A monitor as a table of variances, in text and in HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_initlab import markup, numerals
from keras_initlab.report.cards import cards, with_code
from keras_initlab.tables import Justify, render_table

if TYPE_CHECKING:
    from keras_initlab.monitor.callback import VarianceMonitor

# Columns of epochs, before the middle ones are left out.
SHOWN_EPOCHS = 8


def as_text(monitor: VarianceMonitor) -> str:
    """Return the table, or what to do if there is nothing in it."""
    if not monitor.history:
        return f"VarianceMonitor(every={monitor.every}): no {_NOTHING}"
    headings, rows = _table(monitor)
    columns: list[tuple[str, Justify]] = [
        (head.text, "right" if head.number else "left") for head in headings
    ]
    return render_table(_title(monitor), columns, rows)


def as_html(monitor: VarianceMonitor) -> str:
    """Return what a notebook shows: the table, and what went wrong."""
    if not monitor.history:
        title = markup.title(f"VarianceMonitor(every={monitor.every})")
        parts = [title, f"<p>{with_code(f'No {_NOTHING}')}</p>"]
        return markup.fragment(markup.report(parts))
    headings, rows = _table(monitor)
    parts = [
        markup.title(_title(monitor)),
        *cards(monitor.findings),
        *markup.table(headings, map(markup.Row, rows)),
    ]
    return markup.fragment(markup.report(parts))


_NOTHING = "epoch has been monitored. Call `model.fit(..., callbacks=[monitor])` first."


def _title(monitor: VarianceMonitor) -> str:
    return f"Output variance (every={monitor.every})"


def _table(
    monitor: VarianceMonitor,
) -> tuple[list[markup.Heading], list[list[str]]]:
    shown = _ends(len(monitor.epochs), SHOWN_EPOCHS)
    names = ("…" if i is None else _name_of(monitor, i) for i in shown)
    headings = [
        markup.Heading("layer"),
        *(markup.Heading(name, number=True) for name in names),
    ]
    rows = [
        [key, *("…" if i is None else numerals.number(values[i]) for i in shown)]
        for key, values in monitor.history.items()
    ]
    return headings, rows


def _name_of(monitor: VarianceMonitor, index: int) -> str:
    name = f"epoch {monitor.epochs[index]}"
    return name if monitor.window is None else f"{name}:{monitor.steps[index]}"


def _ends(count: int, limit: int) -> list[int | None]:
    """Return indices up to `count`, with None for those left out in the middle."""
    if count <= limit:
        return list(range(count))
    half = limit // 2
    return [*range(half), None, *range(count - half, count)]
