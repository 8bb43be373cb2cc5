"""Networks with nothing wrong: a diagnosis that names an error or warning errs.

Each learns with the settings that it is compiled with. Among them is what looks like
a fault and is none: zeros where they belong, an input that is small, gradients that
have shrunk because there is nothing left to learn.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

import keras_initlab as il
from tests.diagnosis import cases
from tests.diagnosis.cases import Case, compiled, head, plain, seeded, stack
from tests.diagnosis.healthy_architectures import ARCHITECTURES
from tests.diagnosis.healthy_small_starts import SMALL_STARTS

# All of Keras's activations that make one output of each input, but for the linear
# one, and for exp, which no hidden layer uses.
ACTIVATIONS = (
    "celu elu gelu hard_shrink hard_sigmoid hard_silu hard_tanh leaky_relu log_sigmoid "
    "mish relu relu6 selu sigmoid silu soft_shrink softplus softsign sparse_plus "
    "sparse_sigmoid squareplus tanh tanh_shrink"
).split()


def autoencoder() -> Any:
    """Return 64-32-4-32-64: most of what tells inputs apart must go."""
    rows = [
        layers.Dense(32, "tanh"),
        layers.Dense(4, name="bottleneck"),
        layers.Dense(32, "tanh"),
        layers.Dense(64, name="restored"),
    ]
    return stack(*rows, shape=(64,), loss="values", rate=0.01)


def layer_normalised() -> Any:
    """Return Dense, LayerNormalization and GELU, three times."""
    rows: list[Any] = []
    for _ in range(3):
        rows += [
            layers.Dense(48),
            layers.LayerNormalization(),
            layers.Activation("gelu"),
        ]
    return stack(*rows, head(), shape=(64,))


def convolutions(normalised: bool) -> Any:
    """Return three convolutions, with BatchNormalization or without."""
    rows: list[Any] = []
    for filters, strides in ((8, 1), (16, 2), (16, 1)):
        options: dict[str, Any] = {"padding": "same", "strides": strides}
        options["kernel_initializer"] = "he_normal"
        if normalised:
            rows.append(layers.Conv2D(filters, 3, use_bias=False, **options))
            rows += [layers.BatchNormalization(), layers.ReLU()]
        else:
            rows.append(layers.Conv2D(filters, 3, activation="relu", **options))
    rows += [layers.MaxPooling2D(), layers.Flatten()]
    return stack(*rows, head(), shape=(8, 8, 1))


def depthwise() -> Any:
    """Return depthwise and separable convolutions, each scaled to its own fans."""
    rows = [
        layers.Conv2D(16, 3, activation="relu", kernel_initializer="initlab>auto"),
        layers.DepthwiseConv2D(
            3, padding="same", activation="relu", depthwise_initializer="initlab>auto"
        ),
        layers.SeparableConv2D(
            16,
            3,
            activation="relu",
            depthwise_initializer="initlab>auto",
            pointwise_initializer="initlab>auto",
        ),
        layers.Flatten(),
    ]
    return stack(*rows, head(), shape=(8, 8, 1))


def mobile() -> Any:
    """Return depthwise convolutions by Keras's defaults; normalisation mends them."""
    rows: list[Any] = [layers.Conv2D(16, 3, padding="same", use_bias=False)]
    rows += [layers.BatchNormalization(), layers.ReLU(6.0)]
    for _ in range(2):
        rows += [
            layers.DepthwiseConv2D(3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.Conv2D(16, 1, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
        ]
    return stack(*rows, layers.Flatten(), head(), shape=(8, 8, 1))


def residual(
    blocks: int, *, last: Any = "he_normal", normalised: bool = False, **options: Any
) -> Any:
    """Return a stream to which branches of two layers are added.

    Args:
        blocks: how many.
        last: initializer of a branch's last kernel.
        normalised: whether a branch begins with LayerNormalization.
        options: for the head.
    """
    inputs = keras.Input((64,))
    x = layers.Dense(32)(inputs)
    for _ in range(blocks):
        y = layers.LayerNormalization()(x) if normalised else x
        y = layers.Dense(32, "relu", kernel_initializer="he_normal")(y)
        x = layers.Add()([x, layers.Dense(32, kernel_initializer=last)(y)])
    if normalised:
        x = layers.LayerNormalization()(x)
    return compiled(keras.Model(inputs, head(**options)(x)))


def residual_normalised_to_zero() -> Any:
    """Return residual convolutions whose last BatchNormalization starts at gamma 0."""
    x = inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, padding="same")(x)
    for _ in range(3):
        y = x
        for gamma in ("ones", "zeros"):
            y = layers.BatchNormalization(gamma_initializer=gamma)(
                layers.Conv2D(8, 3, padding="same", use_bias=False)(y)
            )
            y = layers.ReLU()(y) if gamma == "ones" else y
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    return compiled(keras.Model(inputs, head()(x)))


def transformer() -> Any:
    """Return a pre-norm transformer encoder of tokens, two blocks."""
    inputs = keras.Input((12,), dtype="int32")
    x = layers.Embedding(40, 16)(inputs)
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, 8)(y, y)])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(16)(layers.Dense(32, "gelu")(y))
        x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return compiled(keras.Model(inputs, head(2)(x)))


def attention() -> Any:
    """Return one self-attention over the rows of an image."""
    inputs = keras.Input((8, 8))
    x = layers.Dense(16)(inputs)
    x = layers.Flatten()(layers.MultiHeadAttention(2, 8)(x, x))
    return compiled(keras.Model(inputs, head()(x)))


def embedding() -> Any:
    """Return the mean of tokens' embeddings, and a head."""
    rows = [layers.Embedding(40, 16), layers.GlobalAveragePooling1D()]
    return stack(*rows, head(2), shape=(12,), dtype="int32", rate=0.02)


def identity_recurrent() -> Any:
    """Return a recurrent ReLU layer that starts by adding up what it reads."""
    layer = layers.SimpleRNN(
        32,
        "relu",
        kernel_initializer=cases.normal(0.1),
        recurrent_initializer="identity",
    )
    optimizer = keras.optimizers.Adam(0.003, clipnorm=1.0)
    return stack(layer, head(), shape=(32, 2), optimizer=optimizer)


def two_towers() -> Any:
    """Return one Dense layer that two inputs share: its kernel is the same, rightly."""
    x = inputs = keras.Input((64,))
    left, right = x[:, :32], x[:, 32:]
    shared = layers.Dense(24, "relu", kernel_initializer="he_normal", name="shared")
    x = layers.Concatenate()([shared(left), shared(right)])
    x = layers.Dense(24, "relu", kernel_initializer="he_normal")(x)
    return compiled(keras.Model(inputs, head()(x)))


def frozen_base() -> Any:
    """Return a network whose first layers do not train."""

    def freeze(model: Any) -> None:
        for layer in model.layers[:2]:
            layer.trainable = False

    return plain("relu", 3, "he_normal", then=freeze)


def isometric() -> Any:
    """Return 50 layers, made trainable by their initial weights."""

    def rewrite(model: Any) -> None:
        il.rewrite_initializers(model, scheme="isometric", seed=0)

    return plain("gelu", 50, width=32, then=rewrite, optimizer="sgd", rate=0.01)


def few_digits() -> tuple[Any, Any]:
    """Return so few digits that they are soon learnt by heart."""
    x, y = cases.digits()
    return np.tile(x[:64], (16, 1)), np.tile(y[:64], 16)


def rescaled(first: str) -> Any:
    """Return a network that scales its own inputs: bytes, from 0 to 255."""
    scale = {
        "Rescaling": lambda: layers.Rescaling(1 / 255),
        "BatchNormalization": layers.BatchNormalization,
    }
    return stack(scale[first](), layers.Dense(48, "relu"), head(), shape=(64,))


def decoder() -> Any:
    """Return transposed convolutions, each scaled to its own fans."""
    options: dict[str, Any] = {"kernel_initializer": "initlab>auto"}
    options |= {"strides": 2, "activation": "relu", "padding": "same"}
    rows = [
        layers.Dense(64, "relu", kernel_initializer="initlab>auto"),
        layers.Reshape((2, 2, 16)),
        layers.Conv2DTranspose(16, 3, **options),
        layers.Conv2DTranspose(16, 3, **options),
        layers.Conv2D(1, 3, padding="same"),
        layers.Flatten(),
    ]
    return stack(*rows, shape=(64,), loss="values")


def recurrent(name: str, **options: Any) -> Any:
    """Return one recurrent layer that reads an image's rows."""
    return stack(getattr(layers, name)(32, **options), head(), shape=(8, 8), rate=0.01)


# Fit, with all that is told on the way.
TRAINED: dict[str, Any] = {"phase": "training", "epochs": 4}


def bags() -> tuple[Any, Any]:
    """Return which of 40 tokens are in a sequence: mostly zeros."""
    x, y = cases.tokens()
    present = np.zeros((len(x), 40), "float32")
    np.put_along_axis(present, x, 1, axis=1)
    return present, y


def of(name: str, build: Any, data: Any = cases.digits, **rest: Any) -> Case:
    """Return a case; by default of digits, before training."""
    return Case(name, build, data, **{"epochs": 4, **rest})


def _plain() -> tuple[Case, ...]:
    few = {"inputs": 8, "outputs": 1}
    bag = {"inputs": 40, "outputs": 2}
    he = "he_normal"
    return (
        of("shallow tanh", seeded(plain, "tanh", 1)),
        of("tanh, Glorot, six layers", seeded(plain, "tanh", 6)),
        of("tanh, Glorot, six layers, trained", seeded(plain, "tanh", 6), **TRAINED),
        of("tanh, orthogonal, ten layers", seeded(plain, "tanh", 10, "orthogonal")),
        of("tanh, He, three layers", seeded(plain, "tanh", 3, he)),
        of("SELU, LeCun, ten layers", seeded(plain, "selu", 10, "lecun_normal")),
        of("ReLU, He", seeded(plain, "relu", 4, he)),
        of("ReLU, He, trained", seeded(plain, "relu", 4, he), **TRAINED),
        of("ReLU, Keras's default", seeded(plain, "relu", 3)),
        of("ReLU, He, dropout", seeded(plain, "relu", 3, he, dropout=0.3)),
        of("pixels from 0 to 1", seeded(plain, "relu", 3), cases.fractions),
        of("bytes, rescaled", seeded(rescaled, "Rescaling"), cases.pixels),
        of("bytes, normalised", seeded(rescaled, "BatchNormalization"), cases.pixels),
        of("bags of tokens", seeded(plain, "relu", 2, **bag), bags),
        of("regression", seeded(plain, "relu", 3, **few), cases.regression),
        of(
            "regression, trained",
            seeded(plain, "tanh", 2, rate=0.01, **few),
            cases.regression,
            **TRAINED,
        ),
        of("learnt by heart", seeded(plain, "relu", 3, he), few_digits, **TRAINED),
        of("head of zeros", seeded(plain, "relu", 2, he, head="zeros")),
        of("frozen first layers", seeded(frozen_base), **TRAINED),
        of("autoencoder", seeded(autoencoder), cases.digits_to_digits, epochs=20),
        of("layer shared by two inputs", seeded(two_towers)),
        of("GELU, isometric, 50 layers", seeded(isometric), epochs=8),
    )


def _normalised_and_residual() -> tuple[Case, ...]:
    scaled = cases.normal((1 / 32 / 20) ** 0.5)
    zeros = {"last": "zeros"}
    return (
        of("LayerNormalization", seeded(layer_normalised)),
        of("residual", seeded(residual, 4)),
        of("residual, trained", seeded(residual, 4), **TRAINED),
        of("residual, pre-norm", seeded(residual, 12, normalised=True)),
        of("residual, branches scaled down", seeded(residual, 20, last=scaled)),
        of("residual, branches of zeros", seeded(residual, 12, **zeros)),
        of(
            "residual, branches and head of zeros, trained",
            seeded(residual, 6, kernel_initializer="zeros", **zeros),
            **TRAINED,
        ),
        of(
            "residual, gamma of zeros",
            seeded(residual_normalised_to_zero),
            cases.images,
        ),
    )


def _convolutions() -> tuple[Case, ...]:
    normalised = seeded(convolutions, True)
    return (
        of("convolutions", seeded(convolutions, False), cases.images),
        of("BatchNormalization", normalised, cases.images),
        of("BatchNormalization, trained", normalised, cases.images, **TRAINED),
        of("depthwise and separable", seeded(depthwise), cases.images),
        of("decoder", seeded(decoder), cases.digits_to_digits, epochs=10),
        of("depthwise with normalisation", seeded(mobile), cases.images),
    )


def _sequences() -> tuple[Case, ...]:
    lstm = seeded(recurrent, "LSTM")
    return (
        of("LSTM", lstm, cases.rows_of_digits),
        of("LSTM, trained", lstm, cases.rows_of_digits, **TRAINED),
        of("GRU", seeded(recurrent, "GRU"), cases.rows_of_digits),
        of("SimpleRNN", seeded(recurrent, "SimpleRNN"), cases.rows_of_digits),
        of(
            "SimpleRNN, identity",
            seeded(identity_recurrent),
            cases.pixels_in_turn,
            epochs=10,
        ),
        of("embedding", seeded(embedding), cases.tokens),
        of("attention", seeded(attention), cases.rows_of_digits),
        of("transformer", seeded(transformer), cases.tokens, epochs=6),
        of("transformer, trained", seeded(transformer), cases.tokens, **TRAINED),
    )


def _activations() -> tuple[Case, ...]:
    def kernel(name: str) -> str:
        return "lecun_normal" if name == "selu" else "initlab>auto"

    # Of sigmoids, three layers are slow already.
    return tuple(
        of(
            f"activation {name}",
            seeded(plain, name, 1 if "sigmoid" in name else 3, kernel(name)),
        )
        for name in ACTIVATIONS
    )


HEALTHY: tuple[Case, ...] = (
    *_plain(),
    *_normalised_and_residual(),
    *_convolutions(),
    *_sequences(),
    *_activations(),
    *ARCHITECTURES,
    *SMALL_STARTS,
)
