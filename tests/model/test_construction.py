import keras
import numpy as np
import pytest
from keras import layers

from keras_initlab.model.construction import (
    Construction,
    constructing,
    under_construction,
)


class Witness(keras.initializers.Initializer):
    """Notes who asks it, and gives zeros."""

    def __init__(self):
        self.asked = []

    def __call__(self, shape, dtype=None):
        self.asked.append(under_construction())
        return keras.ops.zeros(shape, dtype=dtype)

    def clone(self):
        return self

    @classmethod
    def from_config(cls, config):
        return WITNESS


WITNESS = Witness()


@pytest.fixture
def witness():
    WITNESS.asked.clear()
    return WITNESS


def seen(witness):
    """Return (parents, layer, weight) of each weight asked for, by class, once."""
    rows = [
        (
            *(type(one).__name__ for one in (*asked.parents, asked.layer)),
            asked.weight,
        )
        for asked in witness.asked
    ]
    return list(dict.fromkeys(rows))


def test_nobody():
    assert under_construction() is None


def test_a_layer_on_its_own(witness):
    layer = layers.Dense(3, kernel_initializer=witness, bias_initializer=witness)
    layer.build((None, 2))
    assert seen(witness) == [("Dense", "kernel"), ("Dense", "bias")]
    assert witness.asked[0].layer is layer


def test_cells_inner_layers_and_wrappers(witness):
    inputs = keras.Input((5, 8))
    layers.LSTM(3, kernel_initializer=witness, recurrent_initializer=witness)(inputs)
    layers.MultiHeadAttention(2, 3, kernel_initializer=witness)(inputs, inputs)
    layers.TimeDistributed(layers.Dense(3, kernel_initializer=witness))(inputs)
    layers.SeparableConv1D(
        3, 2, depthwise_initializer=witness, pointwise_initializer=witness
    )(inputs)
    assert seen(witness) == [
        ("LSTM", "LSTMCell", "kernel"),
        ("LSTM", "LSTMCell", "recurrent_kernel"),
        ("MultiHeadAttention", "EinsumDense", "kernel"),
        ("TimeDistributed", "Dense", "kernel"),
        ("SeparableConv1D", "depthwise_kernel"),
        ("SeparableConv1D", "pointwise_kernel"),
    ]


class Block(layers.Layer):
    def __init__(self, witness):
        super().__init__()
        self.dense = layers.Dense(2, kernel_initializer=witness)

    def call(self, x):
        return self.dense(x)


class Deferred(keras.Model):
    def __init__(self, witness):
        super().__init__()
        self.block = Block(witness)
        self.rest = [layers.Dense(2, kernel_initializer=witness) for _ in range(2)]

    def call(self, x):
        x = self.block(x)
        for layer in self.rest:
            x = layer(x)
        return x


def test_weights_made_in_a_symbolic_call_are_traced_to_their_layers(witness):
    model = Deferred(witness)
    model(np.ones((1, 2), "float32"))
    assert seen(witness) == [
        ("Deferred", "Block", "Dense", "kernel"),
        ("Deferred", "Dense", "kernel"),
    ]
    layers_asked = {id(asked.layer) for asked in witness.asked}
    assert layers_asked == {id(model.block.dense), *map(id, model.rest)}


def places(witness, build):
    witness.asked.clear()
    build()
    return list(dict.fromkeys(asked.place for asked in witness.asked))


def dense(witness, **arguments):
    return layers.Dense(2, kernel_initializer=witness, **arguments)


BUILDS = {
    "sequential": lambda w: keras.Sequential(
        [keras.Input((2,)), *(dense(w) for _ in range(4))]
    ),
    "deferred": lambda w: Deferred(w)(np.ones((1, 2), "float32")),
    "branches": lambda w: [
        (x := keras.Input((2,))),
        (y := dense(w)(x)),
        [dense(w)(y) for _ in range(3)],
    ],
    "named inputs": lambda w: [
        dense(w)(keras.Input((2,), name=name)) for name in ("user", "item")
    ],
    "named layers": lambda w: [
        dense(w, name=name)(keras.Input((2,))) for name in ("left", "right")
    ],
    "after an operation": lambda w: [
        (x := keras.Input((2,))),
        dense(w)(keras.ops.tanh(x)),
        dense(w)(keras.ops.exp(x)),
    ],
}


@pytest.mark.parametrize("name", BUILDS)
def test_every_weight_has_a_place_of_its_own_that_repeats(witness, name):
    first = places(witness, lambda: BUILDS[name](witness))
    asked = {id(one.layer) for one in witness.asked}
    assert len(first) == len(asked)
    layers.Dense(1)
    keras.Sequential()
    keras.Input((1,))
    assert places(witness, lambda: BUILDS[name](witness)) == first


def test_a_deep_graph_does_not_recurse(witness):
    x = keras.Input((2,))
    for _ in range(1500):
        x = layers.Identity()(x)
    dense(witness)(x)
    assert len(witness.asked) == 1


def test_declared_construction_comes_first(witness):
    layer = layers.Dense(2)
    declared = Construction(layer, "kernel", place=("here",))
    with constructing(declared):
        witness((2, 2))
    assert witness.asked == [declared]
    assert under_construction() is None
