"""The passes over whole outputs and gradients, which are what measuring costs.

These are Keras's `ops`, for every backend; what a backend does faster in a way of its
own, its step overrides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_initlab.taps.tensors import ops


class Passes:
    """What is read off tensors as large as a layer's output."""

    def column_means(self, rows: Any) -> Any:
        """Return the mean over the first of two axes."""
        return ops.mean(rows, axis=0)

    def mean_square(self, x: Any, shift: Any = None) -> Any:
        """Return the mean over all elements of x², or of (x − shift)²."""
        return ops.mean(ops.square(x if shift is None else x - shift))

    def row_squares(self, rows: Any) -> Any:
        """Return of each row the sum of squares."""
        return ops.sum(ops.square(rows), axis=1)

    def alive(self, x: Any, axis: int) -> Any:
        """Return for each index along an axis the share of elements that are not 0."""
        others = tuple(i for i in range(len(x.shape)) if i != axis)
        # 1 for all that is not 0, by arithmetic alone: XLA would write the truth
        # values of a comparison to memory, as large as the output, and then sum them.
        return ops.mean(ops.minimum(ops.abs(x) * huge(x), 1.0), axis=others)

    def nonfinite(self, matrices: Sequence[Any], variances: Any) -> Any:
        """Return of each matrix how many elements are NaN or infinite.

        `variances` is a vector of the matrices' variances: they are finite only where
        all elements are, and seldom are they not, so it is only then that one looks.
        """
        return ops.cond(
            ops.all(ops.isfinite(variances)),
            lambda: ops.zeros_like(variances),
            # Row by row: what a branch may need is set aside in every step.
            lambda: ops.stack(
                [
                    ops.cast(ops.sum(ops.map(_row_nonfinite, one)), variances.dtype)
                    for one in matrices
                ]
            ),
        )


def huge(x: Any) -> float:
    """Return a number that takes all that is not 0 to 1 or more."""
    return 1e308 if "64" in keras.backend.standardize_dtype(x.dtype) else 1e38


def _row_nonfinite(row: Any) -> Any:
    return ops.sum(1 - ops.cast(ops.isfinite(row), row.dtype))
