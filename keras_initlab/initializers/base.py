"""What every `initlab>` initializer shares: its place, its options, its draw."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_initlab import activations
from keras_initlab.initializers import draws
from keras_initlab.model import fans
from keras_initlab.model.construction import Construction, under_construction
from keras_initlab.words import did_you_mean

PACKAGE = "initlab"


class LayerInitializer(keras.initializers.Initializer):  # type: ignore[misc]
    """An initializer that knows the layer it draws for.

    Subclasses define the draw in `values`; this class finds the weight under
    construction, checks shape and dtype, and seeds the draw.
    """

    seed: int | None

    def __repr__(self) -> str:
        """Return the call that makes it: its numbers, and what is not default."""
        return f"{type(self).__name__}({', '.join(self._arguments())})"

    def _arguments(self) -> Iterator[str]:
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = getattr(self, name, parameter.default)
            # An array has no one truth value; its text does.
            is_default = repr(value) == repr(parameter.default)
            if not is_default or (type(value) is float and value != 0):
                yield f"{name}={value!r}"

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """Return a tensor of the given shape and floating dtype.

        Raises:
            ValueError: a size of `shape` is unknown, zero or negative, or `dtype`
                is not a floating one, or cannot hold weights as large.
        """
        sizes = fans.checked_shape(shape)
        kind = keras.backend.standardize_dtype(dtype)
        if not keras.backend.is_float_dtype(kind):
            raise ValueError(
                f"{type(self).__name__} draws weights of a floating dtype. "
                f"Received: dtype={dtype!r}. Use an initializer such as 'zeros' for "
                "integer and boolean weights."
            )
        with np.errstate(over="ignore", invalid="ignore"):  # refused, not warned of
            return self.values(sizes, kind, under_construction())

    def values(
        self,
        shape: tuple[int, ...],
        dtype: str,
        construction: Construction | None,
    ) -> Any:
        """Return the tensor for one weight; `construction` is None if unknown."""
        raise NotImplementedError


class VarianceScaled(LayerInitializer):
    """Draws Var(w) = gain² / fan, with the fans of the layer that asks.

    `_gain` is the gain as a number; subclasses set all four.
    """

    _gain: float
    mode: fans.Mode | None
    distribution: draws.Distribution

    def values(
        self,
        shape: tuple[int, ...],
        dtype: str,
        construction: Construction | None,
    ) -> Any:
        """Return the drawn tensor; zeros where the variance is 0."""
        variance = self.variance(shape, construction)
        if not variance:
            return keras.ops.zeros(shape, dtype=dtype)
        random_generator = generator(self.seed, construction)
        return draws.draw(shape, variance, self.distribution, random_generator, dtype)

    def variance(
        self, shape: tuple[int, ...], construction: Construction | None
    ) -> float:
        """Return the Var(w) that one weight is drawn with."""
        assert self.mode is not None
        fan = layout_of(shape, construction).fans(shape).over(self.mode)
        return self._gain**2 / fan


def generator(
    seed: int | None, construction: Construction | None
) -> np.random.Generator:
    """Return the generator for the weight under construction."""
    place = () if construction is None else construction.place
    return draws.generator(seed, place)


def layout_of(
    shape: tuple[int, ...], construction: Construction | None
) -> fans.KernelLayout:
    """Return the layout of the weight under construction; by shape if it is unknown."""
    if construction is None:
        return fans.kernel_layout(None, None, shape)
    return fans.kernel_layout(construction.layer, construction.weight, shape)


def at_centre(
    matrices: NDArray[Any], layout: fans.KernelLayout, shape: tuple[int, ...]
) -> NDArray[Any]:
    """Return the convolution that is `matrices` at its centre and zero around it.

    The centre of an even size is the one before the middle, where padding "same" puts
    the output.
    """
    count, rows, columns = matrices.shape
    field = [shape[axis] for axis in layout.field]
    centre = np.ravel_multi_index([(size - 1) // 2 for size in field], field)
    stack = np.zeros((count, math.prod(field), rows, columns), matrices.dtype)
    stack[:, centre] = matrices
    return layout.unstack(stack, shape)


def checked_matrix(name: str, shape: tuple[int, ...]) -> None:
    """Refuse a vector or scalar where a kernel is needed, with a ValueError."""
    if len(shape) < 2:
        raise ValueError(
            f"initlab>{name} needs a kernel of two or more axes. Received: "
            f"shape={shape}. Use 'zeros' or an initlab>bias_ initializer for a bias."
        )


def as_number(value: Any) -> float | None:
    """Return a real number as a float, ±inf for a larger int; None for all else."""
    kinds = (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def checked_gain(gain: Any) -> float:
    """Return the number that `gain` means, or raise a ValueError or TypeError."""
    number = as_number(gain)
    if number is not None:
        # Its square is a variance.
        if not (number > 0 and 0 < number * number < math.inf):
            raise ValueError(
                "`gain` must be positive and finite, and so must its square, or an "
                f"activation. Received: gain={gain!r}. Use 'zeros' for weights of zero."
            )
        return number
    if gain is None or isinstance(gain, (bool, np.ndarray, np.generic, complex)):
        raise TypeError(
            "`gain` must be a positive number or an activation. Received: "
            f"gain={gain!r}. Pass a float, or use initlab>auto to choose by the "
            "layer's activation."
        )
    return activations.gain(gain)


def gain_config(gain: Any) -> Any:
    """Return a `gain` argument as JSON can hold it, for `get_config`."""
    # JSON does not know NumPy's numbers.
    if isinstance(gain, np.number):
        return gain.item()
    return gain if isinstance(gain, (int, float)) else activation_config(gain)


def checked_choice(name: str, value: Any, choices: tuple[str, ...]) -> Any:
    """Return `value` if it is one of `choices`, or raise a ValueError."""
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(repr, choices))}. "
            f"Received: {name}={value!r}.{did_you_mean(value, choices)} Leave it out "
            "for the default."
        )
    return value


def checked_seed(seed: Any) -> int | None:
    """Return `seed` as an int or None, or raise a TypeError."""
    if seed is None:
        return None
    if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
        return int(seed)
    raise TypeError(
        "`seed` must be an int (folded with the weight's place in the model) or None "
        f"(drawn afresh). Received: seed={seed!r} of type {type(seed).__name__}. "
        "Pass one number, for example seed=0."
    )


def activation_config(activation: Any) -> Any:
    """Return an `activation` argument as JSON can hold it, for `get_config`.

    Raises:
        ValueError: it is a function that cannot be named in a file or recognised.
    """
    if activation is None or isinstance(activation, (str, dict)):
        return activation
    if isinstance(activation, keras.layers.Layer) and not isinstance(
        activation, keras.layers.Lambda
    ):
        return _layer_config(activation)
    name = getattr(activation, "__name__", None)
    if name is not None:
        if getattr(keras.activations, name, None) is activation:
            return name
        registered = keras.saving.get_registered_name(activation)
        if keras.saving.get_registered_object(registered) is activation:
            return keras.activations.serialize(activation)
    # Functions of this process alone: saved as what they are recognised as.
    resolved = activations.resolve(activation)
    if hasattr(keras.activations, resolved.name):
        return resolved.name
    if resolved.family == "relu":
        return _layer_config(keras.layers.LeakyReLU(resolved.negative_slope))
    raise ValueError(
        "An activation in an initializer's config must be a name, a layer, or a "
        f"registered function, so that it can be saved. Received: {activation!r}. "
        "Register it with keras.saving.register_keras_serializable, or use "
        "initlab>scaled with its gain as a number."
    )


def _layer_config(layer: Any) -> dict[str, Any]:
    config: dict[str, Any] = keras.saving.serialize_keras_object(layer)
    # What it computes counts, not what it is called or in which dtype.
    for key in ("name", "trainable", "dtype"):
        config["config"].pop(key, None)
    return config
