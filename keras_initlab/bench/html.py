"""A comparison as a page of HTML, or as a notebook shows it below a cell."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING

from keras_initlab import plots
from keras_initlab.bench.columns import columns_of
from keras_initlab.bench.text import legend, summary
from keras_initlab.report.html import escaped, fragment, page

if TYPE_CHECKING:
    from keras_initlab.bench.comparison import Comparison

_ABOUT = {
    "curves": "Loss and metric on the validation data by epoch, for each candidate",
    "depth": "Variance and gradient of every layer, before and after training",
}


def as_page(comparison: Comparison) -> str:
    """Return the whole page; see `Comparison.html`."""
    return page("initlab comparison", _report(comparison, alone=True))


def as_fragment(comparison: Comparison) -> str:
    """Return what a notebook shows below a cell."""
    return fragment(_report(comparison, alone=False))


def _report(comparison: Comparison, alone: bool) -> Iterator[str]:
    title = "h1" if alone else "div"
    yield '<div class="initlab-report">'
    yield f'<{title} class="initlab-title">{escaped(summary(comparison))}</{title}>'
    yield "<ul>"
    yield from (f"<li>{escaped(one)}</li>" for one in comparison.verdict)
    yield "</ul>"
    yield from _table(comparison)
    yield f'<p class="initlab-summary">{escaped(legend(comparison))}</p>'
    yield from _plots(comparison)
    yield from _findings(comparison)
    yield "</div>"


def _table(comparison: Comparison) -> Iterator[str]:
    columns = columns_of(comparison)
    kinds = [' class="initlab-number"' if one.number else "" for one in columns]
    yield '<div class="initlab-scroll"><table>'
    heads = (
        f"<th{kind} scope='col'>{'<br>'.join(map(escaped, one.header.split(chr(10))))}"
        "</th>"
        for one, kind in zip(columns, kinds, strict=True)
    )
    yield f"<thead><tr>{''.join(heads)}</tr></thead><tbody>"
    for index, result in enumerate(comparison.results):
        best = result.candidate == comparison.best
        name = f"{'* ' if best else ''}{result.candidate}"
        cells = (
            f"<td{kind}>{escaped(one.cells[index] or '–')}</td>"
            for one, kind in zip(columns[1:], kinds[1:], strict=True)
        )
        name = escaped(name)
        head = f"<b>{name}</b>" if best else name
        yield f"<tr><th scope='row'>{head}</th>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def _plots(comparison: Comparison) -> Iterator[str]:
    for kind, about in _ABOUT.items():
        if kind == "depth" and not any(one.start for one in comparison.results):
            continue
        try:
            data = base64.b64encode(plots.svg(comparison.plot(kind))).decode()
        except ImportError as error:
            yield f'<p class="initlab-summary">{escaped(str(error))}</p>'
            return
        yield (
            f'<img class="initlab-plot" alt="{escaped(about)}" '
            f'src="data:image/svg+xml;base64,{data}">'
        )


def _findings(comparison: Comparison) -> Iterator[str]:
    for result in comparison.results:
        findings = [one for one in result.findings if one.severity != "info"]
        if not findings:
            continue
        yield "<details><summary>"
        yield f"{escaped(result.candidate)}: what `diagnose` says before training"
        yield "</summary><ul>"
        yield from (f"<li>{escaped(str(one))}</li>" for one in findings)
        yield "</ul></details>"
