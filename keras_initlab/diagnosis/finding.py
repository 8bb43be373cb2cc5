"""Finding: a fault, what shows it, what to do, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        code: which fault, a fixed name such as "nonfinite".
        severity: "error" where training fails, "warning" where it is slower or at
            risk, "info" for what is worth knowing. A cause is as severe as the worst
            of its consequences.
        layer: the first layer that shows it.
        evidence: the numbers, in a sentence.
        remedy: what to do.
        consequences: findings that follow from this one, and go with it.
        epoch: in which a monitor saw it begin; None where nothing was trained.

    >>> print(Finding("nonfinite", "error", "dense", "3 elements are NaN.", "Clip."))
    nonfinite in dense: 3 elements are NaN. Clip.
    """

    code: str
    severity: Severity
    layer: str
    evidence: str
    remedy: str
    consequences: tuple[Finding, ...] = ()
    epoch: int | None = None

    def __str__(self) -> str:
        text = f"{self.code} in {self.layer}: {self.evidence} {self.remedy}"
        return f"{text} {self.follows}" if self.consequences else text

    @property
    def follows(self) -> str:
        """What follows from it, in a sentence; "" where nothing does.

        >>> late = Finding("dead-units", "error", "dense_1", "All.", "Look.")
        >>> Finding("constant-kernel", "error", "dense", "0.", "Draw.", (late,)).follows
        'And so: dead-units in dense_1.'
        """
        if not self.consequences:
            return ""
        named = (f"{finding.code} in {finding.layer}" for finding in self.consequences)
        return f"And so: {', '.join(named)}."


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings by severity; those of the same severity stay in their order."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def worse(first: Severity, second: Severity) -> bool:
    """Whether the first severity is worse than the second."""
    return SEVERITIES.index(first) < SEVERITIES.index(second)
