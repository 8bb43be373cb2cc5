"""Pooling: layers and operations."""

from __future__ import annotations

from dataclasses import dataclass

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
from keras_initlab.propagation.algebra.maximum import maximum, mirror_of_maximum
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
    """Return the means of windows, without padding."""
    x = x.with_units((spatial_axes(layer, x)[1],))
    windows = _windows(layer, x)
    # On PyTorch, Keras repeats the edge if it cannot pad both ends equally.
    uneven = any(
        front != behind for front, behind in (w.pads for w in windows.values())
    )
    repeating = uneven and keras.backend.backend() == "torch"
    means = {a: window_means(w, repeating=repeating) for a, w in windows.items()}
    return _averaged(x, means)


def _averaged(x: Signal, means: dict[int, AlongAxis]) -> Signal:
    """Return means along several axes; the signal keeps its lineage."""
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
    windows = {}
    for i, axis in enumerate(places):
        length, outputs = x.shape[axis] or layer.output_size[i], layer.output_size[i]
        size = max(1, -(-length // outputs))
        stride = max(1, length // outputs)
        windows[axis] = Window(x.shape[axis], size, stride)
    return windows


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


@dataclass(frozen=True)
class _Settings:
    """The settings of an operation, as a layer of its kind has them."""

    data_format: str
    padding: str
    pool_size: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    output_size: tuple[int, ...] = ()


def _settings_of(operation: Operation, x: Signal) -> _Settings:
    """Return what a pooling layer of the operation's settings would hold."""
    rank = len(x.shape) - 2

    def sizes(name: str, default: int | tuple[int, ...] = 1) -> tuple[int, ...]:
        value = getattr(operation, name, None)
        size = default if value is None else value
        if isinstance(size, list | tuple):
            return tuple(size)
        return (int(size),) * rank

    pool_size = getattr(operation, "pool_size", 1)
    return _Settings(
        operation.data_format or keras.config.image_data_format(),
        getattr(operation, "padding", "valid"),
        sizes("pool_size"),
        sizes("strides", pool_size),
        sizes("output_size"),
    )


@operation_rule("MaxPool")
def max_pool(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return the greatest value of each window."""
    return greatest(_settings_of(operation, x), x, context=context)


@operation_rule("AveragePool")
def average_pool(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return the mean of each window."""
    return average(_settings_of(operation, x), x, context=context)


@operation_rule("AdaptiveAveragePool")
def adaptive_average_pool(
    operation: Operation, x: Signal, *, context: RuleContext
) -> Signal:
    """Return the means of a given number of windows."""
    return adaptive_average(_settings_of(operation, x), x, context=context)


@operation_rule("AdaptiveMaxPool")
def adaptive_max_pool(
    operation: Operation, x: Signal, *, context: RuleContext
) -> Signal:
    """Return the greatest values of a given number of windows."""
    return adaptive_greatest(_settings_of(operation, x), x, context=context)


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
    """Return the mirror after the greatest values of windows."""
    (x,) = inputs
    taps = getattr(layer, "pool_size", None)
    if taps is None:
        size = x.size(x.positions) / max(output.size(output.positions), 1)
    else:
        size = float(np.prod(taps))
    return mirror_of_maximum(x, output, size)
