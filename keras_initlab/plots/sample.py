"""Samples of layers' values: their shares of zeros, their bins and their scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Layers share a linear axis up to this ratio between their sizes.
ALIKE = 20.0
# This share of a layer's values at either end does not stretch the axis.
TAIL = 0.001


@dataclass(frozen=True)
class Sample:
    """Values of one layer.

    Attributes:
        values: the finite ones, without zeros unless all of them are 0.
        mean: of all finite values, NaN if there are none.
        sd: their standard deviation.
        zeros: the share of zeros among all values.
        nonfinite: the share of NaN and infinite values among all.
        measured: whether there are any values.
    """

    values: np.ndarray
    mean: float
    sd: float
    zeros: float
    nonfinite: float
    measured: bool

    @classmethod
    def of(cls, array: Any) -> Sample:
        """Return the sample of an array, or of None where there is none."""
        values = np.ravel(np.asarray([] if array is None else array, dtype=float))
        if not values.size:
            return cls(values, np.nan, np.nan, 0.0, 0.0, measured=False)
        finite = values[np.isfinite(values)]
        nonzero = finite[finite != 0]
        with np.errstate(over="ignore", invalid="ignore"):
            mean, sd = (finite.mean(), finite.std()) if finite.size else (np.nan,) * 2
        return cls(
            nonzero if nonzero.size else finite,
            float(mean),
            float(sd),
            float(np.mean(values == 0)),
            1.0 - finite.size / values.size,
            measured=True,
        )

    @property
    def note(self) -> str:
        """Mean and standard deviation in words, and the separate shares."""
        if not self.measured:
            return "no values"
        if not self.values.size:
            return "nothing finite"
        remark = f"\n{_percent(self.nonfinite)} not finite" if self.nonfinite else ""
        if not self.values.any():
            return f"all 0{remark}"
        if self.values.min() == self.values.max() and not self.zeros:
            return f"all {self.mean:.3g}{remark}"
        if self.zeros:
            remark = f"\n{_percent(self.zeros)} zeros" + remark.replace("\n", ", ")
        return f"mean {self.mean:.2g}, sd {self.sd:.2g}{remark}"

    @property
    def size(self) -> float:
        """How far 90 % of the values reach from 0."""
        return float(np.quantile(np.abs(self.values), 0.9))

    @property
    def reach(self) -> float:
        """How far 99 % of the values reach from 0."""
        return float(np.quantile(np.abs(self.values), 0.99, method="higher"))

    def around_zero(self, count: int) -> np.ndarray:
        """Return edges of bins as far as `reach`, to the sides on which values are."""
        reach = (self.reach if self.values.size else 0.0) or 1.0
        negative = bool(np.any(self.values < 0))
        positive = not negative or bool(np.any(self.values > 0))
        return np.linspace(-reach * negative, reach * positive, count + 1)

    def shares(self, edges: np.ndarray) -> np.ndarray:
        """Return the counts of the bins, as shares of that of the fullest bin."""
        counts = np.histogram(self.values, edges)[0].astype(float)
        return np.asarray(counts / max(1.0, counts.max()))


def smallest_size(samples: Sequence[Sample]) -> float | None:
    """Return the smallest size if sizes differ too much for a linear axis, or None."""
    sizes = [sample.size for sample in samples if sample.values.size]
    sizes = [size for size in sizes if size > 0]
    return min(sizes) if sizes and max(sizes) > ALIKE * min(sizes) else None


def edges_for(samples: Sequence[Sample], most: int) -> np.ndarray:
    """Return equally spaced edges of bins for all samples.

    More values get more bins, up to `most`. Zeros are in range, though not counted.
    """
    arrays = [sample.values for sample in samples if sample.values.size]
    low, high = -1.0, 1.0
    if arrays:
        # Not interpolated, which would cut off the outermost of a few values.
        low = min(np.quantile(x, TAIL, method="lower") for x in arrays)
        high = max(np.quantile(x, 1 - TAIL, method="higher") for x in arrays)
    if any(sample.zeros for sample in samples if sample.values.size):
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        half = 0.5 * abs(low) or 0.5
        low, high = low - half, high + half
    usual = float(np.median([x.size for x in arrays])) if arrays else 0.0
    count = int(np.clip(1.5 * np.sqrt(usual), 15, most))
    return np.linspace(low, high, count + 1)


def _percent(share: float) -> str:
    if 0 < share < 0.01:
        return "<1%"
    return ">99%" if 0.99 < share < 1 else f"{share:.0%}"
