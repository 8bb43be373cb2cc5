"""Prediction and measurement side by side, where predicting is hard.

The cases on which AutoInit (Bingham & Miikkulainen 2023), which predicts variances for
old tf.keras, was measured to fail, and networks of every architecture that people
build. Each is built anew for every draw of its weights and measured on N(0, 1) input;
the prediction is made once, from the first one's initializers.

    python examples/benchmarks/propagation.py [--quick] [--draws N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

import keras_initlab as il
from keras_initlab.tables import render_table

BATCH = 64


def plain(activation: str, depth: int, dropout: float = 0.0) -> Any:
    """Return a deep network of Dense layers, each scaled to what reaches it."""
    rows: list[Any] = [keras.Input((256,))]
    for _ in range(depth):
        rows.append(layers.Dense(256, activation))
        if dropout:
            rows.append(layers.Dropout(dropout))
    model = keras.Sequential(rows)
    il.rewrite_initializers(model, scheme="variance")
    return model


def residual_sums(blocks: int = 8) -> Any:
    """Return a stream to which branches are added, without normalisation."""
    x = inputs = keras.Input((128,))
    for _ in range(blocks):
        y = layers.Dense(128, "relu", kernel_initializer="he_normal")(x)
        x = layers.Add()([x, layers.Dense(128, kernel_initializer="lecun_normal")(y)])
    return keras.Model(inputs, x)


def small_unet() -> Any:
    """Return a U-Net of two levels."""

    def block(x: Any, filters: int) -> Any:
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        return layers.Conv2D(filters, 3, padding="same", activation="relu")(x)

    inputs = keras.Input((16, 16, 3))
    one = block(inputs, 32)
    two = block(layers.MaxPooling2D()(one), 64)
    three = block(layers.MaxPooling2D()(two), 96)
    x = layers.Conv2DTranspose(64, 2, strides=2)(three)
    x = block(layers.Concatenate()([x, two]), 64)
    x = block(layers.Concatenate()([layers.UpSampling2D()(x), one]), 32)
    return keras.Model(inputs, layers.Conv2D(16, 1)(x))


def transformer(blocks: int = 2) -> Any:
    """Return a small pre-norm transformer encoder of tokens."""
    inputs = keras.Input((12,), dtype="int32")
    x = layers.Embedding(100, 64)(inputs)
    for _ in range(blocks):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, 16)(y, y)
        y = layers.LayerNormalization()(x)
        x = x + layers.Dense(64)(layers.Dense(256, activation="gelu")(y))
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def two_inputs() -> Any:
    """Return a model of an image and a vector."""
    image, vector = keras.Input((8, 8, 3), name="image"), keras.Input((16,), name="vec")
    x = layers.Conv2D(32, 3, activation="relu")(image)
    x = layers.Flatten()(layers.AveragePooling2D(2)(x))
    x = layers.Concatenate()([x, layers.Dense(32, activation="tanh")(vector)])
    return keras.Model([image, vector], layers.Dense(16)(x))


class Subclassed(keras.Model):
    """A model with a `call` of its own: convolution, gate and head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = layers.Conv2D(64, 3, padding="same", activation="silu")
        self.pool = layers.GlobalAveragePooling2D()
        self.gate = layers.Dense(64, activation="sigmoid")
        self.head = layers.Dense(16)

    def call(self, inputs: Any) -> Any:
        """Return the logits."""
        x = self.conv(inputs)
        gate = self.gate(self.pool(x))
        return self.head(self.pool(x) * gate)


def subclassed() -> Any:
    """Return the subclassed model, built."""
    model = Subclassed()
    model(np.zeros((1, 8, 8, 3), "float32"))
    return model


def sequence(*rows: Any, shape: tuple[int, ...], dtype: str = "float32") -> Any:
    """Return a Sequential model of these layers."""
    return keras.Sequential([keras.Input(shape, dtype=dtype), *rows])


CASES: dict[str, Callable[[], Any]] = {
    "SiLU, depth 50": lambda: plain("silu", 50),
    "GELU, depth 50": lambda: plain("gelu", 50),
    "ReLU, depth 50": lambda: plain("relu", 50),
    "tanh, depth 50": lambda: plain("tanh", 50),
    "ReLU, depth 20, dropout 0.5": lambda: plain("relu", 20, 0.5),
    "residual sums": residual_sums,
    "separable convolution": lambda: sequence(
        layers.SeparableConv2D(64, 3, activation="relu"), shape=(12, 12, 32)
    ),
    "transposed convolution": lambda: sequence(
        layers.Conv2DTranspose(64, 3, strides=2, padding="same"), shape=(8, 8, 32)
    ),
    "attention": lambda: sequence(SelfAttention(), shape=(12, 64)),
    "embedding": lambda: sequence(
        layers.Embedding(1000, 64), layers.Dense(64), shape=(12,), dtype="int32"
    ),
    "TimeDistributed": lambda: sequence(
        layers.TimeDistributed(layers.Dense(64, "relu")), shape=(12, 32)
    ),
    "Bidirectional": lambda: sequence(
        layers.Bidirectional(layers.LSTM(64)), shape=(12, 32)
    ),
    'Dense(activation="relu6")': lambda: sequence(
        layers.Dense(64, activation="relu6"), layers.Dense(64), shape=(32,)
    ),
    "subclassed model": subclassed,
    "transformer encoder": transformer,
    "U-Net": small_unet,
    "LSTM stack": lambda: sequence(
        layers.LSTM(64, return_sequences=True),
        layers.LSTM(64, return_sequences=True),
        layers.LSTM(64),
        shape=(12, 32),
    ),
    "two inputs": two_inputs,
}

QUICK = ("residual sums", "embedding", "subclassed model", "two inputs")


class SelfAttention(layers.Layer):
    """Multi-head attention of a sequence to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = layers.MultiHeadAttention(4, 16)

    def build(self, shape: Any) -> None:
        """Build the attention."""
        self.attend.build(shape, shape)
        super().build(shape)

    def call(self, x: Any) -> Any:
        """Return the attention's output."""
        return self.attend(x, x)


def batch(model: Any, seed: int) -> Any:
    """Return a batch for the model: N(0, 1), or tokens."""
    generator = np.random.default_rng(seed)
    shapes = getattr(model, "inputs", None)
    if not shapes:
        return generator.standard_normal((BATCH, 8, 8, 3)).astype("float32")
    values = [
        generator.integers(0, 100, (BATCH, *one.shape[1:]))
        if one.dtype == "int32"
        else generator.standard_normal((BATCH, *one.shape[1:])).astype("float32")
        for one in shapes
    ]
    return values if len(values) > 1 else values[0]


def compare(make: Callable[[], Any], draws: int) -> dict[str, Any]:
    """Return the last layer's and the worst layer's prediction and measurement."""
    seconds, predicted = [], {}
    for draw in range(draws):
        keras.backend.clear_session()  # so that names count from 1
        keras.utils.set_random_seed(draw)
        model = make()
        if not predicted:
            predicted = {one.layer: one.second_moment for one in il.propagate(model)}
        stats = il.measure(model, batch(model, draw), gradients=False)
        seconds.append({one.layer: one.second_moment for one in stats})
    mean = {
        key: float(np.mean([found[key] for found in seconds]))
        for key in seconds[0]
        if key in predicted and seconds[0][key]
    }
    ratios = {key: predicted[key] / value for key, value in mean.items()}
    last = list(mean)[-1]
    worst = max(ratios, key=lambda key: abs(np.log(ratios[key])))
    return {
        "layers": len(mean),
        "last": last,
        "predicted": predicted[last],
        "measured": mean[last],
        "worst": worst,
        "worst_ratio": ratios[worst],
        "seconds": mean,
        "all_predicted": predicted,
    }


def main(argv: list[str] | None = None) -> int:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one draw of a few cases")
    parser.add_argument("--draws", type=int, default=10, help="draws of the weights")
    parser.add_argument("--out", type=Path, help="a folder for propagation.json")
    arguments = parser.parse_args(argv)
    cases = {name: CASES[name] for name in (QUICK if arguments.quick else CASES)}
    results = {
        name: compare(make, 1 if arguments.quick else arguments.draws)
        for name, make in cases.items()
    }
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(results, indent=1)
        (arguments.out / "propagation.json").write_text(text + "\n")
    columns: list[tuple[str, Any]] = [
        ("case", "left"),
        ("layers", "right"),
        ("last E x²: predicted", "right"),
        ("measured", "right"),
        ("worst layer", "left"),
        ("predicted / measured", "right"),
    ]
    rows = [
        [
            name,
            str(found["layers"]),
            f"{found['predicted']:.4g}",
            f"{found['measured']:.4g}",
            found["worst"],
            f"{found['worst_ratio']:.2f}",
        ]
        for name, found in results.items()
    ]
    print(render_table("Second moments, predicted and measured", columns, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
