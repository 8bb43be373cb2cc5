"""What a rewrite leaves alone counts with the values that it has."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il

GENERATOR = np.random.default_rng(0)


def plain():
    return [layers.Dense(64, "relu", name="b1"), layers.Dense(64, "relu", name="b2")]


def normalised():
    return [
        layers.Dense(64, name="b1"),
        layers.BatchNormalization(name="norm"),
        layers.Dense(64, "relu", name="b2"),
    ]


BASES = {
    "dense": ((32,), plain),
    "normalised": ((32,), normalised),
    "lstm": ((12, 8), lambda: [layers.LSTM(32)]),
}


def on_a_base(shape, rows):
    """Return a model of a base that has learned large weights, and a fresh end."""
    keras.utils.set_random_seed(0)
    base = keras.Sequential([keras.Input(shape), *rows], name="base")
    for variable in base.weights:
        if "kernel" in variable.name:
            variable.assign(variable.value * 10.0)
        if variable.name == "moving_variance":
            variable.assign(np.full(64, 0.01, "float32"))
    inputs = keras.Input(shape)
    x = layers.Dense(256, "relu", name="fresh")(base(inputs))
    return keras.Model(inputs, layers.Dense(16, name="head")(x)), base


@pytest.mark.parametrize("scheme", ["variance", "isometric"])
@pytest.mark.parametrize("how", ["frozen", "skipped"])
@pytest.mark.parametrize("name", BASES)
def test_an_end_is_scaled_to_what_the_base_makes(name, how, scheme):
    shape, rows = BASES[name]
    model, base = on_a_base(shape, rows())
    options = {"skip": "base"} if how == "skipped" else {}
    base.trainable = how != "frozen"
    before = [np.asarray(one) for one in base.get_weights()]
    plan = il.rewrite_initializers(model, scheme, seed=0, redraw=True, **options)
    head, target = plan[-1], {"variance": 1.0, "isometric": 0.1}[scheme]
    assert head.predicted_after == pytest.approx(target)
    # As a batch meets it: frozen layers normalise with the statistics they hold.
    x = GENERATOR.standard_normal((512, *shape)).astype("float32")
    measured = il.measure(model, x, training=how != "frozen")
    found = next(one for one in measured if one.layer == "head")
    assert 0.4 * target < found.second_moment < 2.5 * target
    for one, other in zip(before, base.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_kernels_that_are_drawn_anew_count_as_their_initializers_draw_them():
    model, _ = on_a_base((32,), plain())
    plan = il.rewrite_initializers(model, "variance", dry_run=True)
    first = plan[0]
    assert first.predicted_before == pytest.approx(32 * 2 / 96)


def test_loaded_embeddings_count_as_they_are():
    tokens = keras.Input((12,), dtype="int32")
    words = layers.Embedding(200, 16, name="words")
    x = layers.Flatten()(words(tokens))
    model = keras.Model(tokens, layers.Dense(4)(layers.Dense(32, name="first")(x)))
    words.embeddings.assign(GENERATOR.standard_normal((200, 16)))
    row = il.rewrite_initializers(model, "variance", seed=0)[0]
    assert row.std**2 == pytest.approx(1 / (12 * 16), rel=0.1)


def test_biases_count_as_they_are():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8), layers.Dense(64)])
    model.layers[0].bias.assign(np.full(8, 3.0, "float32"))
    plan = il.rewrite_initializers(model, "variance", seed=0)
    stats = {one.layer: one for one in il.propagate(model, from_weights=True)}
    assert stats[plan[0].layer].second_moment == pytest.approx(10.0, rel=0.5)
    assert plan[1].std ** 2 == pytest.approx(1 / (8 * 10), rel=1e-3)
