"""Running moments: two passes within a batch, batches merged by Chan's formula.

A row is (count, mean, variance) of one layer's output. The mean of squares minus the
squared mean would lose everything in float32 where the mean is large.

Chan, Golub & LeVeque, "Algorithms for computing the sample variance", 1983.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

COLUMNS = 3


def working_dtype(tensors: Sequence[Any]) -> str:
    """Return the dtype in which to keep moments: float32, or float64 if any is."""
    wide = (keras.backend.standardize_dtype(x.dtype) == "float64" for x in tensors)
    return "float64" if any(wide) else "float32"


def batch_row(x: Any, dtype: str) -> Any:
    """Return (count, mean, variance) over all elements of `x`, of shape (3,)."""
    # float16 and bfloat16 can neither hold the sums nor the counts.
    x = ops.cast(x, working_dtype([x]))
    count = ops.cast(1, dtype)
    for size in ops.shape(x):
        count = count * ops.cast(size, dtype)
    mean = ops.mean(x)
    variance = ops.mean(ops.square(x - mean))
    return ops.stack([count, ops.cast(mean, dtype), ops.cast(variance, dtype)])


def batch_rows(tensors: Sequence[Any | None], dtype: str) -> Any:
    """Return the rows of one batch, of shape (layers, 3); None gives an empty row."""
    return ops.stack(
        [
            ops.zeros((COLUMNS,), dtype) if x is None else batch_row(x, dtype)
            for x in tensors
        ]
    )


def merge(rows: Any, more: Any) -> Any:
    """Return the rows of two samples taken together, both of shape (layers, 3)."""
    count, mean, variance = rows[:, 0], rows[:, 1], rows[:, 2]
    count_b, mean_b, variance_b = more[:, 0], more[:, 1], more[:, 2]
    total = count + count_b
    share = count_b / ops.maximum(total, ops.ones_like(total))
    delta = mean_b - mean
    # Variances rather than sums of squares: an epoch of sums could overflow float32.
    merged = ops.stack(
        [
            total,
            mean + delta * share,
            variance * (1 - share)
            + variance_b * share
            + ops.square(delta) * share * (1 - share),
        ],
        axis=1,
    )
    # The mean of nothing is NaN, and NaN times no share is NaN still.
    return ops.where((count_b > 0)[:, None], merged, rows)
