"""The first two moments of a layer's weight, from its initializer or its values."""

from __future__ import annotations

from dataclasses import replace

import keras
from keras.initializers import Initializer
from keras.layers import Layer

from keras_initlab.model.construction import Construction
from keras_initlab.model.fans import Shape
from keras_initlab.model.keras_internals import own_variables
from keras_initlab.model.own_weights import held_weights
from keras_initlab.propagation.weights.current import current_moments
from keras_initlab.propagation.weights.initial import (
    InitializerLike,
    moments_of_draw,
)
from keras_initlab.propagation.weights.moments import WeightMoments


def weight_moments(
    layer: Layer,
    weight: str,
    variable: keras.Variable | None = None,
    *,
    from_values: bool = False,
    parents: tuple[Layer, ...] = (),
) -> WeightMoments:
    """Return the moments of the weight called `weight` of a built layer.

    Args:
        layer: the layer that holds the weight; an RNN stands for its cell.
        weight: the weight's name in its layer, such as "kernel".
        variable: the weight itself; found by its name if not given.
        from_values: the moments of the current values, not of the draw of the layer's
            initializer. If the layer keeps no initializer for the weight, the values
            are used anyway.
        parents: the layers around `layer`, outermost first, through which
            `initlab>auto` looks for the nonlinearity that follows.

    Raises:
        ValueError: the layer holds no weight of that name.

    >>> layer = keras.layers.Dense(64, kernel_initializer="he_normal")
    >>> layer.build((None, 50))
    >>> weight_moments(layer, "kernel")
    WeightMoments(mean=0.0, second_moment=0.04, centred=False, sampled=False)
    """
    if variable is None:
        if isinstance(layer, keras.layers.RNN):
            parents, layer = (*parents, layer), layer.cell
        variable = _variable_of(layer, weight)
    initializer = None if from_values else _initializer_of(layer, weight)
    if initializer is None:
        return current_moments(variable, layer, weight)
    return initial_moments(initializer, tuple(variable.shape), layer, weight, parents)


def initial_moments(
    initializer: InitializerLike,
    shape: Shape,
    layer: Layer = None,
    weight: str | None = None,
    parents: tuple[Layer, ...] = (),
) -> WeightMoments:
    """Return the moments of what `initializer` draws for a weight.

    They are exact for Keras's and `initlab>` initializers. Any other initializer,
    including a subclass that overrides how these draw, is called once, and the moments
    of this draw are used, with `sampled` set. The call advances the random generators
    from which it draws.

    Args:
        initializer: an initializer, or anything that `keras.initializers.get` accepts.
        shape: the weight's shape.
        layer: the layer that holds it, `weight` its name there and `parents` the layers
            around that one, outermost first, as far as they are known.

    Raises:
        ValueError: `initializer` is None or unknown.

    >>> initial_moments("ones", (8, 8)).mean
    1.0
    >>> kernel = initial_moments("truncated_normal", (8, 8))
    >>> round(kernel.variance / 0.05**2, 3)  # what two sigma leave of 0.05
    0.774
    >>> initial_moments("initlab>identity", (3, 3, 8, 8), keras.layers.Conv2D(8, 3))
    WeightMoments(mean=0.013888888888888888, second_moment=0.013888888888888888, \
centred=True, sampled=False)

    Source: `keras/src/initializers`, Keras 3.15; the `initlab>` classes themselves.
    """
    if not callable(initializer) or isinstance(initializer, type):
        initializer = _resolved(initializer)
    construction = None if layer is None else Construction(layer, weight, parents)
    if weight == "bias" and getattr(layer, "unit_forget_bias", False):
        # Keras asks for the other gates' biases in two calls, and sets ones itself.
        units = shape[0] // 4
        before = moments_of_draw(initializer, (units,), construction)
        after = moments_of_draw(initializer, (2 * units,), construction)
        return replace(
            after,
            mean=(before.mean + 1 + 2 * after.mean) / 4,
            second_moment=(before.second_moment + 1 + 2 * after.second_moment) / 4,
        )
    return moments_of_draw(initializer, shape, construction)


def _resolved(identifier: InitializerLike) -> Initializer:
    """Return the initializer that a name, config, class or array stands for."""
    initializer = keras.initializers.get(identifier)
    if initializer is None:
        raise ValueError(
            "Expected an initializer, its name or its config. Received: None. For a "
            "weight that has none, take current_moments(variable)."
        )
    return initializer


def _variable_of(layer: Layer, weight: str) -> keras.Variable:
    held = held_weights(layer)
    if weight in held:
        return held[weight]
    for variable in own_variables(layer):
        if variable.name == weight:
            return variable
    names = ", ".join(map(repr, held)) or "none"
    remedy = (
        "Name one of these, or pass the inner layer that holds the weight."
        if layer.built
        else "Build the layer first, or call its model on a batch."
    )
    raise ValueError(
        f"Expected the name of a weight that layer {layer.name!r} "
        f"({type(layer).__name__}) itself holds: {names}. Received: "
        f"weight={weight!r}. {remedy}"
    )


def _initializer_of(layer: Layer, weight: str) -> Initializer | None:
    """Return the initializer that `layer` keeps for a weight; None if there is none."""
    names = [weight]
    if weight == "kernel":
        names.append("depthwise")
    elif weight.endswith("_kernel"):
        names.append(weight.removesuffix("_kernel"))
    elif weight.startswith("reverse_"):
        names.append(weight.removeprefix("reverse_"))
    for private in ("", "_"):
        for name in names:
            initializer = getattr(layer, f"{private}{name}_initializer", None)
            if initializer is not None:
                return initializer
    return None
