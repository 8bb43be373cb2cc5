import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import keras_initlab as il
from keras_initlab.initializers.haar import haar, haar_stack
from tests.helpers import as_numpy


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("rows", "columns"),
    [(1, 1), (5, 1), (4, 4), (40, 40), (200, 129), (300, 300), (257, 256)],
)
def test_columns_are_orthonormal(rows, columns, dtype):
    q = haar(rows, columns, generator(), dtype)
    assert q.dtype == dtype
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    wide = q.astype("float64")
    np.testing.assert_allclose(wide.T @ wide, np.eye(columns), atol=tolerance)


def eigenangle_moment(draw, count, size):
    """E|tr Q|² and E|tr Q²|² tell Haar from QR with LAPACK's signs left as they are."""
    traces = np.array([[np.trace(q), np.trace(q @ q)] for q in draw(count, size)])
    return traces.mean(axis=0), (traces**2).mean(axis=0)


def by_reflections(count, size):
    source = generator(1)
    return [haar(size, size, source, np.float64) for _ in range(count)]


def by_factorising(count, size):
    return haar_stack(count, size, size, generator(2), np.float64)


@pytest.mark.parametrize("draw", [by_reflections, by_factorising])
def test_the_distribution_is_haars(draw):
    """For Haar on O(n), n > 4: tr Q has moments (0, 1), tr Q² has (1, 3).

    Diaconis & Shahshahani 1994, theorem 4: tr Q^j tends to √j · N + [j even], exactly
    in its first moments.
    """
    count, size = 4000, 6
    mean, square = eigenangle_moment(draw, count, size)
    error = 5 / np.sqrt(count)
    assert abs(mean[0]) < error
    assert abs(mean[1] - 1) < error * np.sqrt(2)
    assert abs(square[0] - 1) < error * np.sqrt(2)
    assert abs(square[1] - 3) < error * np.sqrt(20)


def test_every_entry_has_the_same_variance():
    drawn = np.array([haar(4, 4, generator(i), np.float64) for i in range(3000)])
    np.testing.assert_allclose((drawn**2).mean(axis=0), 0.25, atol=5 * 0.25 / 50)
    np.testing.assert_allclose(drawn.mean(axis=0), 0, atol=5 * 0.5 / np.sqrt(3000))


def gates(layer, name, count):
    kernel = as_numpy(getattr(layer.cell, name))
    return np.split(kernel, count, axis=-1)


@pytest.mark.parametrize(
    ("make", "count"), [(layers.SimpleRNN, 1), (layers.GRU, 3), (layers.LSTM, 4)]
)
def test_each_gate_is_orthogonal(make, count):
    layer = make(40, recurrent_initializer="initlab>orthogonal")
    layer.build((None, 3, 5))
    for gate in gates(layer, "recurrent_kernel", count):
        np.testing.assert_allclose(np.linalg.svd(gate)[1], 1, atol=1e-5)


def test_each_group_is_orthogonal():
    layer = layers.Conv2D(8, 3, groups=2, kernel_initializer="initlab>orthogonal")
    layer.build((None, 9, 9, 6))
    for group in np.split(as_numpy(layer.kernel), 2, axis=-1):
        matrix = group.reshape(27, 4)
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(4), atol=1e-6)


def test_wider_is_scaled_by_the_root_of_out_over_in():
    wide = as_numpy(il.Orthogonal(seed=0)((4, 100)))
    np.testing.assert_allclose(wide @ wide.T, 25 * np.eye(4), atol=1e-4)


@pytest.mark.parametrize(("gain", "value"), [(2.0, 2.0), ("relu", np.sqrt(2))])
def test_gain(gain, value):
    drawn = as_numpy(il.Orthogonal(gain, seed=0)((8, 8)))
    np.testing.assert_allclose(np.linalg.svd(drawn)[1], value, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=4),
    st.integers(0, 2**40),
    st.floats(0.1, 4),
)
def test_any_kernel_by_shape(shape, seed, gain):
    drawn = as_numpy(il.Orthogonal(gain, seed)(shape)).reshape(-1, shape[-1])
    rows, columns = drawn.shape
    if rows >= columns:
        np.testing.assert_allclose(
            drawn.T @ drawn, gain**2 * np.eye(columns), atol=1e-4
        )
    else:
        np.testing.assert_allclose(
            drawn @ drawn.T, gain**2 * columns / rows * np.eye(rows), atol=1e-3
        )


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda k: layers.Conv1D(8, 5, padding="same", kernel_initializer=k), (9, 8)),
        (
            lambda k: layers.Conv2D(8, 3, padding="same", kernel_initializer=k),
            (6, 6, 8),
        ),
        (
            lambda k: layers.Conv2D(
                8, 3, groups=2, padding="same", kernel_initializer=k
            ),
            (6, 6, 8),
        ),
        (
            lambda k: layers.Conv2DTranspose(
                8, 3, padding="same", kernel_initializer=k
            ),
            (6, 6, 8),
        ),
        (
            lambda k: layers.Conv3D(4, (3, 1, 3), padding="same", kernel_initializer=k),
            (4, 4, 4, 4),
        ),
    ],
)
def test_delta_orthogonal_keeps_every_length(make, shape):
    layer = make("initlab>delta_orthogonal")
    x = generator().normal(size=(2, *shape)).astype("float32")
    y = as_numpy(layer(x))
    np.testing.assert_allclose(
        np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5
    )


def test_delta_orthogonal_through_many_layers():
    rows = [
        layers.Conv2D(
            16, 3, padding="same", kernel_initializer="initlab>delta_orthogonal"
        )
        for _ in range(30)
    ]
    model = keras.Sequential([keras.Input((8, 8, 16)), *rows])
    x = generator().normal(size=(2, 8, 8, 16)).astype("float32")
    assert np.mean(as_numpy(model(x)) ** 2) == pytest.approx(np.mean(x**2), rel=1e-4)


@pytest.mark.parametrize(
    ("initializer", "shape", "says"),
    [
        (il.Orthogonal(), (5,), "two or more axes"),
        (il.Orthogonal(), (), "two or more axes"),
        (il.DeltaOrthogonal(), (4, 4), "odd sizes"),
        (il.DeltaOrthogonal(), (2, 4, 4), "odd sizes"),
        (il.DeltaOrthogonal(), (3, 2, 4, 4), r"field of \(3, 2\)"),
        (il.DeltaOrthogonal(), (3, 8, 4), "from 8 to 4"),
    ],
)
def test_kernels_that_do_not_fit_are_refused(initializer, shape, says):
    with pytest.raises(ValueError, match=says) as caught:
        initializer(shape)
    assert "Received: shape" in str(caught.value)


@pytest.mark.parametrize("cls", [il.Orthogonal, il.DeltaOrthogonal])
@pytest.mark.parametrize(
    ("gain", "error"), [(0, ValueError), (None, TypeError), ("rellu", ValueError)]
)
def test_bad_gains_are_refused(cls, gain, error):
    with pytest.raises(error, match="Received"):
        cls(gain)
