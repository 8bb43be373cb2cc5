"""Steps that are too large or too small for the weights they change.

A usual step changes weights by about 1/1000 of their length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median

from keras_initlab.diagnosis import wording
from keras_initlab.diagnosis.facts import Facts
from keras_initlab.diagnosis.finding import Finding
from keras_initlab.diagnosis.rules import check
from keras_initlab.stats import LayerStats

# Ratios ‖Δw‖ / ‖w‖, as means over a window: at once, or in two windows on end.
WILD, LARGE = 0.4, 0.3
SMALL = 1e-7


@check
def update_too_large(facts: Facts) -> Iterator[Finding]:
    """Report weights that a step replaces rather than improves."""
    now = _ratios(facts.stats)
    before = _ratios(facts.earlier[-1]) if facts.earlier else {}
    found = {
        layer: ratio
        for layer, ratio in now.items()
        if ratio > WILD or (ratio > LARGE and before.get(layer, 0.0) > LARGE)
    }
    if not found:
        return
    worst = max(found, key=lambda layer: found[layer])
    yield Finding(
        "update-too-large",
        "warning",
        worst,
        f"One step changes its weights by {wording.percent(found[worst])} of their "
        f"length{wording.others([*found])}.",
        "Use a learning rate about "
        f"{wording.number(max(found[worst] / 0.01, 10))} times smaller.",
    )


@check
def update_too_small(facts: Facts) -> Iterator[Finding]:
    """Report weights that have not moved since training began, in any layer."""
    windows = [*facts.earlier, facts.stats]
    if not facts.updates or not any(_has_gradient(one) for one in facts.stats):
        return
    ratios = [list(_ratios(window).values()) for window in windows]
    if any(math.isnan(ratio) for window in ratios for ratio in window):
        return  # weights are NaN: another rule's fault
    if any(window and max(window) > SMALL for window in ratios):
        return
    layer = next(one.layer for one in facts.stats if _has_gradient(one))
    usual = median(ratios[-1]) if ratios[-1] else 0.0
    yield Finding(
        "update-too-small",
        "warning",
        layer,
        f"One step changes weights by {wording.number(usual)} of their length: none "
        "of the layers learns.",
        "Use a larger learning rate: 1e-3 is usual for Adam, 1e-2 for SGD.",
    )


def _has_gradient(stats: LayerStats) -> bool:
    return bool(stats.weight_gradient_second_moment)


def _ratios(stats: Sequence[LayerStats]) -> dict[str, float]:
    return {
        one.layer: one.update_ratio for one in stats if one.update_ratio is not None
    }
