"""What is wrong with a network, from the facts that are known about it.

Each module of `checks` holds rules; all of them are imported automatically.
"""

from keras_initlab.diagnosis.facts import (
    Facts,
    HeadFacts,
    InputFacts,
    KernelFacts,
    LayerFacts,
    TargetFacts,
)
from keras_initlab.diagnosis.finding import (
    SEVERITIES,
    Finding,
    Severity,
    worst_first,
)
from keras_initlab.diagnosis.rules import all_findings, findings_of

__all__ = [
    "SEVERITIES",
    "Facts",
    "Finding",
    "HeadFacts",
    "InputFacts",
    "KernelFacts",
    "LayerFacts",
    "Severity",
    "TargetFacts",
    "all_findings",
    "findings_of",
    "worst_first",
]
