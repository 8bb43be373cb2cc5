"""Lets go of a model as soon as the `fit` under way fails.

Keras calls no callback when `fit` is left by an exception or Ctrl-C, so each place that
`fit` can be left from is watched: the training step, the data, the validation, and
the other callbacks.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import keras

from keras_initlab.taps.patches import Patches

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
        release: takes everything off the model; called once or more.
        control_flow: exceptions that only say that the data has come to its end.
    """

    def __init__(
        self,
        release: Callable[[], None],
        control_flow: tuple[type[BaseException], ...],
    ) -> None:
        self._release = release
        self._control_flow = control_flow

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, releasing where it raises."""

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

    def iterate(self, function: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        """Return `function`, which makes an iterator, releasing where that raises."""

        def guarded(iterator: Iterator[Any]) -> Iterator[Any]:
            try:
                yield from iterator
            except self._control_flow:
                raise
            except GeneratorExit:
                raise
            except BaseException:
                self._release()
                raise

        @functools.wraps(function)
        def make(*args: Any, **kwargs: Any) -> Iterator[Any]:
            # Made at once, not at the first item: PyTorch's loaders draw seeds here.
            return guarded(iter(function(*args, **kwargs)))

        return make

    def watch_callbacks(self, callbacks: Any, patches: Patches) -> None:
        """Release when another callback raises, or when `fit` drops its callbacks."""
        reference = weakref.ref(callbacks)
        for name in HOOKS:
            patches.set(callbacks, name, self.wrap(_late_bound(reference, name)))
        # For what slips through, such as Ctrl-C between two steps.
        weakref.finalize(callbacks, self._release).atexit = False

    def watch_fit(self, model: Any, patches: Patches) -> None:
        """Release when the validation or the data of the running `fit` raise."""
        evaluate = model.evaluate
        validate = self.wrap(evaluate)

        @functools.wraps(evaluate)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            # Only `fit` says this; a callback may catch what its own call raises.
            within_fit = kwargs.get("_use_cached_eval_dataset", False)
            return (validate if within_fit else evaluate)(*args, **kwargs)

        patches.set(model, "evaluate", guarded)
        epochs = running_epochs(model)
        if epochs is None:
            return
        names = ["_enumerate_iterator"]
        if keras.backend.backend() == "torch":
            # The other backends draw their data within the training step.
            names.append("_get_iterator")
        for name in names:
            reference = weakref.ref(epochs)
            patches.set(epochs, name, self.iterate(_late_bound(reference, name)))


def _late_bound(reference: weakref.ref[Any], name: str) -> Callable[..., Any]:
    # A bound method in its owner's __dict__ would be a cycle, and the owner would
    # live on until the next garbage collection.
    def method(*args: Any, **kwargs: Any) -> Any:
        owner = reference()
        return getattr(type(owner), name)(owner, *args, **kwargs)

    return method


def calling_callbacks(model: Any) -> Any:
    """Return the CallbackList of `model` that is calling its callbacks, or None."""
    for frame in _frames():
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList):
            return owner if owner.model is model else None
    return None


def running_epochs(model: Any) -> Any:
    """Return the iterator over epochs of the `fit` of `model` under way, or None."""
    for frame in _frames():
        if frame.f_code.co_name == "fit" and frame.f_locals.get("self") is model:
            return frame.f_locals.get("epoch_iterator")
    return None


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back
