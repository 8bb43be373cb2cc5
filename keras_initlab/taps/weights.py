"""Taps on the optimizer: each layer's main weight before and after its update."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from keras_initlab.model.keras_internals import (
    SUM_OVER_REPLICAS,
    inner_optimizer,
    optimized_variables,
)
from keras_initlab.taps.backends.base import Backend
from keras_initlab.taps.figures import Update, sampled
from keras_initlab.taps.patches import Patches
from keras_initlab.taps.recorder import Recorder
from keras_initlab.taps.request import Request

# From samples of weights, and gradients, to both as they are before the update.
Keep = Callable[[list[Any], list[Any]], tuple[list[Any], list[Any]]]


class _Watch:
    """What one thread sees in one step."""

    def __init__(self, within: Any) -> None:
        self.within = within
        self.updates: dict[str, Update] = {}
        self.summed: dict[int, Any] = {}


class WeightTap:
    """Records gradients, and samples of the weights before and after their update.

    Args:
        request: nothing is tapped if it asks for no statistic of weights.
        recorder: lists the layers.
        backend: identifies traces.
    """

    def __init__(self, request: Request, recorder: Recorder, backend: Backend) -> None:
        self._request = request
        self._recorder = recorder
        self._trace = backend.trace
        self._patches = Patches()
        # The last arguments of `_keys_among`, and their result.
        self._signature: tuple[int, ...] = ()
        self._keys: list[tuple[str, int]] = []
        # By thread, as in the recorder.
        self._open: dict[int, _Watch] = {}
        self._finished: dict[int, _Watch] = {}

    def ignore_traces(self) -> None:
        """Treat all as the same: to ask would break the graph of PyTorch's compiler."""
        self._trace = int

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record the optimizer's update in the current trace."""
        thread = threading.get_ident()
        self._open[thread] = _Watch(self._trace())
        try:
            with self._patches.applied():
                yield
        finally:
            self._finished[thread] = self._open.pop(thread)

    def take(self) -> list[Update]:
        """Return this thread's updates, in the order of the layers."""
        over = self._finished.pop(threading.get_ident(), None)
        return [] if over is None else list(over.updates.values())

    def attach(self, optimizer: Any, keep: Keep) -> None:
        """Tap an optimizer that updates variables in place.

        `keep` takes samples of the weights, and the gradients. It returns samples that
        the update does not change, and the gradients to update with.
        """
        if not self._request.weights:
            return

        def wrap(apply: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(apply)
            def tapped(
                grads: Any, trainable_variables: Any = None, *args: Any, **kwargs: Any
            ) -> Any:
                grads = list(grads)
                variables = list(trainable_variables or optimized_variables(optimizer))
                watch = self._watch(grads, variables)
                if watch is None:
                    return apply(grads, trainable_variables, *args, **kwargs)
                keys = self._keys_among(variables)
                samples = [sampled(variables[i].value) for _, i in keys]
                before, grads_to_apply = keep(samples, grads)
                result = apply(grads_to_apply, variables, *args, **kwargs)
                for (key, index), old in zip(keys, before, strict=True):
                    value = variables[index].value
                    gradient = watch.summed.get(id(value), grads[index])
                    _note(watch, key, gradient, old, sampled(value))
                return result

            return tapped

        self._patches.add(optimizer, "apply", wrap)

    def attach_sums(self, optimizer: Any) -> None:
        """Tap the sums of the gradients that replicas compute."""
        optimizer = inner_optimizer(optimizer)
        if not hasattr(optimizer, SUM_OVER_REPLICAS) or not self._request.weights:
            return

        def wrap(total: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(total)
            def tapped(pairs: Any) -> Any:
                summed = total(pairs)
                watch = self._open.get(threading.get_ident())
                if watch is not None and self._trace() == watch.within:
                    watch.summed = {
                        id(variable): gradient for gradient, variable in summed
                    }
                return summed

            return tapped

        self._patches.add(optimizer, SUM_OVER_REPLICAS, wrap)

    def attach_stateless(self, optimizer: Any) -> None:
        """Tap an optimizer that takes the weights' values and returns new ones."""
        if not self._request.weights:
            return

        def wrap(apply: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(apply)
            def tapped(
                optimizer_variables: Any, grads: Any, trainable_variables: Any
            ) -> Any:
                values = trainable_variables
                result = apply(optimizer_variables, grads, values)
                variables = optimized_variables(optimizer)
                watch = self._watch(grads, variables)
                if watch is not None:
                    for key, index in self._keys_among(variables):
                        old, new = sampled(values[index]), sampled(result[0][index])
                        _note(watch, key, grads[index], old, new)
                return result

            return tapped

        self._patches.add(optimizer, "stateless_apply", wrap)

    def _keys_among(self, variables: Sequence[Any]) -> list[tuple[str, int]]:
        """Return path and index of each layer whose main weight is in `variables`."""
        places = self._recorder.places
        signature = (len(places), *map(id, variables))
        if signature != self._signature:
            indices = {id(variable): index for index, variable in enumerate(variables)}
            keys = []
            for place in places:
                weight = self._request.weight(place.layer) if place.measured else None
                if id(weight) in indices:
                    keys.append((place.path, indices[id(weight)]))
            self._signature, self._keys = signature, keys
        return self._keys

    def _watch(self, grads: Any, variables: Sequence[Any]) -> _Watch | None:
        watch = self._open.get(threading.get_ident())
        if watch is None or self._trace() != watch.within:
            return None
        return watch if len(grads) == len(variables) else None


def optimizers_of(model: Any) -> list[Any]:
    """Return a model's optimizer, and those that it holds beside it, as GANs do."""
    held = [
        v for v in vars(model).values() if isinstance(v, keras.optimizers.Optimizer)
    ]
    chosen = [model.optimizer, *held] if model.optimizer is not None else held
    return list({id(optimizer): optimizer for optimizer in chosen}.values())


def _note(watch: _Watch, key: str, gradient: Any, before: Any, after: Any) -> None:
    """Record the update of a weight that has a gradient."""
    if gradient is not None:
        watch.updates[key] = Update(key, gradient, before, after)


def loss_scale(optimizer: Any) -> Any:
    """Return the loss scale that the gradients of the current step carry."""
    return 1.0 if optimizer is None else optimizer.scale_loss(1.0)


def skipped(before: Any, after: Any) -> Any:
    """Return whether an optimizer left a step out, by its loss scale around the step.

    It does so, and halves the scale, where a gradient is not finite. None where the
    scale does not change.
    """
    return None if isinstance(before, float) else after < before


def accumulated_steps(optimizer: Any) -> int:
    """Return how many steps' gradients go into one update of the weights."""
    steps = getattr(optimizer, "gradient_accumulation_steps", None)
    if steps is None:
        inner = inner_optimizer(optimizer)
        steps = getattr(inner, "gradient_accumulation_steps", None)
    return steps or 1
