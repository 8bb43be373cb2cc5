"""Sines are recognised with their frequency, however they are written."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_initlab import activations
from keras_initlab.activations.periodic import rescaled, sine
from keras_initlab.activations.quadrature import gaussian_moments


class Sine(layers.Layer):
    def __init__(self, frequency=30.0, **options):
        super().__init__(**options)
        self.frequency = frequency

    def call(self, x):
        return ops.sin(self.frequency * x)

    def get_config(self):
        return {**super().get_config(), "frequency": self.frequency}


SINES = {
    "plain": (ops.sin, 1.0),
    "of 30": (lambda x: ops.sin(30 * x), 30.0),
    "negative": (lambda x: ops.sin(-30 * x), 30.0),
    "cosine": (lambda x: ops.cos(7.5 * x), 7.5),
    "slow": (lambda x: ops.sin(0.1 * x), 0.1),
    "scaled, shifted, moved": (lambda x: 2 * ops.sin(100 * x + 0.3) - 0.5, 100.0),
    "squared": (lambda x: ops.sin(x) ** 2, 2.0),
    "a layer, in float32": (Sine(30.0), 30.0),
    "a fast layer": (Sine(256.0), 256.0),
}


@pytest.mark.parametrize("name", SINES)
def test_sines_are_known_by_frequency(name):
    function, frequency = SINES[name]
    found = activations.resolve(function)
    assert found.family == "periodic"
    assert found.frequency == pytest.approx(frequency, rel=1e-6)
    x = np.linspace(-3, 3, 50)
    values = ops.convert_to_numpy(function(ops.convert_to_tensor(x, "float32")))
    np.testing.assert_allclose(
        found.function(x), values, atol=2e-6 * (3 * frequency + 3)
    )


OTHERS = {
    "a parabola in float32": lambda x: ops.square(ops.cast(x, "float32")),
    "a line": lambda x: 3 * x - 1,
    "a bell": lambda x: ops.exp(-x * x),
    "snake": lambda x: x + ops.sin(x) ** 2,
    "two frequencies": lambda x: ops.sin(x) * ops.sin(3 * x),
    "of growing frequency": lambda x: ops.sin(30 * (ops.abs(x) + 1) * x),
    "growing": lambda x: x * ops.cos(x),
    "constant": lambda x: 0 * x + 1,
    "tanh(3x)": lambda x: ops.tanh(3 * x),
}


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_not(name):
    assert activations.resolve(OTHERS[name]).family == "other"


@pytest.mark.parametrize("variance", [1e-3, 0.1, 1.0])
def test_moments_are_those_by_quadrature(variance):
    wave = sine(3.0, 2.0, 0.4, 0.7)
    numbers = gaussian_moments(
        wave.function, derivative=wave.derivative, mean=0.3, variance=variance
    )
    found = activations.moments(wave, mean=0.3, variance=variance)
    for name in ("mean", "second_moment", "derivative_second_moment"):
        assert getattr(found, name) == pytest.approx(getattr(numbers, name), rel=1e-9)


def test_a_factor_before_a_sine_is_part_of_its_frequency():
    assert rescaled(sine(1.0), 30.0, 0.0).frequency == pytest.approx(30.0)
    assert rescaled(sine(2.0), 0.25, 0.5).frequency == pytest.approx(0.5)


def test_names_say_the_frequency():
    assert activations.resolve(lambda x: keras.ops.sin(30 * x)).name == "sine(30)"
