"""Which nonlinearity a layer applies, and which layers let a signal through to it.

A kernel's gain depends on the nonlinearity that its output meets next. These are the
two questions about each layer on the way; `construction` (in a Sequential) and
`following` (in any graph) do the walking.
"""

from __future__ import annotations

import weakref
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np

from keras_initlab import activations
from keras_initlab.model.keras_internals import (
    automatic_name,
    sublayers,
    takes_training,
)
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


def nonlinearity_of_layer(layer: Any) -> Any:
    """Return the nonlinearity that a layer consists of; None if it does more.

    Activation layers, Lambda, and the user's own layers that compute a function of
    each element: see `own_function`.

    >>> class Relu(keras.layers.Layer):
    ...     def call(self, inputs):
    ...         return keras.ops.maximum(inputs, 0.0)
    >>> nonlinearity_of_layer(Relu()).name
    'relu'
    """
    if isinstance(layer, (*ACTIVATION_LAYERS, _layers.Lambda)):
        return own_nonlinearity(layer)
    function = own_function(layer)
    return None if function is None or is_affine(function) else function


_own_functions: WeakKeyDictionary[Any, activations.Activation | None] = (
    WeakKeyDictionary()
)


def own_function(layer: Any) -> activations.Activation | None:
    """Return the function of each element that a user's own layer computes.

    It is recognised by its values, like any callable; None if it is not elementwise.
    """
    if layer in _own_functions:
        return _own_functions[layer]
    function = _probed(layer) if is_own_function(layer) else None
    if layer.built and not layer.variables:  # nothing that could change it
        _own_functions[layer] = function
    return function


def is_own_function(layer: Any) -> bool:
    """Say whether a layer is the user's own, and has no weights but scalars."""
    kind = type(layer)
    if not isinstance(layer, _layers.Layer) or isinstance(layer, keras.Model):
        return False
    if kind.__module__.partition(".")[0] == "keras" or kind.call is _layers.Layer.call:
        return False
    # What a `build` of its own makes is not known before it is called.
    settled = layer.built or kind.build is _layers.Layer.build
    plain = all(len(variable.shape) == 0 for variable in layer.variables)
    return settled and plain and not sublayers(layer)


def _probed(layer: Any) -> activations.Activation | None:
    held = weakref.ref(layer)  # what is remembered of it does not keep it alive
    mode = {"training": True} if takes_training(layer) else {}

    def function(x: Any) -> Any:
        alive = held()
        assert alive is not None
        return alive.call(x, **mode)

    function.__name__ = automatic_name(type(layer))
    try:
        with keras.StatelessScope():
            resolved = activations.resolve(function)
    except (TypeError, ValueError):
        return None
    return resolved


def is_affine(activation: activations.Activation) -> bool:
    """Say whether an activation only scales and shifts."""
    if activation.function is None:
        return False
    values = activation.function(np.linspace(-3.0, 3.0, 13))
    return bool(np.allclose(np.diff(values, 2), 0, atol=1e-5))


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
    if isinstance(layer, _layers.Activation):
        return own_nonlinearity(layer) is None
    function = own_function(layer)
    return function is not None and is_affine(function)


def next_in_sequence(layers: list[Any]) -> Any:
    """Return the nonlinearity that a signal entering `layers` in a row meets first.

    None where it meets another kernel, an unknown layer or the end before that.
    """
    for layer in layers:
        if isinstance(layer, keras.Sequential):
            inside = next_in_sequence(layer.layers)
            if inside is not None or not all(map(is_transparent, layer.layers)):
                return inside
            continue
        bend = nonlinearity_of_layer(layer)
        if bend is not None:
            return bend
        passive = isinstance(layer, (*ACTIVATION_LAYERS, _layers.Lambda))
        if not passive and not is_transparent(layer):
            return None
    return None
