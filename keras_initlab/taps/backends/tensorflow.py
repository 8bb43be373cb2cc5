"""Taps in TensorFlow's training step."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import tensorflow as tf

from keras_initlab.taps.backends.base import (
    Backend,
    Passes,
    WithGradient,
    sums_as_products,
)
from keras_initlab.taps.figures import Update
from keras_initlab.taps.patches import Patches
from keras_initlab.taps.step import TappedStep
from keras_initlab.taps.weights import loss_scale, optimizers_of, skipped


class _Passes(Passes):
    def column_sums(self, rows: tf.Tensor, factors: Any = None) -> tuple[Any, Any]:
        # On CPUs as a product: XLA sums columns element by element, 20 times as slow.
        # On GPUs products may be rounded to TensorFloat-32.
        if tf.config.list_logical_devices("GPU"):
            return super().column_sums(rows, factors)
        return sums_as_products(rows, factors)

    def whole_mean_square(self, x: tf.Tensor, shift: Any = None) -> tf.Tensor:
        total = 2 * tf.nn.l2_loss(x if shift is None else x - shift)
        return total / tf.cast(tf.size(x), x.dtype)


class _PassesWithoutXLA(_Passes):
    """Each operation is a pass over memory: these use few, without intermediates."""

    def mean_square(self, x: tf.Tensor, shift: Any = None) -> tf.Tensor:
        if x.shape[0] != 1:
            return super().mean_square(x, shift)
        total = 2 * tf.nn.l2_loss(x if shift is None else x - shift)
        return (total / _size_of_each(x))[None]

    def row_norms(self, rows: tf.Tensor) -> tf.Tensor:
        return tf.math.reduce_euclidean_norm(rows, axis=-1)

    def alive(self, x: tf.Tensor, axis: int) -> tf.Tensor:
        axes = [i for i in range(1, len(x.shape)) if i != axis]
        # Signs are 0 or ±1: the squares of their norms count what is not 0.
        norms = tf.math.reduce_euclidean_norm(tf.sign(x), axis=axes)
        counts = tf.round(tf.square(norms))
        return counts * tf.cast(tf.shape(x)[axis], x.dtype) / _size_of_each(x)


def _size_of_each(stack: tf.Tensor) -> tf.Tensor:
    """Return the number of elements of each tensor in a stack."""
    return tf.cast(tf.size(stack) // stack.shape[0], stack.dtype)


class TensorFlow(Backend):
    """The training step returns the figures beside the logs."""

    # TensorFlow signals the end of the data in two ways.
    control_flow = (StopIteration, tf.errors.OutOfRangeError)
    passes = _Passes()

    def why_not(self, model: Any) -> str | None:
        """Decline training that is spread over several processes."""
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
            # Keras's "auto" means no XLA where there are only CPUs.
            step.passes = _PassesWithoutXLA()
        replicated = model.distribute_strategy.num_replicas_in_sync > 1
        for held in optimizers_of(model):
            step.weights.attach(held, _keep)
            if replicated:
                step.weights.attach_sums(held)

        def wrap(train_step: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(train_step)
            def tapped(*args: Any, **kwargs: Any) -> Any:
                gradients: dict[int, tf.Tensor] = {}
                scale = loss_scale(optimizer)
                watch = self._watch(gradients) if step.request.gradients else None
                with step.tapping(watch):
                    logs = train_step(*args, **kwargs)
                left_out = skipped(scale, loss_scale(optimizer))
                outputs, updates = step.take()
                if left_out is not None and self.replicas() > 1:
                    # They are summed where nobody can watch: in a branch that is run
                    # only where all are finite.
                    updates = [self._summed(update) for update in updates]
                return logs, step.figures(outputs, updates, gradients, scale, left_out)

            return tapped

        patches.add(model, "train_step", wrap)

    def replicas(self) -> int:
        """Return the number of replicas of the current strategy."""
        return int(tf.distribute.get_strategy().num_replicas_in_sync)

    def sum_over_replicas(self, vector: tf.Tensor) -> tf.Tensor:
        """Reduce the vector within the step."""
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, vector)

    def _summed(self, update: Update) -> Update:
        gradient = self.sum_over_replicas(self.dense(update.gradient))
        return update._replace(gradient=gradient)

    def gather(self, vector: tf.Tensor) -> tf.Tensor:
        """Gather within the step, as Keras averages its results over replicas."""
        if self.replicas() == 1:
            return vector[None]
        context = tf.distribute.get_replica_context()
        return context.all_gather(vector[None], axis=0)

    def trace(self) -> Hashable:
        """Return the graph, and whether a vectorized_map is being traced within it."""
        if tf.executing_eagerly():
            return None
        graph = tf.compat.v1.get_default_graph()
        # vectorized_map traces its function once, within the same graph.
        return id(graph), "loop_body" in graph.get_name_scope().split("/")

    def is_tensor(self, x: Any) -> bool:
        """Whether it is a tf.Tensor."""
        return isinstance(x, tf.Tensor)

    def dense(self, x: Any) -> tf.Tensor:
        """Return slices as one dense tensor."""
        return tf.convert_to_tensor(x)

    def isolated(self, model: Any, gradients: bool) -> AbstractContextManager[None]:
        """There is no other state."""
        return nullcontext()

    def differentiate(
        self,
        forward: Callable[..., list[Any]],
        x: Any,
        variables: Sequence[Any],
        weights: Sequence[Any],
        cotangents: Callable[[list[Any]], list[Any]] | None,
    ) -> tuple[list[WithGradient], list[Any | None]]:
        """See `Backend.differentiate`."""

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
                # A new tensor: an identity layer returns that of the layer before.
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
        """Return an identity that records the gradient of each tensor it is given."""
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

    TensorFlow would otherwise copy whole weights, which are still to be read.
    """
    with tf.control_dependencies(samples):
        waiting = [tf.identity(x) if isinstance(x, tf.Tensor) else x for x in grads]
    return samples, waiting


BACKEND = TensorFlow()
