"""Facts about a model's input data."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_initlab.anatomy.model import Anatomy
from keras_initlab.diagnosis import InputFacts
from keras_initlab.model.batch import values_of


def input_facts(anatomy: Anatomy, x: Any) -> tuple[InputFacts, ...]:
    """Return the facts of each array in `x`, a batch as the model takes it.

    Whole numbers that an embedding reads are taken for tokens: their scale means
    nothing.
    """
    leaves = [values_of(leaf) for leaf in keras.tree.flatten(x)]
    scaled = anatomy.scales_inputs(len(leaves))
    names = [_given_name(tensor) for tensor in _inputs(anatomy.model)]
    if isinstance(x, dict):
        # Keras sorts its arrays by name.
        if set(x) <= set(names):
            scaled = [scaled[names.index(name)] for name in sorted(x)]
        names = sorted(x)
    if len(names) != len(leaves):
        names = [None] * len(leaves)
    alone = len(leaves) == 1
    return tuple(
        _facts(name or ("x" if alone else f"x[{index}]"), leaf, scaled[index])
        for index, (name, leaf) in enumerate(zip(names, leaves, strict=True))
        if np.issubdtype(leaf.dtype, np.number) and leaf.size
    )


def _inputs(model: Any) -> list[Any]:
    try:
        return list(model.inputs or ())
    except (AttributeError, ValueError):
        return []


def _given_name(symbol: Any) -> str | None:
    """Return the name of an input; None if Keras only numbered it."""
    name = getattr(symbol, "name", None) or ""
    return None if name.startswith("keras_tensor") else name or None


def _facts(name: str, values: Any, scaled: bool) -> InputFacts:
    values = values.astype("float64")
    finite = np.isfinite(values)
    present = np.where(finite, values, np.nan)
    if not finite.any():
        return InputFacts(name, 0.0, 0.0, nonfinite=values.size, scaled=scaled)
    spread, largest = _spread(present)
    return InputFacts(
        name,
        float(np.nanmean(present)),
        float(np.nanstd(present)),
        spread=spread,
        largest=largest,
        nonfinite=int(values.size - finite.sum()),
        missing=_missing(finite),
        scaled=scaled,
    )


def _missing(finite: Any) -> int:
    """Return how many features are finite for no input."""
    return int((~finite).all(axis=0).sum()) if finite.ndim == 2 else 0


def _spread(values: Any) -> tuple[float, int]:
    """Return the largest deviation of a feature over the median one, and which."""
    if values.ndim != 2:
        return 1.0, 0
    # The root mean square: a feature that is far off drowns others as well.
    squares = np.nansum(values**2, axis=0)
    sizes = np.sqrt(squares / np.maximum(np.isfinite(values).sum(axis=0), 1))
    positive = sizes[sizes > 0]
    if len(positive) < 2:
        return 1.0, 0
    return float(sizes.max() / np.median(positive)), int(np.argmax(sizes))
