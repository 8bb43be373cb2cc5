"""Networks of sines (SIREN): Sitzmann et al. 2020, whichever way they are written."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_initlab as il
from tests.helpers import as_numpy, assert_std

WIDTH = 128


def sine(x):
    return ops.sin(30 * x)


class Sine(layers.Layer):
    def call(self, x):
        return ops.sin(30.0 * x)


class SineDense(layers.Layer):
    def __init__(self, units):
        super().__init__()
        self.dense = layers.Dense(units)

    def call(self, x):
        return ops.sin(30.0 * self.dense(x))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.one, self.two = layers.Dense(WIDTH), layers.Dense(WIDTH)
        self.head = layers.Dense(1)

    def call(self, x):
        return self.head(ops.sin(30 * self.two(ops.sin(30 * self.one(x)))))


def row(*between):
    return keras.Sequential([keras.Input((2,)), *between, layers.Dense(1)])


def graph(first, second):
    inputs = keras.Input((2,))
    x = first(layers.Dense(WIDTH)(inputs))
    x = second(layers.Dense(WIDTH)(x))
    return keras.Model(inputs, layers.Dense(1)(x))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 2), "float32"))
    return model


FORMS = {
    "activation": lambda: row(layers.Dense(WIDTH, sine), layers.Dense(WIDTH, sine)),
    "Lambda": lambda: row(
        layers.Dense(WIDTH),
        layers.Lambda(sine),
        layers.Dense(WIDTH),
        layers.Lambda(sine),
    ),
    "own layer": lambda: row(layers.Dense(WIDTH), Sine(), layers.Dense(WIDTH), Sine()),
    "layer around the kernel": lambda: row(SineDense(WIDTH), SineDense(WIDTH)),
    "bare operations": lambda: graph(sine, lambda x: ops.sin(x * 30.0 + 0.5)),
    "scaled before": lambda: graph(
        lambda x: ops.sin(layers.Rescaling(30.0)(x)),
        lambda x: ops.sin(layers.Dropout(0.1)(x) / (1 / 30)),
    ),
    "subclassed": subclassed,
}


@pytest.mark.parametrize("scheme", ["activation", "variance", "isometric"])
@pytest.mark.parametrize("form", FORMS)
def test_kernels_before_sines(form, scheme):
    """Uniform in ±1/n first and in ±√(6/n)/30 behind it: in variance, not in shape."""
    model = FORMS[form]()
    plan = il.rewrite_initializers(model, scheme=scheme, seed=0)
    first, second, head = (
        as_numpy(w) for w in model.trainable_variables if w.name == "kernel"
    )
    assert_std(first, (1 / 2) / math.sqrt(3))
    assert_std(second, math.sqrt(6 / WIDTH) / 30 / math.sqrt(3))
    assert (head**2).mean() < 1
    assert "sine(30)" in plan[0].nonlinearity or "30" in plan[0].nonlinearity
    assert plan[0].note == "Sitzmann et al. 2020, reads the inputs"
    assert plan[1].note == "Sitzmann et al. 2020"


def test_the_rewritten_kernels_are_drawn_alike_by_a_clone():
    model = FORMS["bare operations"]()
    il.rewrite_initializers(model, seed=0)
    clone = keras.models.clone_model(model)
    first, second, _ = (
        as_numpy(layer.kernel) for layer in clone.layers if layer.weights
    )
    assert_std(first, (1 / 2) / math.sqrt(3))
    assert_std(second, math.sqrt(6 / WIDTH) / 30 / math.sqrt(3))


def test_many_inputs_are_no_coordinates():
    """1 / (3 n²) of 784 pixels would be less than for a hidden layer."""
    model = keras.Sequential([keras.Input((784,)), layers.Dense(64, sine)])
    il.rewrite_initializers(model, seed=0)
    assert_std(as_numpy(model.layers[0].kernel), math.sqrt(2 / 784) / 30)


def bare_string():
    yield row(
        layers.Dense(WIDTH, sine, kernel_initializer="initlab>auto"),
        layers.Dense(WIDTH, sine, kernel_initializer="initlab>auto"),
    )
    inputs = keras.Input((2,))
    x = layers.Dense(WIDTH, sine, kernel_initializer="initlab>auto")(inputs)
    x = layers.Dense(WIDTH, sine, kernel_initializer="initlab>auto")(x)
    yield keras.Model(inputs, layers.Dense(1)(x))


def test_auto():
    for model in bare_string():
        held = [layer for layer in model.layers if layer.weights]
        first, second = (as_numpy(layer.kernel) for layer in held[:2])
        assert_std(first, (1 / 2) / math.sqrt(3))
        assert_std(second, math.sqrt(6 / WIDTH) / 30 / math.sqrt(3))


def test_sound_sines_are_no_fault():
    model = FORMS["activation"]()
    il.rewrite_initializers(model, seed=0)
    generator = np.random.default_rng(0)
    for number, layer in enumerate(model.layers):
        fan_in = layer.kernel.shape[0]
        limit = 1 / fan_in if number == 0 else math.sqrt(6 / fan_in) / 30
        layer.kernel.assign(generator.uniform(-limit, limit, layer.kernel.shape))
        layer.kernel_initializer = keras.initializers.RandomUniform(-limit, limit)
    assert "initializer-mismatch" not in {one.code for one in il.diagnose(model)}
