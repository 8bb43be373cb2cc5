"""An inspection as a page of HTML, without scripts or external files."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from keras_initlab import markup
from keras_initlab.report import picture
from keras_initlab.report.cards import cards
from keras_initlab.report.columns import ON_PAGE, grid
from keras_initlab.report.findings import (
    counted,
    mark_of,
    origin,
    summary,
    worst_by_layer,
)

if TYPE_CHECKING:
    from keras_initlab.report.record import Inspection

# Of a table with more rows, those without a kernel are folded to begin with.
SHORT = 40


def as_page(inspection: Inspection) -> str:
    """Return the whole page; see `Inspection.html`."""
    title = f"{inspection.model}: initlab inspection"
    return markup.page(title, markup.report(_report(inspection, alone=True)))


def as_fragment(inspection: Inspection) -> str:
    """Return what a notebook shows below a cell."""
    return markup.fragment(markup.report(_report(inspection, alone=False)))


def _report(inspection: Inspection, alone: bool) -> Iterator[str]:
    """Yield the report; it has headings and links only where it stands `alone`."""
    yield markup.title(inspection.model, "h1" if alone else "div")
    yield markup.quiet(f"{summary(inspection)}.")
    if about := origin(inspection):
        yield markup.quiet(" · ".join(about))
    layers = inspection.layers if alone else ()
    places = {layer.layer: f"layer-{i}" for i, layer in enumerate(layers)}
    yield from cards(inspection.findings, "h2" if alone else "div", places)
    yield from _plots(inspection)
    if inspection.layers:
        yield from _table(inspection, places)
    yield from markup.bullets(inspection.notes)


def _plots(inspection: Inspection) -> Iterator[str]:
    try:
        wide, narrow = picture.as_svg(inspection), picture.as_svg(inspection, True)
    except ImportError as error:
        yield markup.quiet(str(error))
        return
    if wide is not None and narrow is not None:
        # As images, not as SVG in the page: their styles and scripts stay inside, and
        # their ids do not clash with those of another report in the notebook.
        about = "Variance of each layer's output, and the gradient there, over depth"
        yield (
            f'<picture><source media="(max-width: 40em)" srcset="{_data(narrow)}">'
            f'<img class="initlab-plot" alt="{markup.escaped(about)}" '
            f'src="{_data(wide)}"></picture>'
        )


def _data(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def _table(inspection: Inspection, places: Mapping[str, str]) -> Iterator[str]:
    layers = inspection.layers
    cells = grid(layers, ON_PAGE)
    headings = [column.heading for column in cells.columns]
    marks = worst_by_layer(inspection.findings)
    kernels = any(layer.weight is not None for layer in layers)
    rows = []
    for layer, row in zip(layers, cells.rows, strict=True):
        mark = mark_of(layer.layer, marks)
        minor = kernels and layer.weight is None and not mark
        rows.append(markup.Row(row, mark, places.get(layer.layer, ""), minor))
    yield from markup.legend(headings)
    if minors := sum(row.minor for row in rows):
        # What it holds is next to it: <details> cannot hold rows of a table.
        unfolded = " open" if len(rows) <= SHORT else ""
        yield (
            f'<details class="initlab-fold"{unfolded}><summary>'
            f"{counted(minors, 'layer')} without a kernel</summary></details>"
        )
    yield from markup.table(headings, rows)
