"""Units that do not answer any more: dead or saturated ones.

By the share of units and elements, not by the size of anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from keras_initlab.diagnosis import remedies, wording
from keras_initlab.diagnosis.facts import Facts
from keras_initlab.diagnosis.finding import Finding
from keras_initlab.diagnosis.rules import check
from keras_initlab.stats import LayerStats

# Shares of units that are 0 for all inputs, and of elements at an activation's ends.
DEAD, ALL_DEAD = 0.5, 0.9
SATURATED, ALL_SATURATED = 0.4, 0.75


@check
def dead_units(facts: Facts) -> Iterator[Finding]:
    """Report the layer with the most units that are 0 whatever the input."""
    found = _above(DEAD, "dead_fraction", _bending(facts))
    if not found:
        return
    worst, share = max(found, key=lambda pair: pair[1])
    yield Finding(
        "dead-units",
        "error" if share >= ALL_DEAD else "warning",
        worst,
        f"{wording.percent(share)} of its units are 0 for every input"
        f"{wording.others([layer for layer, _ in found])}.",
        "Use a smaller learning rate, biases of 0 or slightly above, or an activation "
        'that is nowhere flat: activation="leaky_relu" or "gelu".',
    )


@check
def saturated_units(facts: Facts) -> Iterator[Finding]:
    """Report the layer with the most outputs at the ends of its activation."""
    found = _above(SATURATED, "saturated_fraction", facts.hidden)
    if not found:
        return
    worst, share = max(found, key=lambda pair: pair[1])
    yield Finding(
        "saturated-units",
        "error" if share >= ALL_SATURATED else "warning",
        worst,
        f"{wording.percent(share)} of its outputs are within 1 % of an end of the "
        f"activation's range{wording.others([layer for layer, _ in found])}: hardly "
        "any gradient passes.",
        remedies.redraw(facts, "variance")
        if facts.biased
        else f"Scale the inputs to variance 1. {remedies.redraw(facts, 'variance')}",
    )


def _above(
    limit: float, figure: str, stats: Iterable[LayerStats]
) -> list[tuple[str, float]]:
    """Return the layers of which a share is above a limit, and that share."""
    known = [(one.layer, getattr(one, figure) or 0.0) for one in stats]
    return [(layer, share) for layer, share in known if share > limit]


def _bending(facts: Facts) -> Iterator[LayerStats]:
    """Yield the stats in which a unit that is always 0 is a dead one."""
    for one in facts.hidden:
        what = facts.layer(one.layer)
        # Of what is not known at all, a layer with weights; a constant pixel and a
        # branch of zeros are no units.
        if what.bends if what is not None else one.weight is not None:
            yield one
