"""Samples of layers' values: what is counted, in which bins, on which scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# So many times the smallest layer's width still share a linear axis with it.
ALIKE = 20.0
# Outliers further out than this share of a layer's values do not stretch the axis.
TAIL = 0.001


@dataclass(frozen=True)
class Sample:
    """Values of one layer.

    Attributes:
        values: the finite ones, without 0 unless all of them are 0.
        mean: of all that are finite, NaN without any.
        sd: their standard deviation.
        zeros: share of 0 among all values.
        nonfinite: share of NaN and infinite among all values.
        known: whether there are any values.
    """

    values: np.ndarray
    mean: float
    sd: float
    zeros: float
    nonfinite: float
    known: bool

    @classmethod
    def of(cls, found: Any) -> Sample:
        """Return the sample of an array, or of None where there is none."""
        values = np.ravel(np.asarray([] if found is None else found, dtype=float))
        if not values.size:
            return cls(values, np.nan, np.nan, 0.0, 0.0, known=False)
        finite = values[np.isfinite(values)]
        rest = finite[finite != 0]
        with np.errstate(over="ignore", invalid="ignore"):
            mean, sd = (finite.mean(), finite.std()) if finite.size else (np.nan,) * 2
        return cls(
            rest if rest.size else finite,
            float(mean),
            float(sd),
            float(np.mean(values == 0)),
            1.0 - finite.size / values.size,
            known=True,
        )

    @property
    def note(self) -> str:
        """Mean and standard deviation in words, and what is counted apart."""
        if not self.known:
            return "no values"
        if not self.values.size:
            return "nothing finite"
        apart = f"\n{_percent(self.nonfinite)} not finite" if self.nonfinite else ""
        if not self.values.any():
            return f"all 0{apart}"
        if self.values.min() == self.values.max() and not self.zeros:
            return f"all {self.mean:.3g}{apart}"
        if self.zeros:
            apart = f"\n{_percent(self.zeros)} zeros" + apart.replace("\n", ", ")
        return f"mean {self.mean:.2g}, sd {self.sd:.2g}{apart}"

    @property
    def size(self) -> float:
        """How far the values reach from 0, but for the outermost."""
        return float(np.quantile(np.abs(self.values), 0.9))

    def shares(self, edges: np.ndarray) -> np.ndarray:
        """Return how many values each bin holds, as a share of the fullest one."""
        counts = np.histogram(self.values, edges)[0].astype(float)
        return np.asarray(counts / max(1.0, counts.max()))


def smallest_size(samples: Sequence[Sample]) -> float | None:
    """Return the smallest layer's size where they are too unlike for a linear axis."""
    sizes = [one.size for one in samples if one.values.size]
    sizes = [size for size in sizes if size > 0]
    return min(sizes) if sizes and max(sizes) > ALIKE * min(sizes) else None


def edges_for(samples: Sequence[Sample], most: int, scale: Any = None) -> np.ndarray:
    """Return edges of bins for all samples, even on a matplotlib scale's transform.

    The more values, the more bins, up to `most`. Zeros lie inside, though not counted.
    """
    held = [one for one in samples if one.values.size]
    low, high = -1.0, 1.0
    if held:
        # Values that are there: between them, the outermost of a few would fall off.
        low = min(np.quantile(one.values, TAIL, method="lower") for one in held)
        high = max(np.quantile(one.values, 1 - TAIL, method="higher") for one in held)
    if any(one.zeros for one in held):
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        half = 0.5 * abs(low) or 0.5
        low, high = low - half, high + half
    usual = float(np.median([one.values.size for one in held])) if held else 0.0
    count = int(np.clip(1.5 * np.sqrt(usual), 15, most))
    if scale is None:
        return np.linspace(low, high, count + 1)
    start, end = scale.transform(np.array([low, high]))
    edges = np.asarray(scale.inverted().transform(np.linspace(start, end, count + 1)))
    # Not a rounding error away: a saturated layer's values lie on the last edge.
    edges[[0, -1]] = low, high
    return edges


def _percent(share: float) -> str:
    if 0 < share < 0.01:
        return "<1%"
    return ">99%" if 0.99 < share < 1 else f"{share:.0%}"
