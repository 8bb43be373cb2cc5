"""A scheme of one's own: a class with one method."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_initlab as il
from keras_initlab.schemes import Scheme, SchemeContext, Selection
from tests.helpers import as_numpy, assert_std, kernels


class ByWidth:
    """Kernels scaled by what follows them, which need not derive from anything."""

    def __init__(self, scale):
        self.scale = scale

    def choose(self, model, context):
        choices = []
        for index, kernel in enumerate(context.kernels()):
            gain = self.scale * context.nonlinearity(kernel).rule.gain
            initializer = il.Scaled(gain, seed=context.seeds.at(index))
            choices.append(context.choice(kernel, initializer, gain=gain, note="own"))
        return Selection(choices, [f"{model.name}: at scale {self.scale}"])


class Named:
    """Every kernel by the name of an initializer."""

    def choose(self, model, context):
        return Selection([context.choice(k, "he_normal") for k in context.kernels()])


def net(width=300):
    return keras.Sequential(
        [
            keras.Input((width,)),
            layers.Dense(width, "relu", name="first"),
            layers.Dense(width, "relu", name="second"),
            layers.Dense(4, name="head"),
        ],
        name="net",
    )


def test_the_schemes_of_the_package_fill_the_protocol():
    for scheme in (
        il.Activation(),
        il.Variance(),
        il.Isometric(),
        il.AutoScheme(),
        ByWidth(1.0),
    ):
        assert isinstance(scheme, Scheme)
    assert not isinstance("variance", Scheme)


def test_its_initializers_are_set_and_drawn():
    model = net()
    plan = il.rewrite_initializers(model, scheme=ByWidth(0.5), seed=0)
    assert [row.gain for row in plan] == pytest.approx([2**-0.5, 2**-0.5, 0.5])
    assert [row.nonlinearity for row in plan] == ["relu", "relu", "linear"]
    assert [row.note for row in plan] == ["own"] * 3
    assert plan.assumptions == ("net: at scale 0.5",)
    assert "assumed: net: at scale 0.5" in str(plan)
    first, second, _ = kernels(model)
    assert_std(first, 2**-0.5 / 300**0.5)
    assert model.get_layer("first").kernel_initializer is plan[0].after
    assert not np.array_equal(first, second)


def test_seeds_repeat_its_draws():
    draws = []
    for seed in (0, 0, 1):
        model = net(16)
        il.rewrite_initializers(model, scheme=ByWidth(1.0), seed=seed)
        draws.append(kernels(model)[0])
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_an_initializer_may_be_given_by_name():
    model = net(16)
    plan = il.rewrite_initializers(model, scheme=Named())
    assert all(isinstance(row.after, keras.initializers.HeNormal) for row in plan)
    first, second, _ = kernels(model)
    assert not np.array_equal(first, second)


def test_a_dry_run_changes_nothing():
    model = net(16)
    before, config = kernels(model), model.get_config()
    assert all(r.changed for r in il.rewrite_initializers(model, Named(), dry_run=True))
    assert model.get_config() == config
    for was, now in zip(before, kernels(model), strict=True):
        np.testing.assert_array_equal(was, now)


def test_frozen_and_skipped_kernels_stay_and_the_rows_say_why():
    model = net(16)
    model.get_layer("first").trainable = False
    before = kernels(model)
    plan = il.rewrite_initializers(model, scheme=ByWidth(1.0), skip="head")
    assert [row.changed for row in plan] == [False, True, False]
    assert [row.note for row in plan] == ["frozen; own", "own", "named in skip; own"]
    assert [row.gain is None for row in plan] == [True, False, True]
    for index in (0, 2):
        np.testing.assert_array_equal(before[index], kernels(model)[index])


def test_it_works_on_layers_that_are_not_built():
    model = keras.Sequential([layers.Dense(400, "relu", name="first")])
    (row,) = il.rewrite_initializers(
        model, scheme=ByWidth(2.0), seed=0, only_unbuilt=True
    )
    assert row.note == "own; drawn when the layer is built"
    assert row.fan_in is None
    model(np.ones((1, 300), "float32"))
    assert_std(as_numpy(model.layers[0].kernel), row.gain / 300**0.5)


class Stubborn:
    """Sets every kernel to 0, whatever the user wants kept."""

    def choose(self, model, context):
        free = SchemeContext(model, context.seeds)
        return Selection([free.choice(k, "zeros") for k in context.kernels()])


class Returning:
    def __init__(self, value):
        self.value = value

    def choose(self, model, context):
        return self.value


def test_it_cannot_change_what_the_user_wants_kept():
    model = net(16)
    before = kernels(model)
    with pytest.raises(ValueError, match="'second', named in skip") as caught:
        il.rewrite_initializers(model, scheme=Stubborn(), skip=["second"])
    assert "Received: <keras" in str(caught.value)
    for was, now in zip(before, kernels(model), strict=True):
        np.testing.assert_array_equal(was, now)


@pytest.mark.parametrize("value", [None, [], "he_normal", Selection(["he_normal"])])
def test_what_it_returns_is_checked(value):
    with pytest.raises(TypeError, match="must return a Selection") as caught:
        il.rewrite_initializers(net(16), scheme=Returning(value))
    assert f"Received: {value!r}" in str(caught.value)


def test_its_own_errors_reach_the_user():
    class Refusing:
        def choose(self, model, context):
            raise ValueError("no such network")

    with pytest.raises(ValueError, match="no such network"):
        il.rewrite_initializers(net(16), scheme=Refusing())


def test_recurrent_kernels_are_listed_on_request():
    model = keras.Sequential([keras.Input((5, 8)), layers.LSTM(4, name="lstm")])
    weights = {}

    class Listing:
        def choose(self, model, context):
            for recurrent in (False, True):
                listed = context.kernels(recurrent=recurrent)
                weights[recurrent] = [kernel.weight for kernel in listed]
                assert len({kernel.key for kernel in listed}) == len(listed)
            return Selection([])

    assert len(il.rewrite_initializers(model, scheme=Listing())) == 0
    assert weights == {False: ["kernel"], True: ["kernel", "recurrent_kernel"]}


def test_what_cannot_be_opened_is_named():
    class Hidden(layers.Layer):
        def __init__(self):
            super().__init__(name="hidden")
            self.dense = layers.Dense(8, name="dense")

        def build(self, shape):
            self.dense.build(shape)

        def call(self, x):
            if keras.utils.is_keras_tensor(x):
                raise ValueError("no symbols")
            return ops.tanh(self.dense(x))

        def compute_output_shape(self, shape):
            return (*shape[:-1], 8)

        def compute_output_spec(self, x, **arguments):
            return keras.KerasTensor(self.compute_output_shape(x.shape), x.dtype)

    inputs = keras.Input((8,))
    model = keras.Model(inputs, Hidden()(inputs))
    (row,) = il.rewrite_initializers(model, dry_run=True)
    assert row.nonlinearity == "linear"
    assert row.note == "what follows inside hidden is unseen"
