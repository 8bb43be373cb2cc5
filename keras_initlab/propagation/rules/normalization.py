"""Normalization and rescaling: layers and operations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import Operation, layers
from keras.layers import Layer

from keras_initlab.propagation.algebra.elementwise import affine
from keras_initlab.propagation.algebra.mirrors import moved_mirror
from keras_initlab.propagation.algebra.normalization import (
    ONES,
    ZEROS,
    from_statistics,
    normalise,
)
from keras_initlab.propagation.arguments import array_of, axes_of, named
from keras_initlab.propagation.context import RuleContext, UnknownLayer
from keras_initlab.propagation.dispatch import (
    layer_rule,
    mirror_rule,
    operation_rule,
    output_moments,
)
from keras_initlab.propagation.signal import Mirror, Signal
from keras_initlab.propagation.weights.current import current_moments
from keras_initlab.propagation.weights.moments import WeightMoments


def _axes(layer: Layer, x: Signal) -> tuple[int, ...]:
    axis = layer.axis
    axes = axis if isinstance(axis, list | tuple) else [axis]
    return tuple(sorted(index % len(x.shape) for index in axes))


def _scale_and_shift(
    layer: Layer, context: RuleContext, scale: str = "gamma", shift: str = "beta"
) -> dict[str, Any]:
    return {
        "scale": context.optional_weight(layer, scale) or ONES,
        "shift": context.optional_weight(layer, shift) or ZEROS,
    }


@layer_rule("BatchNormalization")
def batch_normalization(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the signal normalised by batch statistics, or in inference moving ones."""
    x = x.with_units(_axes(layer, x))
    scaling = _scale_and_shift(layer, context)
    if context.training and layer.trainable:
        if getattr(layer, "renorm", False):
            raise UnknownLayer("BatchNormalization(renorm=True)")
        return normalise(
            x, positions=True, inputs=True, epsilon=layer.epsilon, **scaling
        )
    mean, variance = (
        keras.ops.convert_to_numpy(statistic)
        for statistic in (layer.moving_mean, layer.moving_variance)
    )
    return from_statistics(x, mean, variance, epsilon=layer.epsilon, **scaling)


@layer_rule("LayerNormalization")
def layer_normalization(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the signal after the statistics of each input's units."""
    x = x.with_units(_axes(layer, x))
    scaling = _scale_and_shift(layer, context)
    number = float(x.size(x.units))
    # With RMS scaling, Keras keeps the mean, but divides by the standard deviation.
    centre = not getattr(layer, "rms_scaling", False)
    return normalise(
        x,
        units=number,
        epsilon=layer.epsilon,
        centre=centre,
        about_mean=True,
        **scaling,
    )


@layer_rule("RMSNormalization")
def rms_normalization(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the signal divided by its root mean square over the units."""
    x = x.with_units(_axes(layer, x))
    scaling = _scale_and_shift(layer, context, "scale", "")
    number = float(x.size(x.units))
    return normalise(x, units=number, epsilon=layer.epsilon, centre=False, **scaling)


@layer_rule("GroupNormalization")
def group_normalization(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the signal normalised by the statistics of groups of channels."""
    x = x.with_units(_axes(layer, x))
    number = x.size(x.units)
    groups = number if layer.groups == -1 else layer.groups
    return normalise(
        x,
        units=number / groups,
        positions=True,
        epsilon=layer.epsilon,
        **_scale_and_shift(layer, context),
    )


@layer_rule("UnitNormalization")
def unit_normalization(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the signal at length 1 along the layer's axes."""
    x = x.with_units(_axes(layer, x))
    number = float(x.size(x.units))
    whole = normalise(x, units=number, centre=False)
    return affine(whole, 1 / math.sqrt(number))


@layer_rule("Normalization")
def normalization(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the signal after adapted or given statistics."""
    mean, variance = (
        np.asarray(keras.ops.convert_to_numpy(statistic), np.float64)
        for statistic in (layer.mean, layer.variance)
    )
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    if getattr(layer, "invert", False):
        return from_statistics(x, -mean / deviation, 1 / deviation**2, epsilon=0.0)
    return from_statistics(x, mean, deviation**2, epsilon=0.0)


@layer_rule("Rescaling")
def rescaling(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return scale · x + offset."""
    scale, offset = (
        np.asarray(setting, float) for setting in (layer.scale, layer.offset)
    )
    if scale.size == offset.size == 1:
        return affine(x, float(scale.ravel()[0]), float(offset.ravel()[0]))
    scale, offset = np.broadcast_arrays(scale, offset)
    return from_statistics(x, -offset / scale, 1 / scale**2, epsilon=0.0)


def _moments(value: Any, default: WeightMoments) -> WeightMoments:
    if value is None:
        return default
    if isinstance(value, Signal):
        raise UnknownLayer("a scale that is computed")
    return current_moments(array_of(value))


def _epsilon(operation: Operation) -> float:
    epsilon = operation.epsilon
    return float(keras.config.epsilon() if epsilon is None else epsilon)


@operation_rule("LayerNorm")
def layer_norm(
    operation: Operation, x: Signal, *_: Signal, context: RuleContext
) -> Signal:
    """Return x normalised by the statistics of each input's units."""
    _, gamma, beta = named(context, "x", "gamma", "beta")
    x = x.with_units(axes_of(operation.axis, len(x.shape)))
    return normalise(
        x,
        units=float(x.size(x.units)),
        epsilon=_epsilon(operation),
        centre=not operation.rms_scaling,
        scale=_moments(gamma, ONES),
        shift=_moments(beta, ZEROS),
    )


@operation_rule("RMSNorm")
def rms_norm(
    operation: Operation, x: Signal, *_: Signal, context: RuleContext
) -> Signal:
    """Return x divided by its root mean square over the units."""
    _, scale = named(context, "x", "scale")
    x = x.with_units(axes_of(operation.axis, len(x.shape)))
    number, epsilon = float(x.size(x.units)), _epsilon(operation)
    return normalise(
        x, units=number, epsilon=epsilon, centre=False, scale=_moments(scale, ONES)
    )


@operation_rule("Normalize")
def unit_norm(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return x at length 1 along the operation's axes."""
    if operation.order != 2:
        raise UnknownLayer(f"a norm of order {operation.order}")
    x = x.with_units(axes_of(operation.axis, len(x.shape)))
    number = float(x.size(x.units))
    return affine(normalise(x, units=number, centre=False), 1 / math.sqrt(number))


@operation_rule("BatchNorm")
def batch_norm(
    operation: Operation, x: Signal, *_: Signal, context: RuleContext
) -> Signal:
    """Return x normalised by given statistics."""
    _, centre, variance, offset, scale = named(
        context, "x", "mean", "variance", "offset", "scale"
    )
    if isinstance(centre, Signal) or isinstance(variance, Signal):
        raise UnknownLayer("statistics that are computed")
    return from_statistics(
        x.with_units(axes_of(operation.axis, len(x.shape))),
        array_of(centre),
        array_of(variance),
        epsilon=float(operation.epsilon),
        scale=_moments(scale, ONES),
        shift=_moments(offset, ZEROS),
    )


@mirror_rule("BatchNormalization", "GroupNormalization")
def statistics_mirror(
    layer: Layer, inputs: tuple[Signal, ...], output: Signal, context: RuleContext
) -> Mirror | None:
    """Return the mirror after statistics that the two of a pair share."""

    def divisor(x: Signal) -> float:
        place = int(x.size(x.positions) > 1)
        if isinstance(layer, layers.BatchNormalization):
            return x.second - float(x.pairs[0, place, 1])
        return x.second - float(x.pairs[1, place, 0])

    return _mirror_behind_statistics(layer, inputs[0], output, context, divisor)


@mirror_rule("LayerNormalization")
def layer_normalization_mirror(
    layer: Layer, inputs: tuple[Signal, ...], output: Signal, context: RuleContext
) -> Mirror | None:
    """Return the mirror after the statistics of each input's units."""

    def divisor(x: Signal) -> float:
        return x.second - float(x.pairs[1, 0, 0])

    return _mirror_behind_statistics(layer, inputs[0], output, context, divisor)


@mirror_rule("RMSNormalization", "UnitNormalization")
def root_mean_square_mirror(
    layer: Layer, inputs: tuple[Signal, ...], output: Signal, context: RuleContext
) -> Mirror | None:
    """Return the mirror after a division by the root mean square."""

    def divisor(x: Signal) -> float:
        return x.second

    return _mirror_behind_statistics(layer, inputs[0], output, context, divisor)


def _mirror_behind_statistics(
    layer: Layer,
    x: Signal,
    output: Signal,
    context: RuleContext,
    divisor: Callable[[Signal], float],
) -> Mirror | None:
    """Return the mirror after a layer that divides by the root of `divisor`."""
    mirror = None if x.mirror is None else x.mirror.with_units(output.units)
    if mirror is None:
        return None

    def normalised(signal: Signal) -> Signal:
        signals = output_moments(layer, signal, context=context)
        assert isinstance(signals, Signal)
        return signals

    if mirror.base is not None and mirror.function is None:
        return moved_mirror(mirror, mirror.axis, normalised)
    odd = normalised(mirror.odd)
    before, after = divisor(x.with_units(output.units)), divisor(mirror.odd)
    ratio = math.sqrt(after / before) if before > 0 else 0.0
    return Mirror(affine(odd, ratio), mirror.axis, sources=mirror.sources)
