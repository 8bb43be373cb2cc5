"""What cannot be calibrated is named, and changes nothing."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from tests.calibration.models import Unseen, uniform
from tests.calibration.test_calibrate import assert_same, plain, values


def rejected(model, x, match, error=ValueError, **options):
    before = values(model)
    with pytest.raises(error, match=match):
        il.calibrate(model, x, **options)
    assert_same(before, values(model))


def test_nan_in_the_data():
    x = uniform(64, 16)
    x[3, 2] = np.nan
    rejected(plain(), x, "1 values of `x` are not finite")


def test_nan_within_the_model():
    model = keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(16, name="first"),
            layers.Lambda(lambda x: keras.ops.log(x)),
            layers.Dense(4, name="second"),
        ]
    )
    rejected(model, uniform(64, 16), "'second'.*all of `x` is finite")


def test_a_layer_that_raises_half_way():
    class Faulty(layers.Layer):
        works = True

        def call(self, inputs):
            if not self.works:
                raise RuntimeError("half way")
            return inputs

    model = keras.Sequential(
        [keras.Input((16,)), layers.Dense(8), Faulty(), layers.Dense(8)]
    )
    model.layers[1].works = False
    rejected(model, uniform(64, 16), "half way", RuntimeError)


def test_wrong_shapes():
    rejected(plain(), uniform(64, 17), "17")


@pytest.mark.parametrize(
    ("x", "options", "error", "match"),
    [
        (np.zeros((0, 16), "float32"), {}, ValueError, "at least one input"),
        ("text", {}, TypeError, "batch of data"),
        (iter(()), {}, ValueError, "at least one batch"),
        (uniform(8, 16), {"target": 0}, ValueError, "above 0"),
        (uniform(8, 16), {"target": float("nan")}, ValueError, "above 0"),
        (uniform(8, 16), {"statistic": "mean"}, ValueError, "second_moment"),
        (uniform(8, 16), {"seed": "0"}, TypeError, "seed"),
    ],
)
def test_arguments(x, options, error, match):
    rejected(plain(), x, match, error, **options)


def test_what_is_no_model():
    with pytest.raises(TypeError, match=r"must be a Keras model"):
        il.calibrate(layers.Dense(3), uniform(8, 16))
    vae = keras.Model()
    with pytest.raises(ValueError, match="must have a `call`"):
        il.calibrate(vae, uniform(8, 16))


def test_a_frozen_layer_is_measured_and_left():
    model = plain(3)
    model.layers[1].trainable = False
    before = values(model)
    report = il.calibrate(model, uniform(64, 16))
    row = report[1]
    assert (row.note, row.factor, row.target) == ("frozen", 1.0, None)
    assert row.before == row.after != pytest.approx(1)
    path = model.layers[1].kernel.path
    np.testing.assert_array_equal(values(model)[path], before[path])
    assert report[2].after == pytest.approx(1)


def test_dead_layers_are_named_and_left():
    model = plain(3)
    model.layers[1].kernel.assign(np.zeros((32, 32)))
    report = il.calibrate(model, uniform(64, 16))
    assert [row.changed for row in report] == [True, False, False, False]
    assert "its output is 0 on the whole batch: left alone" in report[1].note
    assert all(np.isfinite(value).all() for value in values(model).values())


@pytest.mark.parametrize("biases", [False, True])
def test_one_input_and_constant_data(biases):
    one = il.calibrate(plain(3), uniform(1, 16), biases=biases)
    assert "one input" in " ".join(one.remarks)
    alike = il.calibrate(plain(3), np.ones((64, 16), "float32"), biases=biases)
    assert "alike" in " ".join(alike.remarks)
    for report in (one, alike):
        after = [row.after for row in report]
        assert after == pytest.approx([1, 1, 1, 1], rel=0.01)
        if biases:
            assert "the same for every input: not centred" in report[0].note


def test_low_rank_adaptation_and_quantised_kernels_stay():
    model = plain(3)
    model.layers[1].enable_lora(2)
    model.layers[2].quantize("int8")
    before = values(model)
    report = il.calibrate(model, uniform(64, 16))
    by_layer = {row.layer: row for row in report}
    assert "LoRA" in by_layer[model.layers[1].name].note
    assert "quantised (int8)" in by_layer[model.layers[2].name].note
    after = values(model)
    for layer in model.layers[1:3]:
        for variable in layer.variables:
            path = variable.path
            np.testing.assert_array_equal(before[path], after[path])
    assert by_layer["head"].after == pytest.approx(1)


def test_a_scale_that_changes_nothing():
    class Normed(Unseen):
        def call(self, inputs):
            float(keras.ops.sum(inputs))
            kernel = self.kernel / keras.ops.norm(self.kernel)
            return keras.ops.matmul(inputs, kernel)

    model = keras.Sequential([Normed(), layers.Dense(4)])
    x = uniform(64, 20)
    model(x)
    before = values(model)
    report = il.calibrate(model, x)
    row = next(row for row in report if "another scale" in row.note)
    assert not row.changed
    path = model.layers[0].kernel.path
    np.testing.assert_array_equal(values(model)[path], before[path])


def test_a_scale_with_a_meaning_of_its_own_stays():
    inputs = keras.Input((16,))
    x = layers.Dense(16, activation=keras.ops.sin, name="sine")(inputs)
    x = x + layers.Dense(16, kernel_initializer="zeros", name="zero")(x)
    small = keras.initializers.RandomNormal(stddev=1e-4)
    model = keras.Model(inputs, layers.Dense(4, "tanh", True, small, name="head")(x))
    notes = {row.layer: row.note for row in il.calibrate(model, uniform(64, 16))}
    assert "frequency" in notes["sine"]
    assert "starts at 0" in notes["zero"]
    assert "starts small" in notes["head"]


def test_a_trained_model_is_warned_of():
    model, x = plain(2), uniform(64, 16)
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((64, 10)), verbose=0)
    with pytest.warns(UserWarning, match="optimizer has made"):
        il.calibrate(model, x)
