"""Collects layers' outputs while a training step is traced or run."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras

from keras_initlab.model.keras_internals import is_shape_inference, with_notes_of
from keras_initlab.model.layers import (
    Place,
    call_keys,
    inside,
    places,
    rematerialized,
)
from keras_initlab.taps.backends.base import Backend
from keras_initlab.taps.patches import Patches


class Output(NamedTuple):
    """The output of one call of a layer, within a recorded step."""

    key: str
    tensor: Any
    layer: Any
    path: str


class _Recording:
    """What one thread records in one step."""

    def __init__(self, within: Any, exchange: Callable[[Any], Any] | None) -> None:
        self.within = within
        self.exchange = exchange
        self.calls: list[tuple[str, Any]] = []
        self.foreign: set[str] = set()


class Recorder:
    """Wraps the `call` of a model's layers while a step is recorded.

    Args:
        model: the model whose layers are wrapped.
        backend: identifies tensors and traces. A tensor of another trace than the
            step's (a loop's body, a vmap) would leak out of it, and is left alone.
        who: the subject of warnings.
        wanted: whether a layer, given with its path, is to be recorded.
    """

    def __init__(
        self,
        model: Any,
        backend: Backend,
        who: str = "VarianceMonitor",
        wanted: Callable[[Any, str], bool] = lambda layer, path: True,
    ) -> None:
        self._trace = backend.trace
        self._thread: Callable[[], int] = threading.get_ident
        self._is_tensor = backend.is_tensor
        self._who = who
        self._wanted = wanted
        # By thread: the replicas of a step take turns, each in its own thread.
        self._open: dict[int, _Recording] = {}
        self._finished: dict[int, _Recording] = {}
        self._warned: set[str] = set()
        self._places: list[Place] = []
        self._patches = Patches()
        if not model.built:
            # Layers that the model's `build` creates are found through it.
            self._wrap(Place(model, "", False))
        for place in places(model):
            self._wrap(place)

    @staticmethod
    def layers_of(model: Any) -> tuple[int, ...]:
        """Return a key that differs between two sets of layers."""
        return tuple(id(place.layer) for place in places(model))

    def ignore_threads_and_traces(self) -> None:
        """Treat all as the same: to ask would break the graph of PyTorch's compiler."""
        self._trace = self._thread = int

    @contextmanager
    def recording(self, exchange: Callable[[Any], Any] | None = None) -> Iterator[None]:
        """Record the outputs that this thread computes in the current trace.

        Each recorded tensor is first given to `exchange`, whose result takes its place
        in the computation.
        """
        thread = self._thread()
        self._open[thread] = _Recording(self._trace(), exchange)
        try:
            with self._patches.applied():
                yield
        finally:
            self._finished[thread] = self._open.pop(thread)

    def take(self) -> list[tuple[str, Any]]:
        """Return path and tensor of each call, in the order in which they ended."""
        over = self._finished.pop(self._thread(), None)
        if over is None:
            return []
        paths = {path for path, _ in over.calls}
        self._warn_of(over.foreign.difference(paths, self._warned))
        return over.calls

    def outputs(self, calls: list[tuple[str, Any]]) -> list[Output]:
        """Return the calls of a step with a key for each."""
        layers = {place.path: place.layer for place in self._places}
        keys = call_keys([path for path, _ in calls])
        return [
            Output(key, tensor, layers[path], path)
            for key, (path, tensor) in zip(keys, calls, strict=True)
        ]

    @property
    def places(self) -> list[Place]:
        """The layers found so far; the `measured` ones are recorded."""
        return list(self._places)

    def _wrap(self, place: Place) -> None:
        layer = place.layer
        if place.measured and not self._wanted(layer, place.path):
            place = place._replace(measured=False)
        self._places.append(place)
        late = not layer.built
        if not place.measured and not late:
            return
        if rematerialized(layer):
            # Outside the rematerialisation, within which everything is computed twice.
            wrap = functools.partial(self._around_remat, place=place, late=late)
            self._patches.add(layer, "rematerialized_call", wrap)
            return
        quantized = getattr(layer, "quantization_mode", None) is not None
        wrap = functools.partial(self._around, place=place, late=late)
        self._patches.add(layer, "quantized_call" if quantized else "call", wrap)

    def _around(
        self, call: Callable[..., Any], place: Place, late: bool
    ) -> Callable[..., Any]:
        # Keras reads the signature of `call`, which `wraps` preserves.
        @functools.wraps(call)
        def tapped(*args: Any, **kwargs: Any) -> Any:
            recording = self._open.get(self._thread())
            if recording is None:
                return call(*args, **kwargs)
            if late:
                for sublayer in list(inside(place, self._places)):
                    self._wrap(sublayer)
            outputs = call(*args, **kwargs)
            if not place.measured:
                return outputs
            return self._record(recording, place.path, outputs)

        return tapped

    def _around_remat(
        self, wrap: Callable[..., Any], place: Place, late: bool
    ) -> Callable[..., Any]:
        @functools.wraps(wrap)
        def tapped(*args: Any, **kwargs: Any) -> Any:
            return self._around(wrap(*args, **kwargs), place, late=False)

        return tapped

    def _record(self, recording: _Recording, path: str, outputs: Any) -> Any:
        if is_shape_inference():
            # Not the step itself: Keras infers shapes, as when it builds a layer.
            return outputs
        flat = keras.tree.flatten(outputs)
        index = self._first_float(flat)
        if index is None:
            return outputs
        if self._trace() != recording.within:
            recording.foreign.add(path)
            return outputs
        if recording.exchange is not None:
            # By index: an RNN returns one tensor both as its output and as its state.
            flat[index] = with_notes_of(flat[index], recording.exchange(flat[index]))
            outputs = keras.tree.pack_sequence_as(outputs, flat)
        recording.calls.append((path, flat[index]))
        return outputs

    def _first_float(self, flat: list[Any]) -> int | None:
        for index, x in enumerate(flat):
            if self._is_tensor(x) and keras.backend.is_float_dtype(
                keras.backend.standardize_dtype(x.dtype)
            ):
                return index
        return None

    def _warn_of(self, paths: set[str]) -> None:
        self._warned |= paths
        if paths:
            warnings.warn(
                f"{self._who} does not measure layers that run inside a loop, a "
                "vmap, a rematerialised or a separately compiled function. Not "
                f"measured: {', '.join(sorted(paths))}. The layer around them is.",
                stacklevel=2,
            )
