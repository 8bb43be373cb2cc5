"""What a backend provides for the taps."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from keras_initlab.taps.ops import ops

if TYPE_CHECKING:
    from keras_initlab.taps.patches import Patches
    from keras_initlab.taps.step import TappedStep

# A tensor and its gradient; None where nothing flows back to it.
WithGradient = tuple[Any, Any | None]


class Passes:
    """The passes over whole outputs and gradients: nearly all that measuring costs.

    Each takes a stack of tensors, its first axis counting them. These use Keras's
    `ops`, for every backend; a backend overrides those that it can do faster.
    """

    def column_sums(self, rows: Any, factors: Any = None) -> tuple[Any, Any]:
        """Return two sums over the batch of (stack, batch, elements).

        The first is the mean; the second is of rows times `factors`, (stack, batch),
        and None where there are none.
        """
        means = ops.mean(rows, axis=1)
        if factors is None:
            return means, None
        return means, ops.matmul(factors[:, None], rows)[:, 0]

    def mean_square(self, x: Any, shift: Any = None) -> Any:
        """Return the mean of x² of each tensor, or of (x − shift)²."""
        axes = tuple(range(1, len(x.shape)))
        return ops.mean(ops.square(x if shift is None else x - shift), axis=axes)

    def whole_mean_square(self, x: Any, shift: Any = None) -> Any:
        """Return the mean of x², or of (x − shift)², over one tensor, not in a step."""
        return ops.mean(ops.square(x if shift is None else x - shift))

    def row_norms(self, rows: Any) -> Any:
        """Return the lengths of vectors along the last axis."""
        return ops.sqrt(ops.sum(ops.square(rows), axis=-1))

    def alive(self, x: Any, axis: int) -> Any:
        """Return the share of nonzero elements at each index along an axis."""
        axes = tuple(i for i in range(1, len(x.shape)) if i != axis)
        # 1 for each nonzero element, by arithmetic alone: XLA would write the truth
        # values of a comparison to memory, as large as the output, and then sum them.
        return ops.mean(ops.minimum(ops.abs(x) * huge(x), 1.0), axis=axes)

    def nonfinite(self, stacks: Sequence[Any], variances: Any) -> Any:
        """Return how many elements of each tensor, (batch, elements), are not finite.

        `variances` is a vector of all tensors' variances. A variance is finite only
        where all elements are, so that elements are counted only where one is not.
        """

        def count() -> Any:
            # Row by row: every step allocates the memory that a branch may need.
            counts = [ops.map(_nonfinite, x) for x in stacks]
            return ops.cast(ops.concatenate(counts), variances.dtype)

        finite = ops.all(ops.isfinite(variances))
        return ops.cond(finite, lambda: ops.zeros_like(variances), count)


def sums_as_products(rows: Any, factors: Any) -> tuple[Any, Any]:
    """Return what `Passes.column_sums` does, both in one pass over the rows."""
    count, batch = ops.shape(rows)[:2]
    means = ops.ones((count, 1, batch), rows.dtype) / ops.cast(batch, rows.dtype)
    if factors is None:
        return ops.matmul(means, rows)[:, 0], None
    sums = ops.matmul(ops.concatenate([means, factors[:, None]], axis=1), rows)
    return sums[:, 0], sums[:, 1]


def huge(x: Any) -> float:
    """Return a factor that takes every nonzero element to 1 or more."""
    return 1e308 if "float64" in str(x.dtype) else 1e38


def _nonfinite(rows: Any) -> Any:
    return ops.sum(ops.map(_nonfinite_of_row, rows))


def _nonfinite_of_row(row: Any) -> Any:
    return ops.sum(1 - ops.cast(ops.isfinite(row), row.dtype))


class Backend(Protocol):
    """How one backend trains, as a tap needs it: a file in `backends/` implements it.

    The measured step of a model is a second function, which Keras makes from a tapped
    `train_step`. Its figures leave it as one vector beside the logs.

    Attributes:
        control_flow: exceptions that only signal the end of the data.
        passes: the passes over outputs and gradients.
    """

    control_flow: tuple[type[BaseException], ...]
    passes: Passes

    def why_not(self, model: Any) -> str | None:
        """Return why this model cannot be tapped, or None."""

    def is_chief(self) -> bool:
        """Whether this process writes for all those that train together."""

    def tap(self, step: TappedStep, model: Any, patches: Patches) -> None:
        """Add the patches that make the model's training step a tapped one."""

    def split(self, results: Any) -> tuple[Any, Any]:
        """Return what Keras's own function would return, and the figures."""
        logs, figures = results
        return logs, figures

    def replicas(self) -> int:
        """Return how many replicas share the batch of a tapped step."""

    def sum_over_replicas(self, vector: Any) -> Any:
        """Return the sum of a vector over the replicas of a tapped step."""

    def gather(self, vector: Any) -> Any:
        """Return the vectors of all replicas as rows, the same on each."""

    def trace(self) -> Hashable:
        """Return a key that identifies the current trace, or the eager step."""

    def is_tensor(self, x: Any) -> bool:
        """Whether `x` is a plain, dense tensor of this backend."""

    def dense(self, x: Any) -> Any:
        """Return a gradient as a dense tensor: those of an embedding may be slices."""

    def isolated(self, model: Any, gradients: bool) -> AbstractContextManager[None]:
        """Restore the state that Keras's stateless scope does not, after a call."""

    def differentiate(
        self,
        forward: Callable[..., list[Any]],
        x: Any,
        variables: Sequence[Any],
        weights: Sequence[Any],
        cotangents: Callable[[list[Any]], list[Any]] | None,
    ) -> tuple[list[WithGradient], list[Any | None]]:
        """Run `forward(x, tap, mapping)` and differentiate it.

        Args:
            forward: gives each layer's output to `tap` and continues with the result;
                returns the model's outputs. `mapping` holds pairs of a variable and a
                tensor to use as its value, and may be empty.
            x: the model's input.
            variables: all of the model's variables.
            weights: the variables to return gradients for.
            cotangents: returns the gradients at the outputs; with None nothing is
                differentiated.

        Returns:
            Each tensor that `forward` gave to its tap, with its gradient; and the
            gradients of `weights`. A gradient is None where the outputs do not depend
            on the tensor.
        """
