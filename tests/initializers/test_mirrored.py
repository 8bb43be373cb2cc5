import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from keras_initlab import activations
from tests.helpers import as_numpy


def drawn(shape, **options):
    return as_numpy(il.Mirrored(seed=0, **options)(shape))


def built(layer, shape):
    layer.build(shape)
    return as_numpy(layer.kernel)


def is_paired(kernel, axis):
    moved = np.moveaxis(kernel, axis, 0)
    return bool(np.any(kernel)) and np.array_equal(moved[0::2], -moved[1::2])


@pytest.mark.parametrize("inputs", [True, False])
@pytest.mark.parametrize("outputs", [True, False])
def test_sides(inputs, outputs):
    kernel = drawn((12, 8), inputs=inputs, outputs=outputs)
    assert is_paired(kernel, 0) is inputs
    assert is_paired(kernel, 1) is outputs


@pytest.mark.parametrize("shape", [(12, 12), (12, 8), (8, 12)])
def test_the_half_is_orthogonal_and_keeps_second_moments(shape):
    kernel = drawn(shape, gain=1.3)
    half = kernel[0::2, 0::2]
    singular = np.linalg.svd(half, compute_uv=False)
    wider = max(1.0, shape[1] / shape[0])
    np.testing.assert_allclose(singular, 1.3 * np.sqrt(wider), rtol=1e-5)
    # As W[2i + a, 2j + b] = (−1)^(a + b) g W₀[i, j].
    signs = np.array([1.0, -1.0])
    np.testing.assert_array_equal(kernel, np.kron(half, np.outer(signs, signs)))


@pytest.mark.parametrize(
    "activation", ["relu", "gelu", "silu", "softplus", "hard_silu"]
)
def test_two_layers_are_one_linear_map(activation):
    first = drawn((6, 16), inputs=False)
    last = drawn((16, 5), outputs=False)
    x = np.random.default_rng(0).standard_normal((7, 6)).astype("float32")
    act = keras.activations.get(activation)
    made = as_numpy(act(keras.ops.matmul(x, first.astype("float32")))) @ last
    np.testing.assert_allclose(made, x @ first[:, 0::2] @ last[0::2], atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions_at_the_centre(rank):
    kind = getattr(layers, f"Conv{rank}D")
    layer = kind(12, 3, kernel_initializer=il.Mirrored(seed=0))
    kernel = built(layer, (None, *[6] * rank, 8))
    centre = kernel[(1,) * rank]
    assert np.count_nonzero(kernel) == np.count_nonzero(centre) == 96
    singular = np.linalg.svd(centre[0::2, 0::2], compute_uv=False)
    np.testing.assert_allclose(singular, np.sqrt(12 / 8), rtol=1e-5)
    assert is_paired(kernel, -2)
    assert is_paired(kernel, -1)


def test_convolution_over_all_taps():
    layer = layers.Conv2D(8, 3, kernel_initializer=il.Mirrored(base="orthogonal"))
    kernel = built(layer, (None, 6, 6, 8))
    assert is_paired(kernel, 2)
    assert is_paired(kernel, 3)
    half = kernel[:, :, 0::2, 0::2].reshape(36, 4)
    np.testing.assert_allclose(half.T @ half, np.eye(4), atol=1e-5)


def test_groups_have_pairs_of_their_own():
    layer = layers.Conv2D(12, 3, groups=3, kernel_initializer=il.Mirrored())
    kernel = built(layer, (None, 6, 6, 12))  # four channels to four, three times
    blocks = kernel[1, 1].reshape(4, 3, 4)
    for group in range(3):
        block = blocks[:, group]
        assert is_paired(block, 0)
        assert is_paired(block, 1)
        np.testing.assert_allclose(
            np.linalg.svd(block[0::2, 0::2], compute_uv=False), 1.0, rtol=1e-5
        )


@pytest.mark.parametrize(
    ("equation", "output", "shape", "paired"),
    [
        ("abc,cd->abd", (5, 8), (None, 5, 6), (0, 1)),
        ("abc,cde->abde", (5, 3, 4), (None, 5, 6), (0, 2)),
        ("abcd,dce->abe", (5, 8), (None, 5, 3, 6), (0, 2)),
        ("...c,cd->...d", (8,), (None, 5, 6), (0, 1)),
    ],
)
def test_einsum_pairs_along_the_tensors_last_axes(equation, output, shape, paired):
    layer = layers.EinsumDense(equation, output, kernel_initializer=il.Mirrored(seed=0))
    kernel = built(layer, shape)
    for axis in range(kernel.ndim):
        assert is_paired(kernel, axis) is (axis in paired)


def test_gain_of_an_activation_is_that_of_its_odd_part():
    for name, q in (("tanh", 0.2), ("sigmoid", 1.0), ("relu", 0.05)):
        slope = activations.moments(
            activations.odd_part(name), variance=q
        ).derivative_second_moment
        by_name = drawn((8, 8), gain=name, q=q)
        by_number = drawn((8, 8), gain=float(slope**-0.5))
        np.testing.assert_allclose(by_name, by_number, rtol=1e-6)
    assert drawn((8, 8), gain="relu") == pytest.approx(drawn((8, 8)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: drawn((5, 4)), ValueError, r"even number of inputs .*with 5 along"),
        (lambda: drawn((4, 5)), ValueError, r"Pass outputs=False"),
        (lambda: drawn((4,)), ValueError, "two or more axes"),
        (lambda: il.Mirrored(gain=-1.0), ValueError, "positive and finite"),
        (lambda: il.Mirrored(gain=None), TypeError, "a positive number or an activ"),
        (lambda: il.Mirrored(gain=keras.ops.square), ValueError, "not even"),
        (lambda: il.Mirrored(gain="softmax"), ValueError, "not elementwise"),
        (lambda: il.Mirrored(q=0), ValueError, "Received: q=0"),
        (lambda: il.Mirrored(q="1"), TypeError, "Received: q='1'"),
        (lambda: il.Mirrored(base="delta"), ValueError, "'delta_orthogonal'"),
        (lambda: il.Mirrored(inputs=1), TypeError, "Received: inputs=1"),
        (lambda: il.Mirrored(seed=1.5), TypeError, "`seed` must be"),
        (lambda: il.Mirrored(theta=-0.1), ValueError, "Received: theta=-0.1"),
        (lambda: il.Mirrored(theta=1.6), ValueError, "between 0 and π / 2"),
        (lambda: il.Mirrored(theta="0.3"), TypeError, "Received: theta='0.3'"),
        (
            lambda: built(
                layers.Conv2D(6, 3, groups=2, kernel_initializer="initlab>mirrored"),
                (None, 5, 5, 8),
            ),
            ValueError,
            "outputs in each group",
        ),
        (
            lambda: built(
                layers.EinsumDense(
                    "abc,bd->adc", (4, 6), kernel_initializer="initlab>mirrored"
                ),
                (None, 4, 6),
            ),
            ValueError,
            "with none along",
        ),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_neither_side_is_the_base():
    kernel = drawn((6, 6), inputs=False, outputs=False)
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(6), atol=1e-5)


@pytest.mark.parametrize("base", ["delta_orthogonal", "orthogonal"])
@pytest.mark.parametrize("inputs", [True, False])
def test_an_angle_between_pairs_and_outputs_of_their_own(base, inputs):
    """cos θ · mirrored + sin θ · independent, of one mean square, over all taps.

    Behind pairs the second sums to 0 over the inputs of each tap.
    """
    options = {"base": base, "inputs": inputs, "gain": 1.3}
    shape = (3, 3, 32, 64)
    exact, mixed = drawn(shape, **options), drawn(shape, theta=0.6, **options)
    rest = (mixed - np.cos(0.6) * exact) / np.sin(0.6)
    assert not is_paired(mixed, 3)
    sums = np.abs(rest.sum(axis=2)).max() < 1e-4
    assert bool(sums) is inputs
    # Both have the mean square of an entry, and outputs' shares are independent.
    assert np.mean(rest**2) == pytest.approx(np.mean(exact**2), rel=0.01)
    columns = rest.reshape(-1, 64)
    cosines = columns.T @ columns / np.sum(columns**2, axis=0)
    assert np.abs(cosines - np.eye(64)).max() < (0.1 if inputs else 1e-4)
    # In the sum two of a pair have the correlation −cos² θ.
    both = mixed.reshape(-1, 32, 2)
    correlation = np.mean(both[..., 0] * both[..., 1]) / np.mean(mixed**2)
    assert correlation == pytest.approx(-(np.cos(0.6) ** 2), abs=0.03)
    assert np.mean(mixed**2) == pytest.approx(np.mean(exact**2), rel=0.03)


def test_an_angle_of_zero_or_without_pairs_of_outputs_changes_nothing():
    for options in ({"theta": 0.0}, {"theta": 0.5, "outputs": False}):
        outputs = options.get("outputs", True)
        np.testing.assert_array_equal(
            drawn((3, 3, 8, 8), **options), drawn((3, 3, 8, 8), outputs=outputs)
        )
