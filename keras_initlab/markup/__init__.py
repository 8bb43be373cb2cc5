"""HTML that a notebook shows: tables and text, in one style, without scripts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

# A cell of more characters is folded.
LONG = 36


@dataclass(frozen=True)
class Heading:
    """The head of a column.

    Attributes:
        text: in one line or two.
        number: whether the cells are numbers, aligned to the right.
        code: whether they are code.
        about: what they say, in a sentence, shown when the pointer rests on the head.
    """

    text: str
    number: bool = False
    code: bool = False
    about: str = ""

    @property
    def name(self) -> str:
        """The head in one line."""
        return self.text.replace("\n", ", ")


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        cells: a text for each column, None where there is nothing to say. The first
            one is a path, of which the last part stands out.
        mark: the severity of what was found there; "" for nothing.
        place: an id to link to; "" for none.
        minor: whether the reader may fold it away.
    """

    cells: Sequence[str | None]
    mark: str = ""
    place: str = ""
    minor: bool = False


def page(title: str, body: Iterable[str]) -> str:
    """Return a whole page around a report's lines; it loads nothing, and runs nothing.

    >>> page("net", report(["<p>Sound.</p>"])).splitlines()[0]
    '<!DOCTYPE html>'
    """
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

    Their style applies to one class alone, and leaves the notebook's style as it is. A
    frame would do so too, but cannot adapt its height without a script, and is removed
    where a notebook is not trusted, such as on GitHub; of this, a plain table is left
    there. It holds no HTML headings: JupyterLab would list those with the notebook's
    own.
    """
    # With the weight of an id its rules win over those of any notebook.
    style = _read("report.css").replace(".initlab-report", ".initlab-report:not(#_)")
    return "\n".join([f"<style>{style}</style>", *body])


def report(parts: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a report, within what its style applies to."""
    yield '<div class="initlab-report">'
    yield from parts
    yield "</div>"


def table(headings: Sequence[Heading], rows: Iterable[Row]) -> Iterator[str]:
    """Yield a table that scrolls within itself."""
    yield '<div class="initlab-scroll"><table>'
    heads = (
        f"<th{_class(heading)}{_title(heading)} scope='col'>"
        f"{'<br>'.join(map(escaped, heading.text.split(chr(10))))}</th>"
        for heading in headings
    )
    yield f"<thead><tr>{''.join(heads)}</tr></thead>"
    yield "<tbody>"
    for row in rows:
        name = row.cells[0] or ""
        place = f' id="{row.place}"' if row.place else ""
        kinds = [f"initlab-{row.mark}"] * bool(row.mark) + ["initlab-minor"] * row.minor
        about = f' class="{" ".join(kinds)}"' if kinds else ""
        about += f' title="{row.mark}"' if row.mark else ""
        head = f"<th scope='row'{_class(headings[0], name)}>{path(name)}</th>"
        cells = (
            f"<td{_class(heading, cell)}>{_cell(heading, cell)}</td>"
            for heading, cell in zip(headings[1:], row.cells[1:], strict=True)
        )
        yield f"<tr{place}{about}>{head}{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def legend(headings: Iterable[Heading]) -> Iterator[str]:
    """Yield what the columns say, folded."""
    explained = [heading for heading in headings if heading.about]
    if explained:
        yield '<details class="initlab-legend"><summary>What the columns say</summary>'
        yield "<dl>"
        for heading in explained:
            yield f"<dt>{escaped(heading.name)}</dt><dd>{escaped(heading.about)}</dd>"
        yield "</dl></details>"


def title(words: str, tag: str = "div") -> str:
    """Return a title."""
    return f'<{tag} class="initlab-title">{escaped(words)}</{tag}>'


def quiet(words: str) -> str:
    """Return a paragraph that does not stand out."""
    return f'<p class="initlab-summary">{escaped(words)}</p>'


def bullets(lines: Iterable[str]) -> Iterator[str]:
    """Yield a list of sentences; nothing where there are none."""
    items = [f"<li>{escaped(line)}</li>" for line in lines]
    if items:
        yield f'<ul class="initlab-notes">{"".join(items)}</ul>'


def path(layer: str) -> str:
    """Return a layer's path, with its last part highlighted."""
    *around, name = layer.split("/")
    if not around:
        return escaped(name)
    before = "".join(escaped(part) + "/<wbr>" for part in around)
    return f'<span class="initlab-around">{before}</span>{escaped(name)}'


def code(words: str) -> str:
    """Return text as code."""
    return f"<code>{escaped(words)}</code>"


def escaped(words: str) -> str:
    """Return text as HTML; characters that no page may hold are replaced."""
    usable = (
        character
        if character.isprintable() or character == "\n"
        else "\N{REPLACEMENT CHARACTER}"
        for character in words
    )
    return escape("".join(usable), quote=True)


def _cell(heading: Heading, cell: str | None) -> str:
    if cell is None:
        return "–"
    return code(cell) if heading.code and cell else escaped(cell)


def _class(heading: Heading, cell: str | None = None) -> str:
    if heading.number:
        return ' class="initlab-number"'
    return ' class="initlab-long"' if cell and len(cell) > LONG else ""


def _title(heading: Heading) -> str:
    return f' title="{escaped(heading.about)}"' if heading.about else ""


def _read(name: str) -> str:
    return (files("keras_initlab.markup") / name).read_text(encoding="utf-8")
