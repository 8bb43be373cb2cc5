"""A small network and small data to compare initialisations on."""

import random

import keras
import numpy as np


def small():
    """Return a compiled network of two hidden layers."""
    return compiled([])


def with_state():
    """Return a compiled network whose layers have state besides their weights."""
    return compiled([keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)])


def drawing():
    """Return the same, with a loss that draws from Python's and NumPy's generators."""
    model = small()

    def loss(y_true, y_pred):
        random.random()
        np.random.random()  # noqa: NPY002
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)

    model.compile("adam", loss)
    return model


def regression():
    """Return a compiled network that a large learning rate makes diverge."""
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(16, "relu"), layers.Dense(1)]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def compiled(inner):
    hidden = [keras.layers.Dense(16, "tanh", name="a"), *inner]
    hidden.append(keras.layers.Dense(16, "tanh", name="b"))
    head = keras.layers.Dense(2, "softmax", name="head")
    model = keras.Sequential([keras.Input((4,)), *hidden, head])
    model.compile(
        keras.optimizers.SGD(0.1),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def data(count=80):
    """Return inputs, and labels that a linear map decides."""
    x = np.random.default_rng(0).normal(size=(count, 4)).astype("float32")
    return x, (x @ [1.0, -1.0, 0.5, 0.0] > 0).astype("int32")


def bigger_head(model):
    """Scale the head: a candidate that is a function of the model."""
    model.get_layer("head").kernel.assign(10 * model.get_layer("head").kernel)
