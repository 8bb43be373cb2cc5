import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from keras_initlab.propagation import affine, apply, output_moments


def by_key(stats):
    return {one.layer: one for one in stats}


def he(units, activation=None, **options):
    return layers.Dense(units, activation, kernel_initializer="he_normal", **options)


def test_he_keeps_the_second_moment_of_a_deep_relu_network():
    model = keras.Sequential([keras.Input((64,)), *(he(64, "relu") for _ in range(30))])
    stats = il.propagate(model)
    assert [round(one.second_moment, 9) for one in stats] == [1.0] * 30
    assert [round(one.gradient_second_moment, 9) for one in stats] == [1.0] * 30


def test_auto_counts_for_what_follows_it():
    dense = layers.Dense(64, kernel_initializer="initlab>auto", name="d")
    model = keras.Sequential([keras.Input((64,)), dense, layers.ReLU(name="bend")])
    assert by_key(il.propagate(model))["bend"].second_moment == pytest.approx(1.0)


def test_records_are_complete_and_marked():
    model = keras.Sequential([keras.Input((8,)), he(16, "relu", name="one"), he(4)])
    first = il.propagate(model)[0]
    assert (first.layer, first.weight, first.shape) == ("one", "kernel", (None, 16))
    assert first.source == "predicted"
    assert first.variance == pytest.approx(1 - first.mean**2)
    assert first.input_cosine == pytest.approx(1 / np.pi)
    assert first.batch_variance == pytest.approx(1 - 1 / np.pi)
    # dL/dw sums one product for each input: E x² E g², here 1 · 2/16 · 4 · 1/2.
    assert first.weight_gradient_second_moment == pytest.approx(0.25)
    assert first.update_ratio is None
    assert first.zero_fraction is None


def test_input_moments_are_scaled_and_shifted():
    model = keras.Sequential([keras.Input((50,)), he(10, name="one")])
    assert il.propagate(model, mean=3.0, variance=4.0)[0].second_moment == (
        pytest.approx(2 * 13)
    )


@pytest.mark.parametrize("given", [{"a": 4.0, "b": 9.0}, [4.0, 9.0]])
def test_moments_can_be_given_for_each_input(given):
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    outputs = layers.Concatenate(name="both")([a, b])
    stats = by_key(il.propagate(keras.Model([a, b], outputs), variance=given))
    assert stats["both"].second_moment == pytest.approx(6.5)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"variance": -1.0}, ValueError, "finite and not negative"),
        ({"variance": float("nan")}, ValueError, "Received: variance=nan"),
        ({"mean": float("inf")}, ValueError, "`mean` must be finite"),
        ({"variance": [1.0, 2.0]}, ValueError, "one number for each"),
        ({"variance": {"other": 1.0}}, ValueError, "must have a number for each"),
        ({"mean": "large"}, TypeError, "must be a number"),
    ],
)
def test_bad_moments_are_refused(options, error, text):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    with pytest.raises(error, match=text):
        il.propagate(model, **options)


def test_bad_models_are_refused():
    with pytest.raises(TypeError, match="must be a Keras model"):
        il.propagate(layers.Dense(3))
    with pytest.raises(ValueError, match="not built"):
        il.propagate(keras.Sequential([layers.Dense(3)]))


def test_a_rule_that_fails_names_its_layer_and_changes_nothing():
    class Broken(layers.Layer):
        def call(self, inputs):
            return inputs

    output_moments.register(Broken, lambda layer, x, context: 1 / 0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), Broken(name="bad")])
    before = [np.array(value) for value in model.get_weights()]
    with pytest.raises(ValueError, match=r"layer 'bad' \(Broken\).*division by zero"):
        il.propagate(model)
    with pytest.raises(ValueError, match="'bad'"):
        il.rewrite_initializers(model, scheme="variance")
    after = model.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert type(model.layers[0].kernel_initializer).__name__ == "GlorotUniform"


def test_a_rule_of_ones_own_is_a_line():
    class Halve(layers.Layer):
        def call(self, inputs):
            return keras.ops.sort(inputs) / 2

    model = keras.Sequential([keras.Input((4,)), Halve(name="half")])
    assert il.propagate(model)[0].source == "measured"
    output_moments.register(Halve, lambda layer, x, context: affine(x, 0.5))
    (stats,) = il.propagate(model)
    assert (stats.source, stats.second_moment) == ("predicted", 0.25)
    assert stats.gradient_second_moment == 1.0


def test_a_subclass_with_a_call_of_its_own_does_not_inherit_the_rule():
    class Tripled(layers.Dense):
        def call(self, inputs):
            return 3 * super().call(inputs)

    model = keras.Sequential(
        [keras.Input((64,)), Tripled(256, kernel_initializer="lecun_normal")]
    )
    (stats,) = il.propagate(model)
    assert stats.source == "predicted"  # its call is followed
    assert stats.second_moment == pytest.approx(9.0)


def test_what_follows_a_measured_layer_is_predicted():
    class Shift(layers.Layer):
        def call(self, inputs):
            return keras.ops.sort(inputs) + 1

    model = keras.Sequential([keras.Input((64,)), Shift(name="shift"), he(8, name="d")])
    shift, dense = il.propagate(model, mean=0.0)
    assert (shift.source, dense.source) == ("measured", "predicted")
    assert dense.second_moment == pytest.approx(4.0, rel=0.05)


class Block(layers.Layer):
    def __init__(self, units, **options):
        super().__init__(**options)
        self.inner = he(units, "relu", name="inner")
        self.outer = he(units, name="outer")

    def build(self, shape):
        self.inner.build(shape)
        self.outer.build((*shape[:-1], self.inner.units))

    def call(self, inputs):
        return inputs + self.outer(self.inner(inputs))


def test_composite_layers_are_opened_and_left_as_they_were():
    block = Block(16, name="block")
    model = keras.Sequential([keras.Input((16,)), block])
    nodes = [len(one._inbound_nodes) for one in (block, block.inner, block.outer)]
    stats = by_key(il.propagate(model))
    assert list(stats) == ["block/inner", "block/outer", "block"]
    assert stats["block"].second_moment == pytest.approx(3.0)
    assert all(one.source == "predicted" for one in stats.values())
    assert nodes == [
        len(one._inbound_nodes) for one in (block, block.inner, block.outer)
    ]


class Whole(keras.Model):
    def __init__(self):
        super().__init__()
        self.block = Block(16, name="block")
        self.head = he(4, name="head")

    def call(self, inputs, training=None):
        return self.head(self.block(inputs))


def test_subclassed_models_are_opened():
    model = Whole()
    model(np.zeros((2, 16), "float32"))
    stats = by_key(il.propagate(model))
    assert list(stats) == ["block/inner", "block/outer", "block", "head"]
    assert stats["head"].second_moment == pytest.approx(6.0)


def test_shared_layers_have_a_record_for_each_call():
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    shared = he(8, name="shared")
    model = keras.Model([a, b], [shared(a), shared(b)])
    stats = by_key(il.propagate(model, variance=[1.0, 4.0]))
    assert sorted(round(one.second_moment, 6) for one in stats.values()) == [2.0, 8.0]
    # Numbered as the calls run, which measure sees.
    x = np.random.default_rng(0).standard_normal((2, 4096, 8)).astype("float32")
    measured = by_key(il.measure(model, [x[0], 2 * x[1]], gradients=False))
    for key in ("shared#0", "shared#1"):
        ratio = stats[key].second_moment / measured[key].second_moment
        assert 0.4 < ratio < 2.5


def test_keys_are_those_of_measure():
    a = keras.Input((8,), name="a")
    tower = keras.Sequential([keras.Input((8,)), he(8, "relu", name="t")], name="tower")
    x = Block(8, name="block")(tower(tower(a)))
    model = keras.Model(a, he(2, name="head")(x))
    measured = il.measure(model, np.ones((2, 8), "float32"), gradients=False)
    assert {one.layer for one in il.propagate(model)} == {one.layer for one in measured}


def test_from_weights_takes_their_moments():
    model = keras.Sequential([keras.Input((100,)), layers.Dense(50, name="d")])
    kernel = np.full((100, 50), 0.2, "float32") * np.sign(
        np.random.default_rng(0).standard_normal((100, 50))
    )
    model.layers[0].set_weights([kernel, np.full(50, 0.5, "float32")])
    (stats,) = il.propagate(model, from_weights=True)
    assert stats.second_moment == pytest.approx(100 * 0.04 + 0.25, rel=0.02)
    assert il.propagate(model)[0].second_moment == pytest.approx(100 * 2 / 150)


def test_dropout_counts_in_training_alone():
    model = keras.Sequential([keras.Input((8,)), layers.Dropout(0.5)])
    assert il.propagate(model)[0].second_moment == 2.0
    assert il.propagate(model, training=False)[0].second_moment == 1.0


def test_zero_and_constant_kernels_make_all_units_alike():
    model = keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(8, "tanh", kernel_initializer="ones", name="same"),
            layers.LayerNormalization(name="apart"),
            layers.Dense(8, kernel_initializer="zeros", name="nothing"),
        ]
    )
    stats = by_key(il.propagate(model))
    assert 0.5 < stats["same"].second_moment < 1.0
    # Units that are all alike have nothing left when their mean is taken out.
    assert stats["apart"].second_moment == pytest.approx(0.0, abs=1e-9)
    assert stats["nothing"].second_moment == 0.0


def test_the_model_is_unchanged_by_a_prediction():
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dropout(0.5), layers.BatchNormalization(), he(4)]
    )
    before = [np.array(one) for one in model.get_weights()]
    seeds = [np.array(v) for layer in model.layers for v in layer.variables]
    il.propagate(model)
    assert all(map(np.array_equal, before, model.get_weights()))
    after = [np.array(v) for layer in model.layers for v in layer.variables]
    assert all(map(np.array_equal, seeds, after))


def test_apply_is_there_for_rules_of_ones_own():
    class Twice(layers.Layer):
        def call(self, inputs):
            return keras.ops.tanh(keras.ops.relu(inputs))

    output_moments.register(
        Twice, lambda layer, x, context: apply(apply(x, "relu"), "tanh")
    )
    model = keras.Sequential([keras.Input((64,)), Twice()])
    x = np.random.default_rng(0).standard_normal(100_000)
    expected = (np.tanh(np.maximum(x, 0)) ** 2).mean()
    assert il.propagate(model)[0].second_moment == pytest.approx(expected, rel=0.02)


class Negated(layers.Layer):
    def call(self, x):
        return x


@output_moments.register(Negated)
def _negated(layer, x, context):
    # What no signal can have: a rule that is wrong.
    return x.evolve(pairs=-x.pairs)


def test_what_cannot_be_is_not_predicted():
    model = keras.Sequential(
        [keras.Input((8,)), he(8, name="a"), Negated(name="b"), he(8, name="c")]
    )
    with pytest.warns(RuntimeWarning, match="no signal can have") as caught:
        a, b, c = il.propagate(model)
    of_b, of_c = (str(warning.message) for warning in caught)
    assert "'b'" in of_b
    assert "second_moment=-2" in of_b
    assert "'c'" in of_c
    assert a.second_moment == pytest.approx(2.0)
    assert b.second_moment is b.mean is b.variance is b.input_cosine is None
    assert b.gradient_second_moment == pytest.approx(2.0)
    assert c.second_moment is c.weight_gradient_second_moment is None
    assert c.weight == "kernel"
