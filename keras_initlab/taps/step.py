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

# Where it stands on the function that Keras made, and which is of the same model.
_NAME = "initlab_tapped_step"


class TappedStep:
    """A function that does what Keras's training function does, and measures.

    Keras makes it as it makes its own, of a `train_step` that is tapped while it is
    traced (or run eagerly). Nothing is on the model between its calls.

    Attributes:
        recorder: knows the layers.
        passes: over outputs and gradients; a backend's `tap` may choose others.
        layouts: what the vectors hold: the first entry of a vector is an index here.
    """

    def __init__(self, model: Any, request: Request, backend: Backend) -> None:
        self._backend = backend
        self.recorder = Recorder(model, backend, wanted=request.wanted)
        # A layer's range is that for as long as what is compiled is in use. It may
        # depend on weights, which cannot be read while a step is traced.
        bounds = functools.cache(request.bounds)
        for place in self.recorder.places:
            if place.measured and "saturated_fraction" in request.statistics:
                bounds(place.layer)
        self.request = replace(request, bounds=bounds)
        self.passes = backend.passes
        self.layouts: list[Layout] = []
        self.weights = WeightTap(self.request, self.recorder, backend)
        # On the model while the function is made and called; on the layers and the
        # optimizer while what Keras compiles, or runs eagerly, is in it.
        self._on_model = Patches()
        backend.tap(self, model, self._on_model)
        self._function = self._made(model)

    def __call__(self, *args: Any) -> tuple[Any, Any]:
        """Return what Keras's own function would, and the figures as a matrix.

        Its rows are the vectors of the replicas; it is empty where no layer was called.
        """
        with self._on_model.applied():
            return self._backend.split(self._function(*args))

    @contextmanager
    def tapping(self, exchange: Callable[[Any], Any] | None = None) -> Iterator[None]:
        """Tap the layers, in the trace that is open now, and the optimizer."""
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
            outputs: what was recorded.
            updates: what was seen of the weights.
            gradients: of the outputs, by their index, where one reached them.
            scale: the loss scale that gradients carry.
            skipped: whether the optimizer left the step out, as its gradients were not
                finite; None if it never does.
        """
        backend, request, passes = self._backend, self.request, self.passes
        across = None
        replicas = backend.replicas()
        if replicas > 1 and needs_sums(outputs, request):
            own = sums(outputs, request, passes)
            across = backend.sum_over_replicas(own), replicas
        figures, tails = of_outputs(outputs, request, passes, across)
        keys = [output.key for output in outputs]
        dense = {index: backend.dense(one) for index, one in gradients.items()}
        updates = [
            one._replace(gradient=backend.dense(one.gradient)) for one in updates
        ]
        more, ends = of_gradients(keys, dense, updates, scale, request, passes)
        if skipped is not None:
            more = [one.unless(skipped) for one in more]
        figures, tails = figures + more, tails + ends
        layout = Layout.of(outputs, figures, tails)
        if layout not in self.layouts:
            self.layouts.append(layout)
        return backend.gather(
            packed(layout, float(self.layouts.index(layout)), figures, tails)
        )

    def _made(self, model: Any) -> Callable[..., Any]:
        """Let Keras make its training function once more, of the tapped step."""
        own = model.train_function
        with self._on_model.applied():
            # Not by assignment, which Keras would track.
            model.__dict__["train_function"] = None
            try:
                model.make_train_function()
                made: Callable[..., Any] = model.train_function
            finally:
                model.__dict__["train_function"] = own
        return made


def tapped_step(model: Any, own: Any, request: Request, backend: Backend) -> TappedStep:
    """Return the measured step of a model, of which Keras made the function `own`.

    The same one for as long as Keras keeps its own, if the layers and what is asked of
    them are the same, so that nothing is traced or compiled again.
    """
    kept: tuple[Any, TappedStep] | None = getattr(own, _NAME, None)
    key = (request, Recorder.layers_of(model), id(model.optimizer))
    if kept is not None and kept[0] == key:
        return kept[1]
    step = TappedStep(model, request, backend)
    if not isinstance(own, MethodType):
        # There it lives and dies with it.
        own.__dict__[_NAME] = key, step
    return step
