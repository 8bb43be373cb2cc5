"""What every `initlab>` initializer shares: its place, its options, its draw."""

from __future__ import annotations

from typing import Any

import keras

from keras_initlab import context, fans
from keras_initlab.initializers import draws

PACKAGE = "initlab"


class LayerInitializer(keras.initializers.Initializer):  # type: ignore[misc]
    """An initializer that knows the layer it draws for.

    Subclasses say what to draw in `values`; this class finds the weight under
    construction, checks shape and dtype, and seeds.
    """

    seed: int | None

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """Return a tensor of the given shape and floating dtype.

        Raises:
            ValueError: a size of `shape` is unknown, zero or negative, or `dtype`
                is not a floating one.
        """
        sizes = fans.checked_shape(shape)
        kind = keras.backend.standardize_dtype(dtype)
        if not keras.backend.is_float_dtype(kind):
            raise ValueError(
                f"{type(self).__name__} draws weights of a floating dtype. "
                f"Received: dtype={dtype!r}. Use an initializer such as 'zeros' for "
                "integer and boolean weights."
            )
        return self.values(sizes, kind, context.under_construction())

    def values(
        self,
        shape: tuple[int, ...],
        dtype: str,
        construction: context.Construction | None,
    ) -> Any:
        """Return the tensor for one weight, whose maker may be unknown (None)."""
        raise NotImplementedError


def variance_scaled(
    shape: tuple[int, ...],
    dtype: str,
    construction: context.Construction | None,
    *,
    gain: float,
    mode: fans.Mode,
    distribution: str,
    seed: int | None,
) -> Any:
    """Draw a weight with Var(w) = gain² / fan, with the fans of its layer."""
    layer, weight = (
        (None, None)
        if construction is None
        else (construction.layer, construction.weight)
    )
    fan = fans.kernel_fans(shape, layer, weight).over(mode)
    place = () if construction is None else construction.place
    return draws.draw(
        shape, gain**2 / fan, distribution, draws.generator(seed, place), dtype
    )


def checked_choice(name: str, value: Any, choices: tuple[str, ...]) -> Any:
    """Return `value` if it is one of `choices`, or raise a ValueError."""
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(repr, choices))}. "
            f"Received: {name}={value!r}"
        )
    return value


def checked_seed(seed: Any) -> int | None:
    """Return `seed` if it is an int or None, or raise a TypeError."""
    if seed is None or (isinstance(seed, int) and not isinstance(seed, bool)):
        return seed
    raise TypeError(
        "`seed` must be an int (folded with the weight's place in the model) or None "
        f"(drawn afresh). Received: seed={seed!r} of type {type(seed).__name__}"
    )


def activation_config(activation: Any) -> Any:
    """Return an `activation` argument as JSON can hold it, for `get_config`."""
    if activation is None or isinstance(activation, (str, dict)):
        return activation
    if isinstance(activation, keras.layers.Layer):
        config = keras.saving.serialize_keras_object(activation)
        # What it computes counts, not what it is called or in which dtype.
        for key in ("name", "trainable", "dtype"):
            config["config"].pop(key, None)
        return config
    return keras.activations.serialize(activation)
