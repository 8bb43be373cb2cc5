"""Signals that vanish, explode, or no longer distinguish inputs.

No signal is compared with a fixed size, but with the input of the first kernel or the
output of the last normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median

from keras_initlab.diagnosis import remedies, wording
from keras_initlab.diagnosis.facts import Facts
from keras_initlab.diagnosis.finding import Finding, Severity
from keras_initlab.diagnosis.rules import check
from keras_initlab.stats import LayerStats

# Factors by which a second moment has changed (amplitudes, by the root). The smaller is
# beyond what a change of width, pooling or dropout can do; at the larger one half of
# float32's digits are lost.
RISKY, LOST = 1e4, 1e8

# What is no more than a shift, of one layer or of the whole network.
SOUND = 10.0
_USUAL = "a sound network keeps it between 0.1 and 10 times"

# What is left of 1 - cosine between inputs. Of plain ReLU networks it falls as the
# square of the depth, and that is slow to train beyond some 30 layers.
ALIKE, SAME = 0.05, 1e-4
DEEP = 20


def severity_of(factor: float) -> Severity:
    """Return how severe it is that a second moment changed by a factor above 1."""
    return "error" if factor > LOST else "warning"


def first_layers(course: Sequence[tuple[str, float]]) -> float:
    """Return the median over the first layers of a course over depth.

    These are a quarter of the layers, but at most three: in a deep network, a quarter
    of the depth is far from the start already.
    """
    return median(value for _, value in course[: first_count(course)])


def first_count(course: Sequence[object]) -> int:
    """Return how many layers count as the first ones of a course."""
    return min(max(len(course) // 4, 1), 3)


@check
def vanishing_signal(facts: Facts) -> Iterator[Finding]:
    """Report where the variation between inputs is lost for good."""
    ratios = list(_ratios(facts, "batch_variance"))
    gone = _gone_for_good([ratio for _, ratio in ratios])
    if gone is None:
        return
    (layer, first), (_, last) = ratios[gone], ratios[-1]
    yield Finding(
        "vanishing-signal",
        severity_of(math.inf if last == 0 else 1 / last),
        layer,
        "From here on all inputs have the same output."
        if first == last == 0
        else "Outputs for different inputs become the same: their variance over the "
        f"batch is {wording.number(first)} times what went in, and "
        f"{wording.number(last)} times before the output layer; {_USUAL}.",
        remedies.redraw(facts, "vanishing-signal", "isometric"),
    )


@check
def exploding_signal(facts: Facts) -> Iterator[Finding]:
    """Report where the signal has grown out of proportion."""
    ratios = list(_ratios(facts, "second_moment"))
    large = [(layer, ratio) for layer, ratio in ratios if ratio > RISKY]
    if not large:
        return
    most = max(ratio for _, ratio in large)
    here = wording.number(large[0][1])
    grows = (
        "" if most == large[0][1] else f", and grows to {wording.number(most)} times"
    )
    yield Finding(
        "exploding-signal",
        severity_of(most),
        large[0][0],
        f"The mean square of its output is {here} times what went in{grows}; {_USUAL}.",
        remedies.redraw(facts, "exploding-signal", "variance"),
    )


def is_sound(facts: Facts) -> bool | None:
    """Say whether signals stay within a factor of SOUND; None if unknown."""
    spread = [ratio for _, ratio in _ratios(facts, "batch_variance")]
    size = [ratio for _, ratio in _ratios(facts, "second_moment")]
    if not spread or not size:
        return None
    return min(spread) * SOUND > 1 and max(size) < SOUND


def _ratios(facts: Facts, figure: str) -> Iterator[tuple[str, float]]:
    """Yield layers and the ratio of a figure to that where their signal starts."""
    reference = _input_of(facts, figure)
    for stats in facts.hidden:
        value = getattr(stats, figure)
        layer = facts.layer(stats.layer)
        if value is None or math.isnan(value):
            continue
        fresh = reference is None or (layer is not None and layer.starts)
        if fresh or (layer is not None and layer.normalises and value > 0):
            reference = value if value > 0 else reference
        elif reference and not (layer is not None and layer.rescaled):
            yield stats.layer, value / reference


def _input_of(facts: Facts, figure: str) -> float | None:
    if len(facts.inputs) != 1 or facts.inputs[0].scaled:
        return None
    mean, variance = facts.inputs[0].mean, facts.inputs[0].deviation ** 2
    reference = variance + (mean**2 if figure == "second_moment" else 0)
    return reference if reference > 0 else None


def _gone_for_good(ratios: Sequence[float]) -> int | None:
    """Return where the last run of ratios below 1 / RISKY begins, if it does."""
    start = len(ratios)
    while start > 0 and ratios[start - 1] * RISKY < 1:
        start -= 1
    return start if start < len(ratios) else None


@check
def collapsed_inputs(facts: Facts) -> Iterator[Finding]:
    """Report that all inputs look alike in the last hidden layers."""
    distances = _distances([*_with_angles(facts)])
    if len(distances) < 2:
        return
    kernels = _since_centred(facts)
    start = first_layers(distances)
    last = distances[-1][1]
    if not (last < SAME or (last < ALIKE and kernels >= DEEP)):
        return
    # Inputs that were alike from the start, up to rounding, have not collapsed.
    if last * 10 > start or start < SAME:
        return
    where = next(key for key, value in distances if value < max(2 * last, SAME))
    yield Finding(
        "collapsed-inputs",
        "error" if last < SAME else "warning",
        where,
        "Outputs for different inputs point the same way: 1 - cosine between two of "
        f"them is {wording.number(last)} before the output layer, where it was "
        f"{wording.number(start)} in the first layers.",
        remedies.redraw(facts, "collapsed-inputs", "isometric"),
    )


def _since_centred(facts: Facts) -> int:
    """Return how many kernels there are after the last BatchNormalization."""
    count = 0
    for stats in facts.hidden[::-1]:
        layer = facts.layer(stats.layer)
        if layer is not None and layer.kind == "BatchNormalization":
            break
        count += stats.weight is not None
    return count


def _distances(stats: Sequence[LayerStats]) -> list[tuple[str, float]]:
    cosines = [(layer.layer, layer.input_cosine) for layer in stats]
    return [
        (key, max(1 - cosine, 0.0))
        for key, cosine in cosines
        if cosine is not None and not math.isnan(cosine)
    ]


def _with_angles(facts: Facts) -> Iterator[LayerStats]:
    """Yield the stats whose angles tell how different inputs are.

    A mean over positions makes all inputs look alike, but a head can still read it; and
    the cosine of single numbers is always 1 or -1.
    """
    averaged = False
    for stats in facts.hidden:
        layer = facts.layer(stats.layer)
        if layer is not None and "AveragePooling" in layer.kind:
            averaged = True
        elif stats.weight is not None:
            averaged = False
        sizes = (stats.shape or (None, None))[1:]
        number = bool(sizes) and math.prod(size or 2 for size in sizes) == 1
        if not (averaged or number):
            yield stats
