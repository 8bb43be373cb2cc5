"""Taps in TensorFlow's training step."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import tensorflow as tf

from keras_initlab.taps.backends.base import Backend, Passes, WithGradient
from keras_initlab.taps.patches import Patches
from keras_initlab.taps.step import TappedStep
from keras_initlab.taps.weights import loss_scale


class _Passes(Passes):
    def column_means(self, rows: tf.Tensor) -> tf.Tensor:
        # On CPUs as a product: XLA sums columns element by element, 20 times as slow.
        # On GPUs products may be rounded to TensorFloat-32.
        if tf.config.list_logical_devices("GPU"):
            return tf.reduce_mean(rows, axis=1)
        batch = tf.shape(rows)[1]
        ones = tf.ones((rows.shape[0], 1, batch), rows.dtype)
        return tf.matmul(ones, rows)[:, 0] / tf.cast(batch, rows.dtype)


class _PassesWithoutXLA(_Passes):
    """Each operation is a pass: these are few, without tensors in between."""

    def mean_square(self, x: tf.Tensor, shift: Any = None) -> tf.Tensor:
        if x.shape[0] != 1:
            return super().mean_square(x, shift)
        total = 2 * tf.nn.l2_loss(x if shift is None else x - shift)
        return (total / _size_of_one(x))[None]

    def row_norms(self, rows: tf.Tensor) -> tf.Tensor:
        return tf.math.reduce_euclidean_norm(rows, axis=-1)

    def alive(self, x: tf.Tensor, axis: int) -> tf.Tensor:
        rest = [i for i in range(1, len(x.shape)) if i != axis]
        # Signs are 0 or ±1: the squares of their norms count what is not 0.
        norms = tf.math.reduce_euclidean_norm(tf.sign(x), axis=rest)
        counts = tf.round(tf.square(norms))
        return counts * tf.cast(tf.shape(x)[axis], x.dtype) / _size_of_one(x)


def _size_of_one(stack: tf.Tensor) -> tf.Tensor:
    """Return the number of elements of a tensor of a stack."""
    return tf.cast(tf.size(stack) // stack.shape[0], stack.dtype)


class TensorFlow(Backend):
    """The training step returns the figures beside the logs."""

    # How TensorFlow says that the data has come to its end.
    control_flow = (StopIteration, tf.errors.OutOfRangeError)
    passes = _Passes()

    def why_not(self, model: Any) -> str | None:
        """Decline what is spread over several processes."""
        strategy = model.distribute_strategy
        several = getattr(strategy.extended, "_in_multi_worker_mode", lambda: False)
        if several() or isinstance(strategy, tf.distribute.ParameterServerStrategy):
            return (
                f"it is trained under a {type(strategy).__name__}, which spreads it "
                "over several processes. Use a tf.distribute.MirroredStrategy to "
                "monitor"
            )
        return None

    def is_chief(self) -> bool:
        """There is one process."""
        return True

    def tap(self, step: TappedStep, model: Any, patches: Patches) -> None:
        """Let `train_step` return logs and figures."""
        optimizer = model.optimizer
        if not model.jit_compile:
            # As Keras's "auto" has it where there are only CPUs.
            step.passes = _PassesWithoutXLA()
        step.weights.attach(optimizer, _keep)
        if model.distribute_strategy.num_replicas_in_sync > 1:
            step.weights.attach_sums(optimizer)

        def wrap(train_step: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(train_step)
            def tapped(*args: Any, **kwargs: Any) -> Any:
                gradients: dict[int, tf.Tensor] = {}
                scale = loss_scale(optimizer)
                watch = self._watch(gradients) if step.request.gradients else None
                with step.tapping(watch):
                    logs = train_step(*args, **kwargs)
                return logs, step.figures(*step.take(), gradients, scale)

            return tapped

        patches.add(model, "train_step", wrap)

    def split(self, results: Any) -> tuple[Any, Any]:
        """Return logs and figures."""
        logs, figures = results
        return logs, figures

    def replicas(self) -> int:
        """Return those of the strategy in use."""
        return int(tf.distribute.get_strategy().num_replicas_in_sync)

    def sum_over_replicas(self, vector: tf.Tensor) -> tf.Tensor:
        """Reduce it within the step."""
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, vector)

    def gather(self, vector: tf.Tensor) -> tf.Tensor:
        """Gather within the step, as Keras averages over replicas what it returns."""
        if self.replicas() == 1:
            return vector[None]
        context = tf.distribute.get_replica_context()
        return context.all_gather(vector[None], axis=0)

    def trace(self) -> Hashable:
        """Return the graph, or the pattern within it of a vectorized_map."""
        if tf.executing_eagerly():
            return None
        graph = tf.compat.v1.get_default_graph()
        # vectorized_map runs its function once within the same graph, as a pattern.
        return id(graph), "loop_body" in graph.get_name_scope().split("/")

    def is_tensor(self, x: Any) -> bool:
        """Whether it is a tf.Tensor."""
        return isinstance(x, tf.Tensor)

    def dense(self, x: Any) -> tf.Tensor:
        """Sum up slices."""
        return tf.convert_to_tensor(x)

    def isolated(self, model: Any, gradients: bool) -> AbstractContextManager[None]:
        """There is nothing to keep."""
        return nullcontext()

    def differentiate(
        self,
        forward: Callable[..., list[Any]],
        x: Any,
        variables: Sequence[Any],
        weights: Sequence[Any],
        cotangents: Callable[[list[Any]], list[Any]] | None,
    ) -> tuple[list[WithGradient], list[Any | None]]:
        """As `Backend` asks for it."""

        def both() -> tuple[list[WithGradient], list[Any | None]]:
            return self._differentiated(forward, x, weights, cotangents)

        if any(variable.name.endswith("amax_history") for variable in variables):
            # The gradients of Keras's float8 layers cannot be taken eagerly.
            results: tuple[list[WithGradient], list[Any | None]]
            results = tf.function(both, autograph=False)()
            return results
        return both()

    def _differentiated(
        self,
        forward: Callable[..., list[Any]],
        x: Any,
        weights: Sequence[Any],
        cotangents: Callable[[list[Any]], list[Any]] | None,
    ) -> tuple[list[WithGradient], list[Any | None]]:
        taken: list[Any] = []
        sources = [weight.value for weight in weights]
        with tf.GradientTape(watch_accessed_variables=False) as tape:

            def tap(tensor: Any) -> Any:
                # A tensor of its own: an identity layer returns that of the one before.
                taken.append(tf.identity(tensor))
                if cotangents is not None:
                    tape.watch(taken[-1])
                return taken[-1]

            if cotangents is not None:
                for source in sources:
                    tape.watch(source)
            outputs = forward(x, tap, ())
        if cotangents is None or not outputs:
            return [(tensor, None) for tensor in taken], [None] * len(weights)
        gradients = [
            # An embedding's are slices.
            None if gradient is None else tf.convert_to_tensor(gradient)
            for gradient in tape.gradient(
                outputs, [*taken, *sources], cotangents(outputs)
            )
        ]
        count = len(taken)
        return list(zip(taken, gradients[:count], strict=True)), gradients[count:]

    def _watch(
        self, gradients: dict[int, tf.Tensor]
    ) -> Callable[[tf.Tensor], tf.Tensor]:
        """Return an identity that keeps the gradient of each tensor it is given."""
        within, calls = self.trace(), itertools.count()

        def exchange(tensor: tf.Tensor) -> tf.Tensor:
            index = next(calls)

            @tf.custom_gradient  # type: ignore[untyped-decorator]
            def tap(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[Any], Any]]:
                def back(gradient: Any) -> Any:
                    if self.trace() == within:
                        gradients[index] = gradient
                    return gradient

                return tf.identity(x), back

            return tap(tensor)

        return exchange


def _keep(samples: list[Any], grads: list[Any]) -> tuple[list[Any], list[Any]]:
    """Let the update wait for the samples.

    It would copy whole weights, which somebody still has to read.
    """
    with tf.control_dependencies(samples):
        waiting = [tf.identity(x) if isinstance(x, tf.Tensor) else x for x in grads]
    return samples, waiting


BACKEND = TensorFlow()
