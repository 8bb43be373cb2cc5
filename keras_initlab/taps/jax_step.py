"""Taps in JAX's training step; the rows ride in `metrics_variables`."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import keras
import numpy as np

from keras_initlab.taps import running
from keras_initlab.taps.patches import Patches
from keras_initlab.taps.recorder import Output, Recorder

CONTROL_FLOW = (StopIteration,)

try:
    from jax.extend.core import get_opaque_trace_state
except ImportError:  # Where older releases of JAX have it.
    from jax.core import get_opaque_trace_state


def why_not(model: Any) -> str | None:
    """Return why this model cannot be tapped, or None."""
    return None


class _Moments(keras.metrics.Metric):  # type: ignore[misc]
    """State that Keras's JAX trainer threads through the step, and nobody saves."""

    def __init__(self, layers: int, dtype: str) -> None:
        super().__init__(name="initlab_moments", dtype="float32")
        self.rows = self.add_variable(
            (layers, running.COLUMNS), "zeros", dtype=dtype, name="rows"
        )
        self.step = self.add_variable((), "zeros", dtype="int32", name="step")

    def result(self) -> dict[str, Any]:
        """Add nothing to the logs."""
        return {}

    def reset_state(self) -> None:
        """Keep the figures: `evaluate` within `fit` resets all metrics."""

    def clear(self) -> None:
        for variable in self.variables:
            variable.assign(np.zeros(variable.shape, variable.dtype))


class _ForwardPassSeen(BaseException):
    """Ends the look ahead; not an Exception, so that no step catches it."""


class Step:
    """The training step of one model, with its layers' outputs measured."""

    def __init__(self, model: Any, every: int, patches: Patches) -> None:
        self._model = model
        self._every = every
        self.recorder = Recorder(model, patches, context, is_dense)
        self._keys: tuple[str, ...] = ()
        self._metric: _Moments | None = None
        self._train_function: Any = None
        self._looking_ahead = False
        self._dtype = "float32"
        # With a distribution, Keras fixes the number of metrics in the compiled
        # evaluation too; ours comes and goes.
        patches.set(model, "test_function", None)
        compute = model.compute_loss_and_updates
        train_step = model.train_step

        @functools.wraps(compute)
        def tapped(*args: Any, **kwargs: Any) -> Any:
            if not _training(*args, **kwargs):
                return compute(*args, **kwargs)
            with self.recorder.recording():
                result = compute(*args, **kwargs)
            outputs = self.recorder.take()
            if self._looking_ahead:
                self._keys = tuple(output.key for output in outputs)
                self._dtype = running.working_dtype([o.tensor for o in outputs])
                raise _ForwardPassSeen
            loss, (unscaled, y_pred, non_trainable, metrics) = result
            return loss, (
                unscaled,
                y_pred,
                non_trainable,
                self._update(metrics, outputs),
            )

        # JAX caches traces by function: a new one is never mistaken for an old one.
        @functools.wraps(train_step)
        def fresh(*args: Any, **kwargs: Any) -> Any:
            return train_step(*args, **kwargs)

        patches.set(model, "compute_loss_and_updates", tapped)
        patches.set(model, "train_step", fresh)

    def run(self, state: Any, iterator: Iterator[Any]) -> Any:
        """Run what Keras made of the tapped step."""
        if self._train_function is None:
            first = next(iterator)
            state = self._prepare(state, first)
            iterator = itertools.chain([first], iterator)
        return self._train_function(state, iterator)

    def read(self) -> list[tuple[tuple[str, ...], np.ndarray]]:
        """Return keys and rows (count, mean, variance)."""
        if self._metric is None:
            return []
        self._model.jax_state_sync()
        return [(self._keys, np.asarray(self._metric.rows.value))]

    def reset(self) -> None:
        """Forget what was measured, and begin to count steps at 0."""
        if self._metric is not None:
            self._metric.clear()

    def close(self) -> None:
        """Take the metric off the model."""
        if self._metric is None:
            return
        # The state under way still holds our arrays, and Keras pairs it with the
        # metrics by position: let it land before ours goes.
        self._model.jax_state_sync()
        metrics = self._model._metrics
        metrics[:] = [metric for metric in metrics if metric is not self._metric]

    def _prepare(self, state: Any, data: Any) -> Any:
        """Look ahead for the layers' outputs, and make room for them in the state."""
        model = self._model
        eager = model.run_eagerly or not model.jit_compile
        self._looking_ahead = True
        try:
            # Values are there in eager steps, and Python may branch on them.
            if eager:
                model.train_step(state, data)
            else:
                jax.eval_shape(lambda *args: model.train_step(*args), state, data)
        except _ForwardPassSeen:
            pass
        except Exception:
            # The step itself will say so, in its own words.
            pass
        finally:
            self._looking_ahead = False
        if self._keys:
            before = list(model.metrics_variables)
            self._metric = _Moments(len(self._keys), self._dtype)
            model._metrics.append(self._metric)
            values = dict(zip(map(id, before), state[3], strict=True))
            # Keras has emptied its own variables by now; only ours hold a value.
            values.update((id(v), v.value) for v in self._metric.variables)
            metrics = [values[id(v)] for v in model.metrics_variables]
            state = (*state[:3], metrics)
            if all(metric is not self._metric for metric in model.metrics):
                self._give_up()
        kept = model.train_function
        model.train_function = None
        # With a distribution Keras reads the variables' shardings here, and it has
        # emptied the variables by now: lend them their values.
        groups = (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
        pairs = [
            (variable, variable._value, value)
            for variables, values in zip(groups, state, strict=True)
            for variable, value in zip(variables, values, strict=True)
        ]
        try:
            for variable, _, value in pairs:
                variable._value = value
            model.make_train_function()
        finally:
            for variable, before, _ in pairs:
                variable._value = before
        self._train_function = model.train_function
        model.train_function = kept
        return state

    def _give_up(self) -> None:
        self.close()
        self._metric = None
        warnings.warn(
            "VarianceMonitor measures nothing: on JAX its figures travel with "
            "`model.metrics`, and this model's class overrides that property. Let it "
            "return super().metrics with your own metrics added.",
            stacklevel=2,
        )

    def _update(self, metrics: Any, outputs: list[Output]) -> Any:
        if self._metric is None:
            return metrics
        found = {output.key: output.tensor for output in outputs}
        tensors = [found.get(key) for key in self._keys]
        tensors = [None if x is None else jax.lax.stop_gradient(x) for x in tensors]
        places = {id(v): i for i, v in enumerate(self._model.metrics_variables)}
        rows_at, step_at = places[id(self._metric.rows)], places[id(self._metric.step)]
        metrics = list(metrics)
        rows, step = metrics[rows_at], metrics[step_at]
        metrics[rows_at] = jax.lax.cond(
            step % self._every == 0,
            lambda: running.merge(rows, running.batch_rows(tensors, self._dtype)),
            lambda: rows,
        )
        metrics[step_at] = step + 1
        return metrics


def _training(*args: Any, **kwargs: Any) -> bool:
    # The seventh argument of `compute_loss_and_updates`.
    return bool(kwargs.get("training", args[6] if len(args) > 6 else False))


def context() -> Any:
    """Return what identifies the trace under way."""
    # Older releases of JAX ask for the argument, newer ones ignore it.
    return get_opaque_trace_state(convention="flax")


def is_dense(x: Any) -> bool:
    """Whether `x` is a plain tensor of this backend."""
    return isinstance(x, jax.Array)
