"""Tokens and kernels that a layer of one's own repeats for each input of the batch."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_initlab as il


def model_of(layer, *more, shape=(None, 16)):
    return keras.Sequential([keras.Input(shape), layer, *more])


def by_layer(stats):
    return {one.layer: one for one in stats}


class Tokened(layers.Layer):
    """Puts a token before a sequence, repeated for each input of the batch."""

    def __init__(self, repeat, join, learned=True, **options):
        super().__init__(**options)
        self.repeat, self.join = repeat, join
        self.project = layers.Dense(16, kernel_initializer="lecun_normal", name="p")
        self.query = layers.Dense(16, kernel_initializer="lecun_normal", name="q")
        self.token = ops.zeros((1, 1, 16))
        if learned:
            self.token = self.add_weight(
                shape=(1, 1, 16), initializer="zeros", name="token"
            )

    def build(self, shape):
        self.project.build(shape)
        self.query.build((*shape[:-1], 16))

    def call(self, x):
        x = self.project(x)
        x = self.join([self.repeat(self.token, ops.shape(x)[0]), x])
        return ops.sum(self.query(x[:, :1]), axis=1) + ops.mean(x, axis=1)


REPEATS = {
    "tile": lambda token, batch: ops.tile(token, (batch, 1, 1)),
    "repeat": lambda token, batch: ops.repeat(token, batch, axis=0),
    "broadcast": lambda token, batch: ops.broadcast_to(token, (batch, 1, 16)),
}
JOINS = {
    "operation": lambda xs: ops.concatenate(xs, axis=1),
    "layer": layers.Concatenate(axis=1),
    "function": lambda xs: layers.concatenate(xs, axis=1),
}


@pytest.mark.parametrize("learned", [True, False], ids=["weight", "constant"])
@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("repeat", REPEATS)
def test_a_token_that_is_repeated_for_the_batch_is_followed(repeat, join, learned):
    layer = Tokened(REPEATS[repeat], JOINS[join], learned, name="tokened")
    stats = by_layer(il.propagate(model_of(layer, shape=(3, 8))))
    assert stats["tokened/p"].second_moment == pytest.approx(1.0)
    assert stats["tokened/p"].source == "predicted"
    assert stats["tokened/q"].second_moment == pytest.approx(0.0, abs=1e-9)
    # The mean over a token of 0 and three independent positions.
    assert stats["tokened"].second_moment == pytest.approx(3 / 16)


@pytest.mark.parametrize("by", ["layer", "operation"])
def test_a_constant_that_is_joined_keeps_its_length(by):
    inputs = keras.Input((5, 4))
    token = ops.zeros((1, 1, 4))
    join = layers.Concatenate(axis=1) if by == "layer" else None

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.before = layers.Dense(4, kernel_initializer="lecun_normal", name="d")
            self.join = join or (lambda xs: ops.concatenate(xs, axis=1))
            self.after = layers.Dense(4, kernel_initializer="lecun_normal", name="e")

        def call(self, x):
            x = self.before(x)
            return self.after(self.join([ops.repeat(token, ops.shape(x)[0], 0), x]))

    model = Net()
    model(inputs)
    model(np.zeros((2, 5, 4), "float32"))
    assert il.propagate(model)[-1].second_moment == pytest.approx(5 / 6)


class Repeated(layers.Layer):
    """Multiplies each input with the kernel, which is repeated for the batch."""

    def __init__(self, repeat, **options):
        super().__init__(**options)
        self.repeat = repeat

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 16), initializer="he_normal")

    def call(self, x):
        kernel = ops.expand_dims(self.w, 0)
        return ops.matmul(x, self.repeat(kernel, ops.shape(x)[0]))


KERNEL_REPEATS = {
    **REPEATS,
    "broadcast": lambda w, batch: ops.broadcast_to(w, (batch, *w.shape[1:])),
}


@pytest.mark.parametrize("repeat", KERNEL_REPEATS)
def test_a_kernel_that_is_repeated_for_the_batch_is_one(repeat):
    model = model_of(
        Repeated(KERNEL_REPEATS[repeat], name="repeated"),
        layers.Dense(3, name="head"),
        shape=(5, 8),
    )
    # Measured: 5 of √(2/n) for the 8 × 16 entries of a kernel.
    (first, _) = il.propagate(model)
    assert first.second_moment == pytest.approx(2.0, rel=5 * (2 / 128) ** 0.5)
    row = il.rewrite_initializers(model, "variance", seed=0)[0]
    assert (row.layer, row.fan_in, row.fan_out) == ("repeated", 8, 16)
    assert "out of the prediction's reach" not in row.note
