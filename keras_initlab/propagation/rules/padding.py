"""Zero padding, and its opposite, cropping."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import Operation
from keras.layers import Layer

from keras_initlab.propagation.algebra.shape import pad, take
from keras_initlab.propagation.arguments import array_of, spatial_axes
from keras_initlab.propagation.context import RuleContext, UnknownLayer
from keras_initlab.propagation.dispatch import layer_rule, mirror_rule, operation_rule
from keras_initlab.propagation.mirrors import moved_by_rule
from keras_initlab.propagation.signal import Signal

_RANKS = ("1D", "2D", "3D")


def _ends(value: Any, count: int) -> list[tuple[int, int]]:
    """Return how much is cut off or padded at both ends of each axis."""
    values = value if isinstance(value, list | tuple) else [value]
    if count == 1 and len(values) == 2 and not isinstance(values[0], list | tuple):
        return [(int(values[0]), int(values[1]))]
    pairs = [v if isinstance(v, list | tuple) else (v, v) for v in values]
    return [(int(front), int(behind)) for front, behind in pairs]


@layer_rule(*(f"ZeroPadding{rank}" for rank in _RANKS))
def zero_padding(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the signal with zeros around it."""
    places, _ = spatial_axes(layer, x)
    for axis, (front, behind) in zip(
        places, _ends(layer.padding, len(places)), strict=True
    ):
        x = pad(x, axis, front, behind)
    return x


@layer_rule(*(f"Cropping{rank}" for rank in _RANKS))
def cropping(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the signal without its borders."""
    places, _ = spatial_axes(layer, x)
    for axis, (front, behind) in zip(
        places, _ends(layer.cropping, len(places)), strict=True
    ):
        length = x.shape[axis]
        x = take(x, axis, front, length - behind if length is not None else 0)
    return x


# Below any value of a signal: minus infinity, or the lowest number of a dtype.
_LOW = -1e4


@operation_rule("Pad")
def pad_operation(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return x with zeros around it, or with what no maximum is affected by."""
    args, kwargs = context.arguments
    value = array_of((args[1] if len(args) > 1 else kwargs.get("constant_values")) or 0)
    widths = np.broadcast_to(np.asarray(operation.pad_width, int), (len(x.shape), 2))
    if operation.mode != "constant" or not (np.all(value == 0) or np.all(value < _LOW)):
        raise UnknownLayer(f"padding by {operation.mode!r}, {value!r}")
    if widths[0].any():
        raise UnknownLayer("padding of the batch")
    if np.any(value):
        # Of the elements that a maximum is taken of, these are never one: all others
        # are as they were.
        sizes = zip(x.shape, widths.sum(axis=1), strict=True)
        shape = tuple(None if n is None else n + int(more) for n, more in sizes)
        return x.evolve(
            shape=shape, profile={}, parents=((x, lambda gradient: gradient),)
        )
    for axis, (front, behind) in enumerate(widths):
        x = pad(x, axis, int(front), int(behind)) if front or behind else x
    return x


mirror_rule(
    *(f"{kind}{rank}" for rank in _RANKS for kind in ("ZeroPadding", "Cropping"))
)(moved_by_rule)
