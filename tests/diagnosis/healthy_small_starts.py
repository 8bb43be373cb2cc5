"""Networks with nothing wrong, in which something starts at 0 or next to it.

Beside it another path carries the signal: LayerScale, ReZero, Fixup, FiLM, LoRA and
transform nets. What they make learns after a step or two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.diagnosis import cases
from tests.diagnosis.cases import (
    Case,
    before_and_while_trained,
    compiled,
    head,
    seeded,
    stack,
)

HE = "he_normal"


def clouds() -> tuple[Any, Any]:
    """Return 32 points in space each, near a sphere or in a ball."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, 512)
    x = generator.standard_normal((512, 32, 3))
    radius = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.where(y[:, None, None] > 0, x / radius, x).astype("float32"), y


@keras.saving.register_keras_serializable("tests")
class Factor(layers.Layer):
    """A factor that is learned: ReZero's single one, or LayerScale's of each unit."""

    def __init__(self, start: float, each: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.start, self.each = start, each

    def build(self, shape: Any) -> None:
        self.factor = self.add_weight(
            shape=(shape[-1],) if self.each else (),
            initializer=keras.initializers.Constant(self.start),
            name="factor",
        )

    def call(self, inputs: Any) -> Any:
        return inputs * self.factor


@keras.saving.register_keras_serializable("tests")
class Transform(layers.Layer):
    """Turn points by a matrix made of them: zeros and a bias of the identity."""

    def build(self, shape: Any) -> None:
        size = shape[-1]
        self.features = layers.Dense(16, "relu", kernel_initializer=HE)
        self.features.build(shape)
        self.matrix = layers.Dense(
            size * size,
            kernel_initializer="zeros",
            bias_initializer=keras.initializers.Constant(np.eye(size).ravel()),
        )
        self.matrix.build((shape[0], 16))

    def call(self, inputs: Any) -> Any:
        size = inputs.shape[-1]
        pooled = ops.max(self.features(inputs), axis=1)
        matrix = ops.reshape(self.matrix(pooled), (-1, size, size))
        return ops.matmul(inputs, matrix)


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """A residual block of one's own, whose branch ends in a small factor.

    Args:
        start: the factor; None for a last kernel of zeros in its stead.
    """

    def __init__(self, start: float | None, **options: Any) -> None:
        super().__init__(**options)
        self.start = start
        self.normalise = layers.LayerNormalization()
        self.first = layers.Dense(64, "gelu", kernel_initializer=HE)
        last = "zeros" if start is None else "glorot_uniform"
        self.last = layers.Dense(32, kernel_initializer=last)

    def build(self, shape: Any) -> None:
        self.normalise.build(shape)
        self.first.build(shape)
        self.last.build((*shape[:-1], 64))
        start = keras.initializers.Constant(1.0 if self.start is None else self.start)
        self.factor = self.add_weight((32,), initializer=start, name="factor")

    def call(self, inputs: Any) -> Any:
        branch = self.last(self.first(self.normalise(inputs)))
        return inputs + self.factor * branch


def small_branches(make: Callable[[], Any], blocks: int = 4) -> Any:
    """Return pre-norm residual branches that end in a small factor."""
    x = inputs = keras.Input((64,))
    x = layers.Dense(32)(x)
    for _ in range(blocks):
        y = layers.LayerNormalization()(x)
        y = layers.Dense(32)(layers.Dense(64, "gelu")(y))
        x = layers.Add()([x, make()(y)])
    return compiled(keras.Model(inputs, head()(layers.LayerNormalization()(x))))


def convnext(blocks: int = 3) -> Any:
    """Return ConvNeXt's blocks, each with LayerScale at 1e-6."""
    x = inputs = keras.Input((8, 8, 1))
    x = layers.LayerNormalization()(layers.Conv2D(16, 2, strides=2)(x))
    for _ in range(blocks):
        y = layers.DepthwiseConv2D(3, padding="same")(x)
        y = layers.Dense(64, "gelu")(layers.LayerNormalization()(y))
        x = layers.Add()([x, Factor(1e-6)(layers.Dense(16)(y))])
    x = layers.LayerNormalization()(layers.GlobalAveragePooling2D()(x))
    return compiled(keras.Model(inputs, head()(x)))


def own_blocks(start: float | None) -> Any:
    """Return four residual blocks of one's own."""
    blocks = [Block(start) for _ in range(4)]
    rows = [layers.Dense(32), *blocks, layers.LayerNormalization(), head()]
    return stack(*rows, shape=(64,))


def conditioned() -> Any:
    """Return features times 1 + a gate, at 0 first, that other inputs make."""
    inputs = keras.Input((64,))
    left, right = inputs[:, :32], inputs[:, 32:]
    x = layers.Dense(32, "relu", kernel_initializer=HE)(left)
    y = layers.Dense(16, "relu", kernel_initializer=HE)(right)
    x = x * (1 + layers.Dense(32, kernel_initializer="zeros")(y))
    x = layers.Dense(32, "relu", kernel_initializer=HE)(x)
    return compiled(keras.Model(inputs, head()(x)))


def low_rank() -> Any:
    """Return Dense layers with a low-rank change of each that starts at 0: LoRA."""
    x = inputs = keras.Input((64,))
    for _ in range(3):
        change = layers.Dense(48, kernel_initializer="zeros")(layers.Dense(4)(x))
        x = layers.ReLU()(layers.Dense(48, kernel_initializer=HE)(x) + change)
    return compiled(keras.Model(inputs, head()(x)))


def rezero(blocks: int = 12) -> Any:
    """Return residual branches without normalisation, each times a factor of 0."""
    x = inputs = keras.Input((64,))
    x = layers.Dense(32)(x)
    for _ in range(blocks):
        y = layers.Dense(32, "relu", kernel_initializer=HE)(x)
        x = layers.Add()([x, Factor(0.0, each=False)(y)])
    return compiled(keras.Model(inputs, head()(x)))


def fixup(blocks: int = 6) -> Any:
    """Return residual branches whose last kernel is 0, in one expression each."""
    x = inputs = keras.Input((64,))
    x = layers.Dense(32)(x)
    for _ in range(blocks):
        y = layers.Dense(32, "relu", kernel_initializer=HE)(x)
        y = layers.Dense(32, "relu", kernel_initializer=HE)(y)
        y = layers.Dense(32, kernel_initializer="zeros")(y)
        x = layers.ReLU()(x + layers.Dropout(0.1)(y))
    return compiled(keras.Model(inputs, head()(x)))


def gated_by_zero() -> Any:
    """Return features times 1 + a gate that starts at 0: FiLM."""
    inputs = keras.Input((64,))
    x = layers.Dense(32, "relu", kernel_initializer=HE)(inputs)
    gate = layers.Dense(32, kernel_initializer="zeros")(inputs)
    shift = layers.Dense(32, kernel_initializer="zeros")(inputs)
    x = layers.Dense(32, "relu", kernel_initializer=HE)(x * (1 + gate) + shift)
    return compiled(keras.Model(inputs, head()(x)))


def transform_net() -> Any:
    """Return a PointNet with one transform net, which starts as the identity."""
    x = inputs = keras.Input((32, 3))
    for width in (32, 32):
        x = layers.Dense(width, "relu", kernel_initializer=HE)(Transform()(x))
        if width == 32:
            x = layers.Dense(8)(x)
    x = layers.Dense(32, "relu", kernel_initializer=HE)(x)
    x = layers.GlobalMaxPooling1D()(x)
    return compiled(keras.Model(inputs, head(2)(x)))


def functional_transform_net() -> Any:
    """Return the same, of Keras's layers alone."""
    points = inputs = keras.Input((32, 3))
    x = layers.Conv1D(16, 1, activation="relu", kernel_initializer=HE)(points)
    x = layers.GlobalMaxPooling1D()(x)
    x = layers.Dense(
        9,
        kernel_initializer="zeros",
        bias_initializer=keras.initializers.Constant(np.eye(3).ravel()),
    )(x)
    x = layers.Dot(axes=(2, 1))([points, layers.Reshape((3, 3))(x)])
    x = layers.Conv1D(32, 1, activation="relu", kernel_initializer=HE)(x)
    x = layers.GlobalMaxPooling1D()(x)
    return compiled(keras.Model(inputs, head(2)(x)))


SMALL_STARTS: tuple[Case, ...] = (
    *before_and_while_trained("ConvNeXt", seeded(convnext), cases.images),
    *before_and_while_trained(
        "LayerScale", seeded(small_branches, lambda: Factor(1e-6))
    ),
    *before_and_while_trained(
        "LayerScale at 0", seeded(small_branches, lambda: Factor(0.0))
    ),
    *before_and_while_trained("ReZero", seeded(rezero)),
    *before_and_while_trained("Fixup", seeded(fixup)),
    *before_and_while_trained("FiLM from zero", seeded(gated_by_zero)),
    *before_and_while_trained("FiLM of other inputs", seeded(conditioned)),
    *before_and_while_trained("LoRA", seeded(low_rank)),
    *before_and_while_trained("LayerScale in own blocks", seeded(own_blocks, 1e-6)),
    *before_and_while_trained("zeros in own blocks", seeded(own_blocks, None)),
    *before_and_while_trained("transform net", seeded(transform_net), clouds),
    *before_and_while_trained(
        "transform net of layers", seeded(functional_transform_net), clouds
    ),
)
