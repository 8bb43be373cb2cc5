"""The engine of convergence.py: Keras networks on the digits, trained in JAX.

A network is any Keras model, and its optimizer Keras's own. An epoch is compiled once
for all that is tried on a network: starts, learning rates and seeds are its arguments,
of several runs at once.

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
TOGETHER = 4  # runs that are trained side by side
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


class Case(NamedTuple):
    """What a run starts from: weights, learning rate, and the seed of the order."""

    weights: Sequence[Any]
    rate: float
    seed: int


class Run(NamedTuple):
    """The validation score after each epoch, and the test score after the last."""

    validation: list[float]
    test: float


# The shape in which kinds of networks read an image; others read it flat.
SHAPES = {"cnn": (8, 8, 1), "resnet": (8, 8, 1), "lstm": (8, 8), "transformer": (8, 8)}


@functools.cache
def digits(inputs: str, kind: str) -> Split:
    """Return the digits for networks of a kind, pixels in [0, 1] or "standardised".

    Flat images that are to be classified are standardised pixel by pixel, others by one
    mean and deviation: autoencoders are to give back what they read.
    """
    x, y = load_digits(return_X_y=True)
    x, test_x, y, test_y = train_test_split(
        x / 16, y, test_size=360, stratify=y, random_state=0
    )
    x, held_x, y, held_y = train_test_split(
        x, y, test_size=0.2, stratify=y, random_state=0
    )
    shape = SHAPES.get(kind, (64,))
    mean, deviation = 0.0, 1.0
    if inputs == "standardised":
        axis = 0 if shape == (64,) and kind != "autoencoder" else None
        mean, deviation = x.mean(axis=axis), x.std(axis=axis)
        deviation = np.where(deviation == 0, 1, deviation)  # pixels that are always 0
    parts = []
    for part, label in ((x, y), (held_x, held_y), (test_x, test_y)):
        images = jnp.asarray((part - mean) / deviation, "float32").reshape(-1, *shape)
        parts.append((images, images if kind == "autoencoder" else jnp.asarray(label)))
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


def _loss(outputs: Any, y: Any) -> Any:
    """Return the mean cross-entropy of logits, or the mean square error."""
    if y.ndim > 1:
        return ((outputs - y) ** 2).mean()
    chosen = jnp.take_along_axis(jax.nn.log_softmax(outputs), y[:, None], axis=1)
    return -chosen.mean()


def _score(outputs: Any, y: Any) -> Any:
    """Return the accuracy, or the share of the pixels' variance that is explained."""
    if y.ndim > 1:
        return 1 - ((outputs - y) ** 2).mean() / y.var(axis=0).mean()
    return (outputs.argmax(axis=-1) == y).mean()


class Trainer:
    """Trains a model from weights that are given, several runs at once."""

    def __init__(self, model: Any, optimizer: str) -> None:
        self.model, self.optimizer = _twin(model), OPTIMIZERS[optimizer]()
        self.optimizer.build(self.model.trainable_variables)
        self._epoch = jax.jit(jax.vmap(self._run_epoch, (0, None, None, 0)))
        self._scores = jax.jit(jax.vmap(self._run_scores, (0, 0, None, None)))

    def train(self, cases: Sequence[Case], data: Split, epochs: int) -> list[Run]:
        """Return how each run went."""
        runs: list[Run] = []
        for start in range(0, len(cases), TOGETHER):
            some = cases[start : start + TOGETHER]
            # An epoch is compiled for so many runs, and no other number.
            padded = [*some, *[some[-1]] * (TOGETHER - len(some))]
            runs += self._train_together(padded, data, epochs)[: len(some)]
        return runs

    def _train_together(
        self, cases: Sequence[Case], data: Split, epochs: int
    ) -> list[Run]:
        """Return how runs went that are as many as `TOGETHER`.

        One whose loss is no longer finite is at chance from there on. All end where
        each still guesses one class halfway.
        """
        state = jax.tree.map(lambda *rows: jnp.stack(rows), *map(self._state, cases))
        (x, y), generators = data.train, [np.random.default_rng(c.seed) for c in cases]
        steps, chance = len(x) // BATCH, 1 / CLASSES if y.ndim == 1 else 0.0
        alive, reached = np.ones(len(cases), bool), []
        for epoch in range(1, epochs + 1):
            order = [one.permutation(len(x))[: steps * BATCH] for one in generators]
            order = np.stack(order).reshape(len(cases), steps, BATCH)
            state, loss = self._epoch(state, x, y, order)
            alive &= np.isfinite(loss)
            reached.append(self._alive_scores(state, data.validation, alive, chance))
            if 2 * epoch == epochs and np.max(reached) < AT_CHANCE:
                alive[:] = False
            if not alive.any():
                break
        reached += [np.full(len(cases), chance)] * (epochs - len(reached))
        tests = self._alive_scores(state, data.test, alive, chance)
        courses = np.array(reached).T.tolist()
        return [Run(*both) for both in zip(courses, tests.tolist(), strict=True)]

    def _state(self, case: Case) -> Any:
        for variable, value in zip(self.model.weights, case.weights, strict=True):
            variable.assign(value)
        self.optimizer.learning_rate = case.rate
        return (
            [one.value for one in self.model.trainable_variables],
            [one.value for one in self.model.non_trainable_variables],
            [one.value for one in self.optimizer.variables],
        )

    def _run_epoch(self, state: Any, x: Any, y: Any, order: Any) -> Any:
        def loss(trainable: Any, rest: Any, chosen: Any) -> Any:
            outputs, rest = self.model.stateless_call(
                trainable, rest, x[chosen], training=True
            )
            return _loss(outputs, y[chosen]), rest

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

    def _run_scores(self, trainable: Any, rest: Any, x: Any, y: Any) -> Any:
        outputs, _ = self.model.stateless_call(trainable, rest, x, training=False)
        return _score(outputs, y)

    def _alive_scores(
        self, state: Any, part: tuple[Any, Any], alive: Any, chance: float
    ) -> Any:
        scores = np.asarray(self._scores(state[0], state[1], *part), "float64")
        return np.round(np.where(alive, scores, chance), 4)


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
    trainer, data = Trainer(model, "SGD"), digits("standardised", "mlp")
    cases = [Case(weights, rate, 0) for rate in (0.01, 0.03, 0.1, 0.3)]
    trainer.train(cases, data, 1)  # compiles
    begin = time.perf_counter()
    run = trainer.train(cases, data, epochs)[0]
    taken = 1e3 * (time.perf_counter() - begin) / epochs / len(cases)
    accuracies = " ".join(f"{one:.3f}" for one in run.validation)
    print(f"3 ReLU layers, {taken:.0f} ms an epoch\nvalidation accuracy: {accuracies}")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**run._asdict(), "epoch_ms": taken}, indent=1)
        (arguments.out / "convergence_training.json").write_text(text + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
