"""Initializers that somebody has chosen: which a rewrite leaves alone, and says so."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_initlab as il
from tests.helpers import as_numpy


class ICNR(keras.initializers.Initializer):
    """All channels that become one pixel's neighbours alike (Aitken et al. 2017)."""

    def __call__(self, shape, dtype=None):
        few = (*shape[:-1], shape[-1] // 4)
        return ops.repeat(keras.initializers.HeNormal(seed=0)(few, dtype), 4, axis=-1)


def upscaling():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="usual")(inputs)
    x = layers.Conv2D(
        16, 3, padding="same", kernel_initializer=ICNR(), name="before_shuffle"
    )(x)
    x = layers.Reshape((8, 8, 4, 4))(x)
    x = layers.Conv2D(8, 3, kernel_initializer="he_normal", name="named")(
        layers.Reshape((16, 16, 4))(x)
    )
    return keras.Model(inputs, x)


def changed(model, **options):
    plan = il.rewrite_initializers(model, seed=0, **options)
    return {row.layer: row.changed for row in plan}, {
        row.layer: row.note for row in plan
    }


def test_an_initializer_of_ones_own_is_kept_and_named():
    model = upscaling()
    before = as_numpy(model.get_layer("before_shuffle").kernel)
    done, notes = changed(model)
    assert done == {"usual": True, "before_shuffle": False, "named": True}
    assert "ICNR" in notes["before_shuffle"]
    assert "only_defaults=False" in notes["before_shuffle"]
    np.testing.assert_array_equal(
        before, as_numpy(model.get_layer("before_shuffle").kernel)
    )


def test_a_function_is_an_initializer_of_ones_own():
    def small(shape, dtype=None):
        return ops.ones(shape, dtype) * 1e-3

    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, kernel_initializer=small, name="a")]
    )
    done, notes = changed(model)
    assert done == {"a": False}
    assert "small" in notes["a"]


@pytest.mark.parametrize("scheme", ["activation", "variance", "isometric"])
def test_only_defaults(scheme):
    done, notes = changed(upscaling(), scheme=scheme, only_defaults=True)
    assert done == {"usual": True, "before_shuffle": False, "named": False}
    assert "chosen: HeNormal" in notes["named"]
    done, _ = changed(upscaling(), scheme=scheme, only_defaults=False)
    assert all(done.values())


def test_every_default_of_keras_counts_as_one():
    inputs = keras.Input((8, 8, 4))
    x = layers.SeparableConv2D(4, 3)(inputs)
    x = layers.DepthwiseConv2D(3)(x)
    x = layers.Conv2DTranspose(4, 3)(x)
    x = layers.Reshape((-1, 4))(x)
    x = layers.MultiHeadAttention(2, 4)(x, x)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(x)
    x = layers.TimeDistributed(layers.Dense(4))(
        layers.EinsumDense("abc,cd->abd", (None, 4))(x)
    )
    done, _ = changed(keras.Model(inputs, layers.GRU(2)(x)), only_defaults=True)
    assert len(done) > 10
    assert all(done.values())


def test_the_default_of_a_layer_of_ones_own():
    class Mine(layers.Dense):
        def __init__(self, units, kernel_initializer="he_normal", **options):
            super().__init__(units, kernel_initializer=kernel_initializer, **options)

    model = keras.Sequential([keras.Input((8,)), Mine(8, name="own")])
    assert changed(model, only_defaults=True)[0] == {"own": True}


def actor(**head):
    """The actor of DDPG (Lillicrap et al. 2016), whose first actions are near 0."""
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(64, "relu", name="one"),
            layers.Dense(64, "relu", name="two"),
            layers.Dense(2, "tanh", name="head", **head),
        ]
    )


class Actor(keras.Model):
    def __init__(self, **head):
        super().__init__()
        self.one = layers.Dense(64, "relu", name="one")
        self.two = layers.Dense(64, "relu", name="two")
        self.head = layers.Dense(2, "tanh", name="head", **head)

    def call(self, x):
        return self.head(self.two(self.one(x)))


@pytest.mark.parametrize("scheme", ["activation", "variance", "isometric"])
@pytest.mark.parametrize("make", [actor, Actor])
def test_small_heads_are_kept(make, scheme):
    small = keras.initializers.RandomUniform(-3e-3, 3e-3)
    model = make(kernel_initializer=small)
    model(np.zeros((1, 8), "float32"))
    done, notes = changed(model, scheme=scheme)
    assert done == {"one": True, "two": True, "head": False}
    assert "a small head, chosen" in notes["head"]
    assert np.abs(as_numpy(model.layers[-1].kernel)).max() <= 3e-3
    assert changed(model, scheme=scheme, only_defaults=False)[0]["head"]


@pytest.mark.parametrize("initializer", ["glorot_uniform", "he_normal", "lecun_normal"])
def test_usual_heads_are_not(initializer):
    assert changed(actor(kernel_initializer=initializer))[0]["head"]


def test_small_kernels_that_are_no_heads_are_a_fault():
    model = actor()
    small = keras.initializers.RandomNormal(0, 0.01)
    for layer in model.layers[:2]:
        layer.kernel_initializer = small
    assert changed(model)[0] == {"one": True, "two": True, "head": True}


def test_only_defaults_is_checked_before_anything_changes():
    model = actor()
    before = as_numpy(model.layers[0].kernel)
    with pytest.raises(TypeError, match="only_defaults='yes'"):
        il.rewrite_initializers(model, only_defaults="yes")
    np.testing.assert_array_equal(before, as_numpy(model.layers[0].kernel))


def test_the_zeros_of_a_fixup_head_are_kept():
    """Zhang et al. 2019: the last kernel of the network starts at 0."""
    assert not changed(actor(kernel_initializer="zeros"))[0]["head"]
