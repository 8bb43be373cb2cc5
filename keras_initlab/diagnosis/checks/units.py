"""Units that no longer respond: dead or saturated ones.

They are judged by the share of units and elements, not by their size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from keras_initlab.diagnosis import remedies, wording
from keras_initlab.diagnosis.facts import Facts
from keras_initlab.diagnosis.finding import Finding
from keras_initlab.diagnosis.rules import check
from keras_initlab.stats import LayerStats

# Shares of units that are 0 for all inputs, and of elements at an activation's ends.
DEAD, ALL_DEAD = 0.8, 0.95
SATURATED, ALL_SATURATED = 0.4, 0.75
# In training, how many more than at the first step.
DIED, MANY_DEAD = 0.4, 2 / 3

_FLAT = (
    "Start with biases of 0 or slightly above, or use an activation that is nowhere "
    'flat: activation="leaky_relu" or "gelu".'
)


@check
def dead_units(facts: Facts) -> Iterator[Finding]:
    """Report the layer with the most units that are 0 whatever the input.

    If inputs have one sign, or one feature, half of the units are dead by chance; and
    what died while the loss fell was not needed.
    """
    first = {stats.layer: stats.dead_fraction or 0.0 for stats in facts.first}
    dead = [
        (stats.layer, stats.dead_fraction or 0.0)
        for stats in _bending(facts)
        if _is_dead(stats, None if facts.learned else first.get(stats.layer))
    ]
    if not dead:
        return
    worst, share = max(dead, key=lambda pair: pair[1])
    yield Finding(
        "dead-units",
        "error" if share >= ALL_DEAD else "warning",
        worst,
        f"{wording.percent(share)} of its units are 0 for every input"
        f"{wording.and_others([layer for layer, _ in dead])}; less than half is usual.",
        remedies.SLOWER if facts.broke("dead-units") else _FLAT,
    )


def _is_dead(stats: LayerStats, before: float | None) -> bool:
    share = stats.dead_fraction
    if share is None:
        return False
    if before is not None and share > MANY_DEAD and share - before > DIED:
        return True
    units = (stats.shape or (None,))[-1] or 64
    by_chance = 0.5 + 2.5 * math.sqrt(0.25 / units)
    return units > 1 and share >= min(max(DEAD, by_chance), 1.0)


@check
def saturated_units(facts: Facts) -> Iterator[Finding]:
    """Report the layer with the most outputs at the ends of its activation.

    Nothing is reported for a network that has learned: as it becomes confident, its
    units saturate.
    """
    saturated = [
        (stats.layer, stats.saturated_fraction or 0.0)
        for stats in facts.hidden
        if (stats.saturated_fraction or 0.0) > SATURATED
    ]
    if not saturated or facts.learned or facts.trained:
        return
    worst, share = max(saturated, key=lambda pair: pair[1])
    yield Finding(
        "saturated-units",
        "error" if share >= ALL_SATURATED else "warning",
        worst,
        f"{wording.percent(share)} of its outputs are within 1 % of an end of the "
        f"activation's range{wording.and_others([layer for layer, _ in saturated])}, "
        "where less than 10 % is usual: hardly any gradient passes.",
        remedies.redraw(facts, "saturated-units", "variance"),
    )


def _bending(facts: Facts) -> Iterator[LayerStats]:
    """Yield the stats of layers in which a unit that is always 0 is dead."""
    for stats in facts.hidden:
        layer = facts.layer(stats.layer)
        # A constant pixel and a branch of zeros are not dead units. If nothing is known
        # about a layer, its weights show that it has units.
        if layer.bends if layer is not None else stats.weight is not None:
            yield stats
