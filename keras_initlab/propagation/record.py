"""The record of each call of a layer in a walk, and the errors of a walk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keras.layers import Layer

from keras_initlab.model.graph import ASSUMED_SIZE, Call
from keras_initlab.model.layers import call_keys
from keras_initlab.propagation.signal import Shape, Signal


@dataclass(eq=False)
class Record:
    """One call of a layer, and the signal that it returned first.

    `measured` says that the layer had no rule, or its activation none.
    """

    layer: Layer
    path: str
    signal: Signal | None
    measured: bool = False


class PropagationError(ValueError):
    """A layer's signal could not be predicted; the message names the layer."""


class OperationError(PropagationError):
    """A bare operation's signal could not be predicted."""


def operation_failure(call: Call, error: Exception) -> OperationError:
    """Return the error that says which bare operation failed."""
    return OperationError(
        f"The signal through the operation {call.path!r} "
        f"({type(call.operation).__name__}) could not be predicted. Received: "
        f"{type(error).__name__}: {error}. Put the operation into a layer, and give "
        "that a rule; see keras_initlab.propagation.output_moments."
    )


def failure(
    layer: Layer, path: str, error: Exception, refusal: str | None
) -> PropagationError:
    """Return the error that says which layer failed, and why it was run as a whole."""
    why = f" It was run as a whole: {refusal}." if refusal else ""
    return PropagationError(
        f"The signal through layer {path!r} ({type(layer).__name__}) could not be "
        f"predicted. Received: {type(error).__name__}: {error}.{why} If the rule is "
        "your own, mend it; see keras_initlab.propagation.output_moments."
    )


def stats_keys(records: list[Record]) -> list[str]:
    """Return the key of each record, calls of a shared layer numbered."""
    return call_keys([record.path for record in records])


def reopened(shape: Shape, assumed: Shape, batch: Shape) -> Shape:
    """Return a shape with the batch in place of one that was assumed."""
    return batch + shape[1:] if shape[:1] == assumed else shape


def size_assumed(inputs: Sequence[Signal], assumed: Sequence[Shape]) -> int:
    """Return the size that was assumed for those that inputs leave open."""
    sizes = (
        size
        for x, shape in zip(inputs, assumed, strict=True)
        for length, size in zip(x.shape[1:], shape[1:], strict=True)
        if length is None and size is not None
    )
    return next(sizes, ASSUMED_SIZE)


def fits(shape: Shape, shapes: list[Shape]) -> bool:
    """Whether a tensor has the one shape of some, as far as its sizes are known."""
    return len(shapes) == 1 == len({len(shape), len(shapes[0])}) and all(
        size in (None, length) for length, size in zip(shape, shapes[0], strict=True)
    )
