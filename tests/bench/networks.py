"""A small network and small data to compare initialisations on."""

import keras
import numpy as np


def small():
    """Return a compiled network of two hidden layers."""
    return compiled(dropout=False)


def with_dropout():
    """Return the same, with a layer that draws while it trains."""
    return compiled(dropout=True)


def regression():
    """Return a compiled network that a large learning rate makes diverge."""
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(16, "relu"), layers.Dense(1)]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def compiled(dropout):
    hidden = [keras.layers.Dense(16, "tanh", name="a")]
    if dropout:
        hidden.append(keras.layers.Dropout(0.5, name="drop"))
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
