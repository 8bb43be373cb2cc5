"""The odd parts of activations, which mirrored units compute with."""

import keras
import numpy as np
import pytest

from keras_initlab import activations


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relu", lambda z: z),
        ("gelu", lambda z: z),
        ("silu", lambda z: z),
        ("softplus", lambda z: z),
        ("hard_silu", lambda z: z),
        ("leaky_relu", lambda z: 1.2 * z),
        ("sigmoid", lambda z: np.tanh(z / 2)),
        ("tanh", lambda z: 2 * np.tanh(z)),
        ("linear", lambda z: 2 * z),
    ],
)
def test_odd_part(name, expected):
    z = np.linspace(-7, 7, 57)
    odd = activations.odd_part(name)
    np.testing.assert_allclose(odd.function(z), expected(z), atol=1e-12)
    step = 1e-5
    slope = (expected(z + step) - expected(z - step)) / (2 * step)
    if odd.derivative is not None and name != "hard_silu":
        away = z != 0
        np.testing.assert_allclose(odd.derivative(z)[away], slope[away], atol=1e-8)
    found = activations.moments(odd, variance=0.7)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    values = expected(np.sqrt(0.7) * nodes)
    second = weights @ values**2 / weights.sum()
    assert found.second_moment == pytest.approx(second, rel=1e-8)
    assert found.mean == pytest.approx(0.0, abs=1e-12)


def test_odd_part_of_what_has_none():
    square = activations.odd_part(keras.ops.square)
    assert activations.moments(square).second_moment == pytest.approx(0.0, abs=1e-20)
    with pytest.raises(ValueError, match="not elementwise"):
        activations.odd_part("softmax")
