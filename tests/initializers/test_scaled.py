import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from tests.helpers import as_numpy, assert_std

GAINS = [
    (1.0, 1.0),
    (2, 2.0),
    ("relu", np.sqrt(2)),
    ("gelu", 1.5335),
    (layers.LeakyReLU(0.2), np.sqrt(2 / 1.04)),
    (keras.activations.tanh, 1.5925),
]


@pytest.mark.parametrize(("gain", "value"), GAINS)
@pytest.mark.parametrize(
    ("mode", "fan"), [("fan_in", 300), ("fan_out", 200), ("fan_avg", 250)]
)
def test_gain_and_mode(gain, value, mode, fan):
    drawn = as_numpy(il.Scaled(gain, mode)((300, 200)))
    assert_std(drawn, value / np.sqrt(fan))


@pytest.mark.parametrize("gain", [gain for gain, _ in GAINS])
def test_gains_survive_a_config(gain):
    initializer = il.Scaled(gain, seed=1)
    again = keras.initializers.deserialize(keras.initializers.serialize(initializer))
    np.testing.assert_array_equal(
        as_numpy(initializer((4, 4))), as_numpy(again((4, 4)))
    )


def test_fans_of_the_layer():
    layer = layers.Conv2D(64, 3, groups=4, kernel_initializer="initlab>scaled")
    layer.build((None, 8, 8, 64))
    assert_std(as_numpy(layer.kernel), 1 / np.sqrt(9 * 16))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"gain": 0}, ValueError, "gain=0"),
        ({"gain": -1.0}, ValueError, "gain=-1.0"),
        ({"gain": float("nan")}, ValueError, "gain=nan"),
        ({"gain": None}, TypeError, "gain=None"),
        ({"gain": "rellu"}, ValueError, "rellu"),
        ({"mode": None}, ValueError, "mode=None"),
        ({"distribution": "cauchy"}, ValueError, "distribution='cauchy'"),
    ],
)
def test_bad_input(arguments, error, says):
    with pytest.raises(error, match="Received") as caught:
        il.Scaled(**arguments)
    assert says in str(caught.value)
