"""The passes over whole outputs and gradients, which are what measuring costs.

Each takes a stack of tensors, its first axis counting them. These are Keras's `ops`,
for every backend; what a backend does faster in a way of its own, its step overrides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_initlab.taps.tensors import ops


class Passes:
    """What is read off tensors as large as layers' outputs."""

    def column_means(self, rows: Any) -> Any:
        """Return the mean over the batch of (stack, batch, elements)."""
        return ops.mean(rows, axis=1)

    def mean_square(self, x: Any, shift: Any = None) -> Any:
        """Return of each tensor the mean of x², or of (x − shift)²."""
        axes = tuple(range(1, len(x.shape)))
        return ops.mean(ops.square(x if shift is None else x - shift), axis=axes)

    def row_norms(self, rows: Any) -> Any:
        """Return the lengths of vectors along the last axis."""
        return ops.sqrt(ops.sum(ops.square(rows), axis=-1))

    def alive(self, x: Any, axis: int) -> Any:
        """Return for each index along an axis the share of elements that are not 0."""
        others = tuple(i for i in range(1, len(x.shape)) if i != axis)
        # 1 for all that is not 0, by arithmetic alone: XLA would write the truth
        # values of a comparison to memory, as large as the output, and then sum them.
        return ops.mean(ops.minimum(ops.abs(x) * huge(x), 1.0), axis=others)

    def nonfinite(self, stacks: Sequence[Any], variances: Any) -> Any:
        """Return of each tensor, (batch, elements), how many are NaN or infinite.

        `variances` is a vector of all tensors' variances: they are finite only where
        all elements are, and seldom are they not, so it is only then that one looks.
        """

        def counted() -> Any:
            # Row by row: what a branch may need is set aside in every step.
            counts = [ops.map(_nonfinite, one) for one in stacks]
            return ops.cast(ops.concatenate(counts), variances.dtype)

        finite = ops.all(ops.isfinite(variances))
        return ops.cond(finite, lambda: ops.zeros_like(variances), counted)


def huge(x: Any) -> float:
    """Return a number that takes all that is not 0 to 1 or more."""
    return 1e308 if "float64" in str(x.dtype) else 1e38


def _nonfinite(rows: Any) -> Any:
    return ops.sum(ops.map(_of_row, rows))


def _of_row(row: Any) -> Any:
    return ops.sum(1 - ops.cast(ops.isfinite(row), row.dtype))
