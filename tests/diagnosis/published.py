"""Bugs of other people's Keras programs, rebuilt on real data, each with its repair.

The cause that is to come first was written down from the page that reports the bug,
before the rules were asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from tests.diagnosis.cases import Case, digits, fit, fractions, plain, seeded
from tests.diagnosis.faulty import SAME, WILD
from tests.diagnosis.published_data import (
    cancer,
    cancer_of_signs,
    diabetes,
    divided_by_zero,
    flat_diabetes,
    integers,
    one_hot_digits,
    one_hot_images,
    pairs,
    raw_diabetes,
    tenths,
    wine,
)

Data = Callable[[], tuple[Any, Any]]


class Published(NamedTuple):
    """A bug that was published, and the same program with its repair.

    Attributes:
        faulty: the program with its bug, and the code of the cause.
        sound: the program as it was repaired.
        source: address of the page.
    """

    faulty: Case
    sound: Case
    source: str


def published(
    name: str,
    source: str,
    build: tuple[Callable[[], Any], Callable[[], Any]],
    data: tuple[Data, Data],
    *codes: str,
    epochs: int = 10,
    phase: Any = "batch",
    close: tuple[str, ...] = (),
) -> Published:
    """Return a bug and its repair, of pairs (with the bug, repaired)."""
    shared: dict[str, Any] = {"phase": phase, "epochs": epochs, "targets": True}
    # What is wrong with data or targets shows in signals, gradients and steps.
    follows = (*WILD, *SAME) if "constant-kernel" in codes else WILD
    allowed = (*follows, *close)
    labels: dict[str, Any] = {"codes": codes, "close": close, "allowed": allowed}
    return Published(
        Case(name, build[0], data[0], **labels, **shared),
        Case(f"{name}, repaired", build[1], data[1], **shared),
        source,
    )


# What was learned -----------------------------------------------------------------


def skill(model: Any, x: Any, y: Any) -> float:
    """Return what a model has learned: 1 all, 0 no more than a constant, -1 broken.

    The share of the variance explained, or of the classes beyond the commonest one.
    """
    predicted = np.asarray(model.predict(x, verbose=0), dtype="float64")
    if not np.isfinite(predicted).all():
        return -1.0
    if isinstance(x, list):
        # Distances are small where the answer is yes.
        predicted = 1.0 - predicted
    one_hot = y.ndim == 2 and y.shape[1] > 1 and np.isin(y, (0, 1)).all()
    y = y.argmax(axis=1) if one_hot else np.ravel(y)
    if len(np.unique(y)) > 10:
        errors = np.square(y - predicted.ravel())
        return max(1.0 - float(errors.mean() / y.var()), -1.0)
    if predicted.shape[1] > 1:
        right = y == predicted.argmax(axis=1)
    else:
        middle = (y.min() + y.max()) / 2
        right = (y > middle) == (predicted.ravel() > middle)
    most = np.unique(y, return_counts=True)[1].max() / len(y)
    return float((right.mean() - most) / (1.0 - most))


def trained_skill(case: Case, model: Any, x: Any, y: Any) -> float:
    """Train as the case says; return the skill, -1 where `fit` breaks."""
    try:
        fit(model, x, y, case.epochs)
    except Exception:
        # Each backend has its own words for targets that do not fit.
        return -1.0
    return skill(model, x, y)


# Programs -------------------------------------------------------------------------


def program(
    *rows: Any, shape: tuple[int, ...], loss: Any, optimizer: Any = None
) -> Callable[[], Any]:
    """Return a function that makes a compiled model: rows are classes and arguments."""

    def build() -> Any:
        made = [kind(*arguments, **options) for kind, arguments, options in rows]
        model = keras.Sequential([keras.Input(shape), *made])
        kind, options = optimizer or (keras.optimizers.Adam, {"learning_rate": 0.01})
        model.compile(kind(**options), loss() if isinstance(loss, type) else loss)
        return model

    return seeded(build)


def row(kind: Any, *arguments: Any, **options: Any) -> tuple[Any, Any, Any]:
    """Return a layer that is to be made."""
    return kind, arguments, options


def dense(*arguments: Any, **options: Any) -> tuple[Any, Any, Any]:
    """Return a dense layer that is to be made."""
    return row(layers.Dense, *arguments, **options)


def sgd(rate: float, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Return stochastic gradient descent that is to be made."""
    return keras.optimizers.SGD, {"learning_rate": rate, **options}


def adam(rate: float) -> tuple[Any, dict[str, Any]]:
    """Return Adam that is to be made."""
    return keras.optimizers.Adam, {"learning_rate": rate}


class Squares(keras.losses.Loss):
    """Mean of squares, of any shapes that broadcast."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return (y - p)²; of (batch,) and (batch, 1) that is (batch, batch)."""
        return ops.square(y_true - y_pred)


def policy_swapped(y_pred: Any, y_true: Any) -> Any:
    """Return a cross-entropy whose arguments are in the wrong order."""
    return -ops.sum(y_true * ops.log(y_pred), axis=-1)


def policy(y_true: Any, y_pred: Any) -> Any:
    """Return the same with its arguments in order."""
    return -ops.sum(y_true * ops.log(y_pred + 1e-7), axis=-1)


def contrast(y_true: Any, distance: Any) -> Any:
    """Return d² for pairs of one kind, max(1 - d, 0)² for others."""
    apart = ops.square(ops.maximum(1.0 - distance, 0.0))
    return ops.mean(y_true * ops.square(distance) + (1.0 - y_true) * apart, axis=-1)


def siamese(least: float) -> Callable[[], Any]:
    """Return a function that makes twins and their distance √(Σ(a - b)² + least)."""

    def distance(two: Any) -> Any:
        squares = ops.sum(ops.square(two[0] - two[1]), axis=1, keepdims=True)
        return ops.sqrt(squares + least)

    def build() -> Any:
        shared = [layers.Dense(48, "relu"), layers.Dense(16)]
        body = keras.Sequential([keras.Input((64,)), *shared])
        one, other = keras.Input((64,)), keras.Input((64,))
        apart = layers.Lambda(distance, output_shape=(1,), name="distance")
        model = keras.Model([one, other], apart([body(one), body(other)]))
        model.compile(keras.optimizers.Adam(0.003), contrast)
        return model

    return seeded(build)


def actor(loss: Any) -> Callable[[], Any]:
    """Return a function that makes a network of probabilities with this loss."""
    return program(dense(48, "relu"), dense(10, "softmax"), shape=(64,), loss=loss)


def frozen(model: Any) -> None:
    """Freeze every layer."""
    for layer in model.layers:
        layer.trainable = False


def convolutions(kernel: str, bias: str) -> Callable[[], Any]:
    """Return a function that makes a small classifier of images."""
    start = {"kernel_initializer": kernel, "bias_initializer": bias}
    return program(
        row(layers.Conv2D, 16, 3, activation="relu", **start),
        row(layers.MaxPooling2D),
        row(layers.Flatten),
        dense(32, "relu", **start),
        dense(10, "softmax", **start),
        shape=(8, 8, 1),
        loss="categorical_crossentropy",
    )


def logits(*, twice: bool) -> Callable[[], Any]:
    """Return a function that makes a classifier, with a softmax once or twice."""
    return program(
        row(layers.Conv2D, 16, 3, activation="relu"),
        row(layers.MaxPooling2D),
        row(layers.Flatten),
        dense(64, "relu"),
        dense(10, "softmax" if twice else None),
        shape=(8, 8, 1),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        optimizer=sgd(0.01, momentum=0.9),
    )


def both(one: Any) -> tuple[Any, Any]:
    """Return the same for the bug and its repair."""
    return one, one


def binary(last: Any, optimizer: Any = None) -> Callable[[], Any]:
    """Return a function that makes a classifier of cells."""
    return program(
        dense(32, "relu"),
        dense(16, "relu"),
        dense(1, last),
        shape=(30,),
        loss="binary_crossentropy",
        optimizer=optimizer,
    )


def regression(*last: Any, loss: Any = "mse") -> Callable[[], Any]:
    """Return a function that makes a small network of the ten features."""
    return program(dense(32, "relu"), *last, shape=(10,), loss=loss)


def four_sigmoids(activation: str) -> Callable[[], Any]:
    """Return a function that makes four wide layers and a linear output."""
    hidden = [dense(128, activation) for _ in range(4)]
    return program(
        *hidden, dense(1), shape=(10,), loss="mse", optimizer=sgd(0.01, momentum=0.9)
    )


def scheduled(steps: int) -> Callable[[], Any]:
    """Return a function that makes a network whose rate halves every `steps`."""

    def build() -> Any:
        decay = keras.optimizers.schedules.ExponentialDecay
        optimizer = keras.optimizers.SGD(decay(0.05, steps, 0.5), momentum=0.9)
        return seeded(plain, "relu", 2, optimizer=optimizer)()

    return build


def positive(last: str) -> Callable[[], Any]:
    """Return a function that makes a network whose output begins below 0."""
    unlucky = {
        "class_name": "RandomUniform",
        "config": {"minval": -0.6, "maxval": 0.0},
    }
    return regression(dense(1, last, kernel_initializer=unlucky))


CLASSIFIER = program(
    dense(16, "relu"),
    dense(3, "softmax"),
    shape=(13,),
    loss="sparse_categorical_crossentropy",
)
LINE = program(dense(1), shape=(10,), loss="mse", optimizer=sgd(0.01))
POWERS = program(
    dense(32, "sigmoid"), dense(32, "elu"), dense(1), shape=(10,), loss="mse"
)

PUBLISHED = (
    published(
        "classes from 1",
        "https://github.com/rstudio/keras3/issues/465",
        both(CLASSIFIER),
        (lambda: wine(1), wine),
        "head-loss-mismatch",
        epochs=20,
    ),
    published(
        "a line through features as they were measured",
        "https://stats.stackexchange.com/questions/284189",
        both(LINE),
        (raw_diabetes, diabetes),
        "input-scale",
        epochs=40,
    ),
    published(
        "targets up to 1e8",
        "https://stackoverflow.com/questions/52800582",
        both(POWERS),
        (lambda: diabetes(1e6), diabetes),
        "target-scale",
        epochs=30,
    ),
    published(
        "divided by a deviation of zero",
        "https://github.com/keras-team/keras/issues/2134",
        both(seeded(plain, "relu", 2)),
        (divided_by_zero, digits),
        "nonfinite",
        epochs=5,
    ),
    published(
        "root of a distance of zero",
        "https://github.com/keras-team/keras/issues/9097",
        (siamese(0.0), siamese(0.01)),
        both(pairs),
        "nonfinite",
        epochs=12,
        phase="training",
    ),
    published(
        "arguments of a loss in the wrong order",
        "https://github.com/keras-team/keras/issues/5733",
        (actor(policy_swapped), actor(policy)),
        both(one_hot_digits),
        "nonfinite",
        epochs=3,
        phase="training",
    ),
    published(
        "flat targets for a loss of one's own",
        "https://github.com/keras-team/keras/issues/16836",
        both(regression(dense(1), loss=Squares)),
        (flat_diabetes, diabetes),
        "head-loss-mismatch",
        epochs=20,
    ),
    published(
        "softmax before a value",
        "https://github.com/raghakot/keras-resnet/issues/46",
        (regression(dense(1, "softmax")), regression(dense(1))),
        both(diabetes),
        "head-loss-mismatch",
        epochs=20,
    ),
    published(
        "tanh before a binary cross-entropy",
        "https://datascience.stackexchange.com/questions/57738",
        (binary("tanh"), binary("sigmoid")),
        (cancer_of_signs, cancer),
        "head-loss-mismatch",
    ),
    published(
        "a softmax and a loss of logits",
        "https://github.com/tensorflow/tensorflow/issues/14405",
        (logits(twice=True), logits(twice=False)),
        both(one_hot_images),
        "head-loss-mismatch",
        epochs=4,
    ),
    published(
        "kernels of zeros",
        "https://github.com/tensorflow/models/issues/1529",
        (convolutions("zeros", "zeros"), convolutions("he_normal", "zeros")),
        both(one_hot_images),
        "constant-kernel",
        epochs=5,
    ),
    published(
        "four layers of sigmoids",
        "https://ai.stackexchange.com/questions/16557",
        (four_sigmoids("sigmoid"), four_sigmoids("relu")),
        both(diabetes),
        "vanishing-signal",
        close=("vanishing-gradient", "collapsed-inputs"),
    ),
    published(
        "no change after the first epoch",
        "https://github.com/keras-team/keras/issues/2711",
        (
            seeded(plain, "relu", 3, rate=0.3),
            seeded(plain, "relu", 3, rate=0.001),
        ),
        both(digits),
        "update-too-large",
        epochs=5,
        phase="training",
    ),
    published(
        "a rate that is far too small",
        "https://chenzhang.org/notes/developer/loss-and-accuracy-get-stuck-in-keras/",
        (
            seeded(plain, "relu", 2, optimizer="sgd", rate=1e-6),
            seeded(plain, "relu", 2, optimizer="sgd", rate=0.01),
        ),
        both(digits),
        "update-too-small",
        epochs=5,
        phase="training",
    ),
    published(
        "always the same class",
        "https://github.com/keras-team/keras/issues/2975",
        both(binary("sigmoid", sgd(0.01, momentum=0.9))),
        (lambda: cancer(scaled=False), cancer),
        "input-scale",
    ),
    published(
        "all layers frozen",
        "https://github.com/keras-team/keras/issues/4910",
        (seeded(plain, "relu", 2, then=frozen), seeded(plain, "relu", 2)),
        both(digits),
        "no-gradient",
        epochs=3,
        phase="training",
    ),
    published(
        "pixels divided as integers",
        "https://github.com/keras-team/keras/issues/255",
        both(seeded(plain, "relu", 2)),
        (integers, fractions),
        "input-scale",
        epochs=5,
    ),
    published(
        "a schedule that decays at every step",
        "https://github.com/tensorflow/tensorflow/issues/48308",
        (scheduled(1), scheduled(100)),
        both(digits),
        "update-too-small",
        epochs=10,
        phase="training",
    ),
    published(
        "ReLU at the output that is 0 throughout",
        "https://github.com/ProteomicsML/ProteomicsML/pull/203",
        (positive("relu"), positive("linear")),
        both(tenths),
        "dead-units",
        epochs=30,
    ),
)
