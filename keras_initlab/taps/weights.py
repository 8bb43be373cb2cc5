"""Taps on the optimizer: each layer's main weight before and after its update."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from keras_initlab.taps.figures import Update, sampled
from keras_initlab.taps.patches import Patches
from keras_initlab.taps.recorder import Recorder
from keras_initlab.taps.request import Request


class _Watch:
    """What one thread sees in one step."""

    def __init__(self, within: Any) -> None:
        self.within = within
        self.updates: dict[str, Update] = {}
        self.summed: dict[int, Any] = {}

    def note(self, key: str, gradient: Any, before: Any, after: Any) -> None:
        """Keep what happened to a weight, if it has a gradient at all."""
        if gradient is not None:
            self.updates[key] = Update(key, gradient, before, after)


class WeightTap:
    """Sees what the optimizer is given, and what it makes of the weights.

    Args:
        request: what is measured; nothing is tapped if no weights are asked for.
        recorder: knows the layers.
        context: returns what identifies the trace under way, as for the recorder.
    """

    def __init__(
        self, request: Request, recorder: Recorder, context: Callable[[], Any]
    ) -> None:
        self._request = request
        self._recorder = recorder
        self._context = context
        # What `keys` was asked last, and what it said.
        self._asked: tuple[int, ...] = ()
        self._keys: list[tuple[str, int]] = []
        # By thread, as the recorder's.
        self._open: dict[int, _Watch] = {}
        self._over: dict[int, _Watch] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take down what the optimizer does in the trace that is open now."""
        thread = threading.get_ident()
        self._open[thread] = _Watch(self._context())
        try:
            yield
        finally:
            self._over[thread] = self._open.pop(thread)

    def take(self) -> list[Update]:
        """Return what this thread saw, in the order of the layers."""
        over = self._over.pop(threading.get_ident(), None)
        return [] if over is None else list(over.updates.values())

    def keys(self, variables: Sequence[Any]) -> list[tuple[str, int]]:
        """Return the layers whose main weight is in `variables`, and where there."""
        if not self._request.weights:
            return []
        asked = (len(self._recorder.places), *map(id, variables))
        if asked != self._asked:
            places = {id(variable): index for index, variable in enumerate(variables)}
            found = []
            for place in self._recorder.places:
                weight = self._request.weight(place.layer) if place.measured else None
                if id(weight) in places:
                    found.append((place.path, places[id(weight)]))
            self._asked, self._keys = asked, found
        return self._keys

    def attach(
        self,
        optimizer: Any,
        patches: Patches,
        keep: Callable[[list[Any], list[Any]], tuple[list[Any], list[Any]]],
    ) -> None:
        """Tap an optimizer that updates variables in place.

        `keep` is given weights and gradients; it returns samples of the weights that
        the update does not change, and the gradients to update by.
        """
        if optimizer is None or not self._request.weights:
            return
        apply = optimizer.apply

        @functools.wraps(apply)
        def tapped(grads: Any, trainable_variables: Any = None) -> Any:
            grads = list(grads)
            variables = known_variables(optimizer, trainable_variables)
            watch = self._watch(grads, variables)
            if watch is None:
                return apply(grads, trainable_variables)
            keys = self.keys(variables)
            before, given = keep([variables[i].value for _, i in keys], grads)
            result = apply(given, variables)
            for (key, index), old in zip(keys, before, strict=True):
                value = variables[index].value
                whole = watch.summed.get(id(value), grads[index])
                watch.note(key, whole, old, sampled(value))
            return result

        patches.set(optimizer, "apply", tapped)

    def attach_sums(self, optimizer: Any, patches: Patches) -> None:
        """Tap what gradients sum up to over replicas that each have their own."""
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        total = getattr(optimizer, "_all_reduce_sum_gradients", None)
        if total is None or not self._request.weights:
            return

        @functools.wraps(total)
        def tapped(pairs: Any) -> Any:
            summed = total(pairs)
            watch = self._open.get(threading.get_ident())
            if watch is not None and self._context() == watch.within:
                watch.summed = {id(variable): one for one, variable in summed}
            return summed

        patches.set(optimizer, "_all_reduce_sum_gradients", tapped)

    def attach_stateless(self, optimizer: Any, patches: Patches) -> None:
        """Tap an optimizer that is handed the values and returns new ones.

        The updates have the whole of the weight after, and nothing of it before.
        """
        if optimizer is None or not self._request.weights:
            return
        apply = optimizer.stateless_apply

        @functools.wraps(apply)
        def tapped(optimizer_variables: Any, grads: Any, values: Any) -> Any:
            result = apply(optimizer_variables, grads, values)
            variables = known_variables(optimizer, None)
            watch = self._watch(grads, variables)
            if watch is not None:
                for key, index in self.keys(variables):
                    watch.note(key, grads[index], None, result[0][index])
            return result

        patches.set(optimizer, "stateless_apply", tapped)

    def _watch(self, grads: Any, variables: Sequence[Any]) -> _Watch | None:
        watch = self._open.get(threading.get_ident())
        if watch is None or self._context() != watch.within:
            return None
        return watch if len(grads) == len(variables) else None


def known_variables(optimizer: Any, given: Any) -> list[Any]:
    """Return the variables that an optimizer updates, in its order."""
    if given is None:
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        given = getattr(inner, "_trainable_variables", None) or []
    return list(given)


def loss_scale(optimizer: Any) -> Any:
    """Return the factor that the gradients of the step under way carry."""
    return 1.0 if optimizer is None else optimizer.scale_loss(1.0)


def first_measured(optimizer: Any, every: int) -> int:
    """Return the first step of an epoch that is measured.

    With accumulated gradients one in which the weights are updated.
    """
    steps = getattr(optimizer, "gradient_accumulation_steps", None)
    if steps is None:
        inner = getattr(optimizer, "inner_optimizer", None)
        steps = getattr(inner, "gradient_accumulation_steps", None)
    return ((steps or 1) - 1) % every
