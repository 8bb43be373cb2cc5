"""A comparison as a page of HTML, or as a notebook shows it below a cell."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING

from keras_initlab import markup, plots
from keras_initlab.bench.columns import columns_of
from keras_initlab.bench.text import legend, summary

if TYPE_CHECKING:
    from keras_initlab.bench.comparison import Comparison

_ABOUT = {
    "curves": "Loss and metric on the validation data by epoch, for each candidate",
    "depth": "Variance and gradient of every layer, before and after training",
}


def as_page(comparison: Comparison) -> str:
    """Return the whole page; see `Comparison.html`."""
    return markup.page(
        "initlab comparison", markup.report(_report(comparison, alone=True))
    )


def as_fragment(comparison: Comparison) -> str:
    """Return what a notebook shows below a cell."""
    return markup.fragment(markup.report(_report(comparison, alone=False)))


def _report(comparison: Comparison, alone: bool) -> Iterator[str]:
    yield markup.title(summary(comparison), "h1" if alone else "div")
    yield from markup.bullets(comparison.verdict)
    columns = columns_of(comparison)
    headings = [markup.Heading(column.header, column.number) for column in columns]
    yield from markup.table(headings, _rows(comparison))
    yield markup.quiet(legend(comparison))
    yield from _plots(comparison)
    yield from _findings(comparison)


def _rows(comparison: Comparison) -> Iterator[markup.Row]:
    columns = columns_of(comparison)
    for index, result in enumerate(comparison.results):
        mark = "* " if result.candidate == comparison.best else ""
        cells = [column.cells[index] for column in columns[1:]]
        yield markup.Row([mark + result.candidate, *cells])


def _plots(comparison: Comparison) -> Iterator[str]:
    for kind, about in _ABOUT.items():
        if kind == "depth" and not any(result.start for result in comparison.results):
            continue
        try:
            data = base64.b64encode(plots.svg(comparison.plot(kind))).decode()
        except ImportError as error:
            yield markup.quiet(str(error))
            return
        yield (
            f'<img class="initlab-plot" alt="{markup.escaped(about)}" '
            f'src="data:image/svg+xml;base64,{data}">'
        )


def _findings(comparison: Comparison) -> Iterator[str]:
    for result in comparison.results:
        findings = [str(f) for f in result.findings if f.severity != "info"]
        if findings:
            name = markup.escaped(result.candidate)
            yield f"<details><summary>{name}: before training</summary>"
            yield from markup.bullets(findings)
            yield "</details>"
