"""Findings as the reports show them: sorted and grouped by kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keras_initlab.diagnosis import SEVERITIES, Finding, Severity

if TYPE_CHECKING:
    from keras_initlab.report.record import Inspection

# A call such as il.rewrite_initializers(model, scheme="variance"), with brackets in its
# arguments as well, or text between backquotes.
_CODE = re.compile(r"`([^`]+)`|([A-Za-z_][\w.]*\((?:[^()]|\([^()]*\))*\))")


@dataclass(frozen=True)
class Group:
    """Findings of one code, one severity and one remedy."""

    code: str
    severity: Severity
    remedy: str
    findings: tuple[Finding, ...]


def grouped(findings: Iterable[Finding]) -> list[Group]:
    """Return findings in groups, errors first, otherwise in order of appearance."""
    groups: dict[tuple[str, Severity, str], list[Finding]] = {}
    for finding in findings:
        key = finding.code, finding.severity, finding.remedy
        groups.setdefault(key, []).append(finding)
    return sorted(
        (Group(*key, tuple(members)) for key, members in groups.items()),
        key=lambda group: SEVERITIES.index(group.severity),
    )


def worst_by_layer(findings: Iterable[Finding]) -> dict[str, Severity]:
    """Return the worst severity among each layer's findings."""
    worst: dict[str, Severity] = {}
    for finding in with_consequences(findings):
        layer, severity = finding.layer, finding.severity
        worst[layer] = min(worst.get(layer, severity), severity, key=SEVERITIES.index)
    return worst


def with_consequences(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield each finding, and then what follows from it."""
    for finding in findings:
        yield finding
        yield from finding.consequences


def mark_of(layer: str, marks: Mapping[str, str]) -> str:
    """Return the severity at a layer, or, for one of its calls, at the layer itself."""
    return marks.get(layer) or marks.get(layer.rpartition("#")[0], "")


def code_spans(text: str) -> list[tuple[str, bool]]:
    """Return the pieces of a sentence, and whether each is code.

    >>> code_spans("Call f(x, g(1)) first.")
    [('Call ', False), ('f(x, g(1))', True), (' first.', False)]
    """
    pieces: list[tuple[str, bool]] = []
    end = 0
    for match in _CODE.finditer(text):
        pieces.append((text[end : match.start()], False))
        pieces.append((match[1] or match[2], True))
        end = match.end()
    pieces.append((text[end:], False))
    return [(piece, code) for piece, code in pieces if piece]


def counted(number: int, name: str) -> str:
    """Return a number with a noun.

    >>> counted(1, "error"), counted(2, "info")
    ('1 error', '2 info')
    """
    plural = name if name == "info" else f"{name}s"
    return f"{number:,} {name if number == 1 else plural}"


def tally(findings: Sequence[Finding]) -> str:
    """Return how many findings there are of each severity.

    >>> tally([])
    'no findings'
    """
    counts = Counter[str](finding.severity for finding in findings)
    parts = [counted(counts[name], name) for name in SEVERITIES if counts[name]]
    return ", ".join(parts) or "no findings"


def summary(inspection: Inspection) -> str:
    """Return the first line of a report, without the model's name."""
    layers = counted(len(inspection.layers), "layer")
    how = f"measured on {inspection.data}" if inspection.data else "nothing measured"
    return f"{layers}, {how}; {tally(inspection.findings)}"


def origin(inspection: Inspection) -> list[str]:
    """Return what is known of where an inspection comes from, in a few words each."""
    parts = []
    if inspection.parameters is not None:
        parts.append(counted(inspection.parameters, "parameter"))
    if inspection.file is not None:
        parts.append(f"file {inspection.file}")
    if inspection.origin is not None:
        created, backend = inspection.origin.created, inspection.origin.backend
        parts.append(created.replace("T", " ").replace("+00:00", " UTC"))
        said = {"keras": "Keras", "python": "Python", backend: f"backend {backend}"}
        versions = inspection.origin.versions.items()
        parts += [f"{said.get(name, name)} {version}" for name, version in versions]
    return parts
