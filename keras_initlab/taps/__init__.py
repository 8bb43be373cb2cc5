"""Taps on layers' outputs inside the compiled training step, per backend.

The only package that touches the internals of Keras's trainers. A tap is attached when
training begins, and everything it does to the model is undone by `detach`:

    tap = attach(model, every=10)     # on_train_begin
    tap.reset()                       # on_epoch_begin
    rows = tap.read()                 # on_epoch_end
    tap.detach()                      # on_train_end
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_initlab.stats import Shape
from keras_initlab.taps import backends, guard, running
from keras_initlab.taps.patches import Patches

__all__ = ["Row", "Tap", "attach"]

# A model's present tap, if any: found again when a fit was left without a word.
_TAPS: weakref.WeakKeyDictionary[Any, Tap] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Row:
    """What was measured at one call of a layer since the last reset."""

    key: str
    shape: Shape
    statistics: dict[str, Any]


def attach(model: Any, every: int) -> Tap:
    """Return a tap that measures every `every`-th step of each epoch.

    Called while the callbacks' `on_train_begin` runs. The model itself is left alone
    until the first `reset`: another callback may still fail before.

    Raises:
        ValueError: another monitor is attached in the same `fit`.
    """
    callbacks = guard.calling_callbacks(model)
    stale = _TAPS.get(model)
    if stale is not None:
        stale.detach()
        if callbacks is not None and stale.belongs_to(callbacks):
            raise ValueError(
                "A model can be watched by one VarianceMonitor at a time. Received: "
                "a second one in the same `callbacks`. Keep one of them, with the "
                "smaller `every`."
            )
    return Tap(model, every, callbacks)


class Tap:
    """Layers' outputs of one model, measured while it is trained."""

    def __init__(self, model: Any, every: int, callbacks: Any) -> None:
        self._backend = backends.load("step", "VarianceMonitor")
        # Weak, so that a tap that nobody detached does not keep the model alive.
        self._model = weakref.ref(model)
        self._callbacks = None if callbacks is None else weakref.ref(callbacks)
        self._every = every
        self._step: Any = None
        self._patches = Patches()
        self._guard = guard.Guard(self.detach, self._backend.CONTROL_FLOW)
        self._open = True
        self.unsupported: str | None = self._backend.why_not(model)
        _TAPS[model] = self
        if callbacks is not None:
            self._guard.watch_callbacks(callbacks, self._patches)

    def belongs_to(self, callbacks: Any) -> bool:
        """Whether this tap was attached by one of `callbacks`."""
        return self._callbacks is not None and self._callbacks() is callbacks

    def reset(self) -> None:
        """Begin an epoch: forget what was measured, and count steps from 0."""
        if not self._open or self.unsupported:
            return
        if self._step is None:
            self._enter_model()
        self._step.reset()

    def read(self) -> list[Row]:
        """Return what was measured since the last reset, in call order."""
        if self._step is None:
            return []
        found: dict[str, np.ndarray] = {}
        for keys, rows in self._step.read():
            for key, row in zip(keys, rows, strict=True):
                known = found.get(key)
                if known is not None:
                    merged = running.merge(known[None], row[None])
                    row = keras.ops.convert_to_numpy(merged)[0]
                found[key] = row
        shapes = self._step.recorder.shapes
        return [
            Row(key, shapes[key], _statistics(row))
            for key, row in found.items()
            if row[0] > 0
        ]

    def detach(self) -> None:
        """Leave the model as it was found; the second time does nothing."""
        if not self._open:
            return
        self._open = False
        try:
            if self._step is not None:
                self._step.close()
        finally:
            self._step = None
            self._patches.undo()
            model = self._model()
            if model is not None and _TAPS.get(model) is self:
                del _TAPS[model]

    def _enter_model(self) -> None:
        model: Any = self._model()
        try:
            self._patches.set(model, "train_function", model.train_function)
            self._step = self._backend.Step(model, self._every, self._patches)
            model.train_function = self._guard.wrap(self._step.run)
            self._guard.watch_fit(model, self._patches)
        except BaseException:
            self.detach()
            raise


def _statistics(row: np.ndarray) -> dict[str, Any]:
    _, mean, variance = map(float, row)
    return {
        "mean": mean,
        "variance": variance,
        "second_moment": variance + mean**2,
    }
