"""Taps on layers' outputs inside the compiled training step, per backend.

The only package that touches the internals of Keras's trainers. A tap is attached when
training begins, and everything it does to the model is undone by `detach`:

    tap = attach(model, Request(every=10))     # on_train_begin
    tap.reset()                                # on_epoch_begin
    windows = tap.read()                       # on_epoch_end
    tap.detach()                               # on_train_end
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keras_initlab.stats import Bounds, Shape
from keras_initlab.taps import backends, guard, running
from keras_initlab.taps.patches import Patches
from keras_initlab.taps.request import BACKWARD, Request

__all__ = ["Bounds", "Request", "Row", "Tap", "Window", "attach"]

SAMPLES = ("sample", "gradient_sample")

# A model's present tap, if any: found again when a fit was left without a word.
_TAPS: weakref.WeakKeyDictionary[Any, Tap] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Row:
    """What was measured at one call of a layer in a window.

    `weight` names the weight that some of the figures speak of. Samples are values
    of the output, and of the gradient there, in the last batch measured.
    """

    key: str
    shape: Shape
    weight: str | None
    statistics: dict[str, float]
    sample: np.ndarray | None = None
    gradient_sample: np.ndarray | None = None


@dataclass(frozen=True)
class Window:
    """A part of an epoch: its number there, from 0, and the rows in call order."""

    number: int
    rows: list[Row]


def attach(
    model: Any, request: Request, released: Callable[[], None] = lambda: None
) -> Tap:
    """Return a tap that measures what is asked for.

    `released` is called once, when the model is left as it was, for whatever reason.

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
    return Tap(model, request, callbacks, released)


class Tap:
    """Layers' outputs of one model, measured while it is trained."""

    def __init__(
        self,
        model: Any,
        request: Request,
        callbacks: Any,
        released: Callable[[], None],
    ) -> None:
        self._backend = backends.load("step", "VarianceMonitor")
        # Weak, so that a tap that nobody detached does not keep the model alive.
        self._model = weakref.ref(model)
        self._callbacks = None if callbacks is None else weakref.ref(callbacks)
        # A layer is what it is for as long as one fit takes.
        self._request = replace(request, bounds=functools.cache(request.bounds))
        self._released = released
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

    def read(self) -> list[Window]:
        """Return what was measured since the last reset, window by window.

        Of more windows than are kept, the last ones.
        """
        if self._step is None:
            return []
        found: dict[int, list[tuple[running.Layout, np.ndarray]]] = {}
        for layout, state in self._step.read():
            for vector in state:
                if vector[0] > 0:
                    found.setdefault(int(vector[0]) - 1, []).append((layout, vector))
        return [Window(one, self._rows(found[one])) for one in sorted(found)]

    def _rows(self, vectors: list[tuple[running.Layout, np.ndarray]]) -> list[Row]:
        figures = running.read(vectors)
        recorder = self._step.recorder
        places = {place.path: place.layer for place in recorder.places}
        rows = []
        for key, shape in recorder.shapes.items():
            statistics = figures.get(key, {})
            if "mean" not in statistics:
                continue
            statistics["second_moment"] = (
                statistics["variance"] + statistics["mean"] ** 2
            )
            samples = [statistics.pop(kind, None) for kind in SAMPLES]
            path = recorder.paths[key]
            known = figures.get(path, {})
            of_weight = {name: known[name] for name in BACKWARD if name in known}
            weight = self._request.weight(places[path]) if of_weight else None
            name = None if weight is None else weight.name
            rows.append(Row(key, shape, name, {**of_weight, **statistics}, *samples))
        return rows

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes for all that train together."""
        return bool(self._backend.is_chief())

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
            self._released()

    def _enter_model(self) -> None:
        model: Any = self._model()
        try:
            self._patches.set(model, "train_function", model.train_function)
            self._step = self._backend.Step(model, self._request, self._patches)
            model.train_function = self._guard.wrap(self._step.run)
            self._guard.watch_fit(model, self._patches)
        except BaseException:
            self.detach()
            raise
