"""Further published bugs, each with its repair; see `published.py`.

They were found, rebuilt and labelled when the rules stood, and before they were asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.diagnosis import cases
from tests.diagnosis.cases import fractions, images, pixels
from tests.diagnosis.published import (
    PUBLISHED,
    both,
    dense,
    program,
    published,
    row,
    sgd,
)
from tests.diagnosis.published_data import cancer, diabetes

UNIFORM = {"class_name": "RandomUniform", "config": {"minval": 0.0, "maxval": 1.0}}


# Data -----------------------------------------------------------------------------


def step(sign: float) -> tuple[Any, Any]:
    """Return numbers from -1 to 1 and a step that is smooth, from 0 to `sign`."""
    x = np.random.default_rng(0).permutation(np.linspace(-1, 1, cases.ROWS))[:, None]
    return x.astype("float32"), (sign / (np.exp(10 * x) + 1)).astype("float32")


def framed() -> tuple[Any, Any]:
    """Return images with a black frame, and the same to be restored."""
    x, _ = fractions()
    x = np.pad(x.reshape(-1, 8, 8, 1), ((0, 0), (4, 4), (4, 4), (0, 0)))
    return x, x


def restored(data: Callable[[], tuple[Any, Any]]) -> Callable[[], tuple[Any, Any]]:
    """Return inputs that are to be restored."""
    return lambda: (data()[0], data()[0])


# Programs -------------------------------------------------------------------------


def of_cells(loss: str) -> Callable[[], Any]:
    """Return a function that makes a classifier of cells.

    The published one starts from RandomUniform(-0.05, 0.05), with which gradient
    descent does not train it, either; Adam does. Keras's default stands in its place.
    """
    return program(
        dense(16, "relu"),
        row(layers.Dropout, 0.1),
        dense(16, "relu"),
        row(layers.Dropout, 0.1),
        dense(1, "sigmoid"),
        shape=(30,),
        loss=loss,
    )


def root_mean_square(least: float) -> Callable[[Any, Any], Any]:
    """Return the loss √(E[(p - y)²] + least), over channels."""

    def loss(y_true: Any, y_pred: Any) -> Any:
        return ops.sqrt(ops.mean(ops.square(y_pred - y_true), axis=-1) + least)

    return loss


def restoring(loss: Any) -> Callable[[], Any]:
    """Return a function that makes three convolutions."""
    rows = []
    for _ in range(2):
        rows += [row(layers.Conv2D, 8, 3, padding="same"), row(layers.LeakyReLU)]
    last = row(layers.Conv2D, 1, 3, padding="same")
    return program(*rows, last, shape=(16, 16, 1), loss=loss)


def autoencoder() -> Callable[[], Any]:
    """Return a function that makes a convolutional autoencoder."""
    options = {"padding": "same", "activation": "relu"}
    return program(
        row(layers.Conv2D, 16, 3, **options),
        row(layers.MaxPooling2D),
        row(layers.Conv2D, 16, 3, **options),
        row(layers.UpSampling2D),
        row(layers.Conv2D, 1, 3, padding="same", activation="sigmoid"),
        shape=(8, 8, 1),
        loss="binary_crossentropy",
    )


def images_of_fractions() -> tuple[Any, Any]:
    """Return digits as images of values from 0 to 1."""
    x, y = fractions()
    return x.reshape(-1, 8, 8, 1), y


def deep(kernel: str) -> Callable[[], Any]:
    """Return a function that makes VGG-16's convolutions, narrow."""
    rows = []
    options = {"padding": "same", "activation": "relu", "kernel_initializer": kernel}
    for filters, count in ((16, 2), (32, 2), (32, 3), (64, 3), (64, 3)):
        rows += [row(layers.Conv2D, filters, 3, **options) for _ in range(count)]
        if len(rows) < 12:
            rows.append(row(layers.MaxPooling2D))
    return program(
        *rows,
        row(layers.Flatten),
        dense(10, "softmax"),
        shape=(16, 16, 1),
        loss="sparse_categorical_crossentropy",
        optimizer=sgd(0.01, momentum=0.9),
    )


def large_images() -> tuple[Any, Any]:
    """Return digits as 16×16 images."""
    x, y = images()
    return x.repeat(2, axis=1).repeat(2, axis=2), y


def of_type(dtype: str) -> Callable[[], Any]:
    """Return a function that makes a regression whose weights have this type."""
    rows = [dense(32, "relu", dtype=dtype), dense(1, dtype=dtype)]
    # A usual one, which float16 rounds to 0: so it was until Keras 2.
    default = (keras.optimizers.Adam, {"epsilon": 1e-8})
    return program(*rows, shape=(10,), loss="mse", optimizer=default)


def four_layers(kernel: Any) -> Callable[[], Any]:
    """Return a function that makes a regression of four layers."""
    options = {"activation": "relu", "kernel_initializer": kernel}
    rows = [dense(units, **options) for units in (100, 20, 10)]
    last = dense(1, kernel_initializer=kernel)
    return program(*rows, last, shape=(10,), loss="mse", optimizer=sgd(0.01))


FURTHER = (
    published(
        "categorical cross-entropy of one unit",
        "https://github.com/keras-team/keras/issues/14729",
        (
            of_cells("categorical_crossentropy"),
            of_cells("binary_crossentropy"),
        ),
        both(cancer),
        "head-loss-mismatch",
    ),
    published(
        "sigmoid before negative values",
        "https://stackoverflow.com/questions/58887284",
        both(program(dense(1, "sigmoid"), shape=(1,), loss="mse")),
        (lambda: step(-1.0), lambda: step(1.0)),
        "head-loss-mismatch",
        epochs=30,
    ),
    published(
        "root of an error of zero",
        "https://github.com/keras-team/keras/issues/6644",
        (restoring(root_mean_square(0.0)), restoring(root_mean_square(1e-7))),
        both(framed),
        "nonfinite",
        epochs=3,
        phase="training",
    ),
    published(
        "VGG by Keras's default",
        "https://towardsdatascience.com/why-default-cnn-are-broken-in-keras-and-how-to-"
        "fix-them-ce295e5e5f2",
        (deep("glorot_uniform"), deep("he_uniform")),
        both(large_images),
        "initializer-mismatch",
        epochs=10,
        close=("vanishing-signal", "vanishing-gradient"),
    ),
    published(
        "standardised images to be restored by a sigmoid",
        "https://github.com/keras-team/keras/issues/2841",
        both(autoencoder()),
        (restored(images), restored(images_of_fractions)),
        "head-loss-mismatch",
        epochs=6,
    ),
    published(
        "weights of float16 and Adam",
        "https://github.com/keras-team/keras/issues/11860",
        (of_type("float16"), of_type("float32")),
        both(diabetes),
        "nonfinite",
        epochs=30,
        phase="training",
    ),
    published(
        "bytes to be restored by a sigmoid",
        "https://github.com/keras-team/keras/issues/3642",
        both(
            program(
                dense(32, "relu"),
                dense(64, "sigmoid"),
                shape=(64,),
                loss="binary_crossentropy",
            )
        ),
        (restored(pixels), restored(fractions)),
        "input-scale",
        epochs=10,
        close=("head-loss-mismatch",),
    ),
    published(
        "weights from 0 to 1",
        "https://ramilus.com/blog?page=14",
        (four_layers(UNIFORM), four_layers("he_normal")),
        both(diabetes),
        "initializer-mismatch",
        epochs=20,
        close=("exploding-signal",),
    ),
)

EVERY = (*PUBLISHED, *FURTHER)
