"""An inspection as a page of HTML, without scripts or external files."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from keras_initlab.report import picture
from keras_initlab.report.columns import Column, grid
from keras_initlab.report.findings import (
    Group,
    code_spans,
    grouped,
    mark_of,
    summary,
    worst_by_layer,
)

if TYPE_CHECKING:
    from keras_initlab.report.record import Inspection

# Findings of a group that are shown before the reader unfolds the rest.
SHOWN = 3
# A name or an initializer of more characters is folded.
LONG = 36


def as_page(inspection: Inspection) -> str:
    """Return the whole page; see `Inspection.html`."""
    title = f"{inspection.model}: initlab inspection"
    return page(title, _report(inspection, alone=True))


def as_fragment(inspection: Inspection) -> str:
    """Return what a notebook shows below a cell; see `fragment`.

    Its headings are not HTML headings: JupyterLab would list those with the notebook's
    own.
    """
    return fragment(_report(inspection, alone=False))


def page(title: str, body: Iterable[str]) -> str:
    """Return a whole page of HTML around a report's lines; it loads nothing."""
    style = _read("report.css") + _read("page.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    # Everything is escaped. Should anything slip through all the same, the browser
    # loads and runs nothing but this style and the pictures inside the page.
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escaped(title)}</title>",
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            *body,
            "</body>",
            "</html>",
            "",
        ]
    )


def fragment(body: Iterable[str]) -> str:
    """Return a report's lines as a notebook shows them below a cell.

    Its style applies to one class alone, and leaves the notebook's style as it is. A
    frame would do so too, but cannot adapt its height without a script, and is removed
    where a notebook is not trusted, such as on GitHub; of this, a plain table is left
    there.
    """
    return "\n".join([f"<style>{_read('report.css')}</style>", *body])


def _report(inspection: Inspection, alone: bool) -> Iterator[str]:
    """Yield the report; it has headings and links only where it stands `alone`."""
    yield '<div class="initlab-report">'
    title, head = ("h1", "h2") if alone else ("div", "div")
    yield f'<{title} class="initlab-title">{escaped(inspection.model)}</{title}>'
    yield f'<p class="initlab-summary">{escaped(summary(inspection))}.</p>'
    layers = inspection.layers if alone else ()
    places = {layer.layer: f"layer-{i}" for i, layer in enumerate(layers)}
    for group in grouped(inspection.findings):
        yield from _card(group, head, places)
    yield from _plots(inspection)
    if inspection.layers:
        yield from _table(inspection, places)
    if inspection.notes:
        yield '<ul class="initlab-notes">'
        yield from (f"<li>{escaped(note)}</li>" for note in inspection.notes)
        yield "</ul>"
    yield "</div>"


def _card(group: Group, head: str, places: Mapping[str, str]) -> Iterator[str]:
    yield f'<section class="initlab-card initlab-{group.severity}">'
    first, *further = group.findings
    where = f"{len(group.findings)} layers" if further else _link(first.layer, places)
    yield (
        f'<{head} class="initlab-head">'
        f'<span class="initlab-badge">{escaped(group.severity)}</span> '
        f"{escaped(group.code)} in {where}</{head}>"
    )
    if not further:
        yield f"<p>{escaped(first.evidence)}</p>"
    else:
        rows = [
            f"<li>{_link(finding.layer, places)}: {escaped(finding.evidence)}</li>"
            for finding in group.findings
        ]
        yield f"<ul>{''.join(rows[:SHOWN])}</ul>"
        if rows[SHOWN:]:
            yield f"<details><summary>{len(rows) - SHOWN} more</summary>"
            yield f"<ul>{''.join(rows[SHOWN:])}</ul></details>"
    remedy = "".join(
        f"<code>{escaped(piece)}</code>" if code else escaped(piece)
        for piece, code in code_spans(group.remedy)
    )
    yield f'<p class="initlab-remedy">{remedy}</p>'
    for follows in filter(None, (finding.follows for finding in group.findings)):
        yield f'<p class="initlab-follows">{escaped(follows)}</p>'
    yield "</section>"


def _plots(inspection: Inspection) -> Iterator[str]:
    try:
        svg = picture.as_svg(inspection)
    except ImportError as error:
        yield f'<p class="initlab-summary">{escaped(str(error))}</p>'
        return
    if svg is not None:
        # As an image, not as SVG in the page: its styles and scripts stay inside, and
        # its ids do not clash with those of another report in the notebook.
        data = base64.b64encode(svg).decode()
        about = "Variance of each layer's output, and the gradient there, over depth"
        yield (
            f'<img class="initlab-plot" alt="{escaped(about)}" '
            f'src="data:image/svg+xml;base64,{data}">'
        )


def _table(inspection: Inspection, places: Mapping[str, str]) -> Iterator[str]:
    table = grid(inspection.layers)
    marks = worst_by_layer(inspection.findings)
    yield '<div class="initlab-scroll"><table>'
    heads = (
        f"<th{_kind(column)} scope='col'>{_lines(column.header)}</th>"
        for column in table.columns
    )
    yield f"<thead><tr>{''.join(heads)}</tr></thead>"
    yield "<tbody>"
    for cells in table.rows:
        name = cells[0] or ""
        severity = mark_of(name, marks)
        place = f' id="{places[name]}"' if name in places else ""
        about = f' class="initlab-{severity}" title="{severity}"' if severity else ""
        columns = zip(table.columns[1:], cells[1:], strict=True)
        head = f"<th scope='row'{_kind(table.columns[0], name)}>{_path(name)}</th>"
        row = (
            f"<td{_kind(column, cell)}>{escaped('–' if cell is None else cell)}</td>"
            for column, cell in columns
        )
        yield f"<tr{place}{about}>{head}{''.join(row)}</tr>"
    yield "</tbody></table></div>"


def _path(layer: str) -> str:
    """Return a layer's path, with its last part highlighted."""
    *around, name = layer.split("/")
    if not around:
        return escaped(name)
    slash = "/<wbr>" if len(layer) > LONG else "/"
    before = "".join(escaped(part) + slash for part in around)
    return f'<span class="initlab-around">{before}</span>{escaped(name)}'


def _link(layer: str, places: Mapping[str, str]) -> str:
    if layer not in places:
        return escaped(layer)
    return f'<a href="#{places[layer]}">{escaped(layer)}</a>'


def _kind(column: Column, cell: str | None = None) -> str:
    """Return the class attribute of a cell."""
    if column.number:
        return ' class="initlab-number"'
    return ' class="initlab-long"' if cell and len(cell) > LONG else ""


def _lines(header: str) -> str:
    return "<br>".join(map(escaped, header.split("\n")))


def escaped(text: str) -> str:
    """Return text as HTML; characters that no page may hold are replaced."""
    usable = (
        character
        if character.isprintable() or character == "\n"
        else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )
    return escape("".join(usable), quote=True)


def _read(name: str) -> str:
    return (files("keras_initlab.report") / name).read_text(encoding="utf-8")
