"""Which initializer a weight has, what is not known of it, and moments of values."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from keras_initlab.initializers import draws
from keras_initlab.initializers.base import LayerInitializer
from keras_initlab.model.construction import under_construction
from keras_initlab.propagation.weights import (
    WeightMoments,
    current_moments,
    initial_moments,
    initializer_moments,
    weight_moments,
)
from tests.helpers import as_numpy
from tests.propagation.weights.test_initial import (
    KERNELS,
    assert_of,
    attention,
    built,
    dense,
    named,
)

k = keras.initializers


def fail(*args, **kwargs):
    raise AssertionError("drawn")


@pytest.mark.parametrize(
    "kind",
    [*KERNELS, k.Identity, il.ConstantBias],
    ids=named,
)
def test_nothing_is_drawn_nor_moved(kind, monkeypatch):
    initializer = KERNELS[kind] if kind in KERNELS else kind()
    layer = dense(6, 4)
    for name in ("__call__", "values"):
        for one in type(initializer).__mro__:
            if name in vars(one):
                monkeypatch.setattr(one, name, fail)
                break
    monkeypatch.setattr(draws, "generator", fail)
    monkeypatch.setattr(keras.ops, "convert_to_numpy", fail)
    monkeypatch.setattr(keras.ops, "convert_to_tensor", fail)
    layer.kernel_initializer = initializer
    assert not weight_moments(layer, "kernel").sampled


class Doubled(k.GlorotUniform):
    def __call__(self, shape, dtype=None):
        return 2 * super().__call__(shape, dtype=dtype)


class Shifted(il.Scaled):
    def values(self, shape, dtype, construction):
        return 1 + super().values(shape, dtype, construction)


def plain_function(shape, dtype=None):
    drawn = np.random.default_rng(1).normal(3, 1, shape)
    return keras.ops.convert_to_tensor(drawn, dtype)


UNKNOWN = {
    "__call__": (Doubled(seed=1), 0.0, 4 * 2 / (96 + 384)),
    "values": (Shifted(seed=1), 1.0, 1 + 1 / 96),
    "function": (plain_function, 3.0, 10.0),
    "array": (np.full((96, 384), 0.5, "float32"), 0.5, 0.25),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_draws_in_a_way_of_its_own_is_sampled(name):
    initializer, mean, second_moment = UNKNOWN[name]
    found = initial_moments(initializer, (96, 384))
    assert found.sampled
    assert found.mean == pytest.approx(mean, abs=0.02)
    assert found.second_moment == pytest.approx(second_moment, rel=0.03)


def test_the_sample_is_drawn_as_for_its_layer():
    seen = []

    def looking(shape, dtype=None):
        seen.append((shape, under_construction()))
        return keras.ops.zeros(shape, dtype)

    layer, around = dense(6, 4, kernel_initializer=looking), keras.Sequential()
    seen.clear()
    assert weight_moments(layer, "kernel", parents=(around,)).sampled
    [(shape, known)] = seen
    assert shape == (4, 6)
    assert (known.layer, known.weight, known.parents) == (layer, "kernel", (around,))


class Tap(k.Initializer):
    """Ones at one place of the first axes, zeros elsewhere."""

    def __call__(self, shape, dtype=None):
        values = np.zeros(shape, "float32")
        values[1] = 1
        return keras.ops.convert_to_tensor(values)


def test_a_sample_can_be_centred():
    layer = built(layers.Conv1D(4, 3, kernel_initializer=Tap()), (None, 8, 2))
    third = pytest.approx(1 / 3)
    found = weight_moments(layer, "kernel")
    assert found == WeightMoments(third, third, centred=True, sampled=True)
    layer = layers.EinsumDense("ab,cbd->acd", (3, 4), kernel_initializer=Tap())
    found = weight_moments(built(layer, (None, 2)), "kernel")
    assert found == WeightMoments(third, third, centred=False, sampled=True)


class Tripled(k.HeUniform):
    """Draws as its base does, three times the variance."""

    def __init__(self, seed=None):
        super().__init__(seed=seed)
        self.scale = 6.0


def test_a_subclass_that_only_sets_arguments_keeps_the_rule():
    found = initial_moments(Tripled(seed=1), (96, 384))
    assert found == WeightMoments(0.0, 6 / 96)
    assert_of(found, as_numpy(Tripled(seed=1)((96, 384))))


def test_an_initializer_of_ones_own_is_registered_in_a_line():
    class Own(k.HeNormal):
        def __call__(self, shape, dtype=None):
            fail()

    initializer_moments.register(Own, lambda *known: WeightMoments(1.0, known[1][0]))
    assert initial_moments(Own(), (4, 6)) == WeightMoments(1.0, 4)


@pytest.mark.parametrize(
    "given", ["ones", {"class_name": "Ones", "config": {}}, k.Ones, k.Ones()]
)
def test_initializers_as_keras_takes_them(given):
    assert initial_moments(given, (4, 6)) == WeightMoments(1.0, 1.0)


def test_no_initializer_is_refused():
    with pytest.raises(ValueError, match="Received: None"):
        initial_moments(None, (4, 6))


class Custom(layers.Layer):
    """Keeps its initializers under the names that custom layers use."""

    def __init__(self):
        super().__init__()
        self._kernel_initializer = k.Constant(2.0)
        self.bias_initializer = None

    def build(self, shape):
        self.kernel = self.add_weight(shape=(3, 4), name="kernel")
        self.bias = self.add_weight(shape=(4,), name="bias", initializer="ones")
        self.other = self.add_weight(shape=(4,), name="other", initializer="ones")


@pytest.mark.parametrize(
    ("weight", "mean"), [("kernel", 2.0), ("bias", 7.0), ("other", 7.0)]
)
def test_where_no_initializer_is_kept_the_values_count(weight, mean):
    layer = built(Custom(), (None, 3))
    variable = getattr(layer, weight)
    variable.assign(np.full(variable.shape, 7.0))
    assert weight_moments(layer, weight) == WeightMoments(mean, mean**2)


def test_from_values():
    layer = dense(3, 2, kernel_initializer="ones")
    layer.kernel.assign(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    assert weight_moments(layer, "kernel") == WeightMoments(1.0, 1.0)
    now = WeightMoments(3.5, pytest.approx(91 / 6))
    assert weight_moments(layer, "kernel", from_values=True) == now
    other = keras.Variable(np.zeros((7, 8), "float32"), name="kernel")
    given = weight_moments(layer, "kernel", other, from_values=True)
    assert given == WeightMoments(0.0, 0.0)
    layer.kernel_initializer = k.Orthogonal()
    assert weight_moments(layer, "kernel", other).second_moment == 1 / 8


@pytest.mark.parametrize(
    ("layer", "weight", "message"),
    [
        (dense(3, 2), "kernal", "'kernel', 'bias'. Received: weight='kernal'. Name"),
        (layers.Dense(3, name="head"), "kernel", "layer 'head' .Dense.*none.*Build"),
        (attention("ones"), "kernel", "holds: none.*pass the inner layer"),
    ],
    ids=["misspelt", "not built", "inside"],
)
def test_a_missing_weight_is_named(layer, weight, message):
    with pytest.raises(ValueError, match=message):
        weight_moments(layer, weight)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8"])
def test_current_moments_of_any_dtype(dtype):
    variable = keras.Variable(np.array([[1, 2], [3, 6]]), dtype=dtype, trainable=False)
    expected = WeightMoments(3.0, 12.5)
    assert current_moments(variable) == expected
    assert current_moments(variable.value) == expected
    assert current_moments(as_numpy(variable)) == expected
    assert expected.variance == 3.5


@pytest.mark.parametrize("size", [1, 7, 2**16, 2**16 + 1, 3 * 2**16 - 5])
def test_current_moments_far_from_zero(size):
    """In float32, E[w²] − E[w]² would be noise."""
    values = np.random.default_rng(0).normal(1000, 0.1, size).astype("float32")
    found = current_moments(values)
    wide = values.astype("float64")
    assert found.mean == pytest.approx(wide.mean(), rel=1e-14)
    assert found.variance == pytest.approx(wide.var(), rel=1e-6)
    assert found.second_moment == pytest.approx((wide**2).mean(), rel=1e-14)


@pytest.mark.parametrize("value", [0.1, 1e-30, -1e30, 1e5 / 3])
def test_a_constant_has_no_variance_at_all(value):
    values = np.full((300, 333), value, "float32")
    assert current_moments(values).variance == 0
    assert current_moments(values).mean == pytest.approx(value)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_shows(bad):
    found = current_moments(np.array([1.0, bad]))
    assert not np.isfinite(found.second_moment)
    assert np.isnan(found.variance)


def test_no_entries():
    assert current_moments(np.zeros((0, 4))) == WeightMoments(0.0, 0.0)


def taps(shape, *at):
    values = np.zeros(shape, "float32")
    for one in at:
        values[one] = 1
    return values


CENTRED = {
    "centre": (layers.Conv2D(4, 3), taps((3, 3, 2, 4), (1, 1)), True),
    "a corner too": (layers.Conv2D(4, 3), taps((3, 3, 2, 4), (1, 1), (2, 2)), False),
    "off centre": (layers.Conv2D(4, 3), taps((3, 3, 2, 4), (0, 1)), False),
    "even": (layers.Conv2D(4, (4, 2)), taps((4, 2, 2, 4), (1, 0)), True),
    "one axis": (layers.Conv2D(4, (1, 3)), taps((1, 3, 2, 4), (0, 1)), True),
    "one tap": (layers.Conv2D(4, 1), taps((1, 1, 2, 4), (0, 0)), False),
    "zeros": (layers.Conv2D(4, 3), taps((3, 3, 2, 4)), False),
    "no field": (layers.EinsumDense("ab,cbd->acd", (3, 4)), taps((3, 2, 4), 1), False),
    "no layer": (None, taps((3, 2, 4), 1), True),
    "matrix": (None, taps((3, 4), 1), False),
    "vector": (layers.Conv2D(3, 3), taps((3,), 1), False),
    "scalar": (layers.EinsumDense("ab,->ab", (3,)), np.float32(1), False),
}


@pytest.mark.parametrize("name", CENTRED)
def test_a_kernel_that_is_centred(name):
    layer, values, expected = CENTRED[name]
    assert current_moments(values, layer, "kernel").centred is expected


def test_no_rule_stands_for_all_initializers():
    """One on a base that leaves the drawing to others would be inherited unseen."""
    assert k.Initializer not in initializer_moments.registry
    assert LayerInitializer not in initializer_moments.registry
