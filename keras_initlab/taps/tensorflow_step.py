"""Taps in TensorFlow's training step: one cond and one packed write at its end."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_initlab.taps import figures, running
from keras_initlab.taps.outputs import dtype_of, needs_sums, sums
from keras_initlab.taps.passes import Passes
from keras_initlab.taps.patches import Patches
from keras_initlab.taps.recorder import Output, Recorder
from keras_initlab.taps.request import Request
from keras_initlab.taps.way_back import GRADIENT, of_step, without_gradients
from keras_initlab.taps.weights import WeightTap, first_measured, loss_scale

# How TensorFlow says that the data has come to its end.
CONTROL_FLOW = (StopIteration, tf.errors.OutOfRangeError)


def why_not(model: Any) -> str | None:
    """Return why this model cannot be tapped, or None."""
    strategy = model.distribute_strategy
    several = getattr(strategy.extended, "_in_multi_worker_mode", lambda: False)
    if several() or isinstance(strategy, tf.distribute.ParameterServerStrategy):
        return (
            f"it is trained under a {type(strategy).__name__}, which spreads it over "
            "several processes. Use a tf.distribute.MirroredStrategy to monitor"
        )
    return None


def is_chief() -> bool:
    """Whether this process is the one that writes for all."""
    return True


class Step:
    """The training step of one model, with its layers' outputs measured."""

    def __init__(self, model: Any, request: Request, patches: Patches) -> None:
        self._optimizer = model.optimizer
        self._strategy = model.distribute_strategy
        self._request = request
        self.recorder = Recorder(
            model, patches, context, is_dense, wanted=request.wanted
        )
        self._weights = WeightTap(request, self.recorder, context)
        self._weights.attach(model.optimizer, patches, self._keep)
        self._compiled = bool(model.jit_compile)
        if self._strategy.num_replicas_in_sync > 1:
            self._weights.attach_sums(model.optimizer, patches)
        # One state for each set of layers that a trace meets: which they are is
        # known at the end of the first trace at the earliest. Made now, of an open
        # size: a variable made within a trace costs a second trace.
        self._states: dict[running.Layout, tf.Variable] = {}
        self._spare: dict[str, tf.Variable] = {}
        with self._strategy.scope():
            self._step = _variable(tf.zeros((), tf.int64))
            for dtype in ("float32", "float64"):
                empty = tf.zeros((request.slots, 0), dtype)
                self._spare[dtype] = _variable(empty, (request.slots, None))
        train_step = model.train_step

        @functools.wraps(train_step)
        def tapped(*args: Any, **kwargs: Any) -> Any:
            gradients: dict[int, tf.Tensor] = {}
            scale = loss_scale(self._optimizer)
            exchange = _watch(gradients) if request.gradients else None
            with self.recorder.recording(exchange), self._weights.watching():
                logs = train_step(*args, **kwargs)
            self._update(gradients, scale)
            return logs

        patches.set(model, "train_step", tapped)
        model.train_function = None
        model.make_train_function()
        self._train_function = model.train_function

    def run(self, *args: Any) -> Any:
        """Run what Keras made of the tapped step."""
        return self._train_function(*args)

    def read(self) -> list[tuple[running.Layout, np.ndarray]]:
        """Return layouts and states, of shape (slots, size)."""
        return [
            (layout, state)
            for layout, variable in self._states.items()
            for state in (part.numpy() for part in _parts(variable))
        ]

    def reset(self) -> None:
        """Forget what was measured, and begin to count steps at 0."""
        self._step.assign(0)
        for state in self._states.values():
            for part in _parts(state):
                part.assign(tf.zeros_like(part))

    def close(self) -> None:
        """Nothing but the patches is on the model."""

    def _update(self, gradients: dict[int, tf.Tensor], scale: Any) -> None:
        outputs, updates = self.recorder.take(), self._weights.take()
        if not outputs:
            return
        request = self._request
        now = self._now()
        across = self._across(outputs, now)
        if GRADIENT in request.statistics:
            updates = without_gradients(
                updates, PASSES, lambda yes, no: tf.cond(now, yes, lambda: no)
            )

        def measured() -> tf.Tensor:
            found, alive = of_step(
                outputs, gradients, updates, scale, request, PASSES, across
            )
            dtype = dtype_of(outputs)
            layout = running.layout_of(found, alive, dtype)
            variable = self._state(layout)
            state = tf.ensure_shape(variable, (request.slots, layout.size))
            variable.assign(
                running.updated(layout, state, found, alive, self._step, request.window)
            )
            return tf.constant(True)

        tf.cond(now, measured, lambda: tf.constant(False))
        self._step.assign_add(1)

    def _now(self) -> tf.Tensor:
        """Return whether the step under way is measured."""
        every = self._request.every
        return tf.equal(self._step % every, first_measured(self._optimizer, every))

    def _keep(
        self, weights: list[Any], gradients: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        """Return samples of weights, and gradients that wait until they are taken."""
        if not weights:
            return [], gradients

        def samples() -> list[tf.Tensor]:
            return [figures.sampled(one) for one in weights]

        shapes = [(one.shape, one.dtype) for one in samples()]
        kept = tf.cond(self._now(), samples, lambda: [tf.zeros(*one) for one in shapes])
        if self._compiled:
            # Times 1: XLA would otherwise copy whole weights, to have them as they
            # were, as it may update them before the samples are taken.
            first = tf.abs(tf.cast(kept[0][0], "float32"))
            one = tf.where(first >= 0, tf.minimum(first + 1, 1), 1)
            gradients = [
                x * tf.cast(one, x.dtype) if isinstance(x, tf.Tensor) else x
                for x in gradients
            ]
        return kept, gradients

    def _across(self, outputs: list[Output], now: tf.Tensor) -> Any:
        """Return what replicas have to know of each other, and their number."""
        replicas = self._strategy.num_replicas_in_sync
        if replicas == 1 or not needs_sums(outputs, self._request):
            return None
        lengths = []

        def own() -> tf.Tensor:
            vector = sums(outputs, self._request, PASSES)
            lengths.append(vector.shape[0])
            return vector

        if not tf.executing_eagerly():
            # Replicas cannot meet within a branch. The first is traced first.
            vector = tf.cond(now, own, lambda: tf.zeros(lengths[0], dtype_of(outputs)))
        elif now:
            vector = own()
        else:
            return None
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, vector), replicas

    def _state(self, layout: running.Layout) -> tf.Variable:
        if layout not in self._states:
            with tf.init_scope():
                zeros = tf.zeros((self._request.slots, layout.size), layout.dtype)
                if layout.dtype in self._spare:
                    self._states[layout] = self._spare.pop(layout.dtype)
                    for part in _parts(self._states[layout]):
                        part.assign(zeros)
                else:
                    self._states[layout] = _variable(zeros)
        return self._states[layout]


def _watch(gradients: dict[int, tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return an identity that keeps the gradient of each tensor it is given."""
    within, calls = context(), itertools.count()

    def exchange(tensor: tf.Tensor) -> tf.Tensor:
        index = next(calls)

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def tap(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[Any], Any]]:
            def back(gradient: Any) -> Any:
                if context() == within:
                    gradients[index] = gradient
                return gradient

            return tf.identity(x), back

        return tap(tensor)

    return exchange


def _parts(variable: tf.Variable) -> list[tf.Variable]:
    """Return the variable's copies on this worker, one a replica."""
    return [*getattr(variable, "values", [variable])]


def _variable(value: tf.Tensor, shape: Any = None) -> tf.Variable:
    return tf.Variable(
        value,
        trainable=False,
        shape=shape,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )


class _Passes(Passes):
    def column_means(self, rows: tf.Tensor) -> tf.Tensor:
        # On CPUs as a product: XLA sums columns element by element, 20 times as slow.
        # On GPUs products may be rounded to TensorFloat-32.
        if tf.config.list_logical_devices("GPU"):
            return tf.reduce_mean(rows, axis=1)
        batch = tf.shape(rows)[1]
        ones = tf.ones((rows.shape[0], 1, batch), rows.dtype)
        return tf.matmul(ones, rows)[:, 0] / tf.cast(batch, rows.dtype)


PASSES = _Passes()


def context() -> Any:
    """Return what identifies the trace under way."""
    if tf.executing_eagerly():
        return None
    graph = tf.compat.v1.get_default_graph()
    # vectorized_map runs its function once within the same graph, as a pattern.
    return id(graph), "loop_body" in graph.get_name_scope().split("/")


def is_dense(x: Any) -> bool:
    """Whether `x` is a plain tensor of this backend."""
    return isinstance(x, tf.Tensor)
