"""Pooling: layers and operations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
from keras import Operation
from keras.layers import Layer

from keras_initlab.propagation.algebra.along_axis import (
    AlongAxis,
    adaptive_means,
    along,
    window_means,
)
from keras_initlab.propagation.algebra.maximum import maximum
from keras_initlab.propagation.algebra.mirrors import mirror_of_maximum
from keras_initlab.propagation.algebra.shape import collapse
from keras_initlab.propagation.algebra.windows import Window
from keras_initlab.propagation.arguments import spatial_axes
from keras_initlab.propagation.context import RuleContext
from keras_initlab.propagation.dispatch import layer_rule, mirror_rule, operation_rule
from keras_initlab.propagation.mirrors import moved_by_rule
from keras_initlab.propagation.signal import Mirror, Signal

_RANKS = ("1D", "2D", "3D")


def _windows(layer: Layer, x: Signal) -> dict[int, Window]:
    places, _ = spatial_axes(layer, x)
    sizes, strides = layer.pool_size, layer.strides
    return {
        axis: Window(x.shape[axis], sizes[i], strides[i], padding=layer.padding)
        for i, axis in enumerate(places)
    }


@layer_rule(*(f"AveragePooling{rank}" for rank in _RANKS))
def average(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the means of windows; padding is not counted in."""
    x = x.with_units((spatial_axes(layer, x)[1],))
    windows = _windows(layer, x)
    # Keras on PyTorch repeats the edge where it cannot pad both ends alike.
    uneven = any(
        front != behind for front, behind in (w.pads for w in windows.values())
    )
    repeating = uneven and keras.backend.backend() == "torch"
    means = {a: window_means(w, repeating=repeating) for a, w in windows.items()}
    return _averaged(x, means)


def _averaged(x: Signal, means: dict[int, AlongAxis]) -> Signal:
    """Return means along several axes; what a signal comes from stays known."""
    y = x
    for axis, mean in means.items():
        y = along(y, axis, mean)
    return y.amend(lineage=x.origin.lineage)


@layer_rule(*(f"MaxPooling{rank}" for rank in _RANKS))
def greatest(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the greatest value of each window."""
    x = x.with_units((spatial_axes(layer, x)[1],))
    return maximum(x, _windows(layer, x))


def _adaptive(layer: Layer, x: Signal) -> dict[int, Window]:
    places, _ = spatial_axes(layer, x)
    found = {}
    for i, axis in enumerate(places):
        length, outputs = x.shape[axis] or layer.output_size[i], layer.output_size[i]
        size = max(1, -(-length // outputs))
        stride = max(1, length // outputs)
        found[axis] = Window(x.shape[axis], size, stride)
    return found


@layer_rule(*(f"AdaptiveAveragePooling{rank}" for rank in _RANKS))
def adaptive_average(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the means of as many windows as the layer makes outputs."""
    places, channel = spatial_axes(layer, x)
    x = x.with_units((channel,))
    if any(x.shape[axis] is None for axis in places):
        windows = _adaptive(layer, x).items()
        return _fitted(layer, _averaged(x, {a: window_means(w) for a, w in windows}))
    means = {
        axis: adaptive_means(int(x.shape[axis] or 1), layer.output_size[i])
        for i, axis in enumerate(places)
    }
    return _averaged(x, means)


@layer_rule(*(f"AdaptiveMaxPooling{rank}" for rank in _RANKS))
def adaptive_greatest(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the greatest value of as many windows as the layer makes outputs."""
    x = x.with_units((spatial_axes(layer, x)[1],))
    return _fitted(layer, maximum(x, _adaptive(layer, x)))


def _fitted(layer: Layer, x: Signal) -> Signal:
    shape = list(x.shape)
    for i, axis in enumerate(spatial_axes(layer, x)[0]):
        shape[axis] = layer.output_size[i]
    return x.evolve(
        shape=tuple(shape), profile={}, parents=((x, lambda gradient: gradient),)
    )


@layer_rule(*(f"GlobalAveragePooling{rank}" for rank in _RANKS))
def global_average(layer: Layer, x: Signal, *_: Signal, context: RuleContext) -> Signal:
    """Return the mean over all positions."""
    places, channel = spatial_axes(layer, x)
    return collapse(x.with_units((channel,)), places, keepdims=layer.keepdims)


@layer_rule(*(f"GlobalMaxPooling{rank}" for rank in _RANKS))
def global_greatest(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the greatest value over all positions."""
    places, channel = spatial_axes(layer, x)
    x = x.with_units((channel,))
    windows = {axis: Window(x.shape[axis], x.shape[axis] or 64) for axis in places}
    pooled = maximum(x, windows)
    return pooled if layer.keepdims else collapse(pooled, places)


def _pooled(operation: Operation, x: Signal, **sizes: Any) -> Any:
    """Return what a pooling layer of the operation's settings would be asked for."""
    rank = len(x.shape) - 2
    several = {
        name: tuple(size) if isinstance(size, list | tuple) else (size,) * rank
        for name, size in sizes.items()
    }
    return SimpleNamespace(
        data_format=operation.data_format or keras.config.image_data_format(),
        padding=getattr(operation, "padding", "valid"),
        **several,
    )


def _windowed(operation: Operation, x: Signal) -> Any:
    strides = operation.strides
    strides = operation.pool_size if strides is None else strides
    return _pooled(operation, x, pool_size=operation.pool_size, strides=strides)


@operation_rule("MaxPool")
def max_pool(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return the max_operation value of each window."""
    made: Signal = greatest(_windowed(operation, x), x, context=context)
    return made


@operation_rule("AveragePool")
def average_pool(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return the mean of each window."""
    made: Signal = average(_windowed(operation, x), x, context=context)
    return made


@operation_rule("AdaptiveAveragePool")
def adaptive_average_pool(
    operation: Operation, x: Signal, *, context: RuleContext
) -> Signal:
    """Return the means of as many windows as are asked for."""
    like = _pooled(operation, x, output_size=operation.output_size)
    made: Signal = adaptive_average(like, x, context=context)
    return made


@operation_rule("AdaptiveMaxPool")
def adaptive_max_pool(
    operation: Operation, x: Signal, *, context: RuleContext
) -> Signal:
    """Return the max_operation values of as many windows as are asked for."""
    like = _pooled(operation, x, output_size=operation.output_size)
    made: Signal = adaptive_greatest(like, x, context=context)
    return made


mirror_rule(
    *(
        f"{kind}AveragePooling{rank}"
        for rank in _RANKS
        for kind in ("", "Global", "Adaptive")
    ),
    operations=("AveragePool", "AdaptiveAveragePool"),
)(moved_by_rule)


@mirror_rule(*(f"{kind}MaxPooling{rank}" for rank in _RANKS for kind in ("", "Global")))
def maximum_mirror(
    layer: Layer, inputs: tuple[Signal, ...], output: Signal, context: RuleContext
) -> Mirror | None:
    """Return the mirror behind the greatest values of windows."""
    (x,) = inputs
    taps = getattr(layer, "pool_size", None)
    if taps is None:
        size = x.size(x.positions) / max(output.size(output.positions), 1)
    else:
        size = float(np.prod(taps))
    return mirror_of_maximum(x, output, size)
