"""Taps in TensorFlow's training step: one cond and one packed write at its end."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from keras_initlab.taps import running
from keras_initlab.taps.patches import Patches
from keras_initlab.taps.recorder import Output, Recorder

# How TensorFlow says that the data has come to its end.
CONTROL_FLOW = (StopIteration, tf.errors.OutOfRangeError)


def why_not(model: Any) -> str | None:
    """Return why this model cannot be tapped, or None."""
    if model.distribute_strategy.num_replicas_in_sync > 1:
        return (
            "it is trained on several replicas of a tf.distribute strategy, and "
            "measuring there is not supported yet. Train on one replica to monitor"
        )
    return None


class Step:
    """The training step of one model, with its layers' outputs measured."""

    def __init__(self, model: Any, every: int, patches: Patches) -> None:
        self._every = every
        self.recorder = Recorder(model, patches, context, is_dense)
        # One state for each set of layers that a trace meets: which they are is
        # known at the end of the first trace at the earliest. Made now, with an open
        # number of rows: a variable made within a trace costs a second trace.
        self._states: dict[tuple[str, ...], tf.Variable] = {}
        self._spare: dict[str, tf.Variable] = {}
        with model.distribute_strategy.scope():
            self._step = _variable(tf.zeros((), tf.int64))
            for dtype in ("float32", "float64"):
                empty = tf.zeros((0, running.COLUMNS), dtype)
                self._spare[dtype] = _variable(empty, (None, running.COLUMNS))
        train_step = model.train_step

        @functools.wraps(train_step)
        def tapped(*args: Any, **kwargs: Any) -> Any:
            with self.recorder.recording():
                logs = train_step(*args, **kwargs)
            self._update(self.recorder.take())
            return logs

        patches.set(model, "train_step", tapped)
        model.train_function = None
        model.make_train_function()
        self._train_function = model.train_function

    def run(self, *args: Any) -> Any:
        """Run what Keras made of the tapped step."""
        return self._train_function(*args)

    def read(self) -> list[tuple[tuple[str, ...], np.ndarray]]:
        """Return keys and rows (count, mean, variance)."""
        return [(keys, state.numpy()) for keys, state in self._states.items()]

    def reset(self) -> None:
        """Forget what was measured, and begin to count steps at 0."""
        self._step.assign(0)
        for state in self._states.values():
            state.assign(tf.zeros_like(state))

    def close(self) -> None:
        """Nothing but the patches is on the model."""

    def _update(self, outputs: list[Output]) -> None:
        if not outputs:
            return
        tensors = [output.tensor for output in outputs]
        dtype = running.working_dtype(tensors)
        state = self._state(tuple(output.key for output in outputs), dtype)
        rows = tf.ensure_shape(state, (len(outputs), running.COLUMNS))
        merged = tf.cond(
            tf.equal(self._step % self._every, 0),
            lambda: running.merge(rows, running.batch_rows(tensors, dtype)),
            lambda: rows,
        )
        state.assign(merged)
        self._step.assign_add(1)

    def _state(self, keys: tuple[str, ...], dtype: str) -> tf.Variable:
        if keys not in self._states:
            with tf.init_scope():
                zeros = tf.zeros((len(keys), running.COLUMNS), dtype)
                if dtype in self._spare:
                    self._states[keys] = self._spare.pop(dtype)
                    self._states[keys].assign(zeros)
                else:
                    self._states[keys] = _variable(zeros)
        return self._states[keys]


def _variable(value: tf.Tensor, shape: Any = None) -> tf.Variable:
    return tf.Variable(
        value,
        trainable=False,
        shape=shape,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )


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
