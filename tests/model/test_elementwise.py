"""Activations that are written as layers, or as several operations."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_initlab as il
from keras_initlab import activations
from keras_initlab.model import graph
from keras_initlab.model.following import following_nonlinearity


class Relu(layers.Layer):
    def call(self, x):
        return ops.maximum(x, 0)


class Swish(layers.Layer):
    def call(self, inputs, training=None):
        return inputs * ops.sigmoid(inputs)


class Doubled(layers.Layer):
    def call(self, inputs):
        return 2 * inputs


class Noisy(layers.Layer):
    def call(self, inputs, training=None):
        noise = keras.random.normal(ops.shape(inputs)) if training else 0.0
        return inputs + noise


class Beta(layers.Layer):
    """Swish with a slope that is trained."""

    def build(self, input_shape):
        self.beta = self.add_weight(shape=(), initializer="ones")

    def call(self, inputs):
        return inputs * ops.sigmoid(self.beta * inputs)


def gelu(x):
    return 0.5 * x * (1 + ops.erf(x / math.sqrt(2)))


def gelu_tanh(x):
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + ops.tanh(inner))


# What follows a Dense layer, and the activation by name or by its gain.
CASES = {
    "own relu": (lambda x: Relu()(x), "relu"),
    "own swish": (lambda x: Swish()(x), "silu"),
    "own scale": (lambda x: layers.ReLU()(Doubled()(x)), "relu"),
    "own, with a scalar weight": (lambda x: Beta()(x), "silu"),
    "own noise": (lambda x: layers.ReLU()(Noisy()(x)), "relu"),
    "swish": (lambda x: x * ops.sigmoid(x), "silu"),
    "swish of layers": (
        lambda x: layers.Multiply()([x, layers.Activation("sigmoid")(x)]),
        "silu",
    ),
    "leaky": (lambda x: ops.maximum(x, 0.1 * x), "leaky_relu(0.1)"),
    "where": (lambda x: ops.where(x > 0, x, 0.25 * x), "leaky_relu(0.25)"),
    "two relus": (lambda x: ops.relu(x) - 0.1 * ops.relu(-x), "leaky_relu(0.1)"),
    "mish": (lambda x: x * ops.tanh(ops.softplus(x)), "mish"),
    "gelu": (gelu, "gelu"),
    "gelu, half last": (lambda x: (x * (1 + ops.erf(x / 2**0.5))) * 0.5, "gelu"),
    "gelu by tanh": (gelu_tanh, "gelu(approximate=True)"),
    "hard sigmoid": (lambda x: ops.clip(x / 6 + 0.5, 0.0, 1.0), None),
    "squared relu": (lambda x: ops.relu(x) ** 2, math.sqrt(2 / 3)),
    "squared": (ops.square, 1 / math.sqrt(3)),
    "scaled behind": (lambda x: 2 * ops.relu(x), "relu"),
    "scaled before": (lambda x: ops.tanh(x * 2.0), "tanh"),
    "relu and tanh": (
        lambda x: layers.Add()([layers.ReLU()(x), layers.Activation("tanh")(x)]),
        1 / math.sqrt(0.5 + 0.3943 + 0.6057),
    ),
    "residual": (lambda x: x + layers.Dense(64)(ops.tanh(x)), "tanh"),
    "kernel in the gate": (
        lambda x: ops.tanh(x * layers.Dense(64, "sigmoid")(x)),
        None,
    ),
    "softmax gate": (lambda x: x * ops.softmax(x), "softmax"),
}


def model_with(after, width=64, classes=8):
    inputs = keras.Input((width,))
    outputs = layers.Dense(width, name="read")(inputs)
    return keras.Model(inputs, layers.Dense(classes, name="head")(after(outputs)))


@pytest.mark.parametrize("name", CASES)
def test_the_activation_is_told_from_its_values(name):
    after, expected = CASES[name]
    walked = graph.graph_of(model_with(after))
    call = next(call for call in walked.calls if call.path == "read")
    found = following_nonlinearity(walked, call.outputs).nonlinearity
    if expected is None:
        known = "linear" if found is None else activations.resolve(found).name
        assert known not in ("relu", "tanh")
    elif isinstance(expected, str):
        assert activations.resolve(found).name == expected
    else:
        # E[relu tanh] = E[z tanh z] / 2, by quadrature
        assert activations.gain(found) == pytest.approx(expected, rel=1e-3)


LIKE = {
    "own relu": "relu",
    "swish": "silu",
    "own swish": "silu",
    "leaky": lambda x: ops.leaky_relu(x, 0.1),
    "gelu": "gelu",
    "mish": "mish",
}


@pytest.mark.parametrize("scheme", ["activation", "variance", "isometric"])
@pytest.mark.parametrize("name", LIKE)
def test_a_plan_is_that_of_the_activation_itself(name, scheme):
    after, _ = CASES[name]
    plan = il.rewrite_initializers(model_with(after), scheme, dry_run=True)
    known = model_with(layers.Activation(LIKE[name]))
    expected = il.rewrite_initializers(known, scheme, dry_run=True)
    for row, like in zip(plan, expected, strict=True):
        assert row.gain == pytest.approx(like.gain, rel=1e-3)
        assert row.note == like.note


@pytest.mark.parametrize("name", [*LIKE, "own, with a scalar weight", "squared relu"])
def test_the_prediction_is_what_is_measured(name):
    keras.utils.set_random_seed(0)
    model = model_with(CASES[name][0], 256, 512)
    predicted = il.propagate(model)[-1]
    x = np.random.default_rng(0).standard_normal((1024, 256)).astype("float32")
    measured = il.measure(model, x)[-1]
    # One draw, whose 512 outputs share what their inputs have in common: √(2 / 512).
    assert measured.second_moment == pytest.approx(predicted.second_moment, rel=0.25)
    assert predicted.source == "predicted"


def test_noise_in_training_is_no_identity():
    model = model_with(lambda x: Noisy()(x))
    own = next(stats for stats in il.propagate(model) if "noisy" in stats.layer)
    assert own.second_moment == pytest.approx(
        1 + il.propagate(model)[0].second_moment, rel=0.1
    )


def test_auto_looks_through_a_sequence_of_own_layers():
    model = keras.Sequential(
        [
            keras.Input((400,)),
            layers.Dense(400, kernel_initializer="initlab>auto"),
            Doubled(),
            Relu(),
            layers.Dense(1),
        ]
    )
    kernel = np.asarray(keras.ops.convert_to_numpy(model.layers[0].kernel))
    # He: variance 2 / 400, from 160,000 entries.
    assert kernel.var() == pytest.approx(2 / 400, rel=5 * math.sqrt(2 / 160_000))


def test_own_layers_are_left_as_they_were():
    class Counted(layers.Layer):
        def call(self, inputs):
            self.add_loss(ops.mean(inputs))
            return ops.tanh(inputs)

    layer = Counted()
    model = model_with(layer)
    before = len(layer.losses)
    il.rewrite_initializers(model, dry_run=True)
    assert len(layer.losses) == before
