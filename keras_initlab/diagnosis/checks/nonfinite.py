"""NaN and infinities: in the data, in the weights, in the layers' outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from keras_initlab.diagnosis import wording
from keras_initlab.diagnosis.facts import Facts
from keras_initlab.diagnosis.finding import Finding
from keras_initlab.diagnosis.rules import check
from keras_initlab.stats import LayerStats

# Root of a second moment above which float16 may overflow at the next layer.
NEAR_OVERFLOW = 1e3

_DATA = (
    "Look for missing values in the data, and fill or drop them: "
    "np.isfinite(x).all() should be True."
)
_DIVIDED = (
    "Look at how they are scaled: one that is the same for all inputs has a deviation "
    "of 0, and 0 / 0 is NaN. Divide by x.std(axis=0) + 1e-7."
)
_WEIGHTS = (
    "Build the model anew, or load weights saved before it happened; then train with "
    "a smaller learning rate or clipnorm=1.0 in the optimizer."
)
_LOSS = (
    "Look at the targets (np.isfinite(y).all() should be True) and at what the loss "
    "computes: the logarithm, root or quotient of a number that may be 0 or negative."
)
_TRAINING = (
    "Use a learning rate 10 times smaller, or clipnorm=1.0 in the optimizer; and make "
    "sure that all of the data are finite: np.isfinite(x).all() should be True."
)
# The smallest number above 0 is 6e-8, and Adam divides by its epsilon.
_HALF = (
    "Weights are float16, in which small numbers are 0: use the dtype policy "
    '"mixed_float16", which keeps weights in float32, or epsilon=1e-4 in the optimizer.'
)


@check
def nonfinite(facts: Facts) -> Iterator[Finding]:
    """Report the first place with NaN or infinity, from which all others follow."""
    for data in facts.inputs:
        if data.nonfinite:
            are = "is" if data.nonfinite == 1 else "are"
            evidence = f"{data.nonfinite} of the input's values {are} NaN or infinite"
            remedy = _DATA
            if data.missing:
                evidence += f", all those of {data.missing} features among them"
                remedy = f"{_DIVIDED} {_DATA}"
            yield Finding("nonfinite", "error", data.name, f"{evidence}.", remedy)
            return
    if facts.broke("nonfinite"):
        yield from _broken_by_steps(facts)
        return
    kernels = [(k.layer, k.weight, k.nonfinite) for k in facts.kernels]
    for layer, weight, count in (*kernels, *facts.broken):
        if count:
            noun, are = ("entry", "is") if count == 1 else ("entries", "are")
            evidence = f"{count} {noun} of its {weight} {are} NaN or infinite."
            yield Finding("nonfinite", "error", layer, evidence, _WEIGHTS)
            return
    before: LayerStats | None = None
    for stats in facts.stats:
        if stats.nonfinite:
            evidence = f"{stats.nonfinite} elements of its output are NaN or infinite"
            remedy = _at_once(facts, stats, before)
            yield Finding("nonfinite", "error", stats.layer, f"{evidence}.", remedy)
            return
        before = stats
    yield from _in_gradients(facts)


def _at_once(facts: Facts, stats: LayerStats, before: LayerStats | None) -> str:
    """Return what to do if untrained weights turn finite inputs into NaN."""
    size = math.sqrt((before and before.second_moment) or 0.0)
    if size > NEAR_OVERFLOW:
        grown = (
            f"What comes in has grown to about {wording.number(size)}: it overflows."
        )
        return f"{grown} {wording.rewrite('variance')}"
    if before is None and not facts.inputs:
        return f"It is the first layer. {_DATA}"
    return (
        f"Look at what {stats.layer} computes of finite inputs: an exponential that "
        "overflows, or the logarithm, root or quotient of a number that may be 0 or "
        "negative."
    )


def _in_gradients(facts: Facts) -> Iterator[Finding]:
    """Report gradients that are NaN while all outputs are finite: the loss's fault."""
    if not all(stats.nonfinite == 0 for stats in facts.stats):
        return
    back = [stats for stats in facts.stats[::-1] if _gradients(stats)]
    if back and not any(math.isfinite(value) for value in _gradients(back[0])):
        evidence = "All outputs are finite, and the gradients are NaN or infinite."
        yield Finding("nonfinite", "error", back[0].layer, evidence, _LOSS)
    elif facts.stats and facts.losses and not math.isfinite(facts.losses[-1]):
        evidence = f"All outputs are finite, and the loss is {facts.losses[-1]}."
        yield Finding("nonfinite", "error", facts.stats[-1].layer, evidence, _LOSS)
    elif len(facts.heads) < 2:
        yield from _in_a_derivative(back)


def _in_a_derivative(back: Sequence[LayerStats]) -> Iterator[Finding]:
    """Report the layer whose derivative turns gradients into NaN."""
    for later, stats in pairwise(back):
        values = (later.gradient_second_moment, stats.gradient_second_moment)
        if None in values or math.isnan(values[0] or 0.0):
            continue
        if math.isnan(values[1] or 0.0):
            yield Finding(
                "nonfinite",
                "error",
                later.layer,
                f"All outputs are finite, and the gradient is up to {later.layer}; "
                "before it, it is NaN.",
                f"Look at the derivative of what {later.layer} computes: a root or a "
                "norm of 0 has none. Add a small number inside it, as in "
                "ops.sqrt(x + 1e-7).",
            )
            return


def _gradients(stats: LayerStats) -> list[float]:
    moments = (stats.gradient_second_moment, stats.weight_gradient_second_moment)
    return [value for value in moments if value is not None]


def _broken_by_steps(facts: Facts) -> Iterator[Finding]:
    """Report outputs that became NaN after the first step."""
    for stats in facts.stats:
        if stats.nonfinite:
            evidence = (
                f"{stats.nonfinite} elements of its output are NaN or infinite; at the "
                "first step all were finite."
            )
            remedy = _HALF if facts.half else _TRAINING
            yield Finding("nonfinite", "error", stats.layer, evidence, remedy)
            return
    yield from _in_gradients(facts)
