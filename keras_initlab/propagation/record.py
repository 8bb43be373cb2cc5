"""The record of each call of a layer in a walk, and the errors of a walk."""

from __future__ import annotations

from dataclasses import dataclass

from keras.layers import Layer

from keras_initlab.model.graph import Call
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


def fits(shape: Shape, shapes: list[Shape]) -> bool:
    """Whether a tensor has the one shape of some, as far as its sizes are known."""
    return len(shapes) == 1 == len({len(shape), len(shapes[0])}) and all(
        size in (None, length) for length, size in zip(shape, shapes[0], strict=True)
    )
