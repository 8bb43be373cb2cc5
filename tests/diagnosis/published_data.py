"""Real data sets of scikit-learn, as published bugs need them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine

from tests.diagnosis.cases import digits, fractions


def shuffled(load: Callable[..., Any], **options: Any) -> tuple[Any, Any]:
    """Return a data set's inputs, shape (rows, features), and targets, in any order."""
    x, y = load(return_X_y=True, **options)
    order = np.random.default_rng(0).permutation(len(x))
    return x[order].astype("float32"), y[order]


def standardised(x: Any) -> Any:
    """Return values with mean 0 and deviation 1 in each column."""
    return (x - x.mean(axis=0)) / x.std(axis=0)


def wine(first: int = 0) -> tuple[Any, Any]:
    """Return three wines' figures, standardised, and classes that begin at `first`."""
    x, y = shuffled(load_wine)
    return standardised(x), y + first


def cancer(*, scaled: bool = True) -> tuple[Any, Any]:
    """Return cells' measures, from 0.001 to 4,000 if not scaled, and classes 0 or 1."""
    x, y = shuffled(load_breast_cancer)
    return (standardised(x) if scaled else x), y


def cancer_of_signs() -> tuple[Any, Any]:
    """Return the same with classes -1 and 1."""
    x, y = cancer()
    return x, 2 * y - 1


def diabetes(scale: float = 0.0) -> tuple[Any, Any]:
    """Return standardised features, and targets: standardised, or times `scale`."""
    x, y = shuffled(load_diabetes, scaled=False)
    y = y * scale if scale else standardised(y)
    return standardised(x), y.astype("float32")[:, None]


def flat_diabetes() -> tuple[Any, Any]:
    """Return the same with targets of shape (rows,)."""
    x, y = diabetes()
    return x, y[:, 0]


def raw_diabetes() -> tuple[Any, Any]:
    """Return ages, pressures, … as they were measured, and targets of 25 to 346."""
    x, y = shuffled(load_diabetes, scaled=False)
    return x, y.astype("float32")[:, None]


def one_hot_digits() -> tuple[Any, Any]:
    """Return digits and rows of 0 and 1."""
    x, y = digits()
    return x, np.eye(10, dtype="float32")[y]


def one_hot_images() -> tuple[Any, Any]:
    """Return digits as images of values from 0 to 1, and rows of 0 and 1."""
    x, y = fractions()
    return x.reshape(-1, 8, 8, 1), np.eye(10, dtype="float32")[y]


def divided_by_zero() -> tuple[Any, Any]:
    """Return digits divided by each pixel's deviation, which is 0 for some."""
    x, y = shuffled(load_digits)
    with np.errstate(all="ignore"):
        return standardised(x)[:1024], y[:1024]


def integers() -> tuple[Any, Any]:
    """Return pixels that were divided by 255 while they were integers: all 0."""
    x, y = fractions()
    return (x * 255).astype("uint8") // 255 * (x < 1).astype("float32"), y


def tenths() -> tuple[Any, Any]:
    """Return the diabetes features from 0 to 1, and targets from 0.25 to 3.46."""
    x, y = shuffled(load_diabetes, scaled=False)
    x = (x - x.min(axis=0)) / (x.max(axis=0) - x.min(axis=0))
    return x, (y / 100).astype("float32")[:, None]


def pairs() -> tuple[Any, Any]:
    """Return pairs of digits, and 1 for those of one kind; some are twice the same."""
    x, y = fractions()
    other = np.random.default_rng(0).permutation(len(x))
    same = np.argsort(y, kind="stable")
    partner = np.empty(len(x), int)
    partner[same] = np.roll(same, 1)
    partner = np.where(np.arange(len(x)) % 2, partner, other)
    partner[::10] = np.arange(len(x))[::10]
    return [x, x[partner]], (y == y[partner]).astype("float32")[:, None]
