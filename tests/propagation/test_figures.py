"""Figures that cannot be, and figures that measurement contradicts."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from keras_initlab.propagation import propagate
from tests.propagation.fuzz import Network, far_off, impossible
from tests.propagation.simulation import measurements


def attended():
    tokens = keras.Input((12,), dtype="int32")
    x = L.GroupNormalization(8)(L.Embedding(50, 16)(tokens))
    x = L.GlobalAveragePooling1D()(L.Attention()([x, x]))
    return keras.Model(tokens, L.Dense(4)(x))


def nothing(x):
    x = L.Dense(16, name="before")(x)
    return L.Dense(8, name="behind")(ops.maximum(x - x, 0))


def functional(shape, function):
    x = keras.Input(shape)
    return keras.Model(x, function(x))


def sequential(shape, *stack):
    return lambda: keras.Sequential([keras.Input(shape), *stack])


def pooled_pairs(steps):
    conv = L.Conv1D(2, 1, activation="relu")
    pool = L.AveragePooling1D(6)
    return sequential((steps, 4), conv, pool, L.GroupNormalization(2))


MODELS = {
    "groups of one": sequential((12,), L.GroupNormalization(12), L.Dense(32)),
    "units of one": sequential((12, 1), L.LayerNormalization(), L.Dense(32)),
    "instances of one": sequential((1, 8), L.GroupNormalization(-1), L.Dense(32)),
    "a place each": pooled_pairs(6),
    "two places each": pooled_pairs(12),
    "embedding": attended,
    "nothing": lambda: functional((16,), nothing),
}


@pytest.mark.parametrize("from_weights", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_no_figure_is_impossible(name, from_weights):
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    assert impossible(propagate(model, from_weights=from_weights)) == []


@pytest.mark.parametrize("seed", range(12))
def test_no_figure_of_a_model_at_random_is_impossible(seed):
    keras.utils.set_random_seed(seed)
    model = Network(seed, narrow=True).model()
    for from_weights in (False, True):
        assert impossible(propagate(model, from_weights=from_weights)) == []


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="compiles each operation")
@pytest.mark.parametrize("seed", range(4))
def test_figures_of_a_model_at_random_are_those_measured(seed):
    keras.utils.set_random_seed(seed)
    assert far_off(Network(seed, narrow=False).model()) == []


def check(model, layer, factor=1.5, figure="second_moment", draws=24, batch=32):
    """Assert a figure of one layer, within a factor of the mean of several draws."""
    (predicted,) = (
        getattr(row, figure) for row in propagate(model) if row.layer == layer
    )
    rows = itertools.chain(*measurements(model, draws, batch))
    found = np.mean([getattr(row, figure) for row in rows if row.layer == layer])
    assert found / factor < predicted < found * factor, (predicted, found)


@pytest.mark.parametrize(
    "normalization", [L.LayerNormalization, L.RMSNormalization, L.GroupNormalization]
)
@pytest.mark.parametrize("width", [2, 3, 4])
def test_gradients_behind_the_statistics_of_few_units(normalization, width):
    # Two units become 1 and -1, but for those that nearly agree: all gradients there
    # are come of these.
    if normalization is L.GroupNormalization:
        normalization = lambda: L.GroupNormalization(8)  # noqa: E731
        width *= 8
    stack = [L.Dense(width, name="few"), normalization(), L.Dense(16)]
    model = keras.Sequential([keras.Input((16,)), *stack])
    check(model, "few", 2.0, "gradient_second_moment", draws=32, batch=256)


def test_small_signals_before_statistics_of_a_few():
    # Of ε, whose share is greater where a group happens to vary little.
    tokens = keras.Input((12,), dtype="int32")
    x = L.Embedding(50, 16)(tokens)
    model = keras.Model(tokens, L.GroupNormalization(8, name="groups")(x))
    check(model, "groups", 1.05)


@pytest.mark.parametrize("cell", [L.LSTM, L.GRU, L.SimpleRNN])
def test_gates_behind_a_kernel_of_ones_see_the_same(cell):
    layer = cell(8, kernel_initializer="ones", name="cell")
    check(keras.Sequential([keras.Input((6, 4)), layer]), "cell", 1.1)


def test_gates_and_states_behind_kernels_of_ones():
    ones = {"kernel_initializer": "ones", "recurrent_initializer": "ones"}
    model = keras.Sequential([keras.Input((6, 4)), L.LSTM(8, **ones, name="cell")])
    check(model, "cell", 1.1)
    check(model, "cell", 1.1, "mean")


@pytest.mark.parametrize(("size", "factor"), [(1, 1.4), (2, 1.4), (3, 1.2), (5, 1.4)])
def test_the_greatest_of_a_map_that_stretching_made_uneven(size, factor):
    options = {"strides": 2, "bias_initializer": "ones"}
    conv = L.Conv2DTranspose(1, size, kernel_initializer="he_normal", **options)
    pool = L.GlobalMaxPooling2D(name="pool")
    model = keras.Sequential([keras.Input((6, 6, 4)), conv, pool])
    check(model, "pool", factor)


def test_a_bias_and_a_mean_of_opposite_sign_leave_no_profile_below_zero():
    conv = L.Conv1DTranspose(4, 1, strides=2, bias_initializer="ones")
    model = keras.Sequential([keras.Input((4, 4)), conv, L.Activation("silu")])
    conv.kernel.assign(np.full(conv.kernel.shape, -0.5, "float32"))
    stats = propagate(model, mean=1.0, from_weights=True)
    assert impossible(stats) == []


def root_mean_square(x):
    return ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-6


# Functions that are not defined for all that a Gaussian of their moments may be.
UNDEFINED = {
    "RMS, rsqrt": lambda x: x * ops.rsqrt(root_mean_square(x)),
    "RMS, sqrt": lambda x: x / ops.sqrt(root_mean_square(x)),
    "RMS, power": lambda x: x * ops.power(root_mean_square(x), -0.5),
    "logarithm": lambda x: ops.log(root_mean_square(x)) * x,
    "root of a rectified": lambda x: ops.sqrt(ops.relu(x)),
    "the same, as a layer": lambda x: L.Activation(ops.sqrt)(L.ReLU()(x)),
    "logarithm of a sum": lambda x: ops.log(ops.exp(0.1 * x) + ops.square(x)),
}


@pytest.mark.parametrize("function", UNDEFINED.values(), ids=UNDEFINED)
def test_roots_and_logarithms_of_what_is_not_gaussian(function):
    model = functional((64,), lambda x: L.Dense(512, name="end")(function(x)))
    found = propagate(model, mean=0.0, variance=1.0)[-1]
    x = np.random.default_rng(0).standard_normal((4096, 64)).astype("float32")
    inside = keras.Model(model.input, model.layers[-1].input)
    read = keras.ops.convert_to_numpy(inside(x)).astype("float64")
    # Behind a Glorot kernel of 64 inputs and 512 units.
    expected = 2 * 64 / (64 + 512) * np.mean(read**2)
    assert found.second_moment == pytest.approx(expected, rel=0.1)
