import keras
import numpy as np
import pytest
from keras import layers

from keras_initlab.taps import running
from keras_initlab.taps.patches import Patches
from keras_initlab.taps.walk import call_keys, places


def merged(batches, dtype="float32"):
    rows = np.zeros((1, 3), dtype)
    for batch in batches:
        x = keras.ops.convert_to_tensor(batch)
        rows = running.merge(
            keras.ops.convert_to_tensor(rows), running.batch_rows([x], dtype)
        )
    return keras.ops.convert_to_numpy(rows)[0]


@pytest.mark.parametrize(
    ("mean", "deviation", "dtype", "tolerance"),
    [
        (0.0, 1.0, "float32", 1e-5),
        (1000.0, 0.1, "float32", 1e-3),
        (0.0, 1e-12, "float32", 1e-5),
        (0.0, 1e12, "float32", 1e-5),
        # Against the values as float16 and bfloat16 hold them.
        (0.5, 200.0, "float16", 1e-5),
        (3.0, 1.0, "bfloat16", 1e-5),
    ],
)
def test_moments_over_unequal_batches(mean, deviation, dtype, tolerance):
    rng = np.random.default_rng(0)
    draw = rng.normal(mean, deviation, (500, 8))
    x = keras.ops.cast(keras.ops.convert_to_tensor(draw, "float32"), dtype)
    held = keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")).astype("float64")
    count, got_mean, got_variance = merged([x[:64], x[64:400], x[400:401], x[401:]])
    assert count == held.size
    scale = max(abs(mean), deviation)
    np.testing.assert_allclose(got_mean, held.mean(), atol=1e-5 * scale)
    np.testing.assert_allclose(got_variance, held.var(), rtol=tolerance)


def test_a_layer_that_was_not_called_leaves_its_row_alone():
    x = keras.ops.convert_to_tensor(np.arange(6.0, dtype="float32"))
    rows = running.batch_rows([x, None], "float32")
    again = running.merge(rows, running.batch_rows([None, x], "float32"))
    again = keras.ops.convert_to_numpy(again)
    np.testing.assert_allclose(again, [[6, 2.5, 35 / 12]] * 2, rtol=1e-6)


def test_an_empty_batch_changes_nothing():
    x = keras.ops.convert_to_tensor(np.arange(6.0, dtype="float32"))
    rows = running.batch_rows([x], "float32")
    after = running.merge(rows, running.batch_rows([x[:0]], "float32"))
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(after), keras.ops.convert_to_numpy(rows)
    )


class Twins(layers.Layer):
    def __init__(self):
        super().__init__(name="twins")
        self.one = layers.Dense(2, name="same")
        self.two = layers.Dense(2, name="same")

    def build(self, input_shape):
        self.one.build(input_shape)
        self.two.build(input_shape)

    def call(self, x):
        return self.one(x) + self.two(x)


def nested():
    encoder = keras.Sequential([layers.Dense(3, name="dense")], name="encoder")
    return keras.Sequential(
        [
            keras.Input((4, 5)),
            encoder,
            layers.LSTM(2, return_sequences=True, name="lstm"),
            layers.TimeDistributed(layers.Dense(2), name="timed"),
            layers.Bidirectional(layers.GRU(2, name="gru"), name="both"),
            Twins(),
        ],
        name="model",
    )


def test_places_are_paths_without_the_model():
    found = {place.path: place.measured for place in places(nested())}
    assert found == {
        "encoder": False,
        "encoder/dense": True,
        "lstm": True,
        "timed": True,
        "both": True,
        "both/forward_gru": True,
        "both/backward_gru": True,
        "twins": True,
        "twins/same": True,
        "twins/same~2": True,
    }


@pytest.mark.parametrize(
    ("paths", "keys"),
    [
        ([], []),
        (["a", "b"], ["a", "b"]),
        (["a", "b", "a"], ["a#0", "b", "a#1"]),
        (["a#0", "a", "a"], ["a#0", "a#0~2", "a#1"]),
    ],
    ids=["none", "once", "shared", "collision"],
)
def test_call_keys(paths, keys):
    assert call_keys(paths) == keys


def test_patches_restore_what_was_there_and_what_was_not():
    layer = layers.Dense(1)
    layer.__dict__["call"] = mine = object()
    before = set(layer.__dict__)
    patches = Patches()
    for value in (1, 2):
        patches.set(layer, "call", value)
        patches.set(layer, "extra", value)
    patches.undo()
    patches.undo()
    assert layer.__dict__["call"] is mine
    assert set(layer.__dict__) == before
