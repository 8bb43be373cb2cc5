import itertools
import math
from dataclasses import fields

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_initlab.measurement import measure
from keras_initlab.monitor import VarianceMonitor

from .helpers import as_numpy
from .monitor.models import (
    BuildsItsLayers,
    data,
    fit,
    frozen,
    mlp,
    nested_and_shared,
    two_ways,
)

MOMENTS = ("mean", "variance", "second_moment")


def single(layer, x, **settings):
    """Measure one layer, built for `x`."""
    model = keras.Sequential([keras.Input(x.shape[1:], dtype=x.dtype), layer])
    (stats,) = measure(model, x, **settings)
    return stats


def by_definition(x):
    """Every figure over one output as its definition has it, slowly."""
    rows = x.reshape(len(x), -1)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = itertools.combinations(unit, 2)
    return {
        "mean": x.mean(),
        "variance": x.var(),
        "second_moment": (x**2).mean(),
        "batch_variance": np.mean([column.var() for column in rows.T]),
        "input_cosine": np.mean([a @ b for a, b in pairs]),
        "zero_fraction": np.mean(rows == 0),
        "dead_fraction": np.mean([not unit.any() for unit in np.moveaxis(x, -1, 0)]),
        "nonfinite": 0,
    }


def convolutional():
    x = keras.Input((7, 7, 2))
    h = layers.Conv2D(4, 3, name="convolution")(x)
    h = layers.BatchNormalization(name="norm")(h)
    # Some units are 0 for some inputs, and those of one channel for all.
    h = h * np.array([1.0, 1.0, 1.0, -1e-9], "float32")
    h = h - np.array([0.5, 0.0, 0.0, 1.0], "float32")
    h = layers.ReLU(name="relu")(h)
    h = layers.GlobalAveragePooling2D(name="pool")(h)
    return keras.Model(x, layers.Dense(3, activation="tanh", name="out")(h))


def test_every_figure_is_as_defined():
    model = convolutional()
    x = data(6, (7, 7, 2))[0]
    stats = {row.layer: row for row in measure(model, x, gradients=False)}
    names = ["convolution", "norm", "relu", "pool", "out"]
    assert set(names) <= set(stats)
    taps = keras.Model(model.inputs[0], [model.get_layer(n).output for n in names])
    for name, output in zip(names, taps(x, training=True), strict=True):
        found, expected = stats[name], by_definition(as_numpy(output))
        for field, value in expected.items():
            np.testing.assert_allclose(
                getattr(found, field), value, rtol=1e-5, atol=1e-6, err_msg=field
            )
        assert found.shape == (None, *output.shape[1:])
        assert (found.source, found.update_ratio) == ("measured", None)
    assert stats["relu"].dead_fraction >= 0.25
    assert stats["relu"].zero_fraction > stats["relu"].dead_fraction


def test_training_says_how_layers_are_called():
    x = data(16)[0]
    model = keras.Sequential([keras.Input((6,)), layers.Dropout(0.5, name="drop")])
    (train,), (infer,) = measure(model, x), measure(model, x, training=False)
    assert abs(train.zero_fraction - 0.5) < 5 * 0.5 / math.sqrt(x.size)
    assert infer.zero_fraction == 0
    np.testing.assert_allclose(infer.variance, x.var(), rtol=1e-5)


def test_a_linear_net_has_the_moments_that_theory_gives():
    # Orthogonal kernels of gain 2 and 3: signals and gradients are scaled, exactly.
    def dense(units, gain, name):
        start = keras.initializers.Orthogonal(gain, seed=1)
        return layers.Dense(units, kernel_initializer=start, name=name)

    model = keras.Sequential(
        [keras.Input((32,)), dense(32, 2.0, "a"), dense(32, 3.0, "b")]
    )
    x = np.random.default_rng(0).normal(size=(64, 32)).astype("float32")
    a, b = measure(model, x)
    np.testing.assert_allclose(a.second_moment, 4 * (x**2).mean(), rtol=1e-4)
    np.testing.assert_allclose(b.second_moment, 36 * (x**2).mean(), rtol=1e-4)
    # The gradient at the end is the one that was drawn, from N(0, 1).
    assert abs(b.gradient_second_moment - 1) < 5 * math.sqrt(2 / x.size)
    np.testing.assert_allclose(
        a.gradient_second_moment, 9 * b.gradient_second_moment, rtol=1e-4
    )
    # dL/dw = Σ x·g over N = 64 inputs; of one, E[(x·g)²] = E[x²]·E[g²]. The average
    # over D² = 32² weights has a relative variance of 2(N + D)/(N·D²) given the g,
    # and 2/(N·D) from the g.
    spread = math.sqrt(2 / 32**2 + 4 / (64 * 32))
    for row, expected in [(a, 9.0), (b, 4.0)]:
        assert row.weight == "kernel"
        assert abs(row.weight_gradient_second_moment / expected - 1) < 5 * spread


def test_moments_of_a_large_mean_and_a_small_deviation():
    x = np.random.default_rng(0).normal(1000.0, 0.1, (320, 50)).astype("float32")
    row = single(layers.Identity(), x, gradients=False)
    np.testing.assert_allclose(row.variance, x.astype("float64").var(), rtol=1e-6)


def test_figures_too_large_or_small_for_float32():
    x = data(8)[0]
    for scale in (1e25, 1e-25):
        row = single(layers.Identity(), x * np.float32(scale))
        expected = x.astype("float64").var() * scale**2
        np.testing.assert_allclose(row.variance, expected, rtol=1e-5)
        assert 0 < row.input_cosine < 1


def test_what_is_not_finite_is_counted_and_left_out():
    x = data(5)[0]
    x[0, 1], x[2, 3], x[2, 4] = np.nan, np.inf, -np.inf
    x[:, 5] = np.nan
    row = single(layers.Identity(), x)
    kept = x[np.isfinite(x)].astype("float64")
    assert row.nonfinite == 8
    for field, value in zip(
        MOMENTS, (kept.mean(), kept.var(), (kept**2).mean()), strict=True
    ):
        np.testing.assert_allclose(getattr(row, field), value, rtol=1e-5)
    units = [column[np.isfinite(column)].var() for column in x[:, :5].T]
    np.testing.assert_allclose(row.batch_variance, np.mean(units), rtol=1e-5)
    assert row.input_cosine is None
    assert row.gradient_second_moment > 0
    nothing = single(layers.Identity(), np.full((3, 2), np.nan, "float32"))
    known = {f.name for f in fields(nothing) if getattr(nothing, f.name) is not None}
    known.discard("gradient_second_moment")  # NaN or 1, as the backend sees it
    assert known == {"layer", "shape", "nonfinite", "source"}


def test_inputs_that_are_not_compared():
    x = data(4)[0]
    one = single(layers.Identity(), x[:1])
    assert (one.input_cosine, one.batch_variance) == (None, None)
    assert one.variance > 0
    # Outputs that are all 0 have no direction: the cosine is of the two others.
    x[1:3] = 0
    row = single(layers.Identity(), x)
    a, b = x[0].astype("float64"), x[3].astype("float64")
    expected = a @ b / math.sqrt((a @ a) * (b @ b))
    np.testing.assert_allclose(row.input_cosine, expected, rtol=1e-5)
    dead = single(layers.Rescaling(0.0), x)
    assert (dead.input_cosine, dead.dead_fraction) == (None, 1.0)


def test_an_output_without_the_batch_has_no_figures_over_it():
    class Positions(layers.Layer):
        def __init__(self):
            super().__init__(name="positions")
            self.table = self.add_weight(shape=(3, 2), name="table")

        def call(self, x):
            return 1.0 * ops.convert_to_tensor(self.table)

    x = keras.Input((3, 2))
    positions = Positions()
    model = keras.Model(x, layers.Identity(name="sum")(x + positions(x)))
    rows = {row.layer: row for row in measure(model, data(5, (3, 2))[0])}
    row = rows["positions"]
    assert row.shape == (3, 2)
    assert (row.batch_variance, row.input_cosine, row.dead_fraction) == (None,) * 3
    assert row.weight == "table"
    assert row.variance > 0
    assert rows["sum"].shape == (None, 3, 2)


@pytest.mark.parametrize(
    ("make", "ends"),
    [
        (lambda: layers.Activation("tanh"), (-1.0, 1.0)),
        (lambda: layers.Activation("sigmoid"), (0.0, 1.0)),
        (lambda: layers.Activation("hard_sigmoid"), (0.0, 1.0)),
        (lambda: layers.Activation("hard_tanh"), (-1.0, 1.0)),
        (lambda: layers.Activation("softsign"), (-1.0, 1.0)),
        (lambda: layers.Activation("relu6"), (None, 6.0)),
        (lambda: layers.ReLU(max_value=6.0), (None, 6.0)),
        (lambda: layers.Activation(lambda x: 2 * ops.tanh(x)), (-2.0, 2.0)),
        (lambda: layers.Dense(6, "tanh", kernel_initializer="identity"), (-1.0, 1.0)),
    ],
)
def test_saturated_fraction(make, ends):
    x = np.linspace(-300.0, 300.0, 600, dtype="float32").reshape(100, 6)
    model = keras.Sequential([keras.Input((6,)), make()])
    (row,) = measure(model, x, gradients=False)
    low, high = ends
    y = as_numpy(model(x))
    near = 0.01 * (high - (low or 0.0))
    expected = y > high - near
    if low is not None:
        expected |= y < low + near
    assert 0 < expected.mean() < 1
    np.testing.assert_allclose(row.saturated_fraction, expected.mean(), atol=1e-9)


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Dense(6),
        lambda: layers.ReLU(),
        lambda: layers.Activation("gelu"),
        lambda: layers.Activation("softplus"),
        lambda: layers.Activation("softmax"),
        lambda: layers.Activation(lambda x: ops.sin(x)),
        lambda: layers.Lambda(lambda x: ops.tanh(x)),
        lambda: Afterwards(),
    ],
)
def test_what_is_not_bounded_has_no_saturated_fraction(make):
    x = np.linspace(-30.0, 30.0, 60, dtype="float32").reshape(10, 6)
    assert single(make(), x, gradients=False).saturated_fraction is None


class Afterwards(layers.Layer):
    """Has an activation, and does something else with what that returns."""

    activation = staticmethod(ops.tanh)

    def call(self, x):
        return 5 * self.activation(x)


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (nested_and_shared, 1),
        (two_ways, 2),
        (BuildsItsLayers, 1),
    ],
)
def test_keys_are_those_of_the_monitor(make, inputs):
    x, y = data(16)
    model = make()
    rows = measure(model, x if inputs == 1 else [x, x])
    keys = [row.layer for row in rows]
    assert len(keys) == len(set(keys))
    monitor = VarianceMonitor(1)
    targets = y if inputs == 1 else [y[:, :1], y[:, 1:]]
    fit(frozen(model), x if inputs == 1 else [x, x], targets, [monitor])
    assert set(keys) == set(monitor.history)
    if inputs == 1:
        assert keys == [row.layer for row in monitor.stats]
        assert [row.shape for row in rows] == [row.shape for row in monitor.stats]


def test_calls_of_shared_layers():
    model = nested_and_shared()
    x = data(5)[0]
    rows = {row.layer: row for row in measure(model, x)}
    assert {"shared#0", "shared#1", "encoder/dense#0", "encoder/dense#1"} <= set(rows)
    first, second = rows["shared#0"], rows["shared#1"]
    assert first.variance != second.variance
    assert first.gradient_second_moment != second.gradient_second_moment
    gradient = first.weight_gradient_second_moment
    assert gradient == second.weight_gradient_second_moment > 0


def test_dicts_in_and_out():
    a, b = keras.Input((6,), name="a"), keras.Input((3,), name="b")
    left = layers.Dense(2, name="left")(layers.Concatenate(name="joined")([a, b]))
    right = layers.Dense(2, name="right")(b)
    model = keras.Model({"a": a, "b": b}, {"left": left, "right": right})
    x = data(5)[0]
    rows = {row.layer: row for row in measure(model, {"a": x, "b": x[:, :3]})}
    assert set(rows) == {"joined", "left", "right"}
    tensors = {"a": ops.convert_to_tensor(x), "b": ops.convert_to_tensor(x[:, :3])}
    again = {row.layer: row for row in measure(model, tensors)}
    assert again == rows


def test_recurrent_and_attention_layers():
    x = keras.Input((3, 4))
    h = layers.LSTM(4, return_sequences=True, name="lstm")(x)
    h = layers.MultiHeadAttention(2, 3, name="attention")(h, h)
    model = keras.Model(x, layers.TimeDistributed(layers.Dense(2), name="timed")(h))
    rows = {row.layer: row for row in measure(model, data(4, (3, 4))[0])}
    inside = {
        f"attention/{name}" for name in "query key value attention_output".split()
    }
    assert {"lstm", "attention", "timed"} | inside <= set(rows)
    assert not any("cell" in key or key.startswith("timed/") for key in rows)
    for key in ["lstm", "timed", *inside]:
        assert rows[key].weight == "kernel"
        assert rows[key].weight_gradient_second_moment > 0
        assert rows[key].gradient_second_moment > 0
    assert rows["attention"].weight is None
    assert rows["lstm"].shape == (None, 3, 4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    x = data(16)[0]
    full = mlp()
    keras.config.set_dtype_policy(policy)
    model = mlp()
    model.set_weights(full.get_weights())
    rtol = 0.02 if policy == "mixed_float16" else 0.1
    for half, single_ in zip(measure(model, x), measure(full, x), strict=True):
        for field in (*MOMENTS[1:], "gradient_second_moment"):
            np.testing.assert_allclose(
                getattr(half, field), getattr(single_, field), rtol=rtol, err_msg=field
            )
        if half.weight == "kernel":
            np.testing.assert_allclose(
                half.weight_gradient_second_moment,
                single_.weight_gradient_second_moment,
                rtol=rtol,
            )


def test_frozen_layers_still_show_the_gradient_at_their_outputs():
    model = mlp()
    x = data(8)[0]
    expected = measure(model, x)
    model.trainable = False
    for row, other in zip(measure(model, x), expected, strict=True):
        np.testing.assert_allclose(
            row.gradient_second_moment, other.gradient_second_moment, rtol=1e-5
        )
        assert row.weight_gradient_second_moment is None
    assert [row.weight for row in measure(model, x)] == ["kernel", None, "kernel"]


def test_the_main_weight_of_a_layer():
    model = keras.Sequential(
        [
            keras.Input((8,), dtype="int32"),
            layers.Lambda(lambda i: i + 1, name="whole", dtype="int32"),
            layers.Embedding(9, 4, name="embedding"),
            layers.SeparableConv1D(2, 3, name="separable"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(name="flat"),
        ]
    )
    rows = measure(model, np.random.default_rng(0).integers(0, 7, (4, 8)))
    assert [(row.layer, row.weight) for row in rows] == [
        ("embedding", "embeddings"),
        ("separable", "depthwise_kernel"),
        ("norm", "gamma"),
        ("flat", None),
    ]
    assert all(row.weight_gradient_second_moment > 0 for row in rows[:3])


def test_without_gradients_and_by_seed():
    model = mlp()
    x = data(8)[0]
    plain, first, again, other = (
        measure(model, x, gradients=False),
        measure(model, x),
        measure(model, x, seed=0),
        measure(model, x, seed=1),
    )
    assert first == again
    for row, a, b in zip(plain, first, other, strict=True):
        assert row.gradient_second_moment is None
        assert row.weight_gradient_second_moment is None
        assert row.weight == a.weight
        assert (row.variance, a.variance) == (b.variance, b.variance)
        assert a.gradient_second_moment != b.gradient_second_moment


def test_an_unbuilt_model_is_built_and_keeps_its_weights():
    x = data(8)[0]
    model = keras.Sequential([layers.Dense(4), layers.Dense(2)])
    first = measure(model, x)
    assert model.built
    assert measure(model, x) == first


X = np.ones((3, 6), "float32")


@pytest.mark.parametrize(
    ("model", "x", "error", "match"),
    [
        (lambda: layers.Dense(2), X, TypeError, "must be a Keras model"),
        (mlp, None, TypeError, "a batch of data"),
        (mlp, [[1.0] * 6], TypeError, "NumPy"),
        (mlp, keras.KerasTensor((2, 6)), TypeError, "a batch of data"),
        (mlp, X[:0], ValueError, r"empty batch, of shape \(0, 6\)"),
        (mlp, X[:, :2], ValueError, "incompatible"),
    ],
    ids=["layer", "none", "numbers", "symbol", "empty", "misfit"],
)
def test_errors(model, x, error, match):
    with pytest.raises(error, match=match):
        measure(model(), x)
