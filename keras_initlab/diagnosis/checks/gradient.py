"""Gradients that vanish or explode on their way back.

A layer's gradient is taken as its energy, E[g²] times the units of an output: what a
change of width or the pooling of an image does to single elements drops out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median

from keras_initlab.diagnosis import wording
from keras_initlab.diagnosis.checks.signal import RISKY, severity_of
from keras_initlab.diagnosis.facts import Facts
from keras_initlab.diagnosis.finding import Finding
from keras_initlab.diagnosis.rules import check

_CLIP = (
    "or clip gradients (clipnorm=1.0 in the optimizer); in recurrent layers use "
    'recurrent_initializer="orthogonal".'
)


@check
def vanishing_gradient(facts: Facts) -> Iterator[Finding]:
    """Report where no gradient worth the name comes back any more."""
    back = _energies(facts)
    if len(back) < 2:
        return
    start = median(value for _, value in back[: max(len(back) // 4, 1)])
    if not start > 0:
        return
    first = len(back)
    while first > 0 and back[first - 1][1] * RISKY < start:
        first -= 1
    if first in (0, len(back)):
        return
    most = max(value for _, value in back[first:]) / start
    yield Finding(
        "vanishing-gradient",
        severity_of(math.inf if most == 0 else 1 / most),
        back[first][0],
        f"From here back to the input the gradient's energy is {wording.number(most)} "
        "of that at the last hidden layers, or less.",
        wording.rewrite("isometric"),
    )


@check
def exploding_gradient(facts: Facts) -> Iterator[Finding]:
    """Report where the gradient has grown out of proportion on its way back."""
    back = _energies(facts)
    if len(back) < 2:
        return
    start = median(value for _, value in back[: max(len(back) // 4, 1)])
    large = [(key, value / start) for key, value in back if value > RISKY * start > 0]
    if not large:
        return
    most = max(ratio for _, ratio in large)
    yield Finding(
        "exploding-gradient",
        severity_of(most),
        large[0][0],
        f"Back from the last hidden layers the gradient's energy grows to "
        f"{wording.number(most)} times.",
        f"{wording.rewrite('variance')[:-1]}, {_CLIP}",
    )


def _energies(facts: Facts) -> list[tuple[str, float]]:
    """Return layers from the last hidden one back to the first kernel."""
    found = []
    for one in facts.hidden[::-1]:
        value = one.gradient_second_moment
        if value is None or not math.isfinite(value):
            continue
        what = facts.layer(one.layer)
        if what is not None and what.starts:
            continue
        sizes = [size for size in (one.shape or ())[1:] if size is not None]
        found.append((one.layer, value * math.prod(sizes)))
    return found
