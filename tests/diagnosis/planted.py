"""Faults to plant: in weights, in data, in how a network is built."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import keras
import numpy as np
from keras import layers

from tests.diagnosis import cases
from tests.diagnosis.cases import compiled, constant, head, plain, stack


@keras.saving.register_keras_serializable("tests")
class HeOfShape(keras.initializers.Initializer):
    """He's variance with the fans that a kernel's shape suggests."""

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """Return a draw."""
        deviation = (2 / np.prod(shape[:-1])) ** 0.5
        return keras.random.normal(shape, stddev=float(deviation), dtype=dtype)


# Faults planted by hand in a model's weights ----------------------------------------


def duplicate(model: Any, of: int = 2) -> None:
    """Make one unit in `of` of each hidden layer equal its neighbour, both ways."""
    hidden = [layer for layer in model.layers if layer.get_weights()]
    for layer, after in pairwise(hidden):
        kernel, bias = layer.get_weights()
        following, *rest = after.get_weights()
        count = kernel.shape[-1]
        # A channel is read at each position of a field, or of what was flattened.
        positions = following.reshape(-1, count, following.shape[-1])
        for first in range(0, count - 1, of):
            kernel[..., first + 1] = kernel[..., first]
            bias[first + 1] = bias[first]
            positions[:, first + 1] = positions[:, first]
        layer.set_weights([kernel, bias])
        after.set_weights([positions.reshape(following.shape), *rest])


def not_a_number(model: Any) -> None:
    """Lose one entry of the second kernel."""
    kernel, bias = model.layers[1].get_weights()
    kernel[3, 5] = np.nan
    model.layers[1].set_weights([kernel, bias])


# Faults in the data -----------------------------------------------------------------


def digits_with_nan() -> tuple[Any, Any]:
    """Return digits, of which a few pixels are missing."""
    x, y = cases.digits()
    x[::50, 20] = np.nan
    return x, y


def digits_with_infinity() -> tuple[Any, Any]:
    """Return digits with a division by zero in one of them."""
    x, y = cases.digits()
    x[5, 20] = np.inf
    return x, y


def offset() -> tuple[Any, Any]:
    """Return digits that lie about 1,000, with a deviation of 1."""
    x, y = cases.digits()
    return x + 1000, y


def in_small_units() -> tuple[Any, Any]:
    """Return digits of a deviation of 1e-5."""
    x, y = cases.digits()
    return x * np.float32(1e-5), y


def one_in_other_units() -> tuple[Any, Any]:
    """Return features of which one is an income, the others standardised."""
    x, y = cases.regression()
    x[:, 4] = 40_000 + 15_000 * x[:, 4]
    return x, y


def large_targets() -> tuple[Any, Any]:
    """Return targets of which the squared error is 1e8."""
    x, y = cases.regression()
    return x, 1e4 * y


# Networks ---------------------------------------------------------------------------


def residual(blocks: int) -> Any:
    """Return branches that each keep their variance, added without normalisation."""
    x = inputs = keras.Input((64,))
    x = layers.Dense(32)(x)
    for _ in range(blocks):
        y = layers.Dense(32, "relu", kernel_initializer="he_normal")(x)
        x = layers.Add()([x, layers.Dense(32, kernel_initializer="he_normal")(y)])
    return compiled(keras.Model(inputs, head()(x)))


def recurrent(activation: str, initializer: Any) -> Any:
    """Return a Dense layer and one recurrent layer that reads 32 steps."""
    rows = [
        layers.Dense(16, name="before"),
        layers.SimpleRNN(32, activation, recurrent_initializer=initializer),
    ]
    return stack(*rows, head(), shape=(32, 2))


def recurrent_of_constants() -> Any:
    """Return a recurrent layer all of whose units read the same."""
    layer = layers.SimpleRNN(
        24, kernel_initializer=constant(0.1), recurrent_initializer="identity"
    )
    return stack(layer, head(kernel_initializer="zeros"), shape=(8, 8))


def symmetric_in_the_middle(kernel: Any) -> Any:
    """Return four layers, of which the second and third have constant kernels."""
    rows = [
        layers.Dense(32, "tanh", kernel_initializer="glorot_uniform"),
        layers.Dense(32, "tanh", kernel_initializer=kernel, name="middle_0"),
        layers.Dense(32, "tanh", kernel_initializer=kernel, name="middle_1"),
        layers.Dense(32, "tanh", kernel_initializer="glorot_uniform"),
    ]
    return stack(*rows, head(), shape=(64,))


def convolutions(*, then: Callable[[Any], None] | None = None, **options: Any) -> Any:
    """Return three convolutions and a head."""
    options = {"padding": "same", "activation": "relu", **options}
    rows: list[Any] = [layers.Conv2D(12, 3, **options) for _ in range(3)]
    model = stack(*rows, layers.Flatten(), head(), shape=(8, 8, 1))
    if then is not None:
        then(model)
    return model


def depthwise() -> Any:
    """Return depthwise convolutions of 32 channels; Keras counts all of them."""
    rows: list[Any] = [layers.Conv2D(32, 1, activation="relu")]
    for _ in range(4):
        rows.append(
            layers.DepthwiseConv2D(
                3, padding="same", activation="relu", depthwise_initializer="he_normal"
            )
        )
    return stack(*rows, layers.Flatten(), head(), shape=(8, 8, 1))


def separable() -> Any:
    """Return separable convolutions; only their depthwise part is wrong."""
    options: dict[str, Any] = {"padding": "same", "activation": "relu"}
    options |= {"depthwise_initializer": "he_normal"}
    options |= {"pointwise_initializer": "he_normal"}
    rows: list[Any] = [layers.Conv2D(24, 1, activation="relu")]
    rows += [layers.SeparableConv2D(24, 3, **options) for _ in range(4)]
    return stack(*rows, layers.Flatten(), head(), shape=(8, 8, 1))


def transposed() -> Any:
    """Return a vector made an image; of a kernel one tap in nine meets an output."""
    options: dict[str, Any] = {"strides": 3, "activation": "relu"}
    options |= {"kernel_initializer": "he_normal"}
    rows = [
        layers.Dense(16, "relu", kernel_initializer="he_normal"),
        layers.Reshape((1, 1, 16)),
        *[layers.Conv2DTranspose(16, 3, **options) for _ in range(3)],
        layers.AveragePooling2D(9),
        layers.Flatten(),
    ]
    return stack(*rows, head(), shape=(64,))


def by_equation() -> Any:
    """Return EinsumDense layers whose kernels' second axis is no input."""
    rows: list[Any] = []
    for _ in range(5):
        rows += [
            layers.EinsumDense(
                "abc,cde->abde", (8, 8, 4), "relu", kernel_initializer=HeOfShape()
            ),
            layers.Reshape((8, 32)),
        ]
    return stack(*rows, layers.Flatten(), head(), shape=(8, 8))


def softmax_inside() -> Any:
    """Return four hidden layers, each with a softmax."""
    return plain("softmax", 4)


def one_instance() -> Any:
    """Return four layers of one initializer object."""
    return plain("relu", 4, keras.initializers.HeNormal())


def one_seed() -> Any:
    """Return four layers of one seed."""
    rows: list[Any] = []
    for _ in range(4):
        kernel = keras.initializers.HeNormal(seed=1)
        rows.append(layers.Dense(48, "relu", kernel_initializer=kernel))
    return stack(*rows, head(), shape=(64,))
