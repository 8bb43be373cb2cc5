"""How any callable is read: recognised by its values, or measured in float64."""

import functools
import math

import keras
import numpy as np
import pytest

from keras_initlab.activations import moments, resolve
from tests.helpers import triple


def _backends_own():
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return {"tanh": tf.nn.tanh, "softmax": tf.nn.softmax, "relu6": tf.nn.relu6}
    if keras.backend.backend() == "jax":
        import jax

        return {"tanh": jax.numpy.tanh, "softmax": jax.nn.softmax, "mish": jax.nn.mish}
    import torch

    return {"tanh": torch.tanh, "softmax": torch.nn.Softmax(dim=1),
            "gelu": torch.nn.GELU()}  # fmt: skip


RECOGNISED = [
    ("relu", keras.ops.relu),
    ("relu", lambda x: keras.ops.maximum(x, 0.0)),
    ("tanh", lambda x: keras.ops.tanh(x)),
    ("linear", lambda x: x),
    ("gelu", lambda x: keras.ops.gelu(x, approximate=False)),
    ("gelu(approximate=True)", keras.ops.gelu),
    ("softplus", keras.ops.softplus),
    ("hard_shrink", keras.ops.hard_shrink),
    ("leaky_relu(0.2)", functools.partial(keras.activations.relu, negative_slope=0.2)),
    ("leaky_relu(0.35)", lambda x: keras.ops.where(x > 0, x, 0.35 * x)),
    ("leaky_relu(-1)", keras.ops.abs),
    ("relu6", functools.partial(keras.activations.relu, max_value=6)),
    ("glu", keras.ops.glu),
    ("softmax", functools.partial(keras.activations.softmax, axis=-1)),
    ("log_softmax", keras.ops.log_softmax),
    ("sparsemax", lambda x: keras.activations.sparsemax(x)),
    ("tanh", lambda x: keras.ops.cast(keras.ops.tanh(x), "float32")),
    *_backends_own().items(),
]


@pytest.mark.parametrize(("name", "function"), RECOGNISED)
def test_callables_are_recognised_by_their_values(name, function):
    assert resolve(function).name == name


@pytest.mark.parametrize(
    "function",
    [
        lambda x: 1.001 * keras.ops.relu(x),
        lambda x: keras.ops.tanh(1.001 * x),
        lambda x: keras.ops.clip(x, -1.001, 1.001),
        lambda x: keras.ops.where(keras.ops.abs(x) > 0.501, x, 0.0 * x),
        lambda x: keras.ops.minimum(keras.ops.relu(x), 20.0),
    ],
)
def test_near_misses_are_not_recognised(function):
    found = resolve(function)
    assert (found.name, found.family, found.derivative) == ("lambda", "other", None)


# 0.375 and 1.25 are exact in float32: TensorFlow rounds constants to that.
SHIFT = 0.375


def cdf(x):
    return 0.5 * math.erfc(-x / math.sqrt(2))


def pdf(x):
    return math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


MEASURED = {
    "smooth": (lambda x: keras.ops.exp(x) - 1.0, None),
    "kink": (
        lambda x: keras.ops.relu(x - SHIFT),
        (pdf(SHIFT) - SHIFT * cdf(-SHIFT),
         (1 + SHIFT**2) * cdf(-SHIFT) - SHIFT * pdf(SHIFT),
         cdf(-SHIFT)),
    ),
    "jump": (
        functools.partial(
            keras.activations.threshold, threshold=SHIFT, default_value=0.0
        ),
        (pdf(SHIFT), SHIFT * pdf(SHIFT) + cdf(-SHIFT), cdf(-SHIFT)),
    ),
}  # fmt: skip
MEASURED["smooth"] = (
    MEASURED["smooth"][0],
    (math.exp(0.5) - 1, math.exp(2) - 2 * math.exp(0.5) + 1, math.exp(2)),
)


@pytest.mark.parametrize("case", MEASURED)
def test_unknown_callables_are_measured_in_float64(case):
    function, exact = MEASURED[case]
    assert resolve(function).family == "other"
    assert triple(moments(function)) == pytest.approx(exact, rel=1e-10, abs=1e-10)


def test_a_callable_that_wants_float32_gets_it():
    seen = []

    def picky(x):
        seen.append(keras.backend.standardize_dtype(x.dtype))
        if seen[-1] != "float32":
            raise TypeError("float32 only")
        return x * x

    assert moments(picky).second_moment == pytest.approx(3.0, rel=1e-5)
    assert set(seen) == {"float64", "float32"}


def test_callables_are_read_while_a_model_is_traced():
    found = []

    def traced(x):
        found.append(moments(lambda y: keras.ops.exp(y) - 1.0).mean)
        return x

    layer = keras.layers.Lambda(traced, output_shape=lambda shape: shape)
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile(loss="mse")
    model.predict(np.zeros((2, 2), "float32"), verbose=0)
    assert found
    assert found == pytest.approx([math.exp(0.5) - 1] * len(found), rel=1e-10)
