"""Which nonlinearity a layer applies, and which layers let a signal through to it.

A kernel's gain belongs to the nonlinearity that its output meets next. These are
the two questions to ask of each layer on the way; who walks the way (`construction`
in a Sequential, `following` in any graph) is not their concern.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_initlab import activations
from keras_initlab.model.keras_internals import sublayers
from keras_initlab.stats import Bounds

_layers = keras.layers

# How near to an end of its range, as a share of the range, a value is saturated.
SATURATED = 0.01

# Layers whose whole job is the nonlinearity.
ACTIVATION_LAYERS: tuple[type, ...] = (
    _layers.Activation,
    _layers.ReLU,
    _layers.LeakyReLU,
    _layers.PReLU,
    _layers.ELU,
    _layers.Softmax,
)

# Layers that rescale, drop, move or add values, and leave it to a later layer to
# bend them: what a kernel before them should be scaled for is that later layer.
TRANSPARENT_LAYERS: tuple[type, ...] = tuple(
    getattr(_layers, name)
    for name in (
        "BatchNormalization LayerNormalization GroupNormalization RMSNormalization "
        "UnitNormalization Normalization Rescaling "
        "Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D AlphaDropout "
        "GaussianDropout GaussianNoise ActivityRegularization "
        "MaxPooling1D MaxPooling2D MaxPooling3D "
        "AveragePooling1D AveragePooling2D AveragePooling3D "
        "GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D "
        "GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D "
        "AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D "
        "AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D "
        "Flatten Reshape Permute RepeatVector "
        "Cropping1D Cropping2D Cropping3D "
        "UpSampling1D UpSampling2D UpSampling3D "
        "ZeroPadding1D ZeroPadding2D ZeroPadding3D "
        "Identity Masking Add Average Subtract Concatenate"
    ).split()
    if hasattr(_layers, name)  # some came after Keras 3.12
)


# Without an activation these do nothing.
_PLAIN_IF_LINEAR = (*ACTIVATION_LAYERS, _layers.Lambda)


def own_nonlinearity(layer: Any) -> Any:
    """Return the activation that `layer` applies to its own output, or None.

    For an activation layer this is the layer itself (its slope counts), for any
    other the function in its `activation` attribute; linear counts as None.

    >>> own_nonlinearity(keras.layers.Dense(3, activation="tanh")).__name__
    'tanh'
    """
    function: Any
    if type(layer) is _layers.Activation:
        function = layer.activation
    elif isinstance(layer, ACTIVATION_LAYERS):
        function = layer
    elif isinstance(layer, _layers.Lambda):
        function = layer.function
    else:
        function = getattr(layer, "activation", None)
    if function is None or not callable(function):
        return None
    return None if is_linear(function) else function


def bend_of(layer: Any) -> Any:
    """Return what a layer without kernels bends values by, None if it does not.

    The activation of an activation layer, the function of a Lambda, and a layer of the
    user's own that has no weights and changes each value by itself.
    """
    if isinstance(layer, _PLAIN_IF_LINEAR):
        return own_nonlinearity(layer)
    is_of_keras = type(layer).__module__.partition(".")[0] == "keras"
    if is_of_keras or layer.variables or sublayers(layer):
        return None
    try:
        with keras.StatelessScope():
            resolved = activations.resolve(layer)
    except (TypeError, ValueError):
        return None
    bends = resolved.function is not None and resolved.family != "linear"
    return resolved if bends else None


def bounds(layer: Any) -> Bounds | None:
    """Return the range of a layer's own bounded activation, or None.

    The lower end of ReLU6 does not count: its zeros are counted as zeros.
    """
    if isinstance(layer, keras.layers.Lambda):
        return None  # what it computes need not be a nonlinearity, nor without effects
    function = own_nonlinearity(layer)
    if function is None:
        return None
    try:
        with keras.StatelessScope():
            activation = activations.resolve(function)
    except (TypeError, ValueError):
        return None
    if activation.function is None:
        return None
    with np.errstate(all="ignore"):
        far = np.asarray(
            activation.function(np.array([-1e9, -1e6, 1e6, 1e9])), np.float64
        )
    low, high = min(far[0], far[3]), max(far[0], far[3])
    settled = np.abs(far[[0, 3]] - far[[1, 2]]) <= SATURATED * (high - low) / 10
    if not np.isfinite(far).all() or low == high or not settled.all():
        return None
    near = SATURATED * (high - low)
    return Bounds(float(low), float(high), float(near), activation.family != "relu")


def is_linear(identifier: Any) -> bool:
    """Say whether an activation is the identity; False if it cannot be resolved."""
    try:
        return activations.resolve(identifier).family == "linear"
    except (TypeError, ValueError):
        return False


def passes_output_on(wrapper: Any, layer: Any) -> bool:
    """Say whether what `wrapper` returns is what the `layer` inside it returns.

    >>> inner = keras.layers.Dense(3)
    >>> passes_output_on(keras.layers.TimeDistributed(inner), inner)
    True
    """
    kinds = (_layers.TimeDistributed, _layers.SpectralNormalization)
    return isinstance(wrapper, kinds) and wrapper.layer is layer


def is_transparent(layer: Any) -> bool:
    """Say whether the nonlinearity for a kernel before `layer` comes after it."""
    if isinstance(layer, TRANSPARENT_LAYERS):
        return True
    return isinstance(layer, _layers.Activation) and own_nonlinearity(layer) is None


def next_in_sequence(layers: list[Any]) -> Any:
    """Return the nonlinearity that a signal entering `layers` in a row meets first.

    None where it meets another kernel, an unknown layer or the end before that.
    """
    for layer in layers:
        if isinstance(layer, keras.Sequential):
            inside = next_in_sequence(layer.layers)
            if inside is not None or not all(map(is_transparent, layer.layers)):
                return inside
        elif (bend := bend_of(layer)) is not None:
            return bend
        elif not (is_transparent(layer) or isinstance(layer, _PLAIN_IF_LINEAR)):
            return None
    return None
