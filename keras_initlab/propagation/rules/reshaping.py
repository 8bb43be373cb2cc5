"""Layers that move, cut, pad or repeat values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from keras_initlab.propagation.along_axis import along, interpolation
from keras_initlab.propagation.dispatch import UnknownLayer, layer_rule
from keras_initlab.propagation.shaping import pad, repeat, reshape, take, transpose
from keras_initlab.propagation.signal import Signal

_RANKS = ("1D", "2D", "3D")


@layer_rule("Flatten")
def flatten(layer: Any, x: Signal, *, context: Any) -> Signal:
    """Return all positions and units as units."""
    return reshape(x, tuple(layer.compute_output_shape(x.shape)))


@layer_rule("Reshape")
def reshaped(layer: Any, x: Signal, *, context: Any) -> Signal:
    """Return the signal in the layer's shape."""
    return reshape(x, tuple(layer.compute_output_shape(x.shape)))


@layer_rule("Permute")
def permuted(layer: Any, x: Signal, *, context: Any) -> Signal:
    """Return the signal with its axes in another order."""
    return transpose(x, (0, *layer.dims))


@layer_rule("RepeatVector")
def repeated(layer: Any, x: Signal, *, context: Any) -> Signal:
    """Return the vector at each of n positions."""
    lifted = reshape(x, (x.shape[0], 1, *x.shape[1:]))
    return repeat(lifted.with_units((2,)), 1, layer.n)


@layer_rule("Identity", "Masking", "ActivityRegularization")
def unchanged(layer: Any, x: Signal, *_: Signal, context: Any) -> Signal:
    """Return the signal itself; masked steps are taken to be few."""
    return x


def _places(layer: Any, x: Signal) -> tuple[int, ...]:
    rank = len(x.shape)
    if getattr(layer, "data_format", None) == "channels_first":
        return tuple(range(2, rank))
    return tuple(range(1, rank - 1))


def _ends(value: Any, count: int) -> list[tuple[int, int]]:
    """Return what is cut or padded in front of and behind each axis."""
    values = value if isinstance(value, list | tuple) else [value]
    if count == 1 and len(values) == 2 and not isinstance(values[0], list | tuple):
        return [(int(values[0]), int(values[1]))]
    pairs = [v if isinstance(v, list | tuple) else (v, v) for v in values]
    return [(int(front), int(behind)) for front, behind in pairs]


@layer_rule(*(f"ZeroPadding{rank}" for rank in _RANKS))
def padded(layer: Any, x: Signal, *, context: Any) -> Signal:
    """Return the signal with zeros around it."""
    places = _places(layer, x)
    for axis, (front, behind) in zip(
        places, _ends(layer.padding, len(places)), strict=True
    ):
        x = pad(x, axis, front, behind)
    return x


@layer_rule(*(f"Cropping{rank}" for rank in _RANKS))
def cropped(layer: Any, x: Signal, *, context: Any) -> Signal:
    """Return the signal without its borders."""
    places = _places(layer, x)
    for axis, (front, behind) in zip(
        places, _ends(layer.cropping, len(places)), strict=True
    ):
        length = x.shape[axis]
        x = take(x, axis, front, length - behind if length is not None else 0)
    return x


@layer_rule(*(f"UpSampling{rank}" for rank in _RANKS))
def upsampled(layer: Any, x: Signal, *, context: Any) -> Signal:
    """Return each position several times; "bilinear" draws lines between them."""
    how = getattr(layer, "interpolation", "nearest")
    if how not in ("nearest", "bilinear"):
        raise UnknownLayer(f"UpSampling with {how!r}")
    size = layer.size if isinstance(layer.size, list | tuple) else [layer.size]
    y = x
    for axis, times in zip(_places(layer, x), size, strict=True):
        if how == "nearest":
            y = repeat(y, axis, times)
        else:
            y = along(y, axis, interpolation(x.shape[axis], times))
    return y if how == "nearest" else replace(y, lineage=x.lineage)
