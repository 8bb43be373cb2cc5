"""Tables of positions, which may have fewer rows than an open length stands for."""

import keras
import pytest
from keras import layers, ops

import keras_initlab as il


def model_of(layer, *more, shape=(None, 16)):
    return keras.Sequential([keras.Input(shape), layer, *more])


def by_layer(stats):
    return {one.layer: one for one in stats}


class Positions(layers.Layer):
    """A table of fewer positions than stand for an open length."""

    def build(self, shape):
        self.table = self.add_weight(
            shape=(24, shape[-1]), initializer=keras.initializers.RandomNormal(stddev=2)
        )

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        rows = ops.slice(self.table, (0, 0), (ops.shape(x)[1], self.table.shape[1]))
        return ops.broadcast_to(rows, ops.shape(x))


def test_a_table_that_is_shorter_than_an_open_length_is_measured():
    inputs = keras.Input((None, 16))
    model = keras.Model(inputs, inputs + Positions(name="places")(inputs))
    stats = by_layer(il.propagate(model))["places"]
    assert stats.source == "measured"
    # 8 × 16 entries of variance 4: 5 of √(2 / 128).
    assert stats.second_moment == pytest.approx(4.0, rel=5 * (2 / 128) ** 0.5)


def test_a_layer_that_fails_at_every_length_says_so_as_of_the_first():
    class Short(layers.Layer):
        def compute_output_shape(self, shape):
            return shape

        def call(self, x):
            raise ValueError(f"no length of {x.shape[1]}")

    model = model_of(Short(name="short"))
    with pytest.raises(ValueError, match="no length of 64"):
        il.propagate(model)


class Places(layers.Layer):
    """Adds to tokens the embeddings of their positions, as many as the table has."""

    def __init__(self, rows, **options):
        super().__init__(**options)
        self.tokens = layers.Embedding(50, 16, name="tokens")
        self.places = layers.Embedding(rows, 16, name="places")

    def call(self, x):
        places = ops.arange(0, ops.shape(x)[-1], 1)
        return self.tokens(x) + self.places(places)


def transformer(rows, length=None):
    tokens = keras.Input((length,), dtype="int32")
    x = Places(rows, name="embed")(tokens)
    x = layers.MultiHeadAttention(2, 8, name="attention")(x, x)
    return keras.Model(tokens, layers.Dense(3, name="head")(x))


@pytest.mark.parametrize(("rows", "size"), [(100, 64), (20, 8)])
def test_positions_up_to_an_open_length_are_followed(rows, size):
    model = transformer(rows)
    stats = by_layer(il.propagate(model))
    fixed = by_layer(il.propagate(transformer(rows=64, length=64)))
    assert stats["embed"].second_moment == pytest.approx(
        2 * stats["embed/tokens"].second_moment, rel=0.1
    )
    # How many positions attention averages over stays open, as in other models.
    ratio = stats["head"].second_moment / fixed["head"].second_moment
    assert 1 / 3 < ratio < 3
    assert stats["attention"].source == "predicted"
    plan = il.rewrite_initializers(model, "variance", seed=0)
    assert any(f"taken for {size}" in line for line in plan.assumptions)
