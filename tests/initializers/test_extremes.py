"""Whatever an initializer is given, it says what is wrong or draws finite weights."""

import warnings

import keras
import numpy as np
import pytest

import keras_initlab as il
from tests.helpers import as_numpy

# Each initializer's arguments that are numbers, and a shape that it draws.
NUMBERS = [
    (il.Scaled, "gain", (8, 8)),
    (il.Orthogonal, "gain", (8, 8)),
    (il.DeltaOrthogonal, "gain", (3, 4, 8)),
    (il.Identity, "gain", (8, 8)),
    (il.Sparse, "gain", (8, 8)),
    (il.Sparse, "sparsity", (8, 8)),
    (il.Mirrored, "gain", (8, 8)),
    (il.Mirrored, "q", (8, 8)),
    (il.ConstantBias, "value", (8,)),
    (il.ForgetGateBias, "value", (8,)),
]
EXTREMES = [
    *(np.nan, np.inf, -np.inf, 1e300, -1e300, 1e-300, 1e154, 1e39, 1e6, -1e6, 0, -1),
    *(10**400, -(10**400), 2**62, True, False, None, "", "1", "nan", b"1", 1j),
    *([], [1.0], {}, (), np.array(2.0), np.array([1.0, 2.0]), object, lambda x: 0 * x),
    *(np.float16(2), np.float32(np.inf), np.float64(1e300), np.int64(3), np.bool_(1)),
]
of_each = pytest.mark.parametrize(
    ("cls", "name", "shape"), NUMBERS, ids=[f"{c.__name__}-{n}" for c, n, _ in NUMBERS]
)


def draw(cls, shape, dtype="float32", **arguments):
    """Return the weights; NumPy has nothing to say on the way."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        return as_numpy(cls(**arguments)(shape, dtype=dtype))


@of_each
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_weights_are_finite_or_the_error_says_why(cls, name, shape, dtype):
    wrong = {}
    for value in EXTREMES:
        try:
            if not np.isfinite(draw(cls, shape, dtype, **{name: value})).all():
                wrong[repr(value)] = "not finite"
        except (TypeError, ValueError) as error:
            if "Received" not in str(error):
                wrong[repr(value)] = error
        except Exception as error:
            wrong[repr(value)] = error
    assert not wrong


@pytest.mark.parametrize(
    "gain", [1e300, np.float64(1e300), 1e-300, 10**400], ids=["1", "np", "small", "int"]
)
@pytest.mark.parametrize("cls", [c for c, name, _ in NUMBERS if name == "gain"])
def test_gain_that_has_no_variance_is_refused_at_once(cls, gain):
    with pytest.raises(ValueError, match=r"positive and finite.*Received: gain="):
        cls(gain=gain)


@pytest.mark.parametrize(
    ("initializer", "shape"),
    [
        (il.Scaled(1e6), (8, 8)),
        (il.Orthogonal(1e6), (8, 8)),
        (il.Identity(1e6), (8, 8)),
        (il.ConstantBias(-1e6), (8,)),
        (il.ForgetGateBias(1e6), (8,)),
    ],
)
def test_weights_that_the_dtype_cannot_hold_are_refused(initializer, shape):
    assert np.isfinite(as_numpy(initializer(shape))).all()
    with pytest.raises(ValueError, match=r"65504.*Received.*dtype='float16'"):
        initializer(shape, dtype="float16")


def test_layer_says_it_when_it_is_built():
    layer = keras.layers.Dense(8, kernel_initializer=il.Scaled(1e39))
    with pytest.raises(ValueError, match="Received: weights of up to inf"):
        layer.build((None, 8))


@pytest.mark.parametrize(
    ("counts", "shares"),
    [
        ([1e308] * 4, [1 / 4] * 4),
        ([1e308, 1], [1, 0]),
        ([5e-324, 1e308], [0, 1]),
        ([3e300, 1e300], [3 / 4, 1 / 4]),
        ([2**62, 2**62], [1 / 2, 1 / 2]),
        ([10**300, 3 * 10**300], [1 / 4, 3 / 4]),
        ([True, False], [2 / 3, 1 / 3]),
        (np.array([60, 30, 10], "uint8"), [0.6, 0.3, 0.1]),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_shares_of_any_counts(counts, shares, dtype):
    bias = draw(il.ClassPriorBias, (len(shares),), dtype, counts=counts)
    assert np.isfinite(bias).all()
    found = np.exp(bias) / np.exp(bias).sum()
    rtol = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-6}[dtype]
    np.testing.assert_allclose(found, shares, rtol=rtol, atol=1e-30)


def test_pairs_of_any_counts():
    bias = draw(il.ClassPriorBias, (2,), counts=[[1e308, 1e308], [1e308, 1]])
    np.testing.assert_allclose(bias, [0, -np.log(1e308)], rtol=1e-6)


@pytest.mark.parametrize(
    "counts", [[10**400, 1], [1, 1j], [b"1", b"2"], {"a": 1, "b": 2}, object(), [[]]]
)
def test_counts_that_are_none_are_refused(counts):
    with pytest.raises(ValueError, match="Received: counts="):
        il.ClassPriorBias(counts)
