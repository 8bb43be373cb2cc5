"""Finding: a fault, where it is, what shows it, and what to do."""

from __future__ import annotations

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
            risk, "info" for what is worth knowing.
        layer: the first layer that shows it.
        evidence: the numbers, in a sentence.
        remedy: what to do.

    >>> print(Finding("nonfinite", "error", "dense", "3 elements are NaN.", "Clip."))
    nonfinite in dense: 3 elements are NaN. Clip.
    """

    code: str
    severity: Severity
    layer: str
    evidence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.code} in {self.layer}: {self.evidence} {self.remedy}"
