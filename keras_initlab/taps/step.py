"""The measured step: a second training step of a model, whose layers are tapped."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import MethodType
from typing import Any

from keras_initlab.taps.backends.base import Backend
from keras_initlab.taps.figures import Layout, Update, packed
from keras_initlab.taps.gradients import of_gradients
from keras_initlab.taps.outputs import needs_sums, of_outputs, sums
from keras_initlab.taps.patches import Patches
from keras_initlab.taps.recorder import Output, Recorder
from keras_initlab.taps.request import Request
from keras_initlab.taps.weights import WeightTap

# The attribute of Keras's training function that holds its tapped counterpart.
_NAME = "initlab_tapped_step"


class TappedStep:
    """A function that does what Keras's training function does, and measures.

    Keras builds it as it builds its own, from a `train_step` that is tapped while it is
    traced (or run eagerly). Between calls the model is unchanged.

    Attributes:
        recorder: of the layers' outputs.
        passes: over outputs and gradients; a backend's `tap` may choose others.
        layouts: those of the vectors; a vector's first entry is the index of its own.
    """

    def __init__(self, model: Any, request: Request, backend: Backend) -> None:
        self._backend = backend
        self.recorder = Recorder(model, backend, wanted=request.wanted)
        # A layer's range is read once for as long as the compiled step is used. It may
        # depend on weights, which cannot be read while a step is traced.
        bounds = functools.cache(request.bounds)
        for place in self.recorder.places:
            if place.measured and "saturated_fraction" in request.statistics:
                bounds(place.layer)
        self.request = replace(request, bounds=bounds)
        self.passes = backend.passes
        self.layouts: list[Layout] = []
        self.weights = WeightTap(self.request, self.recorder, backend)
        # On the model while the function is built or called. On the layers and the
        # optimizer only while the step is traced, or run eagerly.
        self._on_model = Patches()
        backend.tap(self, model, self._on_model)
        self._function = self._build_function(model)

    def __call__(self, *args: Any) -> tuple[Any, Any]:
        """Return what Keras's own function would, and the figures as a matrix.

        Its rows are the vectors of the replicas; it is empty where no layer was called.
        """
        with self._on_model.applied():
            return self._backend.split(self._function(*args))

    @contextmanager
    def tapping(self, exchange: Callable[[Any], Any] | None = None) -> Iterator[None]:
        """Tap the layers and the optimizer in the current trace."""
        with ExitStack() as stack:
            stack.enter_context(self.recorder.recording(exchange))
            stack.enter_context(self.weights.watching())
            yield

    def take(self) -> tuple[list[Output], list[Update]]:
        """Return what was recorded while tapping."""
        calls = self.recorder.take()
        return self.recorder.outputs(calls), self.weights.take()

    def figures(
        self,
        outputs: Sequence[Output],
        updates: Sequence[Update],
        gradients: Mapping[int, Any],
        scale: Any,
        skipped: Any = None,
    ) -> Any:
        """Return the figures of a step as a matrix, a row for each replica.

        Args:
            outputs: as the recorder returns them.
            updates: as the weight tap returns them.
            gradients: those at the outputs, by the output's index, where there is one.
            scale: the loss scale that gradients carry.
            skipped: whether the optimizer left the step out, as its gradients were not
                finite; None if it never does.
        """
        backend, request, passes = self._backend, self.request, self.passes
        across = None
        replicas = backend.replicas()
        if replicas > 1 and needs_sums(outputs, request):
            total = backend.sum_over_replicas(sums(outputs, request, passes))
            across = total, replicas
        figures, tails = of_outputs(outputs, request, passes, across)
        keys = [output.key for output in outputs]
        dense = {index: backend.dense(x) for index, x in gradients.items()}
        updates = [
            update._replace(gradient=backend.dense(update.gradient))
            for update in updates
        ]
        more, ends = of_gradients(keys, dense, updates, scale, request, passes)
        if skipped is not None:
            more = [figure.unless(skipped) for figure in more]
        figures, tails = figures + more, tails + ends
        layout = Layout.of(outputs, figures, tails)
        if layout not in self.layouts:
            self.layouts.append(layout)
        return backend.gather(
            packed(layout, float(self.layouts.index(layout)), figures, tails)
        )

    def _build_function(self, model: Any) -> Callable[..., Any]:
        """Let Keras build its training function once more, from the tapped step."""
        original = model.train_function
        with self._on_model.applied():
            # Not by assignment, which Keras would track.
            model.__dict__["train_function"] = None
            try:
                model.make_train_function()
                function: Callable[..., Any] = model.train_function
            finally:
                model.__dict__["train_function"] = original
        return function


def tapped_step(
    model: Any, original: Any, request: Request, backend: Backend
) -> TappedStep:
    """Return the measured counterpart of `original`, Keras's training function.

    It is reused as long as Keras keeps `original` and neither the layers nor the
    request change, so that nothing is traced or compiled again.
    """
    cached: tuple[Any, TappedStep] | None = getattr(original, _NAME, None)
    key = (request, Recorder.layers_of(model), id(model.optimizer))
    if cached is not None and cached[0] == key:
        return cached[1]
    step = TappedStep(model, request, backend)
    if not isinstance(original, MethodType):
        # The step then lives exactly as long as the function.
        original.__dict__[_NAME] = key, step
    return step
