"""What is said of a weight's entries is what a large draw of it measures.

Every initializer that Keras or `initlab>` has is drawn in the layers where its scale
depends on the layer, and compared with a tolerance of five standard errors, by the
draw's own fourth moment.
"""

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from keras_initlab.initializers.identity import widened_identity
from keras_initlab.propagation.weights import (
    current_moments,
    initial_moments,
    weight_moments,
)
from tests.helpers import as_numpy

k = keras.initializers

# Made with arguments other than the defaults, so that one that is not read shows.
KERNELS = {
    k.Zeros: k.Zeros(),
    k.Ones: k.Ones(),
    k.Constant: k.Constant(-0.3),
    k.RandomNormal: k.RandomNormal(0.4, 0.3, seed=1),
    k.TruncatedNormal: k.TruncatedNormal(0.4, 0.3, seed=1),
    k.RandomUniform: k.RandomUniform(-0.2, 0.7, seed=1),
    k.VarianceScaling: k.VarianceScaling(1.7, "fan_out", "uniform", seed=1),
    k.GlorotUniform: k.GlorotUniform(seed=1),
    k.GlorotNormal: k.GlorotNormal(seed=1),
    k.LecunUniform: k.LecunUniform(seed=1),
    k.LecunNormal: k.LecunNormal(seed=1),
    k.HeUniform: k.HeUniform(seed=1),
    k.HeNormal: k.HeNormal(seed=1),
    k.Orthogonal: k.Orthogonal(1.3, seed=1),
    il.Auto: il.Auto(distribution="uniform", seed=1),
    il.Scaled: il.Scaled("gelu", "fan_avg", "normal", seed=1),
    il.GlorotUniform: il.GlorotUniform(seed=1),
    il.GlorotNormal: il.GlorotNormal(seed=1),
    il.LecunUniform: il.LecunUniform(seed=1),
    il.LecunNormal: il.LecunNormal(seed=1),
    il.HeUniform: il.HeUniform(seed=1),
    il.HeNormal: il.HeNormal(seed=1),
    il.Orthogonal: il.Orthogonal(1.3, seed=1),
    il.Mirrored: il.Mirrored(1.3, base="orthogonal", seed=1),
    il.Sparse: il.Sparse(0.5, 1.3, seed=1),
    il.Identity: il.Identity(1.3),
}
# Those that not every kernel can have, in `OTHERS` below; and the sampled ones.
ELSEWHERE = {
    k.Identity,
    il.DeltaOrthogonal,
    il.ConstantBias,
    il.ForgetGateBias,
    il.ClassPriorBias,
}
SAMPLED = {k.STFT}


def known_classes():
    keras_own = vars(keras.initializers).values()
    ours = keras.saving.get_custom_objects().items()
    found = [*keras_own, *(one for name, one in ours if name.startswith("initlab>"))]
    return {
        one for one in found if isinstance(one, type) and issubclass(one, k.Initializer)
    } - {k.Initializer}


def test_every_initializer_is_covered():
    assert known_classes() == set(KERNELS) | ELSEWHERE | SAMPLED


def test_what_is_sampled_says_so():
    for kind in SAMPLED:
        assert initial_moments(kind(), (64, 1, 33)).sampled, kind


def built(layer, *shapes):
    layer.build(*shapes)
    return layer


def dense(units, inputs, **kwargs):
    return built(layers.Dense(units, **kwargs), (None, inputs))


def attention(kernel):
    layer = layers.MultiHeadAttention(8, 24, kernel_initializer=kernel)
    return built(layer, (None, 6, 96), (None, 6, 96))


def lstm(units, inputs, **kwargs):
    # Not Keras's own recurrent initializer: it takes long to compile on JAX.
    kwargs = {"recurrent_initializer": "ones", **kwargs}
    return built(layers.LSTM(units, **kwargs), (None, 5, inputs))


# Layers with a kernel of tens of thousands of entries, of few different shapes, each of
# which takes JAX a compilation: (made with an initializer, the
# layer that holds the weight, the weight's name).
LAYERS = {
    "Dense": (
        lambda i: built(layers.Dense(384, "relu", kernel_initializer=i), (None, 96)),
        lambda layer: layer,
        "kernel",
    ),
    "Conv2D": (
        lambda i: built(
            layers.Conv2D(96, 3, strides=2, activation="tanh", kernel_initializer=i),
            (None, 8, 8, 40),
        ),
        lambda layer: layer,
        "kernel",
    ),
    "Conv2D groups": (
        lambda i: built(
            layers.Conv2D(128, 3, groups=4, kernel_initializer=i), (None, 8, 8, 128)
        ),
        lambda layer: layer,
        "kernel",
    ),
    "DepthwiseConv2D": (
        lambda i: built(
            layers.DepthwiseConv2D(3, depth_multiplier=3, depthwise_initializer=i),
            (None, 8, 8, 1024),
        ),
        lambda layer: layer,
        "kernel",
    ),
    "SeparableConv2D depthwise": (
        lambda i: built(
            layers.SeparableConv2D(5, 3, depth_multiplier=3, depthwise_initializer=i),
            (None, 8, 8, 1024),
        ),
        lambda layer: layer,
        "depthwise_kernel",
    ),
    "SeparableConv2D pointwise": (
        lambda i: built(
            layers.SeparableConv2D(
                128, 3, depthwise_initializer="ones", pointwise_initializer=i
            ),
            (None, 8, 8, 200),
        ),
        lambda layer: layer,
        "pointwise_kernel",
    ),
    "Conv2DTranspose": (
        lambda i: built(
            layers.Conv2DTranspose(40, 4, strides=2, kernel_initializer=i),
            (None, 8, 8, 64),
        ),
        lambda layer: layer,
        "kernel",
    ),
    "EinsumDense": (
        lambda i: built(
            layers.EinsumDense("abc,cde->abde", (None, 8, 24), kernel_initializer=i),
            (None, 6, 96),
        ),
        lambda layer: layer,
        "kernel",
    ),
    "EinsumDense of an axis that both share": (
        lambda i: built(
            layers.EinsumDense("abc,bcd->abd", (12, 32), kernel_initializer=i),
            (None, 12, 80),
        ),
        lambda layer: layer,
        "kernel",
    ),
    "attention query": (attention, lambda layer: layer._query_dense, "kernel"),
    "attention output": (attention, lambda layer: layer._output_dense, "kernel"),
    "LSTM": (
        lambda i: lstm(96, 96, kernel_initializer=i),
        lambda layer: layer.cell,
        "kernel",
    ),
    "LSTM recurrent": (
        lambda i: lstm(96, 8, recurrent_initializer=i),
        lambda layer: layer.cell,
        "recurrent_kernel",
    ),
    "Embedding": (
        lambda i: built(layers.Embedding(1500, 20, embeddings_initializer=i)),
        lambda layer: layer,
        "embeddings",
    ),
    "ReversibleEmbedding": (
        lambda i: built(
            layers.ReversibleEmbedding(
                1500, 20, tie_weights=False, embeddings_initializer=i
            )
        ),
        lambda layer: layer,
        "reverse_embeddings",
    ),
}


def assert_of(found, values, exact=False):
    """Assert moments against those of a draw, at five standard errors of it."""
    values = np.asarray(values, dtype="float64")
    for moment, powers in ((found.mean, values), (found.second_moment, values**2)):
        error = 0 if exact else 5 * powers.std() / np.sqrt(values.size)
        error += 1e-6 * abs(powers).mean()
        assert abs(moment - powers.mean()) <= error, (moment, powers.mean(), error)


def values_of(layer, weight):
    """Return what was drawn; change it, so that nobody can look at it."""
    [variable] = [one for one in layer.weights if one.name == weight]
    values = as_numpy(variable)
    variable.assign(values + 9)
    return values


# Others than these go by the shape alone, or by a base class that is among these.
BY_LAYER = {
    k.VarianceScaling,
    k.GlorotUniform,
    k.HeUniform,
    il.Auto,
    il.Scaled,
    il.GlorotUniform,
    il.HeNormal,
    il.Orthogonal,
    il.Sparse,
    il.Identity,
}
FIXED = {k.Zeros, k.Ones, k.Constant, il.Identity}
CASES = [
    (k.Orthogonal, "Conv2D"),
    *(
        (kind, name)
        for kind in KERNELS
        for name in (LAYERS if kind in BY_LAYER else ("Dense",))
    ),
]


def named(value):
    """Name a class for a test's id: Keras and `initlab>` have some of one name."""
    ours = getattr(value, "__module__", "").startswith("keras_initlab")
    return f"{'il.' * ours}{value.__name__}" if isinstance(value, type) else value


@pytest.mark.parametrize(("kind", "name"), CASES, ids=named)
def test_moments_are_those_of_a_draw(kind, name):
    make, holder, weight = LAYERS[name]
    layer = holder(make(KERNELS[kind]))
    values = values_of(layer, weight)
    found = weight_moments(layer, weight)
    assert not found.sampled
    assert found.centred == current_moments(values, layer, weight).centred
    assert_of(found, values, exact=kind in FIXED)
    if kind in FIXED:
        return
    # Tight enough to tell fans apart.
    spread = (values**2).std() / (values**2).mean()
    assert 5 * spread / np.sqrt(values.size) < 0.1
    if kind in (k.Orthogonal, il.Orthogonal):
        assert found.second_moment == pytest.approx((values**2).mean(), rel=1e-4)


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize(
    "distribution", ["truncated_normal", "untruncated_normal", "uniform"]
)
def test_every_mode_and_distribution_of_keras(mode, distribution):
    initializer = k.VarianceScaling(1.7, mode, distribution, seed=2)
    layer = dense(384, 96, kernel_initializer=initializer)
    values = values_of(layer, "kernel")
    assert_of(weight_moments(layer, "kernel"), values)


@pytest.mark.skipif(
    not hasattr(k.GlorotUniform(), "input_axes"), reason="came after Keras 3.12"
)
def test_axes_that_the_initializer_is_told():
    shape, axes = (96, 8, 24), {"input_axes": [0], "output_axes": [1, 2]}
    told = k.VarianceScaling(1.0, "fan_in", "uniform", seed=1, **axes)
    assert initial_moments(told, shape).second_moment == pytest.approx(1 / 96)
    assert_of(initial_moments(told, shape), as_numpy(told(shape)))
    half = k.VarianceScaling(1.0, "fan_in", "uniform", input_axes=[0], seed=1)
    assert_of(initial_moments(half, shape), as_numpy(half(shape)))


def test_no_entries_have_a_fan_of_one():
    """As Keras has it, so that nothing is divided by 0."""
    assert initial_moments(k.VarianceScaling(0.5), (0, 4)).second_moment == 0.5


OTHERS = {
    "keras identity, wide": lambda: (
        dense(9, 5, kernel_initializer=k.Identity(1.3)),
        "kernel",
    ),
    "keras identity, tall": lambda: (
        dense(5, 9, kernel_initializer=k.Identity(1.3)),
        "kernel",
    ),
    "delta orthogonal": lambda: (
        built(
            layers.Conv2D(96, 3, kernel_initializer=il.DeltaOrthogonal(1.3, seed=1)),
            (None, 8, 8, 60),
        ),
        "kernel",
    ),
    "mirrored, at the centre": lambda: (
        built(
            layers.Conv2D(96, 3, kernel_initializer=il.Mirrored(1.3, seed=1)),
            (None, 8, 8, 60),
        ),
        "kernel",
    ),
    "mirrored, one side": lambda: (
        dense(60, 96, kernel_initializer=il.Mirrored(1.3, inputs=False, seed=1)),
        "kernel",
    ),
    "mirrored, at the centre, by an angle": lambda: (
        built(
            layers.Conv2D(96, 3, kernel_initializer=il.Mirrored(1.3, theta=1, seed=1)),
            (None, 8, 8, 60),
        ),
        "kernel",
    ),
    "delta orthogonal, groups": lambda: (
        built(
            layers.Conv2D(
                96, 3, groups=2, kernel_initializer=il.DeltaOrthogonal(1.3, seed=1)
            ),
            (None, 8, 8, 80),
        ),
        "kernel",
    ),
    "identity, wide": lambda: (
        dense(37, 21, kernel_initializer=il.Identity(1.3)),
        "kernel",
    ),
    "identity, convolution of an even size": lambda: (
        built(
            layers.Conv2D(11, (4, 3), kernel_initializer=il.Identity(1.3)),
            (None, 8, 8, 7),
        ),
        "kernel",
    ),
    "identity, groups": lambda: (
        built(
            layers.Conv1D(12, 3, groups=2, kernel_initializer=il.Identity(1.3)),
            (None, 8, 6),
        ),
        "kernel",
    ),
    "constant, an array": lambda: (
        dense(3, 5, kernel_initializer=k.Constant(np.array([1.0, 2.0, 6.0]))),
        "kernel",
    ),
    "constant bias": lambda: (
        dense(3, 5, bias_initializer=il.ConstantBias(0.2)),
        "bias",
    ),
    "auto bias": lambda: (dense(3, 5, bias_initializer=il.Auto()), "bias"),
    "class prior": lambda: (
        dense(3, 5, bias_initializer=il.ClassPriorBias([6, 3, 1])),
        "bias",
    ),
    "forget gate": lambda: (
        lstm(
            4, 3, unit_forget_bias=False, bias_initializer=il.ForgetGateBias(2.0)
        ).cell,
        "bias",
    ),
    "forget gate, set by Keras": lambda: (
        lstm(4, 3, bias_initializer=il.ForgetGateBias(2.0)).cell,
        "bias",
    ),
    "LSTM bias": lambda: (lstm(4, 3).cell, "bias"),
    "LSTM bias of a constant": lambda: (
        lstm(4, 3, bias_initializer=k.Constant(0.5)).cell,
        "bias",
    ),
    "LSTM bias, drawn in two parts": lambda: (
        lstm(
            500,
            1,
            bias_initializer=k.VarianceScaling(3000.0, distribution="uniform", seed=1),
        ).cell,
        "bias",
    ),
    "ConvLSTM2D bias": lambda: (
        built(
            layers.ConvLSTM2D(
                4,
                3,
                kernel_initializer="ones",
                recurrent_initializer="ones",
                bias_initializer="zeros",
            ),
            (None, 5, 8, 8, 3),
        ).cell,
        "bias",
    ),
    "GRU bias, drawn": lambda: (
        built(
            layers.GRU(
                400, recurrent_initializer="ones", bias_initializer="glorot_uniform"
            ),
            (None, 5, 3),
        ).cell,
        "bias",
    ),
    "BatchNormalization gamma": lambda: (
        built(layers.BatchNormalization(), (None, 5)),
        "gamma",
    ),
    "BatchNormalization beta": lambda: (
        built(layers.BatchNormalization(), (None, 5)),
        "beta",
    ),
    "BatchNormalization moving_mean": lambda: (
        built(layers.BatchNormalization(), (None, 5)),
        "moving_mean",
    ),
    "BatchNormalization moving_variance": lambda: (
        built(layers.BatchNormalization(), (None, 5)),
        "moving_variance",
    ),
    "PReLU alpha": lambda: (
        built(layers.PReLU(alpha_initializer=k.Constant(0.25)), (None, 5)),
        "alpha",
    ),
}


DRAWN = ("drawn", "delta", "mirrored")


@pytest.mark.parametrize("name", OTHERS)
def test_moments_are_those_of_other_weights(name):
    layer, weight = OTHERS[name]()
    values = values_of(layer, weight)
    found = weight_moments(layer, weight)
    assert_of(found, values, exact=not any(one in name for one in DRAWN))
    assert not found.sampled
    assert found.centred == current_moments(values, layer, weight).centred
    centred = ("delta", "identity, convolution", "identity, groups", "mirrored, at")
    assert found.centred == name.startswith(centred)


def test_the_identitys_mean_at_every_width():
    for rows in range(1, 20):
        for columns in range(rows, 40):
            found = initial_moments(il.Identity(2.0), (rows, columns))
            matrix = 2 * widened_identity(rows, columns)
            assert found.mean == pytest.approx(matrix.mean(), abs=1e-12)
            assert found.second_moment == pytest.approx((matrix**2).mean())


def test_truncated_normal_is_narrower_than_it_says():
    """Two sigma leave 0.774 of the variance, on every backend."""
    initializer = k.TruncatedNormal(stddev=2.0, seed=1)
    values = as_numpy(initializer((96, 384)))
    found = initial_moments(initializer, (96, 384))
    assert found.variance == pytest.approx(4 * 0.7737, rel=1e-4)
    assert_of(found, values)
    assert values.var() == pytest.approx(found.variance, rel=0.05)


def test_auto_looks_at_what_follows_its_layer():
    auto = il.Auto(seed=1)
    model = keras.Sequential(
        [
            keras.Input((200,)),
            layers.Dense(300, kernel_initializer=auto),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    )
    layer = model.layers[0]
    found = weight_moments(layer, "kernel", parents=(model,))
    assert found.second_moment == pytest.approx(2 / 200)
    assert_of(found, as_numpy(layer.kernel))
    alone = weight_moments(layer, "kernel")
    assert alone.second_moment == pytest.approx(2 / (200 + 300))


def test_an_rnn_stands_for_its_cell():
    layer = lstm(40, 30, kernel_initializer=il.Auto(seed=1))
    for weight in ("kernel", "recurrent_kernel", "bias"):
        found = weight_moments(layer, weight)
        assert found == weight_moments(layer.cell, weight)
        assert_of(found, as_numpy(getattr(layer.cell, weight)))
