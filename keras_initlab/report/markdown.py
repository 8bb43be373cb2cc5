"""An inspection as a short account in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from keras_initlab.report.columns import ON_PAGE, grid
from keras_initlab.report.findings import (
    Group,
    code_spans,
    grouped,
    origin,
    summary,
    with_consequences,
)
from keras_initlab.tables import printable

if TYPE_CHECKING:
    from keras_initlab.report.record import InspectedLayer, Inspection

# Layers and findings of a group that are shown at most.
ROWS, SHOWN = 12, 3
# What Markdown would take for markup, wherever it stands in a sentence.
_MARKUP = re.compile(r"([\\`*<>|~]|\](?=\())")
# Figures of which the smallest and the largest matter.
_FIGURES = ("variance", "gradient_second_moment")


def as_markdown(inspection: Inspection) -> str:
    """Return the account; see `Inspection.markdown`."""
    about = origin(inspection)
    sentences = [f"{summary(inspection)}.", f"{', '.join(about)}." if about else ""]
    parts = [
        f"# Inspection of {_code(inspection.model)}",
        " ".join(_plain(sentence) for sentence in sentences if sentence),
        *(part for group in grouped(inspection.findings) for part in _group(group)),
    ]
    if inspection.layers:
        parts.append("\n".join(_table(inspection)))
    if inspection.notes:
        parts.append("\n".join(f"- {_plain(note)}" for note in inspection.notes))
    return "\n\n".join(parts)


def _group(group: Group) -> Iterator[str]:
    first, *further = group.findings
    where = f"{len(group.findings)} layers" if further else _code(first.layer)
    yield f"## {group.severity}: {_plain(group.code)} in {where}"
    if not further:
        yield _with_code(first.evidence)
    else:
        lines = [
            f"- {_code(finding.layer)}: {_with_code(finding.evidence)}"
            for finding in group.findings[:SHOWN]
        ]
        if group.findings[SHOWN:]:
            lines.append(f"- and {len(group.findings) - SHOWN} more")
        yield "\n".join(lines)
    yield f"**What to do:** {_with_code(group.remedy)}"
    for follows in filter(None, (finding.follows for finding in group.findings)):
        yield _with_code(follows)


def _table(inspection: Inspection) -> Iterator[str]:
    places = _that_matter(inspection)
    layers = inspection.layers
    cells = grid([layers[i] for i in places], ON_PAGE)
    heads = [column.heading for column in cells.columns]
    if len(places) < len(layers):
        yield f"## The layers that matter: {len(places)} of {len(layers)}"
    else:
        yield "## Layers"
    yield ""
    yield f"| {' | '.join(_plain(head.name) for head in heads)} |"
    yield f"|{'|'.join('--:' if head.number else '---' for head in heads)}|"
    gap = f"| … |{' |' * (len(heads) - 1)}"
    if places[0] > 0:
        yield gap
    for i, (place, row) in enumerate(zip(places, cells.rows, strict=True)):
        coded = (head.code or index == 0 for index, head in enumerate(heads))
        shown = (
            "" if cell is None else _code(cell) if code else _plain(cell)
            for cell, code in zip(row, coded, strict=True)
        )
        yield f"| {' | '.join(shown)} |"
        after = places[i + 1] if i + 1 < len(places) else len(layers)
        if after > place + 1:
            yield gap


def _that_matter(inspection: Inspection) -> list[int]:
    """Return the places of the layers to show, at most `ROWS`, in their order."""
    layers = inspection.layers
    if len(layers) <= ROWS:
        return list(range(len(layers)))
    kernels = [i for i, layer in enumerate(layers) if layer.weight is not None]
    ends = kernels or range(len(layers))
    # The first layer that shows each fault, before all others that have it.
    first = [group.findings[0] for group in grouped(inspection.findings)]
    ordered = [*with_consequences(first), *with_consequences(inspection.findings)]
    places = {
        layer.layer.split("#")[0]: i for i, layer in reversed([*enumerate(layers)])
    }
    places |= {layer.layer: i for i, layer in enumerate(layers)}
    of_findings = [places[f.layer] for f in ordered if f.layer in places]
    front = of_findings[: ROWS // 2]
    order = [ends[0], ends[-1], *front, *_extremes(layers), *of_findings]
    return sorted([*dict.fromkeys(order)][:ROWS])


def _extremes(layers: Sequence[InspectedLayer]) -> Iterator[int]:
    """Yield where figures are the smallest and the largest."""
    for name in _FIGURES:
        figures = []
        for i, layer in enumerate(layers):
            stats = layer.measured or layer.predicted
            value = getattr(stats, name, None)
            # A NaN is neither small nor large.
            if value is not None and value == value:
                figures.append((value, i))
        if figures:
            yield min(figures)[1]
            yield max(figures)[1]


def _with_code(sentence: str) -> str:
    """Return a sentence as Markdown, its calls and quotations as code."""
    pieces = code_spans(printable(sentence))
    return "".join(_code(piece) if code else _plain(piece) for piece, code in pieces)


def _plain(words: str) -> str:
    """Return text that Markdown takes for text."""
    return _MARKUP.sub(r"\\\1", printable(words)).replace("&", "&amp;")


def _code(words: str) -> str:
    """Return text as code, in a cell of a table, too."""
    words = printable(words).replace("|", "\\|")
    longest = max(map(len, re.findall("`+", words)), default=0)
    fence = "`" * (longest + 1)
    space = " " * (words.startswith("`") or words.endswith("`"))
    return f"{fence}{space}{words}{space}{fence}"
