"""Biases that put most units to one side of their activation."""

from __future__ import annotations

from collections.abc import Iterator

from keras_initlab.diagnosis import wording
from keras_initlab.diagnosis.facts import Facts
from keras_initlab.diagnosis.finding import Finding
from keras_initlab.diagnosis.rules import check


@check
def large_biases(facts: Facts) -> Iterator[Finding]:
    """Report hidden layers whose biases are far from 0.

    No fault by itself: it is told where something follows from it.
    """
    if not facts.biased or facts.trained:
        return
    layer, size = max(facts.biased, key=lambda pair: pair[1])
    yield Finding(
        "large-biases",
        "info",
        layer,
        f"The root mean square of its biases is {wording.number(size)}"
        f"{wording.and_others([name for name, _ in facts.biased])}, where 0 to 0.1 is "
        "usual: most units are on one side of their activation.",
        'Use bias_initializer="zeros"; other kernels would not help.',
    )
