"""Sizes that a layer's call needs, and that are open outside of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keras_initlab.model.graph import ASSUMED_SIZE
from keras_initlab.propagation.signal import Shape, Signal


class AssumedSizes:
    """The sizes that are assumed inside one call of a layer.

    Attributes:
        inputs: the layer's inputs, of these sizes; a signal that it is passed twice
            stays the same.
        size: what stands for the sizes that the inputs leave open, but the batch's.
    """

    def __init__(
        self,
        inputs: Sequence[Signal],
        shapes: Sequence[Shape],
        note: Callable[[Signal, Signal], None],
    ) -> None:
        """Assume those shapes for the inputs of a call.

        Args:
            inputs: the signals that the layer is called on.
            shapes: of each, inside the call.
            note: is told of each signal before and after it has got other sizes.
        """
        self._note = note
        sized: dict[int, Signal] = {}
        for x, shape in zip(inputs, shapes, strict=True):
            if x.serial not in sized:
                sized[x.serial] = self._resized(x, shape)
        self.inputs = [sized[x.serial] for x in inputs]
        sizes = (
            size
            for x, shape in zip(inputs, shapes, strict=True)
            for length, size in zip(x.shape[1:], shape[1:], strict=True)
            if length is None and size is not None
        )
        self.size: int = next(sizes, ASSUMED_SIZE)
        batches = [
            (x.shape[:1], shape[:1]) for x, shape in zip(inputs, shapes, strict=True)
        ]
        # What all inputs of the batch share has a batch of 1, which is not assumed.
        open_batches = [sizes for sizes in batches if sizes[0] == (None,)]
        self._batch, self._assumed = (open_batches or batches)[0]

    def record(self, signal: Signal | None) -> Signal | None:
        """Return the same signal with the batch's own size."""
        return None if signal is None else signal.amend(shape=self._reopened(signal))

    def outputs(
        self, outputs: Sequence[Signal], shapes: Sequence[Shape] | None
    ) -> tuple[Signal, ...]:
        """Return a call's outputs in the shapes that they have outside of it."""
        own_shapes = [self._reopened(x) for x in outputs]
        # What lacks the axis of the batch has been given one by the walk.
        fitting = [
            outside if len(outside) == len(own) else own
            for outside, own in zip(shapes or own_shapes, own_shapes, strict=True)
        ]
        return tuple(
            self._resized(x, shape) for x, shape in zip(outputs, fitting, strict=True)
        )

    def _resized(self, signal: Signal, shape: Shape) -> Signal:
        resized = signal.with_shape(shape)
        if resized is not signal:
            self._note(signal, resized)
        return resized

    def _reopened(self, signal: Signal) -> Shape:
        if signal.shape[:1] != self._assumed:
            return signal.shape
        return self._batch + signal.shape[1:]
