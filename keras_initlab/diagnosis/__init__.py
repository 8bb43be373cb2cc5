"""What is wrong with a network, from what is known of it.

Each module of `checks` holds rules, which are found by themselves.
"""

from keras_initlab.diagnosis.facts import (
    Facts,
    HeadFacts,
    InputFacts,
    KernelFacts,
    LayerFacts,
    TargetFacts,
)
from keras_initlab.diagnosis.finding import SEVERITIES, Finding, Severity
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
]
