"""Bare normalisation: as the layers of these names."""

from __future__ import annotations

import math
from typing import Any

import keras

from keras_initlab.propagation.constant import array_of
from keras_initlab.propagation.dispatch import UnknownLayer, operation_rule
from keras_initlab.propagation.elementwise import affine
from keras_initlab.propagation.entries import current_moments
from keras_initlab.propagation.normalizing import (
    ONES,
    ZEROS,
    from_statistics,
    normalise,
)
from keras_initlab.propagation.rules.operations import named
from keras_initlab.propagation.rules.operations_moving import axes_of
from keras_initlab.propagation.signal import Signal
from keras_initlab.propagation.weights import WeightMoments


def _moments(value: Any, default: WeightMoments) -> WeightMoments:
    if value is None:
        return default
    if isinstance(value, Signal):
        raise UnknownLayer("a scale that is computed")
    return current_moments(array_of(value))


def _epsilon(operation: Any) -> float:
    given = operation.epsilon
    return float(keras.config.epsilon() if given is None else given)


@operation_rule("LayerNorm")
def layer_norm(operation: Any, x: Signal, *_: Signal, context: Any) -> Signal:
    """Return x behind the statistics of each input's units."""
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
def rms_norm(operation: Any, x: Signal, *_: Signal, context: Any) -> Signal:
    """Return x divided by its root mean square over the units."""
    _, scale = named(context, "x", "scale")
    x = x.with_units(axes_of(operation.axis, len(x.shape)))
    number, epsilon = float(x.size(x.units)), _epsilon(operation)
    return normalise(
        x, units=number, epsilon=epsilon, centre=False, scale=_moments(scale, ONES)
    )


@operation_rule("Normalize")
def unit_norm(operation: Any, x: Signal, *, context: Any) -> Signal:
    """Return x at length 1 along the operation's axes."""
    if operation.order != 2:
        raise UnknownLayer(f"a norm of order {operation.order}")
    x = x.with_units(axes_of(operation.axis, len(x.shape)))
    number = float(x.size(x.units))
    return affine(normalise(x, units=number, centre=False), 1 / math.sqrt(number))


@operation_rule("BatchNorm")
def batch_norm(operation: Any, x: Signal, *_: Signal, context: Any) -> Signal:
    """Return x behind statistics that are given."""
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
