"""Gradients that vanish or explode on their way back.

A layer's gradient is taken as its energy, E[g²] times the units of an output: what a
change of width or the pooling of an image does to single elements drops out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from keras_initlab.diagnosis import remedies, wording
from keras_initlab.diagnosis.checks.signal import (
    LOST,
    RISKY,
    first_count,
    first_layers,
    severity_of,
)
from keras_initlab.diagnosis.facts import Facts
from keras_initlab.diagnosis.finding import Finding
from keras_initlab.diagnosis.rules import check

# Where it grows at so many layers on end, so many times in all: a slope, no accident.
STEADY, STEADY_GROWTH = 10, 1e3
# Across normalisations the gradient grows in sound networks too, about 1.5 times a
# ReLU layer (Yang et al., "A Mean Field Theory of Batch Normalization", 2019), and the
# weights before them take smaller steps the larger they are: there it counts from LOST.

_FROZEN = (
    "Set model.trainable = True, or that of the layers that are to learn, and compile "
    "again."
)
_LOSS = (
    "Look at the output layer and the loss: a ReLU whose units are all 0, a softmax "
    "over one unit, or a loss of predictions that were rounded passes no gradient."
)


@check
def no_gradient(facts: Facts) -> Iterator[Finding]:
    """Report that the loss depends on no weight, or that none may be changed."""
    if facts.frozen:
        last = next((stats.layer for stats in facts.stats[::-1] if stats.weight), None)
        yield Finding(
            "no-gradient",
            "error",
            last or facts.frozen,
            "All weights are frozen (trainable=False): nothing is learned.",
            _FROZEN,
        )
        return
    if any(stats.nonfinite for stats in facts.stats):
        return
    gradients = [
        stats.weight_gradient_second_moment
        for stats in facts.stats
        # What is predicted starts from a gradient of 1, not from the loss.
        if stats.weight_gradient_second_moment is not None
        and stats.source != "predicted"
    ]
    if gradients and all(gradient == 0 for gradient in gradients) and not facts.learned:
        yield Finding(
            "no-gradient",
            "error",
            next(stats.layer for stats in facts.stats[::-1] if stats.weight),
            "The gradients of all weights are exactly 0: nothing is learned.",
            _LOSS,
        )


@check
def vanishing_gradient(facts: Facts) -> Iterator[Finding]:
    """Report where the gradient is lost on its way back."""
    back = _energies(facts)
    start = _start(back)
    if not start > 0:
        return
    first = len(back)
    while first > 0 and back[first - 1][1] * RISKY < start:
        first -= 1
    if first in (0, len(back)):
        return
    here, last = back[first][1] / start, back[-1][1] / start
    yield Finding(
        "vanishing-gradient",
        severity_of(math.inf if last == 0 else 1 / last),
        back[first][0],
        "From here back to the input no gradient arrives."
        if here == last == 0
        else "The squared gradient, summed over a layer, is "
        f"{wording.number(here)} times that at the last hidden layers, and "
        f"{wording.number(last)} times at the first one; in a sound network it is "
        "between 0.1 and 10 times.",
        remedies.redraw(facts, "vanishing-gradient", "isometric"),
    )


@check
def exploding_gradient(facts: Facts) -> Iterator[Finding]:
    """Report where the gradient has grown out of proportion on its way back."""
    # Once the loss has fallen, the remaining gradient is noise.
    back = [] if facts.learned else _energies(facts)
    large = _large(back, LOST)
    for part in _parts(facts, back):
        if not large:
            steady = _longest_rise(part) >= STEADY
            large = _large(part, STEADY_GROWTH if steady else RISKY)
    if not large:
        return
    most = max(ratio for _, ratio in large)
    yield Finding(
        "exploding-gradient",
        severity_of(most),
        large[0][0],
        "Back from the last hidden layers the squared gradient, summed over a layer, "
        f"grows to {wording.number(most)} times; in a sound network it stays between "
        "0.1 and 10 times.",
        remedies.redraw(facts, "exploding-gradient", "variance"),
    )


def _large(back: Sequence[tuple[str, float]], limit: float) -> list[tuple[str, float]]:
    """Return where the energy is more than `limit` times that at the start."""
    start = _start(back)
    if not start > 0:
        return []
    # The last layers may include a branch that starts small, and its stream as well.
    most = max(value for _, value in back[: first_count(back)])
    if not any(value > limit * most for _, value in back):
        return []
    return [(key, value / start) for key, value in back if value > limit * start]


def _parts(
    facts: Facts, back: Sequence[tuple[str, float]]
) -> Iterator[list[tuple[str, float]]]:
    """Yield the parts of the way back that lie between normalisations."""
    part: list[tuple[str, float]] = []
    for key, value in back:
        part.append((key, value))
        layer = facts.layer(key)
        if layer is not None and layer.normalises:
            yield part
            part = []
    yield part


def _start(back: Sequence[tuple[str, float]]) -> float:
    """Return the energy at the last hidden layers, 0 if there are too few."""
    return first_layers(back) if len(back) > 1 else 0.0


def _longest_rise(back: Sequence[tuple[str, float]]) -> int:
    longest = run = 0
    for (_, later), (_, value) in pairwise(back):
        run = run + 1 if value > later else 0
        longest = max(longest, run)
    return longest


def _energies(facts: Facts) -> list[tuple[str, float]]:
    """Return layers from the last hidden one back to the first kernel."""
    energies = []
    behind_zeros = False
    for stats in facts.hidden[::-1]:
        value = stats.gradient_second_moment
        behind_zeros |= stats.layer.split("#")[0] in facts.from_zero
        if value is None or not math.isfinite(value):
            continue
        layer = facts.layer(stats.layer)
        # Layers of pure data need no gradient; embeddings do.
        data = layer is not None and layer.starts and stats.weight is None
        # If another path carries the gradient around it, its own may be small.
        aside = layer is not None and (layer.rescaled or layer.bypassed)
        # Weights that start at 0 pass no gradient now, but do after a step.
        if data or aside or (value == 0 and behind_zeros):
            continue
        sizes = [size for size in (stats.shape or ())[1:] if size is not None]
        energies.append((stats.layer, value * math.prod(sizes)))
    return energies
