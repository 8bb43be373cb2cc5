"""What a `fit` under way was given: some rows of its inputs and targets."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from keras_initlab.model.batch import batch_of, draws_batches
from keras_initlab.model.keras_internals import fit_frame

# How many rows are looked at; of targets, so many numbers where that is more.
ROWS, NUMBERS = 256, 65536
# Arrays of so many numbers are searched for NaN within a tenth of a second; in larger
# ones, which may be files, only the rows are looked at.
SEARCHED = 2**26


def data_of_fit(model: Any) -> tuple[Any, Any]:
    """Return rows of the inputs and of the targets; None of what is not known.

    They are drawn at random, as data are often sorted. Of datasets, loaders and
    generators nothing is known: to draw a batch could change what training sees. And
    where a model has a loss or step of its own, its targets may mean anything.
    """
    frame = fit_frame(model)
    if frame is None:
        return None, None
    x, y = (frame.f_locals.get(name) for name in ("x", "y"))
    plain = (
        type(model).train_step is keras.Model.train_step
        and type(model).compute_loss is keras.Model.compute_loss
    )
    return _some(x, 0), _some(y, NUMBERS) if plain else None


def _some(data: Any, numbers: int) -> Any:
    if data is None or draws_batches(data):
        return None
    try:
        arrays = batch_of(data)[0]
        return keras.tree.map_structure(lambda leaf: _rows(leaf, numbers), arrays)
    except Exception:
        # Whatever `fit` may take; it will say what is wrong with it.
        return None


def _rows(leaf: Any, numbers: int) -> Any:
    count = max(ROWS, numbers // max(math.prod(leaf.shape[1:]), 1))
    if leaf.shape[0] <= count:
        return leaf
    generator = np.random.default_rng(0)
    chosen = generator.choice(leaf.shape[0], count, replace=False)
    if isinstance(leaf, np.ndarray):
        return leaf[np.union1d(chosen, _broken(leaf))]
    return keras.ops.take(keras.ops.convert_to_tensor(leaf), np.sort(chosen), axis=0)


def _broken(values: Any) -> Any:
    """Return some rows that hold NaN or infinity: one of them breaks a training."""
    inexact = np.issubdtype(values.dtype, np.inexact)
    if not inexact or values.size > SEARCHED:
        return np.array([], int)
    if np.isfinite(values.sum(dtype=np.float64)):
        return np.array([], int)
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    return np.flatnonzero(~finite)[:ROWS]
