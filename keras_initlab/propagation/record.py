"""What a walk says of each call of a layer, and the error where it can say nothing."""

from __future__ import annotations

from dataclasses import dataclass

from keras.layers import Layer

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


def stats_keys(records: list[Record]) -> list[str]:
    """Return the key of each record, calls of a shared layer numbered."""
    return call_keys([record.path for record in records])


def fits(shape: Shape, shapes: list[Shape]) -> bool:
    """Whether a tensor has the one shape of some, as far as its sizes are known."""
    return len(shapes) == 1 == len({len(shape), len(shapes[0])}) and all(
        size in (None, own) for own, size in zip(shape, shapes[0], strict=True)
    )
