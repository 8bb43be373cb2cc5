"""NaN and infinities: in the data, in the weights, in the layers' outputs."""

from __future__ import annotations

from collections.abc import Iterator

from keras_initlab.diagnosis.facts import Facts
from keras_initlab.diagnosis.finding import Finding
from keras_initlab.diagnosis.rules import check

_DATA = (
    "Look for missing values in the data, and fill or drop them: "
    "np.isfinite(x).all() should be True."
)
_WEIGHTS = (
    "Build the model anew, or load weights saved before it happened; then train with "
    "a smaller learning rate or clipnorm=1.0 in the optimizer."
)
_TRAINING = (
    "Use a smaller learning rate, clip gradients (clipnorm=1.0 in the optimizer), or "
    "check the data and targets for NaN and large values."
)


@check
def nonfinite(facts: Facts) -> Iterator[Finding]:
    """Report the first place where there is NaN or infinity: all after it follow."""
    for one in facts.inputs:
        if one.nonfinite:
            evidence = f"{one.nonfinite} of the input's values are NaN or infinite."
            yield Finding("nonfinite", "error", one.name, evidence, _DATA)
            return
    kernels = [(one.layer, one.weight, one.nonfinite) for one in facts.kernels]
    for layer, weight, count in (*kernels, *facts.broken):
        if count:
            entries, are = ("entry", "is") if count == 1 else ("entries", "are")
            evidence = f"{count} {entries} of its {weight} {are} NaN or infinite."
            yield Finding("nonfinite", "error", layer, evidence, _WEIGHTS)
            return
    for stats in facts.stats:
        if stats.nonfinite:
            evidence = f"{stats.nonfinite} elements of its output are NaN or infinite."
            yield Finding("nonfinite", "error", stats.layer, evidence, _TRAINING)
            return
