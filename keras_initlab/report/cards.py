"""Findings as cards of HTML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from keras_initlab import markup
from keras_initlab.diagnosis import Finding
from keras_initlab.report.findings import Group, code_spans, grouped, tally

# Findings of a group that are shown before the reader unfolds the rest.
SHOWN = 3


class Findings(list[Finding]):
    """A list of findings, which a notebook shows as cards."""

    def _repr_html_(self) -> str:
        return as_html(self)


class FixedFindings(tuple[Finding, ...]):
    """A tuple of findings, which a notebook shows as cards."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return as_html(self)


def as_html(findings: Sequence[Finding]) -> str:
    """Return findings as a notebook shows them."""
    summary = tally(findings)
    heading = markup.title(summary[0].upper() + summary[1:])
    return markup.fragment(markup.report([heading, *cards(findings)]))


def cards(
    findings: Iterable[Finding],
    head: str = "div",
    places: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Yield a card for each group of findings, errors first.

    Args:
        findings: in any order.
        head: the tag of a card's title.
        places: ids by layer, to link to.
    """
    for group in grouped(findings):
        yield from _card(group, head, places or {})


def _card(group: Group, head: str, places: Mapping[str, str]) -> Iterator[str]:
    yield f'<section class="initlab-card initlab-{group.severity}">'
    first, *further = group.findings
    where = f"{len(group.findings)} layers" if further else _link(first.layer, places)
    yield (
        f'<{head} class="initlab-head">'
        f'<span class="initlab-badge">{markup.escaped(group.severity)}</span> '
        f"{markup.escaped(group.code)} in {where}</{head}>"
    )
    if not further:
        yield f"<p>{with_code(first.evidence)}</p>"
    else:
        rows = [
            f"<li>{_link(finding.layer, places)}: {with_code(finding.evidence)}</li>"
            for finding in group.findings
        ]
        yield f"<ul>{''.join(rows[:SHOWN])}</ul>"
        if rows[SHOWN:]:
            yield f"<details><summary>{len(rows) - SHOWN} more</summary>"
            yield f"<ul>{''.join(rows[SHOWN:])}</ul></details>"
    yield f'<p class="initlab-remedy">{with_code(group.remedy)}</p>'
    for follows in filter(None, (finding.follows for finding in group.findings)):
        yield f'<p class="initlab-follows">{markup.escaped(follows)}</p>'
    yield "</section>"


def with_code(sentence: str) -> str:
    """Return a sentence as HTML, its calls and quotations as code."""
    return "".join(
        markup.code(piece) if code else markup.escaped(piece)
        for piece, code in code_spans(sentence)
    )


def _link(layer: str, places: Mapping[str, str]) -> str:
    if layer not in places:
        return markup.escaped(layer)
    return f'<a href="#{places[layer]}">{markup.escaped(layer)}</a>'
