"""The rules: functions from facts to findings, gathered from `checks`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from functools import cache

from keras_initlab.diagnosis.causes import folded
from keras_initlab.diagnosis.facts import Facts
from keras_initlab.diagnosis.finding import Finding

Rule = Callable[[Facts], Iterator[Finding]]
_RULES: list[Rule] = []


def check(rule: Rule) -> Rule:
    """Register a rule; it must report nothing if the facts it needs are unknown."""
    _RULES.append(rule)
    return rule


@cache
def rules() -> tuple[Rule, ...]:
    """Return all rules, in the order of their modules' names."""
    package = importlib.import_module("keras_initlab.diagnosis.checks")
    modules = pkgutil.iter_modules(package.__path__)
    for name in sorted(module.name for module in modules):
        importlib.import_module(f"{package.__name__}.{name}")
    return tuple(_RULES)


def findings_of(facts: Facts) -> list[Finding]:
    """Return what is wrong, errors first, consequences listed under their causes.

    >>> from keras_initlab.stats import LayerStats
    >>> stats = LayerStats("dense", nonfinite=3, source="monitored")
    >>> [finding.code for finding in findings_of(Facts(stats=(stats,)))]
    ['nonfinite']
    """
    inputs = {data.name for data in facts.inputs}
    return folded(all_findings(facts), inputs=inputs)


def all_findings(facts: Facts) -> list[Finding]:
    """Return the findings of all rules, causes and consequences alike."""
    return [finding for rule in rules() for finding in rule(facts)]
