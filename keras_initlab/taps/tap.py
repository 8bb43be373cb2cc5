"""The tap of one `fit`, in place of the model's training function."""

from __future__ import annotations

import datetime
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np

from keras_initlab.model.keras_internals import (
    calling_callbacks,
    fit_frame,
    optimizer_steps,
)
from keras_initlab.stats import Shape
from keras_initlab.taps import backends
from keras_initlab.taps.accumulate import SAMPLES, Accumulator, WindowFigures
from keras_initlab.taps.guard import Guard
from keras_initlab.taps.request import BACKWARD, Request, Schedule
from keras_initlab.taps.step import TappedStep, tapped_step
from keras_initlab.taps.weights import accumulated_steps

# A model's taps, the innermost last: a callback may call `fit` within a `fit`.
_TAPS: weakref.WeakKeyDictionary[Any, list[Tap]] = weakref.WeakKeyDictionary()

# The attribute of a dispatcher that holds the function of Keras that it replaces.
_ORIGINAL = "initlab_original"


@dataclass(frozen=True)
class Row:
    """The figures of one call of a layer in a window.

    `weight` names the weight that some of the figures are of. Samples are values of
    the output, and of the gradient there, in the last batch measured.
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
    model: Any,
    request: Request,
    schedule: Schedule,
    released: Callable[[], None] = lambda: None,
) -> Tap:
    """Return a tap that measures what `request` asks for.

    `released` is called once, when the tap is removed for any reason.

    To be called in `on_train_begin`. The model itself is left alone until an epoch
    begins, as another callback may fail before that.

    Raises:
        ValueError: another monitor is attached in the same `fit`.
    """
    callbacks = calling_callbacks(model)
    taps = _TAPS.setdefault(model, [])
    for tap in [*taps]:
        if callbacks is not None and tap.belongs_to(callbacks):
            tap.detach()
            raise ValueError(
                "A model can be watched by one VarianceMonitor at a time. Received: "
                "a second one in the same `callbacks`, or the same one twice. Keep "
                "one of them, with the smaller `every`."
            )
        if not tap.is_running():
            # Its `fit` has ended unnoticed.
            tap.detach()
    tap = Tap(model, request, schedule, callbacks, released)
    taps.append(tap)
    return tap


class Tap:
    """Measures the outputs of a model's layers while it is trained."""

    def __init__(
        self,
        model: Any,
        request: Request,
        schedule: Schedule,
        callbacks: Any,
        released: Callable[[], None],
    ) -> None:
        self._backend = backends.load("VarianceMonitor")
        # Weak, so that a tap that was never detached does not keep the model alive.
        self._model = weakref.ref(model)
        self._callbacks = None if callbacks is None else weakref.ref(callbacks)
        self._request, self._schedule = request, schedule
        self._released = released
        self._open = True
        frame = fit_frame(model)
        # Its address alone: a reference to the frame would keep all its objects alive.
        self._fit = None if frame is None else (id(frame), frame.f_code)
        self._guard = Guard(self.detach, self.leave, self._backend.control_flow)
        self.unsupported: str | None = self._backend.why_not(model)
        # The training function that we put on the model, and the one that was there.
        self._dispatch: Any = None
        self._before: Any = None
        # Keras's own training function, and its measured counterpart.
        self._original: Any = None
        self._measured: TappedStep | None = None
        self._figures: Accumulator | None = None
        self._size, self._step = 1, 0
        self._together, self._offset = 1, 0
        self._due = 0.0
        if callbacks is not None:
            self._guard.watch_callbacks(callbacks)
        if frame is not None:
            self._guard.watch_epochs(frame)

    def belongs_to(self, callbacks: Any) -> bool:
        """Whether this tap was attached by one of `callbacks`."""
        return self._callbacks is not None and self._callbacks() is callbacks

    def is_running(self) -> bool:
        """Whether the `fit` of this tap is running, possibly around another one."""
        return self._fit is not None and self._is_called_by_fit(innermost=False)

    def is_around_another(self) -> bool:
        """Whether another `fit` is running within the one of this tap."""
        return self.is_running() and not self._is_called_by_fit()

    @property
    def is_chief(self) -> bool:
        """Whether this process writes for all those that train together."""
        return bool(self._backend.is_chief())

    def begin_epoch(self) -> None:
        """Drop all figures, count steps from 0, and tap the model."""
        model: Any = self._model()
        if not self._open or self.unsupported or model is None:
            return
        try:
            self._enter(model)
            assert self._measured is not None
            self._figures = Accumulator(self._measured.layouts)
            self._step = 0
        except BaseException:
            self.detach()
            raise

    def leave(self) -> None:
        """Take the tap off the model until the next epoch begins."""
        model: Any = self._model()
        entered, before, self._dispatch = self._dispatch, self._before, None
        if model is None or entered is None:
            return
        # Other code may have compiled the model in the meantime.
        if model.train_function is entered:
            model.__dict__["train_function"] = before

    def read(self) -> list[Window]:
        """Return the figures of this epoch, window by window."""
        self.leave()
        if self._figures is None:
            return []
        windows = self._figures.windows()
        return [Window(number, self._rows(windows[number])) for number in windows]

    def first(self) -> list[Row]:
        """Return what the first measured step of this epoch gave, by itself."""
        figures = None if self._figures is None else self._figures.first()
        return [] if figures is None else self._rows(figures)

    def detach(self) -> None:
        """Take the tap off the model for good; a second call does nothing."""
        if not self._open:
            return
        self._open = False
        try:
            self.leave()
        finally:
            self._guard.close()
            model = self._model()
            taps = [] if model is None else _TAPS.get(model, [])
            if self in taps:
                taps.remove(self)
            try:
                # What was measured last can still be read.
                self._released()
            finally:
                self._original = self._measured = self._figures = None

    def _enter(self, model: Any) -> None:
        if self._dispatch is not None and model.train_function is self._dispatch:
            return
        before = model.train_function
        # The dispatcher of a `fit` around this one, if that is watched too, or Keras's.
        original = getattr(before, _ORIGINAL, before)
        if self._measured is None or original is not self._original:
            self._measured = tapped_step(model, original, self._request, self._backend)
            self._original = original
            self._size = int(model.steps_per_execution)
        # Not by assignment, which Keras would track.
        self._before, self._dispatch = before, self._dispatcher(original)
        model.__dict__["train_function"] = self._dispatch
        # With accumulated gradients, only some steps update the weights: measure those.
        together = accumulated_steps(model.optimizer)
        done = 0 if together == 1 else optimizer_steps(model.optimizer)
        self._together, self._offset = together, (-1 - done) % together

    def _dispatcher(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function that `fit` calls at each step in place of `original`."""

        def dispatch(*args: Any) -> Any:
            if not self._is_called_by_fit():
                # Called by a callback, or after a `fit` that ended unnoticed.
                return original(*args)
            first = self._step
            self._step += self._size
            try:
                if not self._is_due(first):
                    return original(*args)
                return self._measure(first, args)
            except self._backend.control_flow:
                self.leave()
                raise
            except BaseException:
                self.detach()
                raise

        setattr(dispatch, _ORIGINAL, original)
        return dispatch

    def _measure(self, first: int, args: tuple[Any, ...]) -> Any:
        assert self._measured is not None
        assert self._figures is not None
        results, matrix = self._measured(*args)
        length = self._schedule.window
        # Of steps that are executed together the last one is measured.
        last = first + self._size - 1
        self._figures.add(0 if length is None else last // length, matrix)
        return results

    def _is_due(self, first: int) -> bool:
        """Whether one of the steps that are now executed together is to be measured."""
        every = self._schedule.every
        if isinstance(every, datetime.timedelta):
            last = first + self._size - 1
            now = time.monotonic()
            if now < self._due or (last - self._offset) % self._together:
                return False
            self._due = now + every.total_seconds()
            return True
        return (self._offset - first) % every < self._size

    def _is_called_by_fit(self, innermost: bool = True) -> bool:
        """Whether the current step is one of the `fit` that this tap belongs to."""
        if self._fit is None:
            return True
        address, code = self._fit
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            if id(frame) == address:
                return True
            if innermost and (
                frame.f_code is code or frame.f_code.co_name == "train_on_batch"
            ):
                return False
            frame = frame.f_back
        return False

    def _rows(self, window: WindowFigures) -> list[Row]:
        assert self._measured is not None
        layers = {place.path: place.layer for place in self._measured.recorder.places}
        rows = []
        for key, (path, shape) in window.calls.items():
            statistics = dict(window.figures.get(key, {}))
            if "mean" not in statistics:
                continue
            statistics["second_moment"] = (
                statistics["variance"] + statistics["mean"] ** 2
            )
            samples = [statistics.pop(kind, None) for kind in SAMPLES]
            of_path = window.figures.get(path, {})
            of_weight = {name: of_path[name] for name in BACKWARD if name in of_path}
            weight = self._request.weight(layers[path]) if of_weight else None
            name = None if weight is None else weight.name
            rows.append(Row(key, shape, name, {**of_weight, **statistics}, *samples))
        return rows
