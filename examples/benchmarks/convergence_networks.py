"""The networks that convergence.py trains, and the starts that it compares.

Each network is a Keras model without its softmax: losses are of logits.

Run as a script it prints what each start does to one network, as a plan, and how large
the signal in a transformer of four blocks then is, as a median of five seeds.

    python examples/benchmarks/convergence_networks.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

import keras_initlab as il
from keras_initlab.propagation import affine, output_moments
from keras_initlab.schemes import SchemeContext, Selection

CLASSES = 10
CODE = 16  # units between an autoencoder's two halves

Start = Callable[[Any, int], None]


def _by(scheme: Any, **options: Any) -> Start:
    def start(model: Any, seed: int) -> None:
        il.rewrite_initializers(model, scheme=scheme, seed=seed, **options)

    return start


def _fixup(model: Any, seed: int) -> None:
    """Start as Fixup does, but for its biases and multipliers (Zhang et al. 2019).

    Of blocks of two kernels on one stream of n branches: the second and the head at 0,
    the first as by its activation, over √n.
    """
    plan = il.rewrite_initializers(
        model, scheme=il.Variance(residual="zero"), seed=seed, dry_run=True
    )
    ends = {row.layer for row in plan if row.target == 0}
    il.rewrite_initializers(model, scheme="activation", seed=seed)
    kernels = [layer for layer in model.layers if hasattr(layer, "kernel")]
    for first, second in itertools.pairwise(kernels):
        if second.name in ends:
            first.kernel.assign(first.kernel / len(ends) ** 0.5)
            second.kernel.assign(0 * second.kernel)
    kernels[-1].kernel.assign(0 * kernels[-1].kernel)


def _rows() -> Any:
    """Return a batch of standardised digits as a transformer reads them."""
    from convergence_training import digits  # which imports this module

    return np.asarray(digits("standardised", "transformer").train[0][:256])


def _with_batch(model: Any, seed: int) -> None:
    """Start a transformer by "variance", with moments from a batch."""
    il.rewrite_initializers(model, scheme="variance", seed=seed, x=_rows())


class TFixup:
    """T-Fixup for a transformer that only encodes (Huang et al. 2020).

    Kernels are drawn as by Glorot, by the fans of attention's matrices; in the N blocks
    those of values, of attention's outputs and of Dense layers are multiplied by
    0.67 N^(-1/4). The kernels before and behind the blocks are not.
    """

    def choose(self, model: Any, context: SchemeContext) -> Selection:
        """Return a choice for each kernel of `transformer`."""
        kernels = context.kernels()
        blocks = sum("attention_output" in kernel.path for kernel in kernels)
        choices = []
        for index, kernel in enumerate(kernels):
            is_inside = 0 < index < len(kernels) - 1
            is_scaled = is_inside and not kernel.path.endswith(("query", "key"))
            gain = 0.67 * blocks**-0.25 if is_scaled else 1.0
            drawn = il.Scaled(gain, mode="fan_avg", seed=context.seeds.at(index))
            choices.append(context.choice(kernel, drawn, gain=gain))
        return Selection(choices)


STARTS: dict[str, Start] = {
    "default": lambda model, seed: None,
    "activation": _by("activation"),
    "variance": _by("variance"),
    "isometric": _by("isometric"),
    "variance, head=0.1": _by(il.Variance(head=0.1)),
    "variance, residual='keep'": _by(il.Variance(residual="keep")),
    "variance, residual='zero'": _by(il.Variance(residual="zero")),
    "Fixup": _fixup,
    "variance, x=batch": _with_batch,
    "T-Fixup": _by(TFixup()),
}


@dataclass(frozen=True)
class Network:
    """A network by name: what it is built from.

    `depth` counts hidden layers, of an "autoencoder" those on each side of its code,
    and blocks of a "resnet", "residual_mlp" or "transformer". `detail` is the head of
    a "cnn", the normalisation of an "mlp" or "resnet", "ReZero" for a "residual_mlp"
    or "transformer" whose branches are multiplied by a weight that starts at 0.
    """

    kind: str
    activation: str
    depth: int
    width: int = 64
    detail: str = ""

    def build(self) -> Any:
        """Return a new Keras model, as Keras draws it."""
        keras.backend.clear_session(free_memory=False)
        name, depth, width = self.activation, self.depth, self.width
        if self.kind == "autoencoder":
            return autoencoder(name, depth, width)
        if self.kind == "lstm":
            return lstm(name, depth, width)
        if self.kind == "transformer":
            return transformer(name, depth, width, self.detail)
        if self.kind == "mlp":
            return mlp(name, depth, width, self.detail or None)
        if self.kind == "cnn":
            return cnn(name, depth, self.detail)
        if self.kind == "resnet":
            return resnet(name, depth, self.detail or None)
        return residual_mlp(name, depth, width, self.detail)


def mlp(
    activation: str, depth: int, width: int = 64, normalisation: str | None = None
) -> Any:
    """Return `depth` Dense layers, and a head."""
    x = inputs = keras.Input((64,))
    for _ in range(depth):
        x = layers.Activation(activation)(
            _normalised(layers.Dense(width)(x), normalisation)
        )
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def cnn(activation: str, depth: int, head: str) -> Any:
    """Return `depth` 3×3 convolutions, a maximum after the first, and a head."""
    x = inputs = keras.Input((8, 8, 1))
    for index in range(depth):
        x = layers.Conv2D(16, 3, padding="same", activation=activation)(x)
        x = x if index else layers.MaxPooling2D()(x)
    x = layers.Flatten()(x) if head == "Flatten" else layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def autoencoder(activation: str, depth: int, width: int = 64) -> Any:
    """Return `depth` Dense layers, a code of 16 linear units, and as many layers."""
    x = inputs = keras.Input((64,))
    for _ in range(depth):
        x = layers.Dense(width, activation)(x)
    x = layers.Dense(CODE)(x)
    for _ in range(depth):
        x = layers.Dense(width, activation)(x)
    return keras.Model(inputs, layers.Dense(64)(x))


def lstm(activation: str, depth: int, width: int = 32) -> Any:
    """Return `depth` LSTMs that read the eight rows of an image, and a head."""
    x = inputs = keras.Input((8, 8))
    for left in reversed(range(depth)):
        x = layers.LSTM(width, activation, return_sequences=left > 0, unroll=True)(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


class Positions(layers.Layer):
    """A vector for each position, which is trained, added to what is there."""

    def build(self, input_shape: Any) -> None:
        """Make the vectors."""
        small = keras.initializers.RandomNormal(stddev=0.02)
        self.table = self.add_weight(
            shape=input_shape[1:], initializer=small, name="table"
        )

    def call(self, inputs: Any) -> Any:
        """Return inputs (batch, positions, units), each with its position's vector."""
        return inputs + self.table


@output_moments.register(Positions)
def _moments_of_positions(layer: Any, x: Any, context: Any) -> Any:
    return affine(x, 1.0)  # what is added is small


def transformer(activation: str, blocks: int, width: int = 32, detail: str = "") -> Any:
    """Return blocks of attention and two Dense layers, with skips, over eight rows.

    There is no normalisation, and an average over positions at the end.
    """
    inputs = keras.Input((8, 8))
    x = Positions()(layers.Dense(width)(inputs))
    for _ in range(blocks):
        y = layers.MultiHeadAttention(4, width // 4)(x, x)
        x = layers.Add()([x, _multiplied(y, detail)])
        y = layers.Dense(width)(layers.Dense(2 * width, activation)(x))
        x = layers.Add()([x, _multiplied(y, detail)])
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


class Multiplier(layers.Layer):
    """A branch times a weight that starts at 0: ReZero, and SkipInit's alpha."""

    def build(self, input_shape: Any) -> None:
        """Make the weight."""
        self.scale = self.add_weight(shape=(), initializer="zeros", name="scale")

    def call(self, inputs: Any) -> Any:
        """Return inputs of any shape, multiplied."""
        return inputs * self.scale


def _multiplied(branch: Any, detail: str) -> Any:
    return Multiplier()(branch) if detail == "ReZero" else branch


def residual_mlp(
    activation: str, blocks: int, width: int = 64, detail: str = ""
) -> Any:
    """Return blocks of two Dense layers with skips, without normalisation."""
    inputs = keras.Input((64,))
    x = layers.Dense(width)(inputs)
    for _ in range(blocks):
        y = layers.Dense(width, activation)(x)
        y = layers.Dense(width)(y)
        x = layers.Add()([x, _multiplied(y, detail)])
    x = layers.Activation(activation)(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def resnet(activation: str, blocks: int, normalisation: str | None) -> Any:
    """Return blocks of two 3×3 convolutions with skips, and an average."""
    inputs = keras.Input((8, 8, 1))

    def convolved(x: Any) -> Any:
        return _normalised(layers.Conv2D(16, 3, padding="same")(x), normalisation)

    x = layers.MaxPooling2D()(layers.Activation(activation)(convolved(inputs)))
    for _ in range(blocks):
        y = convolved(layers.Activation(activation)(convolved(x)))
        x = layers.Activation(activation)(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def _normalised(x: Any, normalisation: str | None) -> Any:
    if normalisation is None:
        return x
    kinds = {"BN": layers.BatchNormalization, "LN": layers.LayerNormalization}
    return kinds[normalisation]()(x)


def transformer_signals(start: str, blocks: int, seeds: int) -> str:
    """Return how large a transformer's signal is on digits behind its blocks."""
    signals = []
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        model = Network("transformer", "relu", blocks, 32).build()
        STARTS[start](model, seed)
        moments = {row.layer: row.second_moment for row in il.measure(model, _rows())}
        last = [layer for layer in model.layers if isinstance(layer, layers.Add)][-1]
        signals.append((moments[last.name], moments[model.layers[-1].name]))
    stream, logits = np.median(signals, axis=0)
    return f"{start}: second moment {stream:.3g}, of the logits {logits:.3g}"


def main(argv: list[str] | None = None) -> int:
    """Print the plan of each scheme for one network, and signals in transformers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two layers instead of 8")
    parser.add_argument("--out", type=Path, help="a folder for the plans")
    arguments = parser.parse_args(argv)
    network = Network("mlp", "relu", 2 if arguments.quick else 8)
    plans = [
        str(il.rewrite_initializers(network.build(), scheme=scheme, dry_run=True))
        for scheme in ("activation", "variance", "isometric", "auto")
    ]
    blocks, seeds = (1, 1) if arguments.quick else (4, 5)
    plans += [
        transformer_signals(start, blocks, seeds)
        for start in (
            "default",
            "activation",
            "variance",
            "variance, x=batch",
            "T-Fixup",
        )
    ]
    print("\n".join(plans))
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "convergence_networks.txt").write_text("\n".join(plans))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
