import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import keras_initlab as il
from tests.helpers import as_numpy, assert_std


@pytest.mark.parametrize("shape", [(4, 4), (6, 4), (1, 1)])
def test_identity_is_partial_when_narrowing(shape):
    np.testing.assert_array_equal(as_numpy(il.Identity()(shape)), np.eye(*shape))


def test_identity_is_hadamard_when_widening():
    """Zhao et al., algorithm 1: c I H I, c = 2^(-(m-1)/2), m = ceil(log2(out))."""
    drawn = as_numpy(il.Identity()((3, 6)))
    two = np.array([[1, 1], [1, -1]])
    full = np.kron(two, np.kron(two, two))
    np.testing.assert_allclose(drawn, 2.0**-1 * full[:3, :6], rtol=1e-6)
    assert np.linalg.matrix_rank(drawn) == 3


def test_identity_passes_a_signal_on():
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 4)).astype("float32")
    for layer in (
        layers.Conv2D(4, 3, padding="same", kernel_initializer="initlab>identity"),
        layers.Conv2D(4, 4, padding="same", kernel_initializer="initlab>identity"),
        layers.Conv2D(
            4, 3, groups=2, padding="same", kernel_initializer="initlab>identity"
        ),
        layers.DepthwiseConv2D(
            3, padding="same", depthwise_initializer="initlab>identity"
        ),
        layers.Dense(4, kernel_initializer="initlab>identity"),
    ):
        np.testing.assert_allclose(as_numpy(layer(x)), x, rtol=1e-6)


def test_identity_in_each_gate():
    layer = layers.LSTM(5, recurrent_initializer="initlab>identity")
    layer.build((None, 3, 2))
    kernel = as_numpy(layer.cell.recurrent_kernel)
    np.testing.assert_array_equal(kernel, np.tile(np.eye(5), 4))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 20), st.floats(0, 0.99))
def test_sparse_has_the_same_zeros_in_every_column(rows, columns, sparsity):
    drawn = as_numpy(il.Sparse(sparsity, seed=1)((rows, columns)))
    zeros = min(int(np.ceil(sparsity * rows)), rows - 1)
    assert ((drawn == 0).sum(axis=0) == zeros).all()


@pytest.mark.parametrize("sparsity", [0, 0.5, 0.9])
def test_sparse_makes_up_for_its_zeros(sparsity):
    drawn = as_numpy(il.Sparse(sparsity, gain=2.0, seed=1)((400, 300)))
    left = drawn[drawn != 0]
    assert_std(left, 2 / np.sqrt(400 * (1 - sparsity)))


@pytest.mark.parametrize("initializer", [il.Identity(), il.Sparse()])
def test_vectors_are_refused(initializer):
    with pytest.raises(ValueError, match="two or more axes"):
        initializer((4,))


@pytest.mark.parametrize(
    ("sparsity", "error"),
    [
        (1, ValueError),
        (-0.1, ValueError),
        (float("nan"), ValueError),
        ("0.5", TypeError),
        (True, TypeError),
        (None, TypeError),
    ],
)
def test_bad_sparsities_are_refused(sparsity, error):
    with pytest.raises(error, match=r"\[0, 1\). Received: sparsity="):
        il.Sparse(sparsity)
