"""What a backend gives to the taps."""

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
    """The passes over whole outputs and gradients, which are what measuring costs.

    Each takes a stack of tensors, its first axis counting them. These are Keras's
    `ops`, for every backend; what one does faster in a way of its own, it overrides.
    """

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
        rest = tuple(i for i in range(1, len(x.shape)) if i != axis)
        # 1 for all that is not 0, by arithmetic alone: XLA would write the truth
        # values of a comparison to memory, as large as the output, and then sum them.
        return ops.mean(ops.minimum(ops.abs(x) * huge(x), 1.0), axis=rest)

    def nonfinite(self, stacks: Sequence[Any], variances: Any) -> Any:
        """Return of each tensor, (batch, elements), how many are NaN or infinite.

        `variances` is a vector of all tensors' variances: they are finite only where
        all elements are, and seldom are they not, so it is only then that one looks.
        """

        def count() -> Any:
            # Row by row: what a branch may need is set aside in every step.
            counts = [ops.map(_nonfinite, x) for x in stacks]
            return ops.cast(ops.concatenate(counts), variances.dtype)

        finite = ops.all(ops.isfinite(variances))
        return ops.cond(finite, lambda: ops.zeros_like(variances), count)


def huge(x: Any) -> float:
    """Return a number that takes all that is not 0 to 1 or more."""
    return 1e308 if "float64" in str(x.dtype) else 1e38


def _nonfinite(rows: Any) -> Any:
    return ops.sum(ops.map(_nonfinite_of_row, rows))


def _nonfinite_of_row(row: Any) -> Any:
    return ops.sum(1 - ops.cast(ops.isfinite(row), row.dtype))


class Backend(Protocol):
    """How one backend trains, seen from a tap: a file in `backends/` fills this.

    The measured step of a model is a second function, which Keras makes of a tapped
    `train_step`. What it measures leaves it as one vector beside the logs.

    Attributes:
        control_flow: exceptions that say that the data has come to its end.
        passes: the passes over outputs and gradients.
    """

    control_flow: tuple[type[BaseException], ...]
    passes: Passes

    def why_not(self, model: Any) -> str | None:
        """Return why this model cannot be tapped, or None."""

    def is_chief(self) -> bool:
        """Whether this process is the one that writes for all that train together."""

    def tap(self, step: TappedStep, model: Any, patches: Patches) -> None:
        """Add to `patches` what makes the model's training step a tapped one."""

    def split(self, results: Any) -> tuple[Any, Any]:
        """Return what Keras's own function would return, and the figures."""

    def replicas(self) -> int:
        """Return how many replicas each see a share of the batch in a tapped step."""

    def sum_over_replicas(self, vector: Any) -> Any:
        """Return the sum of a vector over the replicas of a tapped step."""

    def gather(self, vector: Any) -> Any:
        """Return the vectors of all replicas as rows, the same on each."""

    def trace(self) -> Hashable:
        """Return what identifies the trace under way, or the eager step."""

    def is_tensor(self, x: Any) -> bool:
        """Whether `x` is a plain, dense tensor of this backend."""

    def dense(self, x: Any) -> Any:
        """Return a gradient as a plain tensor: those of an embedding are slices."""

    def isolated(self, model: Any, gradients: bool) -> AbstractContextManager[None]:
        """Keep what Keras's stateless scope does not keep while a model is called."""

    def differentiate(
        self,
        forward: Callable[..., list[Any]],
        x: Any,
        variables: Sequence[Any],
        weights: Sequence[Any],
        cotangents: Callable[[list[Any]], list[Any]] | None,
    ) -> tuple[list[WithGradient], list[Any | None]]:
        """Run `forward(x, tap, mapping)` and go back.

        Args:
            forward: gives each layer's output to `tap` and goes on with what that
                returns; its results are the model's outputs. `mapping` holds pairs of
                `variables` and tensors to stand in for their values, if there are any.
            x: the model's input.
            variables: all of the model's variables.
            weights: those to return gradients of.
            cotangents: returns the gradients at the outputs; None: no way back.

        Returns:
            Each tensor that `forward` gave to its tap, with its gradient; and the
            gradients of `weights`. A gradient is None where the outputs do not depend
            on the tensor.
        """
