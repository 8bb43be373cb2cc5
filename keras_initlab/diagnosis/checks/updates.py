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

# Ratios ‖Δw‖ / ‖w‖, as means over a window: reported at once, or after two windows.
WILD, LARGE = 0.4, 0.3
SMALL = 1e-7
# The largest change of weights, over all steps, and of the loss, in this many windows.
STILL, FLAT, WINDOWS = 0.01, 0.01, 3
# How much shorter than the first one a step is that no longer counts.
DECAYED = 1e-5

_FASTER = "Use a larger learning rate: 1e-3 is usual for Adam, 1e-2 for SGD."

_SLOWER = (
    "Let the learning rate fall more slowly: a schedule counts steps, not epochs, so "
    "that decay_steps is to be multiplied by the steps of an epoch."
)


@check
def update_too_large(facts: Facts) -> Iterator[Finding]:
    """Report weights that a single step nearly replaces."""
    now = _ratios(facts, facts.stats)
    before = _ratios(facts, facts.earlier[-1]) if facts.earlier else {}
    large = {
        layer: ratio
        for layer, ratio in now.items()
        if ratio > WILD or (ratio > LARGE and before.get(layer, 0.0) > LARGE)
    }
    if not large:
        return
    worst = max(large, key=lambda layer: large[layer])
    yield Finding(
        "update-too-large",
        "warning",
        worst,
        f"A step changes its weights by {_length(large[worst])}"
        f"{wording.and_others([*large])}; about 0.1 % is usual.",
        f"Use a learning rate {_smaller(large[worst])} times smaller.",
    )


def _length(ratio: float) -> str:
    if ratio < 1:
        return f"{wording.percent(ratio)} of their length"
    return f"{wording.number(ratio)} times their length"


def _smaller(ratio: float) -> str:
    """Return a power of ten, at most 1000: after that, the user should look again."""
    if not math.isfinite(ratio):
        return "1000"
    return str(10 ** min(max(math.ceil(math.log10(ratio / 0.1)), 1), 3))


@check
def update_too_small(facts: Facts) -> Iterator[Finding]:
    """Report weights that have not moved since training began, in any layer."""
    windows = [*facts.earlier, facts.stats]
    if not any(_has_gradient(stats) for stats in facts.stats):
        return
    layer = next(stats.layer for stats in facts.stats if _has_gradient(stats))
    ratios = [list(_ratios(facts, window).values()) for window in windows]
    # NaN is neither large nor small.
    if facts.updates and all(ratio <= SMALL for window in ratios for ratio in window):
        usual = median(ratios[-1]) if ratios[-1] else 0.0
        evidence = (
            f"A step changes the weights by {wording.number(usual)} times their length "
            "in every layer; about 0.001 times is usual."
            if usual
            else "No step has changed any weight; a change of about 0.1 % of their "
            "length is usual."
        )
    elif _decayed(facts):
        yield Finding(
            "update-too-small",
            "warning",
            layer,
            f"Steps are less than {wording.number(DECAYED)} times as long as the first "
            f"one, and the loss stands still at {facts.losses[-1]:.4g}.",
            _SLOWER,
        )
        return
    else:
        share = _crept(facts, ratios[-1])
        if share is None:
            return
        evidence = (
            f"In {facts.steps} steps the weights moved by at most {share} of their "
            f"length, and the loss went from {facts.losses[0]:.4g} to "
            f"{facts.losses[-1]:.4g}."
        )
    yield Finding("update-too-small", "warning", layer, evidence, _FASTER)


def _crept(facts: Facts, ratios: Sequence[float]) -> str | None:
    """Return how far the weights moved if the loss did not change; else None."""
    if facts.steps is None or len(facts.losses) < WINDOWS or not ratios:
        return None
    first, last = facts.losses[0], facts.losses[-1]
    moved = max(ratios) * facts.steps
    if not moved < STILL or not abs(first - last) < FLAT * abs(first):
        return None
    return f"{100 * moved:.2g} %"


def _decayed(facts: Facts) -> bool:
    """Whether steps became negligible, in two windows, before anything was learned."""
    first = _ratios(facts, facts.first).values()
    latest = facts.losses[-WINDOWS:]
    if not first or not facts.earlier or len(latest) < WINDOWS or facts.learned:
        return False
    limit = DECAYED * max(first)
    small = [
        ratio < limit
        for window in (facts.earlier[-1], facts.stats)
        for ratio in _ratios(facts, window).values()
    ]
    flat = max(latest) - min(latest) < FLAT * abs(latest[-1])
    return bool(small) and all(small) and flat


def _has_gradient(stats: LayerStats) -> bool:
    return (stats.weight_gradient_second_moment or 0.0) > 0


def _ratios(facts: Facts, window: Sequence[LayerStats]) -> dict[str, float]:
    """Return the update ratios by layer, except for weights that started at 0."""
    return {
        stats.layer: stats.update_ratio
        for stats in window
        if stats.update_ratio is not None
        and stats.layer.split("#")[0] not in facts.from_zero
    }
