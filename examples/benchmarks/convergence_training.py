"""The engine of convergence.py: Keras networks on the digits, trained in JAX.

A network is any Keras model, and its optimizer Keras's own. An epoch is compiled once
for all that is tried on a network: starts, learning rates and seeds are its arguments.

Run as a script it trains one network from Keras's default, and times an epoch.

    python examples/benchmarks/convergence_training.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import keras
import numpy as np
from convergence_networks import CLASSES, mlp
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

BATCH = 64
AT_CHANCE = 0.15  # an accuracy below this is that of guessing one class of ten
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "SGD": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "Adam": lambda: keras.optimizers.Adam(0.001),
}


class Split(NamedTuple):
    """Digits in three parts: 1149 to train on, 288 to choose by, 360 to look at."""

    train: tuple[Any, Any]
    validation: tuple[Any, Any]
    test: tuple[Any, Any]


class Run(NamedTuple):
    """Validation accuracy after each epoch, and the test accuracy after the last."""

    validation: list[float]
    test: float


@functools.cache
def digits(inputs: str, image: bool) -> Split:
    """Return the digits, pixels in [0, 1] or "standardised".

    Flat images are standardised pixel by pixel, others by one mean and deviation.
    """
    x, y = load_digits(return_X_y=True)
    x, test_x, y, test_y = train_test_split(
        x / 16, y, test_size=360, stratify=y, random_state=0
    )
    x, held_x, y, held_y = train_test_split(
        x, y, test_size=0.2, stratify=y, random_state=0
    )
    mean, deviation = 0.0, 1.0
    if inputs == "standardised":
        axis = None if image else 0
        mean, deviation = x.mean(axis=axis), x.std(axis=axis)
        deviation = np.where(deviation == 0, 1, deviation)  # pixels that are always 0
    shape = (-1, 8, 8, 1) if image else (-1, 64)
    parts = [
        (jnp.asarray((part - mean) / deviation, "float32").reshape(shape), label)
        for part, label in ((x, y), (held_x, held_y), (test_x, test_y))
    ]
    return Split(*parts)


class MatrixConv2D(layers.Conv2D):
    """A 3×3 convolution of stride 1 as one product of matrices.

    XLA's own takes five times as long inside a loop on one thread; both are equal but
    for rounding.
    """

    def call(self, inputs: Any) -> Any:
        """Return the convolution of images (batch, rows, columns, channels)."""
        height, width = inputs.shape[1:3]
        padded = jnp.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)))
        taps = [
            padded[:, row : row + height, column : column + width]
            for row in range(3)
            for column in range(3)
        ]
        kernel = jnp.asarray(self.kernel).reshape(-1, self.filters)
        return self.activation(jnp.concatenate(taps, axis=-1) @ kernel + self.bias)


def _twin(model: Any) -> Any:
    """Return the same network, its convolutions as products of matrices."""

    def twin(layer: Any) -> Any:
        kind = MatrixConv2D if type(layer) is layers.Conv2D else type(layer)
        return kind.from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=twin)


class Trainer:
    """Trains a model from weights that are given, by a compiled epoch."""

    def __init__(self, model: Any, optimizer: str) -> None:
        self.model, self.optimizer = _twin(model), OPTIMIZERS[optimizer]()
        model = self.model
        self.optimizer.build(model.trainable_variables)
        self._epoch = jax.jit(self._run_epoch)
        self._right = jax.jit(self._count_right)

    def train(
        self, weights: Sequence[Any], rate: float, seed: int, data: Split, epochs: int
    ) -> Run:
        """Return how a run went.

        One that is no longer finite ends, at chance; so does one that still guesses one
        class halfway.
        """
        model, chance = self.model, 1 / CLASSES
        for variable, value in zip(model.weights, weights, strict=True):
            variable.assign(value)
        self.optimizer.learning_rate = rate
        state = (
            [one.value for one in model.trainable_variables],
            [one.value for one in model.non_trainable_variables],
            [one.value for one in self.optimizer.variables],
        )
        (x, y), generator = data.train, np.random.default_rng(seed)
        steps = len(x) // BATCH
        reached = []
        for _ in range(epochs):
            order = generator.permutation(len(x))[: steps * BATCH]
            state, loss = self._epoch(state, x, y, order.reshape(steps, BATCH))
            reached.append(self._accuracy(state, data.validation))
            is_lost = 2 * len(reached) == epochs and max(reached) < AT_CHANCE
            if is_lost or not np.isfinite(loss):
                return Run([*reached, *[chance] * (epochs - len(reached))], chance)
        return Run(reached, self._accuracy(state, data.test))

    def _run_epoch(self, state: Any, x: Any, y: Any, order: Any) -> Any:
        def loss(trainable: Any, rest: Any, chosen: Any) -> Any:
            logits, rest = self.model.stateless_call(
                trainable, rest, x[chosen], training=True
            )
            each = -jnp.take_along_axis(
                jax.nn.log_softmax(logits), y[chosen][:, None], axis=1
            )
            return each.mean(), rest

        def step(state: Any, chosen: Any) -> Any:
            trainable, rest, memory = state
            (value, rest), gradients = jax.value_and_grad(loss, has_aux=True)(
                trainable, rest, chosen
            )
            trainable, memory = self.optimizer.stateless_apply(
                memory, gradients, trainable
            )
            return (trainable, rest, memory), value

        state, values = jax.lax.scan(step, state, order)
        return state, values.sum()

    def _count_right(self, trainable: Any, rest: Any, x: Any, y: Any) -> Any:
        logits, _ = self.model.stateless_call(trainable, rest, x, training=False)
        return (logits.argmax(axis=-1) == y).mean()

    def _accuracy(self, state: Any, part: tuple[Any, Any]) -> float:
        return round(float(self._right(state[0], state[1], *part)), 4)


def main(argv: list[str] | None = None) -> int:
    """Train one network, and print how it went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two epochs")
    parser.add_argument("--out", type=Path, help="a folder for the figures")
    arguments = parser.parse_args(argv)
    epochs = 2 if arguments.quick else 15
    keras.utils.set_random_seed(0)
    model = mlp("relu", 3)
    weights = [np.asarray(one) for one in model.weights]
    trainer, data = Trainer(model, "SGD"), digits("standardised", image=False)
    trainer.train(weights, 0.01, 0, data, 1)  # compiles
    begin = time.perf_counter()
    run = trainer.train(weights, 0.01, 0, data, epochs)
    taken = 1e3 * (time.perf_counter() - begin) / epochs
    accuracies = " ".join(f"{one:.3f}" for one in run.validation)
    print(f"3 ReLU layers, {taken:.0f} ms an epoch\nvalidation accuracy: {accuracies}")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**run._asdict(), "epoch_ms": taken}, indent=1)
        (arguments.out / "convergence_training.json").write_text(text + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
