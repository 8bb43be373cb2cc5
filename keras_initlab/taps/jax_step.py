"""Taps in JAX's training step; the figures ride in `metrics_variables`."""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from keras_initlab.taps import figures, running
from keras_initlab.taps.outputs import dtype_of, of_outputs
from keras_initlab.taps.passes import Passes
from keras_initlab.taps.patches import Patches
from keras_initlab.taps.recorder import Output, Recorder
from keras_initlab.taps.request import BACKWARD, Request
from keras_initlab.taps.way_back import GRADIENT, of_way_back, without_gradients
from keras_initlab.taps.weights import (
    WeightTap,
    first_measured,
    known_variables,
    loss_scale,
)

CONTROL_FLOW = (StopIteration,)

try:
    from jax.extend.core import get_opaque_trace_state
except ImportError:  # Where older releases of JAX have it.
    from jax.core import get_opaque_trace_state


def why_not(model: Any) -> str | None:
    """Return why this model cannot be tapped, or None."""
    return None


class _Figures(keras.metrics.Metric):  # type: ignore[misc]
    """State that Keras's JAX trainer threads through the step, and nobody saves.

    What is seen on the way forward and on the way back has a variable each: the one is
    written within the function that is differentiated, the other after it. `before`
    has so many entries: samples of the weights before their update.
    """

    def __init__(
        self, slots: int, layouts: Sequence[running.Layout], entries: int
    ) -> None:
        super().__init__(name="initlab_figures", dtype="float32")
        self.parts = [
            self.add_variable((slots, layout.size), "zeros", layout.dtype, name=name)
            for layout, name in zip(layouts, ("forward", "backward"), strict=True)
        ]
        dtype = layouts[0].dtype
        self.before = self.add_variable((entries,), "zeros", dtype, name="before")
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

    def __init__(self, model: Any, request: Request, patches: Patches) -> None:
        self._model = model
        self._request = request
        self.recorder = Recorder(
            model, patches, context, is_dense, wanted=request.wanted
        )
        self._weights = WeightTap(request, self.recorder, context)
        self._weights.attach_stateless(model.optimizer, patches)
        # Where a step's outputs are, and the gradients that have come back to them.
        self._keys: tuple[str, ...] = ()
        self._gradients: dict[int, Any] = {}
        self._within: Any = None
        self._layouts: list[running.Layout] = []
        # Which weights are sampled before their update: path, place, length.
        self._sampled: list[tuple[str, int, int]] = []
        self._metric: _Figures | None = None
        self._train_function: Any = None
        self._looking_ahead = False
        # With a distribution, Keras fixes the number of metrics in the compiled
        # evaluation too; ours comes and goes.
        patches.set(model, "test_function", None)
        compute = model.compute_loss_and_updates
        train_step = model.train_step

        @functools.wraps(compute)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if not _training(*args, **kwargs):
                return compute(*args, **kwargs)
            exchange = self._watch() if request.gradients else None
            with self.recorder.recording(exchange):
                result = compute(*args, **kwargs)
            outputs = self.recorder.take()
            if self._looking_ahead:
                self._look_ahead(outputs)
                raise _ForwardPassSeen
            loss, (unscaled, y_pred, non_trainable, metrics) = result
            values = kwargs.get("trainable_variables", args[0] if args else ())
            loss, metrics = self._after_forward(loss, metrics, outputs, values)
            return loss, (unscaled, y_pred, non_trainable, metrics)

        # JAX caches traces by function: a new one is never mistaken for an old one.
        @functools.wraps(train_step)
        def whole(state: Any, data: Any) -> Any:
            if self._metric is None or len(self._layouts[1].entries) == 0:
                return train_step(state, data)
            self._within = context()
            with self._weights.watching():
                logs, new_state = train_step(state, data)
            return logs, self._after_update(state, new_state)

        patches.set(model, "compute_loss_and_updates", forward)
        patches.set(model, "train_step", whole)

    def run(self, state: Any, iterator: Iterator[Any]) -> Any:
        """Run what Keras made of the tapped step."""
        if self._train_function is None:
            first = next(iterator)
            state = self._prepare(state, first)
            iterator = itertools.chain([first], iterator)
        return self._train_function(state, iterator)

    def read(self) -> list[tuple[running.Layout, np.ndarray]]:
        """Return layouts and states, of shape (slots, size)."""
        if self._metric is None:
            return []
        self._model.jax_state_sync()
        return [
            (layout, np.asarray(variable.value))
            for layout, variable in zip(self._layouts, self._metric.parts, strict=True)
        ]

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
        if self._layouts:
            before = list(model.metrics_variables)
            entries = sum(length for *_, length in self._sampled)
            self._metric = _Figures(self._request.slots, self._layouts, entries)
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

    def _look_ahead(self, outputs: list[Output]) -> None:
        """Learn what a step's figures will be."""
        if not outputs:
            return
        self._keys = tuple(output.key for output in outputs)
        dtype = dtype_of(outputs)
        found, alive = of_outputs(outputs, self._request, PASSES)
        names = self._request.statistics
        entries: list[tuple[str, str]] = []
        tails: list[tuple[str, str, int]] = []
        if self._request.gradients:
            entries = [(key, "gradient_second_moment") for key in self._keys]
            if self._request.samples:
                length = figures.SAMPLED_VALUES
                tails = [(key, "gradient_sample", length) for key in self._keys]
        trained = known_variables(self._model.optimizer, None)
        for path, index in self._weights.keys(trained):
            entries += [(path, name) for name in BACKWARD[1:] if name in names]
            if "update_ratio" in names:
                weight = trained[index]  # Keras has emptied it by now.
                abstract = jax.ShapeDtypeStruct(weight.shape, weight.dtype)
                sample = jax.eval_shape(figures.sampled, abstract)
                self._sampled.append((path, index, math.prod(sample.shape)))
        self._layouts = [
            running.layout_of(found, alive, dtype),
            running.Layout(tuple(entries), tuple(tails), dtype),
        ]

    def _watch(self) -> Callable[[Any], Any]:
        """Return an identity that keeps the gradient of each array it is given."""
        calls = itertools.count()
        self._gradients = gradients = {}

        def back(index: int, _: None, gradient: Any) -> tuple[Any]:
            if context() == self._within:
                gradients[index] = gradient
            return (gradient,)

        @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
        def tapped(index: int, tensor: Any) -> Any:
            return tensor

        tapped.defvjp(lambda index, tensor: (tensor, None), back)
        return lambda tensor: tapped(next(calls), tensor)

    def _after_forward(
        self, loss: Any, metrics: Any, outputs: list[Output], values: Sequence[Any]
    ) -> tuple[Any, Any]:
        if self._metric is None:
            return loss, metrics
        outputs = [
            output._replace(tensor=jax.lax.stop_gradient(output.tensor))
            for output in outputs
        ]
        metrics = list(metrics)
        step = self._place(self._metric.step)
        state, before = map(self._place, (self._metric.parts[0], self._metric.before))

        def measured() -> Any:
            merged = self._merged(
                0,
                metrics[state],
                metrics[step],
                *of_outputs(outputs, self._request, PASSES),
            )
            samples = [
                figures.sampled(jax.lax.stop_gradient(values[index]))
                for _, index, _ in self._sampled
            ]
            old = metrics[before]
            return merged, jnp.concatenate([old[:0], *samples], dtype=old.dtype)

        metrics[state], metrics[before] = self._if_measured(
            metrics[step], measured, (metrics[state], metrics[before])
        )
        metrics[step] = metrics[step] + 1
        if self._sampled:
            # Times 1: the stamp is never negative. It makes all of the way back, and
            # with it the update, come after the samples are taken. XLA would copy
            # whole weights otherwise, to have them as they were.
            loss = loss * jnp.minimum(metrics[state][0, 0] + 1, 1).astype(loss.dtype)
        return loss, metrics

    def _after_update(self, state: Any, new_state: Any) -> Any:
        assert self._metric is not None
        gradients, self._gradients = self._gradients, {}
        updates = self._weights.take()
        optimizer = self._model.optimizer
        with keras.StatelessScope(
            list(zip(optimizer.variables, state[2], strict=True))
        ):
            scale = loss_scale(optimizer)
        metrics = list(new_state[3])
        if len(metrics) != len(state[3]):
            return new_state

        at = self._place(self._metric.parts[1])
        step = state[3][self._place(self._metric.step)]
        samples = metrics[self._place(self._metric.before)]
        ends = itertools.accumulate(length for *_, length in self._sampled)
        before = {
            path: samples[end - length : end]
            for (path, _, length), end in zip(self._sampled, ends, strict=True)
        }

        if GRADIENT in self._request.statistics:
            if_measured = functools.partial(self._if_measured, step)
            updates = without_gradients(updates, PASSES, if_measured)

        def measured() -> Any:
            steps = [
                update._replace(
                    before=before.get(update.key),
                    after=figures.sampled(update.after),
                )
                for update in updates
            ]
            found = of_way_back(
                self._keys, gradients, steps, scale, self._request, PASSES
            )
            return self._merged(1, metrics[at], step, *found)

        metrics[at] = self._if_measured(step, measured, metrics[at])
        return (*new_state[:3], metrics)

    def _merged(
        self,
        part: int,
        state: Any,
        step: Any,
        found: list[figures.Figures],
        tails: list[figures.Tails],
    ) -> Any:
        layout, window = self._layouts[part], self._request.window
        return running.updated(layout, state, found, tails, step, window)

    def _if_measured(self, step: Any, measured: Callable[[], Any], old: Any) -> Any:
        """Return what `measured` returns, in a step that is measured, else `old`."""
        every = self._request.every
        now = step % every == first_measured(self._model.optimizer, every)
        return jax.lax.cond(now, measured, lambda: old)

    def _place(self, variable: Any) -> int:
        places = {id(v): i for i, v in enumerate(self._model.metrics_variables)}
        return places[id(variable)]


def _training(*args: Any, **kwargs: Any) -> bool:
    # The seventh argument of `compute_loss_and_updates`.
    return bool(kwargs.get("training", args[6] if len(args) > 6 else False))


def is_chief() -> bool:
    """Whether this process is the one that writes for all."""
    return int(jax.process_index()) == 0


class _Passes(Passes):
    def column_means(self, rows: Any) -> Any:
        # On CPUs as a product: XLA sums columns element by element, 20 times as slow.
        if jax.default_backend() != "cpu":
            return rows.mean(axis=1)
        count, batch, _ = rows.shape
        ones = jnp.ones((count, 1, batch), rows.dtype)
        return (ones @ rows)[:, 0] / batch


PASSES = _Passes()


def context() -> Any:
    """Return what identifies the trace under way."""
    # Older releases of JAX ask for the argument, newer ones ignore it.
    return get_opaque_trace_state(convention="flax")


def is_dense(x: Any) -> bool:
    """Whether `x` is a plain tensor of this backend."""
    return isinstance(x, jax.Array)
