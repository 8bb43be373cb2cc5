"""Gains and moments of all of Keras's activations, by name, layer and config."""

import inspect
import math

import keras
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_initlab.activations import Activation, chi, gain, moments, resolve
from tests.helpers import triple

NAMES = sorted(
    name
    for name, value in vars(keras.activations).items()
    if inspect.isfunction(value) and name not in ("get", "serialize", "deserialize")
)
HEADS = ["log_softmax", "softmax", "sparsemax"]
ELEMENTWISE = [name for name in NAMES if name not in (*HEADS, "glu", "threshold")]

mp = mpmath.mp


def _sigmoid(x):
    return 1 / (1 + mp.exp(-x))


def _softplus(x):
    return mp.log1p(mp.exp(x))


SCALE, ALPHA = 1.0507009873554804934193, 1.6732632423543772848170
# name: (function, derivative, kinks), written apart from the package's NumPy forms.
REFERENCE = {
    "linear": (lambda x: x, lambda x: mp.mpf(1), []),
    "relu": (lambda x: max(x, 0), lambda x: mp.mpf(x > 0), [0]),
    "relu6": (lambda x: min(max(x, 0), 6), lambda x: mp.mpf(0 < x < 6), [0, 6]),
    "leaky_relu": (
        lambda x: x if x > 0 else mp.mpf(0.2) * x,
        lambda x: mp.mpf(1) if x > 0 else mp.mpf(0.2),
        [0],
    ),
    "elu": (
        lambda x: x if x > 0 else mp.expm1(x),
        lambda x: mp.mpf(1) if x > 0 else mp.exp(x),
        [0],
    ),
    "selu": (
        lambda x: SCALE * (x if x > 0 else ALPHA * mp.expm1(x)),
        lambda x: SCALE * (mp.mpf(1) if x > 0 else ALPHA * mp.exp(x)),
        [0],
    ),
    "tanh": (mp.tanh, lambda x: mp.sech(x) ** 2, []),
    "sigmoid": (_sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x), []),
    "gelu": (
        lambda x: x * mp.ncdf(x),
        lambda x: mp.ncdf(x) + x * mp.npdf(x),
        [],
    ),
    "silu": (
        lambda x: x * _sigmoid(x),
        lambda x: _sigmoid(x) + x * _sigmoid(x) * _sigmoid(-x),
        [],
    ),
    "mish": (
        lambda x: x * mp.tanh(_softplus(x)),
        lambda x: mp.tanh(_softplus(x)) + x * mp.sech(_softplus(x)) ** 2 * _sigmoid(x),
        [],
    ),
    "softplus": (_softplus, _sigmoid, []),
    "softsign": (
        lambda x: x / (1 + abs(x)),
        lambda x: 1 / (1 + abs(x)) ** 2,
        [0],
    ),
    "exponential": (mp.exp, mp.exp, []),
    "log_sigmoid": (lambda x: -_softplus(-x), lambda x: _sigmoid(-x), []),
    "tanh_shrink": (lambda x: x - mp.tanh(x), lambda x: mp.tanh(x) ** 2, []),
    "squareplus": (
        lambda x: (x + mp.sqrt(x * x + 4)) / 2,
        lambda x: (1 + x / mp.sqrt(x * x + 4)) / 2,
        [],
    ),
    "hard_tanh": (
        lambda x: min(max(x, -1), 1),
        lambda x: mp.mpf(-1 < x < 1),
        [-1, 1],
    ),
    "hard_sigmoid": (
        lambda x: min(max(x / 6 + 0.5, 0), 1),
        lambda x: mp.mpf(-3 < x < 3) / 6,
        [-3, 3],
    ),
    "hard_silu": (
        lambda x: x * min(max(x / 6 + 0.5, 0), 1),
        lambda x: mp.mpf(0) if x < -3 else (x / 3 + 0.5 if x < 3 else mp.mpf(1)),
        [-3, 3],
    ),
    "sparse_sigmoid": (
        lambda x: min(max((x + 1) / 2, 0), 1),
        lambda x: mp.mpf(-1 < x < 1) / 2,
        [-1, 1],
    ),
    "sparse_plus": (
        lambda x: mp.mpf(0) if x < -1 else ((x + 1) ** 2 / 4 if x < 1 else x),
        lambda x: min(max((x + 1) / 2, 0), 1),
        [-1, 1],
    ),
    "hard_shrink": (
        lambda x: x if abs(x) > 0.5 else mp.mpf(0),
        lambda x: mp.mpf(abs(x) > 0.5),
        [-0.5, 0.5],
    ),
    "soft_shrink": (
        lambda x: mp.sign(x) * max(abs(x) - 0.5, 0),
        lambda x: mp.mpf(abs(x) > 0.5),
        [-0.5, 0.5],
    ),
}
ALIASES = {"swish": "silu", "hard_swish": "hard_silu", "celu": "elu"}


def exact_moments(name, mean=0.0, variance=1.0):
    function, derivative, kinks = REFERENCE[ALIASES.get(name, name)]
    with mpmath.workdps(30):
        deviation = mp.sqrt(variance)
        ends = [mp.mpf(end) for end in (-14, -8, -4, -2, -1, 0, 1, 2, 4, 8, 14)]
        cuts = [(mp.mpf(kink) - mean) / deviation for kink in kinks]
        edges = sorted({*ends, *(cut for cut in cuts if abs(cut) < 14)})

        def expectation(integrand):
            def weighted(z):
                return integrand(mean + deviation * z) * mp.npdf(z)

            return float(mp.quad(weighted, edges, maxdegree=5))

        return (
            expectation(function),
            expectation(lambda x: function(x) ** 2),
            expectation(lambda x: derivative(x) ** 2),
        )


def probe():
    # On no kink, and with float32's rounding small.
    return np.linspace(-8.03, 8.01, 400)


# --- every name in keras.activations ---------------------------------------------


def test_every_name_of_keras_is_covered():
    covered = {*REFERENCE, *ALIASES, *HEADS, "glu", "threshold"}
    assert set(NAMES) <= covered, "a new Keras activation: add its row and reference"


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_moments_agree_with_mpmath(name):
    assert triple(moments(name)) == pytest.approx(
        exact_moments(name), rel=1e-10, abs=1e-10
    )


@pytest.mark.parametrize(
    ("name", "mean", "variance"),
    [
        ("relu", 0.7, 2.0),
        ("leaky_relu", -1.3, 0.4),
        ("hard_silu", 0.4, 5.0),
        ("gelu", -0.5, 0.3),
        ("softsign", 1.0, 9.0),
    ],
)
def test_other_means_and_variances_agree_with_mpmath(name, mean, variance):
    assert triple(moments(name, mean, variance)) == pytest.approx(
        exact_moments(name, mean, variance), rel=1e-10, abs=1e-10
    )


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_numpy_form_is_kerass_function(name):
    x = probe().astype("float32")
    expected = keras.ops.convert_to_numpy(
        keras.activations.get(name)(keras.ops.convert_to_tensor(x))
    )
    found = resolve(name).function(x.astype("float64"))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_derivative_is_the_slope_away_from_kinks(name):
    known, x, step = resolve(name), probe(), 1e-5
    near = [np.abs(x - kink) < 2 * step for kink in known.kinks]
    x = x[~np.any([*near, np.zeros(x.shape, bool)], axis=0)]
    slope = (known.function(x + step) - known.function(x - step)) / (2 * step)
    np.testing.assert_allclose(known.derivative(x), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_a_function_object_is_its_name(name):
    assert resolve(getattr(keras.activations, name)).function == resolve(name).function


@pytest.mark.parametrize("name", HEADS)
def test_heads_have_gain_1_and_no_moments(name):
    assert gain(name) == chi(name) == 1.0
    assert resolve(name).family == "saturating"
    with pytest.raises(ValueError, match=r"not elementwise.*number of classes"):
        moments(name)


def test_bare_threshold_lacks_its_arguments():
    assert resolve("threshold").function is None
    for ask in (moments, gain, chi):
        with pytest.raises(ValueError, match=r"no defaults in Keras.*functools"):
            ask("threshold")


def test_glu_is_the_product_of_independent_halves():
    mean, variance = 0.4, 2.0
    gate = moments("sigmoid", mean, variance)
    size = 400_000
    x = mean + math.sqrt(variance) * np.random.default_rng(0).normal(size=(size, 2))
    s = 1 / (1 + np.exp(-x[:, 1]))
    samples = [
        x[:, 0] * s,
        (x[:, 0] * s) ** 2,
        (s**2 + (x[:, 0] * s * (1 - s)) ** 2) / 2,
    ]
    found = moments("glu", mean, variance)
    for value, sample in zip(triple(found), samples, strict=True):
        assert value == pytest.approx(
            sample.mean(), abs=5 * sample.std() / math.sqrt(size)
        )
    assert found.mean == pytest.approx(mean * gate.mean, rel=1e-14)


# --- gain and chi ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("identifier", "g", "x"),
    [
        ("relu", 1.4142, 1.000),
        ("leaky_relu", 1.3868, 1.000),
        ("tanh", 1.5925, 1.178),
        ("sigmoid", 1.8462, 0.153),
        ("elu", 1.2452, 1.036),
        ("selu", 1.0000, 1.072),
        ("gelu", 1.5335, 1.072),
        ("silu", 1.6765, 1.067),
        ("mish", 1.4868, 1.059),
        ("hard_silu", 1.7367, 1.081),
        ("softplus", 1.0419, 0.318),
        ("softsign", 2.3375, 1.244),
        (None, 1.0, 1.0),
    ],
)
def test_gain_and_chi_table(identifier, g, x):
    assert gain(identifier) == pytest.approx(g, abs=5e-5)
    assert chi(identifier) == pytest.approx(x, abs=5e-4)


@settings(deadline=None, max_examples=50)
@given(slope=st.floats(0, 3), mean=st.floats(-3, 3), variance=st.floats(0.01, 10))
def test_leaky_closed_form_is_the_quadrature(slope, mean, variance):
    layer = keras.layers.LeakyReLU(slope)
    assert moments(layer).second_moment == pytest.approx((1 + slope**2) / 2, rel=1e-14)
    assert chi(layer) == pytest.approx(1.0, rel=1e-14)
    known = resolve(layer)
    by_quadrature = Activation("quadrature", known.function, known.derivative, (0.0,))
    assert triple(moments(layer, mean, variance)) == pytest.approx(
        triple(moments(by_quadrature, mean, variance)), rel=1e-11, abs=1e-12
    )


@settings(deadline=None, max_examples=25)
@given(
    name=st.sampled_from(["tanh", "softsign", "tanh_shrink", "hard_shrink"]),
    mean=st.floats(0, 3),
    variance=st.floats(0.01, 10),
)
def test_odd_activations_mirror_their_moments(name, mean, variance):
    right, left = moments(name, mean, variance), moments(name, -mean, variance)
    assert left.mean == pytest.approx(-right.mean, rel=1e-11, abs=1e-13)
    assert triple(left)[1:] == pytest.approx(triple(right)[1:], rel=1e-11, abs=1e-14)


def test_relu_without_variance():
    assert triple(moments("relu", 2.0, 0.0)) == (2.0, 4.0, 1.0)
    assert triple(moments("relu", -2.0, 0.0)) == (0.0, 0.0, 0.0)


# --- layers, configurations, registered names ------------------------------------


class Tent(keras.layers.ReLU):
    """A ReLU by class, not by behaviour."""

    def call(self, inputs):
        return keras.ops.abs(inputs)


class Scaled(keras.layers.Layer):
    def build(self, input_shape):
        self.factor = self.add_weight(shape=(), initializer="ones")

    def call(self, inputs):
        return self.factor * keras.ops.tanh(inputs)


def _built_prelu():
    layer = keras.layers.PReLU()
    layer.build((None, 4))
    layer.alpha.assign([0.1, 0.2, 0.3, 0.4])
    return layer


LAYERS = [
    (lambda: keras.layers.Activation("gelu"), "gelu", "other", 0.0),
    (lambda: keras.layers.ReLU(), "relu", "relu", 0.0),
    (lambda: keras.layers.ReLU(negative_slope=0.1), "leaky_relu(0.1)", "relu", 0.1),
    (lambda: keras.layers.ReLU(max_value=6), "relu6", "relu", 0.0),
    (
        lambda: keras.layers.ReLU(max_value=2),
        "relu(negative_slope=0, max_value=2.0, threshold=0)",
        "other",
        0.0,
    ),
    (lambda: keras.layers.LeakyReLU(), "leaky_relu(0.3)", "relu", 0.3),
    (lambda: keras.layers.PReLU(), "relu", "relu", 0.0),
    (
        lambda: keras.layers.PReLU(alpha_initializer=keras.initializers.Constant(0.25)),
        "leaky_relu(0.25)",
        "relu",
        0.25,
    ),
    (_built_prelu, "leaky_relu(0.25)", "relu", 0.25),
    (lambda: keras.layers.ELU(), "elu", "other", 0.0),
    (lambda: keras.layers.ELU(0.5), "elu(0.5)", "other", 0.0),
    (lambda: keras.layers.Softmax(), "softmax", "saturating", 0.0),
    (lambda: keras.layers.Identity(), "linear", "linear", 0.0),
    (lambda: Tent(), "leaky_relu(-1)", "relu", -1.0),
    (lambda: Scaled(), "tanh", "saturating", 0.0),
]


@pytest.mark.parametrize(("make", "name", "family", "slope"), LAYERS)
def test_layers(make, name, family, slope):
    found = resolve(make())
    assert (found.name, found.family) == (name, family)
    assert found.negative_slope == pytest.approx(slope, rel=1e-6)


def test_an_unbuilt_layer_is_left_unbuilt():
    layer = Scaled()
    resolve(layer)
    assert not layer.built


def test_a_layers_weights_are_read_anew():
    layer = Scaled()
    layer.build((None, 3))
    before = moments(layer).second_moment
    layer.factor.assign(2.0)
    assert moments(layer).second_moment == pytest.approx(4 * before, rel=1e-5)


@pytest.mark.parametrize("slope", [0.0, 0.1])
@pytest.mark.parametrize("maximum", [None, 1.5, 6.0])
@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_relu_layer_with_all_its_arguments(slope, maximum, threshold):
    layer = keras.layers.ReLU(maximum, slope, threshold)
    known, x = resolve(layer), probe()
    expected = keras.ops.convert_to_numpy(layer(x.astype("float32")))
    np.testing.assert_allclose(known.function(x), expected, rtol=1e-5, atol=1e-6)
    numerical = Activation("numerical", known.function)
    assert triple(moments(layer)) == pytest.approx(
        triple(moments(numerical)), rel=1e-11
    )


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        (keras.saving.serialize_keras_object(keras.activations.tanh), "tanh"),
        (keras.saving.serialize_keras_object(keras.layers.LeakyReLU(0.3)),
         "leaky_relu(0.3)"),
        (resolve("mish"), "mish"),
        (None, "linear"),
        ("swish", "swish"),
    ],
)  # fmt: skip
def test_other_forms(identifier, name):
    assert resolve(identifier).name == name


@keras.saving.register_keras_serializable("initlab_test", "cube")
def cube(x):
    return x * x * x


def test_registered_names():
    assert moments("initlab_test>cube").second_moment == pytest.approx(15, rel=1e-11)
    config = keras.activations.serialize(cube)
    assert moments(config).second_moment == pytest.approx(15, rel=1e-11)
    with keras.saving.custom_object_scope({"twice": lambda x: 2 * x}):
        assert gain("twice") == pytest.approx(0.5, rel=1e-12)
    with pytest.raises(ValueError, match="Received: 'twice'"):
        resolve("twice")


# --- refusals --------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - keras.ops.mean(x),
        lambda x: keras.ops.cumsum(x),
        lambda x: keras.ops.flip(x, axis=-1),
        lambda x: x / keras.ops.max(keras.ops.abs(x)),
        lambda x: keras.ops.sum(x),
        lambda x: x[:-1],
        lambda x: (
            keras.ops.cast(x, "float32")
            + keras.random.normal(keras.ops.shape(x), dtype="float32")
        ),
    ],
    ids=["mean", "cumsum", "flip", "max", "sum", "shorter", "noise"],
)
def test_what_is_not_elementwise_is_refused(function):
    message = "elementwise and deterministic.*Received: lambda"
    with pytest.raises(ValueError, match=message):
        resolve(function)


@pytest.mark.parametrize(
    ("identifier", "error", "message"),
    [
        ("rleu", ValueError, "one of celu.*Received: 'rleu'.*mean 'relu'"),
        ("ReLU", ValueError, "Received: 'ReLU'.*mean 'relu'"),
        ("get", ValueError, "Received: 'get'"),
        (3, TypeError, r"Received: 3 \(of type int\).*'relu'"),
        (keras.layers.ReLU, TypeError, r"or ReLU\(\)"),
        ({"class_name": "Nothing"}, ValueError, "serialised form.*Received: {'class"),
        (lambda: 1, ValueError, "callable of one tensor.*failed with TypeError"),
        (keras.layers.Dense(3), ValueError, "callable of one tensor.*Received: Dense"),
    ],
)
def test_refusals_say_what_was_received(identifier, error, message):
    with pytest.raises(error, match=message):
        resolve(identifier)


def test_no_gain_without_a_signal():
    def nothing(x):
        return 0.0 * x

    for ask in (gain, chi):
        with pytest.raises(ValueError, match=r"nonzero somewhere.*Received: nothing"):
            ask(nothing)


@pytest.mark.parametrize("name", ["linear", "relu", "glu", "tanh"])
@pytest.mark.parametrize("law", [{"variance": -1.0}, {"mean": math.nan}])
def test_unlawful_laws_are_refused(name, law):
    with pytest.raises(ValueError, match=r"Received: (variance=-1|mean=nan)"):
        moments(name, **law)
