"""float8 and quantised models: a figure, or a clear word."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il

X = np.random.default_rng(0).normal(size=(32, 16)).astype("float32")


def model_of(dtype=None):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(64, "relu", dtype=dtype, name="a"),
            layers.Dense(4, dtype=dtype, name="b"),
        ]
    )


def quantised(mode):
    model = model_of()
    for layer in model.layers:
        layer.quantize(mode)
    return model


def values(model):
    return [keras.ops.convert_to_numpy(v).astype("float32") for v in model.variables]


def float8(kind):
    return quantised("float8") if kind == "quantize" else model_of(kind)


@pytest.mark.parametrize("kind", ["quantize", "float8_from_float32"])
def test_float8_is_measured_with_its_gradients(kind):
    expected = il.measure(model_of(), X)
    model = float8(kind)
    before = values(model)
    for one, other in zip(il.measure(model, X), expected, strict=True):
        # Three bits of mantissa: each factor is off by up to 1/16, on average by 1/40.
        assert one.variance == pytest.approx(other.variance, rel=0.1)
        assert one.gradient_second_moment == pytest.approx(
            other.gradient_second_moment, rel=0.1
        )
        assert one.weight_gradient_second_moment == pytest.approx(
            other.weight_gradient_second_moment, rel=0.1
        )
    assert il.diagnose(model, X) == []
    assert all(map(np.array_equal, before, values(model)))


@pytest.mark.parametrize("mode", ["int8"])
def test_quantised_layers_are_measured(mode):
    expected = il.measure(model_of(), X)
    found = il.measure(quantised(mode), X)
    assert [one.layer for one in found] == ["a", "b"]
    for one, other in zip(found, expected, strict=True):
        assert one.variance == pytest.approx(other.variance, rel=0.05)


def test_what_is_not_predicted_of_quantised_weights_is_said():
    model = quantised("int8")
    with pytest.warns(UserWarning, match=r"nothing is known.*quantised: a\..*batch"):
        assert il.diagnose(model) == []
    assert any("quantised: a" in note for note in il.inspect(model).notes)
    with pytest.raises(ValueError, match=r"from_weights.*quantised weights in 'a'"):
        il.propagate(model, from_weights=True)
    assert il.propagate(model)[0].second_moment == pytest.approx(
        il.propagate(model_of())[0].second_moment
    )


def test_a_quantised_embedding_is_not_taken_for_its_whole_numbers():
    model = keras.Sequential(
        [keras.Input((5,), dtype="int32"), layers.Embedding(9, 4, name="tokens")]
    )
    model.layers[0].quantize("int8")
    with pytest.raises(ValueError, match="tokens"):
        il.propagate(model, from_weights=True)
    (stats,) = il.measure(model, np.zeros((3, 5), "int32"))
    assert stats.variance < 0.01


def test_a_measurement_of_nothing_is_said():
    class Counts(layers.Layer):
        def call(self, x):
            return keras.ops.cast(x > 0, "int32")

    model = keras.Sequential([keras.Input((16,)), Counts()])
    with pytest.warns(UserWarning, match="Nothing was measured"):
        assert il.measure(model, X) == []
