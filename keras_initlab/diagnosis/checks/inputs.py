"""Data far from the zero mean and unit variance for which weights are initialised.

LeCun, Bottou, Orr & Müller, "Efficient BackProp", 1998, section 4.3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keras_initlab.diagnosis import wording
from keras_initlab.diagnosis.facts import Facts, InputFacts
from keras_initlab.diagnosis.finding import Finding
from keras_initlab.diagnosis.rules import check

# Root mean squares that are near enough to 1; how far the mean may be from 0, in
# deviations; how much more than the others one feature may vary.
SMALLEST, LARGEST = 0.01, 30.0
OFFSET = 10.0
SPREAD = 300.0

_REMEDY = (
    "Standardise it: layers.Normalization() with .adapt(x) as the first layer, or "
    "x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-7)."
)
_SAME = "Look at how the batch is made: with it, nothing can be learnt."


def is_constant(inputs: Sequence[InputFacts]) -> bool:
    """Say whether there are inputs, and all values of each are the same."""
    return bool(inputs) and all(x.deviation == x.nonfinite == 0 for x in inputs)


@check
def input_scale(facts: Facts) -> Iterator[Finding]:
    """Report each input that is far from mean 0 and variance 1."""
    if is_constant(facts.inputs):
        first = facts.inputs[0]
        same = f"All of its values are {wording.number(first.mean)}."
        yield Finding("input-scale", "warning", first.name, same, _SAME)
        return
    for data in facts.inputs:
        # A constant input, beside others, is a mask or an initial state.
        evidence = None if data.scaled or not data.deviation else _fault(data)
        if evidence is not None:
            yield Finding("input-scale", "warning", data.name, evidence, _REMEDY)


def _fault(data: InputFacts) -> str | None:
    rms = (data.mean**2 + data.deviation**2) ** 0.5
    problem = (
        f"The data have mean {wording.number(data.mean)} and deviation "
        f"{wording.number(data.deviation)}"
    )
    if not SMALLEST <= rms <= LARGEST and data.spread <= SPREAD:
        return f"{problem}, where weights are drawn for 0 and 1."
    if abs(data.mean) > OFFSET * data.deviation:
        return f"{problem}: hardly anything but an offset."
    if data.spread > SPREAD:
        return (
            f"Feature {data.largest} varies {wording.number(data.spread)} times as "
            "much as the median one: it drowns the others."
        )
    return None
