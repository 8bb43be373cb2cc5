"""One walk over a model's layers, and one rule for their paths."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from keras_initlab.model import graph
from keras_initlab.model.kernels import kernels_of
from keras_initlab.model.layers import call_keys, every_place, inside, places


class Twins(layers.Layer):
    """Two sublayers of one name, which Keras does not keep apart in a subclass."""

    def __init__(self, kind=layers.Dense):
        super().__init__(name="twins")
        self.one = kind(2, name="same")
        self.two = kind(2, name="same")

    def build(self, input_shape):
        self.one.build(input_shape)
        self.two.build(input_shape)

    def call(self, x):
        return self.one(x) + self.two(x)


class TwinModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = layers.Dense(5, name="d")
        self.second = layers.Dense(2, name="d")

    def call(self, x):
        return self.second(self.first(x))


def nested():
    encoder = keras.Sequential([layers.Dense(3, name="dense")], name="encoder")
    return keras.Sequential(
        [
            keras.Input((4, 5)),
            encoder,
            layers.LSTM(2, return_sequences=True, name="lstm"),
            layers.TimeDistributed(layers.Dense(2, name="step"), name="timed"),
            layers.Bidirectional(layers.GRU(2, name="gru"), name="both"),
            Twins(),
        ],
        name="model",
    )


NESTED = {
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


def test_places_are_paths_without_the_model():
    assert {place.path: place.measured for place in places(nested())} == NESTED


def test_every_place_adds_the_layers_inside_closed_ones_unmeasured():
    model = nested()
    enclosed = {place.path: place for place in every_place(model) if place.enclosed}
    assert list(enclosed) == [
        "lstm/lstm_cell",
        "timed/step",
        "both/forward_gru/gru_cell",
        "both/backward_gru/gru_cell",
    ]
    assert not any(place.measured for place in enclosed.values())
    opened = {p.path: p.measured for p in every_place(model) if not p.enclosed}
    assert opened == NESTED


def test_parents_start_with_the_model():
    model = nested()
    by_path = {place.path: place for place in places(model)}
    assert by_path["encoder"].parents == (model,)
    assert by_path["encoder/dense"].parents == (model, by_path["encoder"].layer)


def test_a_layer_held_inside_a_closed_layer_and_outside_stands_outside():
    shared = layers.Dense(3, name="shared")
    inputs = keras.Input((4, 3))
    x = shared(layers.TimeDistributed(shared, name="timed")(inputs))
    model = keras.Model(inputs, x)
    assert [place.path for place in every_place(model)] == ["timed", "shared"]
    assert [kernel.path for kernel in kernels_of(model)] == ["shared"]


def test_layers_made_by_build_are_named_beside_those_there():
    model = keras.Sequential([keras.Input((3,)), Twins()])
    before = [place for place in places(model) if place.path != "twins/same~2"]
    twins = next(place for place in before if place.path == "twins")
    (place,) = inside(twins, before)
    assert (place.path, place.layer) == ("twins/same~2", twins.layer.two)


def test_kernels_and_places_and_graphs_have_the_same_paths():
    model = TwinModel()
    model(np.ones((2, 3), "float32"))
    paths = [place.path for place in places(model)]
    assert paths == ["d", "d~2"]
    assert [kernel.path for kernel in kernels_of(model)] == paths
    symbol = keras.KerasTensor((None, 3))
    opened = graph.opened(model, ((symbol,), {}), training=False)
    assert [call.path for call in opened.calls] == paths


def test_inspect_shows_the_kernels_of_two_sublayers_of_one_name():
    model = TwinModel()
    x = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
    model(x)
    for inspection in (il.inspect(model), il.inspect(model, x)):
        shapes = {row.layer: row.kernel_shape for row in inspection.layers}
        assert shapes["d"] == (3, 5)
        assert shapes["d~2"] == (5, 2)


def test_a_rewrite_can_skip_the_second_of_two_sublayers_of_one_name():
    model = TwinModel()
    model(np.ones((2, 3), "float32"))
    plan = il.rewrite_initializers(model, seed=0, skip="d~2")
    assert [row.layer for row in plan] == ["d", "d~2"]
    assert ["named in skip" in row.note for row in plan] == [False, True]


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
