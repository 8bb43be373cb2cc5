"""Gain, chi and moments of any activation, in closed form or by quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_initlab.activations.periodic import sine_like
from keras_initlab.activations.probe import (
    in_numpy,
    is_elementwise,
    recognise,
    recognise_rows,
)
from keras_initlab.activations.quadrature import (
    GaussianMoments,
    check_law,
    gaussian_moments,
)
from keras_initlab.activations.table import (
    NAMED,
    Activation,
    clipped_relu,
    elu,
    leaky_relu,
)
from keras_initlab.words import did_you_mean

Array = NDArray[np.float64]

__all__ = ["Activation", "chi", "gain", "moments", "odd_part", "resolve"]


def resolve(identifier: Any) -> Activation:
    """Return the `Activation` for any form of an activation.

    A callable is evaluated on a grid in its backend (in float64 if it accepts that). If
    its values are those of a Keras activation, it is resolved to that one, so that
    `keras.ops.tanh`, `torch.tanh` and `lambda x: keras.ops.tanh(x)` are all "tanh". A
    plain function is evaluated once: if its values change later, pass a new object.

    Args:
        identifier: None (linear), a name in `keras.activations`, a registered name
            ("package>name"), a function, an activation layer, the serialised form of
            any of these, an `Activation` or any other elementwise callable.

    Raises:
        ValueError: unknown name; a callable that is not elementwise, not deterministic
            or cannot be evaluated.
        TypeError: the identifier is none of the above.

    Example:
        >>> import keras
        >>> from keras_initlab.activations import resolve
        >>> resolve("relu").family
        'relu'
        >>> resolve(lambda x: keras.ops.maximum(x, 0.0)).name
        'relu'

    Source: `keras.activations`, Keras 3.15.
    """
    if isinstance(identifier, Activation):
        return identifier
    if identifier is None:
        return NAMED["linear"]
    if isinstance(identifier, str):
        return _from_name(identifier)
    if isinstance(identifier, dict):
        return resolve(_deserialised(identifier))
    if isinstance(identifier, keras.layers.Layer):
        activation = _from_layer(identifier)
        return _from_callable(identifier) if activation is None else activation
    if callable(identifier) and not isinstance(identifier, type):
        # Named functions are cached; other objects may hold weights, and change.
        named = hasattr(identifier, "__name__") or isinstance(identifier, partial)
        return _from_function(identifier) if named else _from_callable(identifier)
    hint = f" or {identifier.__name__}()" if isinstance(identifier, type) else ""
    raise TypeError(
        "An activation is expected to be None, a name, a callable, a Keras layer or "
        f"the serialised form of one. Received: {identifier!r} (of type "
        f"{type(identifier).__name__}). Pass one of these, for example 'relu'{hint}."
    )


def moments(
    identifier: Any, mean: float = 0.0, variance: float = 1.0
) -> GaussianMoments:
    """Return E[φ], E[φ²] and E[φ'²] of an activation φ with input N(mean, variance).

    For GLU, a·σ(b) with independent halves a and b, they are E[a]E[σ], E[a²]E[σ²] and
    the mean over the input units of the squared derivative, (E[σ²] + E[a²]E[σ'²]) / 2.

    Args:
        identifier: as in `resolve`.
        mean: mean of the pre-activation.
        variance: variance of the pre-activation, finite and not negative.

    Raises:
        ValueError: the activation is not elementwise (softmax and its kin), or as in
            `resolve` and `gaussian_moments`.
        TypeError: as in `resolve`.

    Example:
        >>> from keras_initlab.activations import moments
        >>> moments("relu", variance=4.0).second_moment
        2.0

    Source: Poole et al., "Exponential expressivity in deep neural networks through
    transient chaos" (2016), equations 3 and 5.
    """
    return _moments(resolve(identifier), float(mean), float(variance))


def gain(identifier: Any) -> float:
    """Return the factor on the weights' deviation that preserves the second moment.

    g = 1/√E[φ(z)²] for z ~ N(0, 1): with Var(w) = g²/fan_in a layer's pre-activation
    has second moment 1 if the one before it has. For softmax, log_softmax and sparsemax
    it is 1 by convention: the weights of such a head are scaled as for a linear one.

    Args:
        identifier: as in `resolve`.

    Raises:
        ValueError: E[φ²] is 0, so that no gain can preserve it, or as in `moments`.
        TypeError: as in `resolve`.

    Example:
        >>> from keras_initlab.activations import gain
        >>> round(gain("relu"), 4)
        1.4142

    Source: He et al., "Delving deep into rectifiers" (2015), equation 10, for ReLU;
    Poole et al. (2016), equation 3, for any φ.
    """
    activation = resolve(identifier)
    if _is_head(activation):
        return 1.0
    return 1.0 / math.sqrt(_at_unit_variance(activation).second_moment)


def chi(identifier: Any) -> float:
    """Return the factor of the squared gradient per layer, at the activation's gain.

    χ = g² E[φ'(z)²] for z ~ N(0, 1): above 1 gradients grow towards the first layer,
    below 1 they vanish. For softmax, log_softmax and sparsemax it is 1 by convention.

    Args:
        identifier: as in `resolve`.

    Raises:
        ValueError: as in `gain`.
        TypeError: as in `resolve`.

    Example:
        >>> from keras_initlab.activations import chi
        >>> round(chi("tanh"), 3)
        1.178

    Source: Schoenholz et al., "Deep information propagation" (2017), equation 6.
    """
    activation = resolve(identifier)
    if _is_head(activation):
        return 1.0
    moments = _at_unit_variance(activation)
    return moments.derivative_second_moment / moments.second_moment


def odd_part(identifier: Any) -> Activation:
    """Return ψ(z) = φ(z) − φ(−z), the joint effect of two mirrored units.

    It is z itself for ReLU, GELU, SiLU and softplus, (1 + slope) z for leaky ReLU,
    z for hard SiLU, tanh(z / 2) for the sigmoid and 2φ for an odd φ.

    Args:
        identifier: as in `resolve`.

    Raises:
        ValueError: the activation is not elementwise, or as in `resolve`.
        TypeError: as in `resolve`.

    Example:
        >>> from keras_initlab.activations import moments, odd_part
        >>> round(moments(odd_part("gelu"), variance=4.0).second_moment, 12)
        4.0

    Source: Balduzzi et al., "The shattered gradients problem" (2017), section 4, for
    ReLU ("looks linear").
    """
    activation = resolve(identifier)
    if activation.function is None:
        _moments(activation, 0.0, 1.0)  # raises the error that applies
    return _odd_part(activation)


@lru_cache(maxsize=256)
def _odd_part(activation: Activation) -> Activation:
    function, derivative = activation.function, activation.derivative
    assert function is not None

    def value(x: Array) -> Array:
        return np.subtract(function(x), function(-x), dtype=np.float64)

    def slope(x: Array) -> Array:
        assert derivative is not None
        return np.add(derivative(x), derivative(-x), dtype=np.float64)

    return Activation(
        f"odd part of {activation.name}",
        value,
        None if derivative is None else slope,
        tuple(sorted({sign * kink for kink in activation.kinks for sign in (-1, 1)})),
    )


def _at_unit_variance(activation: Activation) -> GaussianMoments:
    moments = _moments(activation, 0.0, 1.0)
    if moments.second_moment == 0.0:
        raise ValueError(
            "An activation is expected to be nonzero somewhere near 0 to have a gain. "
            f"Received: {activation.name}, with E[φ(z)²] = 0 for z ~ N(0, 1). Check "
            "its threshold, or use gain 1."
        )
    return moments


def _is_head(activation: Activation) -> bool:
    """Whether it is softmax, log_softmax or sparsemax."""
    return activation.function is None and activation.family == "saturating"


@lru_cache(maxsize=1024)
def _moments(activation: Activation, mean: float, variance: float) -> GaussianMoments:
    check_law(mean, variance)
    if activation.closed_form is not None:
        return activation.closed_form(mean, variance)
    if activation.function is not None:
        return gaussian_moments(
            activation.function,
            derivative=activation.derivative,
            mean=mean,
            variance=variance,
            kinks=activation.kinks,
        )
    if activation is NAMED["threshold"]:
        raise ValueError(
            "An activation is expected to work with its input alone. Received: "
            "'threshold', whose arguments have no defaults in Keras. Pass "
            "functools.partial(keras.activations.threshold, threshold=…, "
            "default_value=…)."
        )
    raise ValueError(
        "Moments are defined for elementwise activations. Received: "
        f"{activation.name}, which is not elementwise: its moments depend on the "
        "number of classes. Measure the layer's output instead, or use gain(), which "
        "is 1 for it by convention."
    )


def _from_name(name: str) -> Activation:
    if name in NAMED:
        return NAMED[name]
    function = getattr(keras.activations, name, None)  # newer than the table
    if function is None or name in ("get", "serialize", "deserialize"):
        # keras.activations.get finds built-in names alone.
        function = keras.saving.get_registered_object(name)
    if function is not None:
        return resolve(function() if isinstance(function, type) else function)
    raise ValueError(
        f"An activation's name is expected to be one of {', '.join(sorted(NAMED))}, or "
        f"registered with Keras. Received: {name!r}.{did_you_mean(name, NAMED)} Pass "
        "the function itself, or register it with "
        "keras.saving.register_keras_serializable."
    )


def _deserialised(config: dict[str, Any]) -> Any:
    try:
        return keras.activations.get(config)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            "A dict is expected to be the serialised form of an activation, with "
            f"'class_name' and 'config'. Received: {config!r}. Make it with "
            "keras.activations.serialize or keras.saving.serialize_keras_object, and "
            "register custom objects."
        ) from error


def _from_layer(layer: Any) -> Activation | None:
    """Return the activation of a Keras activation layer with its arguments, or None."""
    for base, read in _LAYERS.items():
        # A subclass that overrides `call` may be anything: it is evaluated.
        if isinstance(layer, base) and type(layer).call is base.call:
            return read(layer)
    return None


def _prelu(layer: Any) -> Activation:
    if layer.built:
        return leaky_relu(float(keras.ops.convert_to_numpy(layer.alpha).mean()))
    start = layer.alpha_initializer
    if isinstance(start, keras.initializers.Constant):
        return leaky_relu(float(start.value))
    if isinstance(start, keras.initializers.Ones):
        return leaky_relu(1.0)
    if isinstance(start, keras.initializers.RandomUniform):
        return leaky_relu((start.minval + start.maxval) / 2)
    # The mean of normal initializers; all others are 0 or symmetric about 0.
    return leaky_relu(float(getattr(start, "mean", 0.0)))


_LAYERS: dict[Any, Callable[[Any], Activation]] = {
    keras.layers.Activation: lambda layer: resolve(layer.activation),
    keras.layers.ReLU: lambda layer: clipped_relu(
        float(layer.negative_slope),
        None if layer.max_value is None else float(layer.max_value),
        float(layer.threshold),
    ),
    keras.layers.LeakyReLU: lambda layer: leaky_relu(float(layer.negative_slope)),
    keras.layers.PReLU: _prelu,
    keras.layers.ELU: lambda layer: elu(float(layer.alpha)),
    keras.layers.Softmax: lambda layer: NAMED["softmax"],
    keras.layers.Identity: lambda layer: NAMED["linear"],
}


@lru_cache(maxsize=256)
def _from_function(function: Callable[[Any], Any]) -> Activation:
    """As `_from_callable`, but cached: unlike layers, functions do not change."""
    for name, activation in NAMED.items():
        if getattr(keras.activations, name, None) is function:
            return activation
    return _from_callable(function)


def _from_callable(function: Callable[[Any], Any]) -> Activation:
    name = _readable_name(function)
    try:
        evaluate = in_numpy(_without_side_effects(function))
        activation = recognise_rows(evaluate)
        if activation is not None:
            return activation
        if is_elementwise(evaluate):
            recognised = recognise(evaluate) or sine_like(evaluate)
            return recognised or Activation(name, evaluate)
    except Exception as error:
        raise ValueError(
            "An activation is expected to be a callable of one tensor of any shape. "
            f"Received: {name} ({function!r}), which failed with "
            f"{type(error).__name__}: {error} Pass a function that works on a 1-D "
            "tensor of this backend, with other arguments bound by functools.partial."
        ) from error
    raise ValueError(
        "An activation is expected to be elementwise and deterministic. Received: "
        f"{name} ({function!r}), whose value at a point changes with its neighbours or "
        "from call to call, or has another shape. Pass a keras_initlab.activations."
        "Activation with known moments, or one of the names of keras.activations."
    )


def _without_side_effects(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a copy of an unbuilt layer, which the probe would build for its shape."""
    if isinstance(function, keras.layers.Layer) and not function.built:
        return type(function).from_config(function.get_config())  # type: ignore[no-any-return]
    return function


def _readable_name(function: Any) -> str:
    inner = getattr(function, "func", None)
    if inner is not None:  # functools.partial
        return f"partial({_readable_name(inner)})"
    name = getattr(function, "__name__", None) or type(function).__name__
    return "lambda" if name == "<lambda>" else str(name)
