"""Whether two candidates differ by more than seeds make runs differ."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np

# A difference that arises by chance in one comparison of twenty counts as noise.
LEVEL = 0.05


def welch_p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided p-value of Welch's t-test; 1.0 of fewer than two values.

    >>> round(welch_p_value([0.9, 0.92, 0.91], [0.93, 0.95, 0.94]), 4)
    0.0213

    Source: Welch 1947.
    """
    if min(len(first), len(second)) < 2:
        return 1.0
    difference = statistics.fmean(first) - statistics.fmean(second)
    errors = [statistics.variance(sample) / len(sample) for sample in (first, second)]
    error = sum(errors)
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    freedom = error**2 / sum(
        squared**2 / (len(sample) - 1)
        for squared, sample in zip(errors, (first, second), strict=True)
    )
    return _outside(abs(difference) / math.sqrt(error), freedom)


def _outside(t: float, freedom: float) -> float:
    """Return P(|T| > t) of Student's distribution with 1 degree of freedom or more.

    With t = √ν tan θ its density is proportional to cos^(ν-1) θ.
    """
    angle = math.atan(t / math.sqrt(freedom))
    return _tail(angle, freedom - 1) / _tail(0.0, freedom - 1)


def _tail(start: float, power: float) -> float:
    """Return the integral of cos^power from `start` to π/2."""
    nodes, weights = np.polynomial.legendre.leggauss(100)
    half = (math.pi / 2 - start) / 2
    return float(half * weights @ np.cos(start + half * (1 + nodes)) ** power)
