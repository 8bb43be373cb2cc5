"""Kernels that start at 0 on purpose stay so; those that starve what follows do not."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_initlab as il

ZEROS = {"kernel_initializer": "zeros"}


def dense(units, name, activation=None, **options):
    return layers.Dense(units, activation, name=name, **options)


def branch(x, **options):
    return dense(32, "last", **options)(dense(32, "first", "relu")(x))


class Scale(layers.Layer):
    """ReZero's factor at 0, LayerScale's at 1e-6."""

    def __init__(self, start):
        super().__init__()
        self.start = start

    def build(self, shape):
        start = keras.initializers.Constant(self.start)
        self.factor = self.add_weight(shape=(), initializer=start, name="factor")

    def call(self, x):
        return x * self.factor


class Warp(layers.Layer):
    def call(self, inputs):
        x, shift = inputs
        return x + ops.tanh(shift)


def small(deviation):
    return {"kernel_initializer": keras.initializers.RandomNormal(stddev=deviation)}


def modulated(x):
    shift, scale, gate = ops.split(dense(96, "last", **ZEROS)(x), 3, axis=-1)
    y = layers.LayerNormalization(center=False, scale=False)(x) * (1 + scale) + shift
    return x + gate * dense(32, "first")(y)


def coupling(x):
    one, other = x[:, :16], x[:, 16:]
    hidden = dense(32, "first", "relu")(one)
    scale = dense(16, "last", "tanh", **ZEROS)(hidden)
    return ops.concatenate([other * ops.exp(scale), one], -1)


def aligned(x):
    """A transform net as PointNet's, that starts as the identity by its bias."""
    points = layers.Reshape((16, 2))(x)
    identity = keras.initializers.Constant(np.eye(2).ravel())
    summary = layers.GlobalMaxPooling1D()(layers.Conv1D(16, 1, name="first")(points))
    matrix = dense(4, "last", bias_initializer=identity, **ZEROS)(summary)
    product = layers.Dot(axes=(2, 1))([points, layers.Reshape((2, 2))(matrix)])
    return layers.Flatten()(product)


def attended(x):
    rows = layers.Reshape((4, 8))(x)
    attention = layers.MultiHeadAttention(2, 4, name="all", **ZEROS)
    return layers.Flatten()(layers.Add()([rows, attention(rows, rows)]))


KEPT = {
    "residual, zeros": lambda x: layers.Add()([x, branch(x, **ZEROS)]),
    "residual by an operator": lambda x: x + branch(x, **ZEROS),
    "subtracted": lambda x: layers.Subtract()([x, branch(x, **ZEROS)]),
    "residual, tiny": lambda x: layers.Add()([x, branch(x, **small(1e-5))]),
    "normalised behind": lambda x: layers.Add()(
        [x, layers.BatchNormalization()(branch(x, **ZEROS))]
    ),
    "a factor beside 1": lambda x: x * (1 + dense(32, "last", **ZEROS)(x)),
    "a gate": lambda x: layers.Multiply()(
        [x, dense(32, "last", "sigmoid", **ZEROS)(dense(8, "first", "relu")(x))]
    ),
    "concatenated": lambda x: layers.Concatenate()([x, branch(x, **ZEROS)]),
    "shift, scale and gate": modulated,
    "affine coupling": coupling,
    "a transform net": aligned,
    "a layer of one's own": lambda x: Warp()([x, branch(x, **small(1e-5))]),
}

DRAWN = {
    "a chain": lambda x: dense(32, "last", **ZEROS)(x),
    "a chain with biases": lambda x: dense(
        32, "last", "relu", bias_initializer="ones", **ZEROS
    )(x),
    "a chain of sigmoids": lambda x: dense(32, "last", "sigmoid", **ZEROS)(x),
    "not small": lambda x: layers.Add()([x, branch(x, **small(0.02))]),
}


def network(part):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32,))
    return keras.Model(inputs, dense(4, "head")(part(inputs)))


def rewrite(model, scheme, **options):
    plan = il.rewrite_initializers(model, scheme=scheme, seed=0, **options)
    return {row.layer: row for row in plan}


@pytest.mark.parametrize("scheme", ["activation", "variance", "isometric"])
@pytest.mark.parametrize("name", KEPT)
def test_it_is_kept_where_the_signal_has_another_way(name, scheme):
    model = network(KEPT[name])
    before = np.asarray(ops.convert_to_numpy(model.get_layer("last").kernel))
    rows = rewrite(model, scheme)
    row = rows.pop("last")
    assert not row.changed
    assert row.note.startswith("kept: starts ")
    assert "carries the signal" in row.note
    assert all(other.changed for other in rows.values())
    after = np.asarray(ops.convert_to_numpy(model.get_layer("last").kernel))
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("scheme", ["activation", "variance", "isometric"])
@pytest.mark.parametrize("name", DRAWN)
def test_it_is_drawn_where_it_starves_what_follows(name, scheme):
    assert rewrite(network(DRAWN[name]), scheme)["last"].changed


def test_a_head_of_zeros_is_drawn_unless_its_bias_says_something():
    for bias, changed in (("zeros", True), (il.ClassPriorBias([0.9, 0.1]), False)):
        inputs = keras.Input((8,))
        head = dense(2, "head", "softmax", bias_initializer=bias, **ZEROS)
        model = keras.Model(inputs, head(dense(16, "first", "relu")(inputs)))
        row = rewrite(model, "variance", only_defaults=False)["head"]
        assert row.changed == changed
        assert ("its bias carries" in row.note) != changed


def test_of_attention_that_starts_at_0_the_last_kernel_is_kept():
    rows = rewrite(network(attended), "variance")
    kept = [path for path, row in rows.items() if not row.changed]
    assert kept == ["all/attention_output"]


@pytest.mark.parametrize("start", [0.0, 1e-6])
def test_factors_that_are_no_kernels_stay_and_are_not_made_up_for(start):
    inputs = x = keras.Input((32,))
    for index in range(3):
        y = dense(32, f"b{index}")(dense(32, f"a{index}", "relu")(x))
        x = layers.Add(name=f"sum{index}")([x, Scale(start)(y)])
    model = keras.Model(inputs, dense(4, "head")(x))
    rows = rewrite(model, "variance")
    assert rows["b1"].target == pytest.approx(1 / 3)
    assert all(row.gain < 3 for row in rows.values())
    stats = {one.layer: one for one in il.propagate(model)}
    assert stats["sum2"].second_moment == pytest.approx(1.0, rel=0.1)
    factors = [w for w in model.weights if w.name == "factor"]
    assert [float(ops.convert_to_numpy(w)) for w in factors] == pytest.approx(
        [start] * 3
    )


def test_a_scheme_of_ones_own_may_not_draw_it_either():
    class Stubborn:
        def choose(self, model, context):
            choices = [
                context.choice(kernel, "he_normal") for kernel in context.kernels()
            ]
            return il.schemes.Selection(choices)

    rows = rewrite(network(KEPT["residual, zeros"]), Stubborn())
    assert not rows["last"].changed
