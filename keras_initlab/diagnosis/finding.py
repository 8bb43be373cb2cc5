"""Finding: a fault, where it is, what shows it, and what to do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from keras_initlab.stats import LayerStats

Severity = Literal["error", "warning", "info"]

# A signal or gradient whose second moment falls by more than this from the first
# layers to the last, or the other way, is gone: the root of it is what float32 has
# digits for, and no optimizer's steps span it.
VANISHED = 1e-14


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        code: which fault, a fixed name such as "nonfinite".
        severity: "error" where training fails, "warning" where it is slower.
        layer: the first layer that shows it.
        evidence: the numbers, in a sentence.
        remedy: what to do.

    >>> print(Finding("nonfinite", "error", "dense", "3 elements are NaN.", "Clip."))
    nonfinite in dense: 3 elements are NaN. Clip.
    """

    code: str
    severity: Severity
    layer: str
    evidence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.code} in {self.layer}: {self.evidence} {self.remedy}"


def check(stats: Sequence[LayerStats]) -> list[Finding]:
    """Return what is wrong with layers' signals, given in call order.

    A rule is silent where what it goes by is not known.

    >>> from keras_initlab.stats import LayerStats
    >>> check([LayerStats("dense", nonfinite=3, source="monitored")])[0].code
    'nonfinite'
    """
    return [finding for rule in RULES for finding in rule(stats)]


def nonfinite(stats: Sequence[LayerStats]) -> Iterator[Finding]:
    """Report the first layer whose output holds NaN or infinities."""
    for one in stats:
        if one.nonfinite:
            yield Finding(
                "nonfinite",
                "error",
                one.layer,
                f"{one.nonfinite} elements of its output are NaN or infinite.",
                "Use a smaller learning rate, clip gradients (clipnorm=1.0 in the "
                "optimizer), or check the data for NaN.",
            )
            return


def vanishing_signal(stats: Sequence[LayerStats]) -> Iterator[Finding]:
    """Report where what tells inputs apart has gone on the way forward."""
    known = [(one.layer, one.batch_variance) for one in stats]
    layer, ratio = _vanished([(key, v) for key, v in known if v is not None])
    if layer is not None:
        yield Finding(
            "vanishing-signal",
            "error",
            layer,
            f"The variance over the batch falls to {ratio:.1g} of that of the first "
            "layers, and stays there.",
            'Call il.rewrite_initializers(model, scheme="isometric") before training.',
        )


def vanishing_gradient(stats: Sequence[LayerStats]) -> Iterator[Finding]:
    """Report where the gradient has gone on the way back."""
    known = [(one.layer, one.gradient_second_moment) for one in stats]
    back = [(key, v) for key, v in known[::-1] if v is not None]
    layer, ratio = _vanished(back)
    if layer is not None:
        yield Finding(
            "vanishing-gradient",
            "error",
            layer,
            f"The gradient's second moment falls to {ratio:.1g} of that at the last "
            "layers, and is no more than that in all layers before.",
            'Call il.rewrite_initializers(model, scheme="isometric") before training.',
        )


def _vanished(values: Sequence[tuple[str, float]]) -> tuple[str | None, float]:
    """Return the first layer after which all is gone, and what share of it is left.

    A layer alone may be 0 with good reason, such as the end of a residual branch.
    """
    count = len(values) // 4
    usable = [value for _, value in values if math.isfinite(value)]
    if count < 1 or len(usable) < len(values):
        return None, 1.0
    start = median(value for _, value in values[:count])
    end = max(value for _, value in values[-count:])
    if not start > 0 or end >= VANISHED * start:
        return None, 1.0
    gone = [value < VANISHED * start for _, value in values]
    first = max((i for i, one in enumerate(gone) if not one), default=-1) + 1
    return values[first][0], end / start


RULES: tuple[Callable[[Sequence[LayerStats]], Iterator[Finding]], ...] = (
    nonfinite,
    vanishing_signal,
    vanishing_gradient,
)
