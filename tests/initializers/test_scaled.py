import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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


@settings(max_examples=40, deadline=None)
@given(
    st.one_of(
        st.floats(1e-3, 1e3), st.integers(1, 9), st.sampled_from(["relu", "silu"])
    ),
    st.sampled_from(["fan_in", "fan_out", "fan_avg"]),
    st.sampled_from(["truncated_normal", "normal", "uniform"]),
    st.one_of(st.none(), st.integers(-(2**63), 2**63)),
)
def test_any_config_round_trips_through_json(gain, mode, distribution, seed):
    initializer = il.Scaled(gain, mode, distribution, seed)
    config = json.loads(json.dumps(initializer.get_config()))
    again = il.Scaled.from_config(config)
    assert again.get_config() == initializer.get_config() == config
    if seed is not None:
        np.testing.assert_array_equal(
            as_numpy(initializer((3, 2))), as_numpy(again((3, 2)))
        )
