"""Releases a model as soon as its running `fit` fails.

Keras calls no callback when an exception or Ctrl-C ends `fit`. So each place where that
can happen while a model is tapped is watched: the data, the other callbacks and, by the
tap itself, the training step.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import keras

from keras_initlab.model.keras_internals import BATCH_ITERATORS, epochs_of

HOOKS = (
    "on_epoch_begin",
    "on_epoch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_train_end",
    "on_test_begin",
    "on_test_batch_begin",
    "on_test_batch_end",
    "on_test_end",
)


class Guard:
    """Calls `release` when `fit` fails, wherever that shows first.

    Args:
        release: takes everything off the model for good; may be called repeatedly.
        leave: takes everything off the model until the next epoch.
        control_flow: exceptions that only signal the end of the data.
    """

    def __init__(
        self,
        release: Callable[[], None],
        leave: Callable[[], None],
        control_flow: tuple[type[BaseException], ...],
    ) -> None:
        self._release = release
        self._leave = leave
        self._control_flow = control_flow
        self._watched: list[tuple[weakref.ref[Any], str]] = []

    def watch_callbacks(self, callbacks: Any) -> None:
        """Release when another callback raises, or when the callbacks are deleted."""
        for name in HOOKS:
            self._watch(callbacks, name, self._raising)
        # For what slips through, such as Ctrl-C between two steps.
        weakref.finalize(callbacks, self._release).atexit = False

    def watch_epochs(self, fit: FrameType) -> None:
        """Release when the data of a running `fit` fails; leave when it ends."""
        epochs = epochs_of(fit)
        if epochs is not None:
            for name in BATCH_ITERATORS[keras.backend.backend()]:
                self._watch(epochs, name, self._iterating)

    def close(self) -> None:
        """Stop watching."""
        while self._watched:
            reference, name = self._watched.pop()
            owner = reference()
            if owner is not None:
                owner.__dict__.pop(name, None)

    def _watch(
        self, owner: Any, name: str, wrap: Callable[[Callable[..., Any]], Any]
    ) -> None:
        if name in owner.__dict__:
            return
        owner.__dict__[name] = wrap(_late_bound(weakref.ref(owner), name))
        self._watched.append((weakref.ref(owner), name))

    def _raising(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, which then releases when it raises."""

        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except self._control_flow:
                raise
            except BaseException:
                self._release()
                raise

        return guarded

    def _iterating(self, function: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        """Return `function`, whose iterator then releases when it raises."""

        def guarded(iterator: Iterator[Any]) -> Iterator[Any]:
            try:
                yield from iterator
                self._leave()
            except self._control_flow:
                self._leave()
                raise
            except GeneratorExit:
                raise
            except BaseException:
                self._release()
                raise

        @functools.wraps(function)
        def make(*args: Any, **kwargs: Any) -> Iterator[Any]:
            # Not at the first item, but now: PyTorch's loaders draw their seeds here.
            return guarded(iter(function(*args, **kwargs)))

        return make


def _late_bound(reference: weakref.ref[Any], name: str) -> Callable[..., Any]:
    # A bound method in its owner's __dict__ would be a cycle, and the owner would
    # live on until the next garbage collection.
    def method(*args: Any, **kwargs: Any) -> Any:
        owner = reference()
        return getattr(type(owner), name)(owner, *args, **kwargs)

    return method
