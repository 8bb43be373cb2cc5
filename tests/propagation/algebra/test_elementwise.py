"""Responses of functions to Gaussians: closed forms, quadrature, draws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_initlab import activations
from keras_initlab.propagation.algebra.elementwise import affine, apply, line, noisy
from keras_initlab.propagation.algebra.gradients import gradients
from keras_initlab.propagation.signal import Gradient, Signal

SMOOTH = ["tanh", "sigmoid", "gelu", "silu", "softplus", "mish"]
KINKED = ["relu", "leaky_relu", "elu", "selu", "relu6", "hard_sigmoid", "hard_tanh"]


def correlated(rho, mean=0.0, variance=1.0):
    """Return a signal of units whose two inputs have the correlation rho."""
    signal = Signal.independent((None, 64), mean, variance)
    signal.pairs[0, 0, 1] = mean**2 + rho * variance
    return signal


def two_dimensional(function, rho, mean=0.0, variance=1.0, points=4001):
    """Return E[f(z) f(z')] by a plain sum over a grid of z and what is not in it."""
    nodes = np.linspace(-8, 8, 1601)
    weights = np.exp(-(nodes**2) / 2)
    weights /= weights.sum()
    deviation = math.sqrt(variance)
    common = mean + deviation * math.sqrt(rho) * nodes
    rest = deviation * math.sqrt(1 - rho) * nodes
    smooth = np.array([weights @ function(one + rest) for one in common])
    return float(weights @ smooth**2)


@pytest.mark.parametrize("rho", [-1.0, -0.6, 0.0, 0.3, 0.9, 0.99, 0.9999, 1.0])
def test_relu_has_the_arc_cosine_kernel(rho):
    """Source: Cho & Saul 2009, equation 6."""
    found = apply(correlated(rho), "relu").pairs[0, 0, 1]
    angle = math.acos(rho)
    exact = (math.sin(angle) + (math.pi - angle) * rho) / (2 * math.pi)
    assert found == pytest.approx(exact, abs=3e-4)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.9, 0.99])
def test_relu_has_the_arc_cosine_kernel_of_slopes(rho):
    made = apply(correlated(rho), "relu")
    # Two inputs' slopes are both 1 in (π - θ) / 2π of all cases.
    passed = made.edges.parents[0][1](Gradient(1.0, inputs=1.0))
    exact = (math.pi - math.acos(rho)) / (2 * math.pi)
    assert passed.inputs == pytest.approx(exact, abs=2e-2)
    assert passed.second == pytest.approx(0.5)


@pytest.mark.parametrize("mean", [0.0, 0.7])
@pytest.mark.parametrize("rho", [0.2, 0.8])
@pytest.mark.parametrize("name", SMOOTH + KINKED)
def test_covariances_are_those_of_two_gaussians(name, rho, mean):
    known = activations.resolve(name)
    found = apply(correlated(rho, mean, 1.7), name)
    exact = two_dimensional(known.function, rho, mean, 1.7)
    assert found.pairs[0, 0, 1] == pytest.approx(exact, rel=2e-3, abs=2e-4)
    moments = activations.moments(name, mean, 1.7)
    assert found.mean == pytest.approx(moments.mean, abs=1e-6)
    assert found.second == pytest.approx(moments.second_moment, rel=1e-6)
    back = found.edges.parents[0][1](Gradient(1.0)).second
    assert back == pytest.approx(moments.derivative_second_moment, rel=1e-6)


def test_an_activation_nobody_knows_is_as_good():
    found = apply(correlated(0.5), lambda x: np.sin(3 * x) + 0.2 * x)
    exact = two_dimensional(lambda x: np.sin(3 * x) + 0.2 * x, 0.5)
    assert found.pairs[0, 0, 1] == pytest.approx(exact, abs=1e-4)


@given(st.floats(0.01, 100), st.floats(-2, 2), st.floats(0, 1), st.floats(0.01, 10))
def test_relu_of_more_is_more_of_relu(scale, mean, rho, variance):
    signal = correlated(rho, mean, variance)
    more = apply(affine(signal, scale), "relu")
    less = apply(signal, "relu")
    assert more.pairs == pytest.approx(scale**2 * less.pairs, rel=1e-6, abs=1e-9)
    assert more.mean == pytest.approx(scale * less.mean, rel=1e-6)


@given(st.floats(-3, 3), st.floats(-2, 2), st.floats(0.1, 4))
def test_a_line_of_a_line_is_a_line(scale, shift, variance):
    signal = Signal.independent((None, 8), 0.5, variance)
    one = affine(affine(signal, 2.0, -1.0), scale, shift)
    two = affine(signal, 2 * scale, shift - scale)
    assert one.mean == pytest.approx(two.mean, abs=1e-9)
    assert one.pairs == pytest.approx(two.pairs, abs=1e-9)
    # A Gaussian it still is: what comes next sees it so.
    assert apply(one, "tanh").second == pytest.approx(apply(two, "tanh").second)


def test_a_function_of_a_function_is_seen_as_one():
    signal = correlated(0.4)
    both = apply(apply(signal, "relu"), "tanh")
    once = apply(signal, lambda x: np.tanh(np.maximum(x, 0)))
    assert both.pairs == pytest.approx(once.pairs, rel=1e-3)
    assert both.mean == pytest.approx(once.mean, rel=1e-3)


def test_the_gradient_passes_a_function_of_a_function_at_once():
    signal = Signal.independent((None, 8))
    inner = apply(signal, "relu")
    middle = affine(inner, 2.0)
    outer = apply(middle, "tanh")
    found = gradients([outer], Gradient(1.0))
    z = np.random.default_rng(0).standard_normal(2_000_000)
    inside = np.maximum(z, 0)
    slope = 1 - np.tanh(2 * inside) ** 2
    # tanh' is small where ReLU' is 1: they know each other.
    to_z = (slope * 2 * (z > 0)) ** 2
    assert found[signal.serial].second == pytest.approx(to_z.mean(), rel=0.01)
    assert found[middle.serial].second == pytest.approx((slope**2).mean(), rel=0.01)
    assert found[inner.serial].second == pytest.approx(4 * (slope**2).mean(), rel=0.01)


def test_an_uneven_signal_bends_at_every_level():
    values = np.array([0.2, 1.0, 1.8])
    signal = Signal.independent((None, 3, 16))
    signal = signal.evolve(profile={1: values})
    made = apply(signal, "tanh")
    exact = [activations.moments("tanh", 0.0, v).second_moment for v in values]
    assert made.second == pytest.approx(np.mean(exact), rel=1e-3)
    assert made.profile[1] * made.second == pytest.approx(exact, rel=1e-3)
    # And its slopes are less where it is larger.
    back = made.edges.parents[0][1](Gradient(1.0))
    steep = [
        activations.moments("tanh", 0.0, v).derivative_second_moment for v in values
    ]
    assert back.second * back.profile[1] == pytest.approx(steep, rel=1e-3)


def test_what_was_dropped_bends_apart():
    signal = correlated(0.5)
    kept = [(0.4, line(0.0)), (0.6, line(1 / 0.6))]
    dropped = noisy(signal, 0.4 / 0.6, slope_second=1 / 0.6, cases=kept)
    made = apply(dropped, "tanh")
    generator = np.random.default_rng(0)
    z = generator.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], 1_000_000)
    x = np.tanh(z / 0.6 * (generator.random(z.shape) < 0.6))
    assert made.second == pytest.approx((x**2).mean(), rel=0.01)
    assert made.pairs[0, 0, 1] == pytest.approx((x[:, 0] * x[:, 1]).mean(), rel=0.01)
    slopes = (1 - x**2) ** 2 * (x != 0) / 0.36
    found = gradients([made], Gradient(1.0))
    assert found[signal.serial].second == pytest.approx(slopes.mean(), rel=0.01)


def test_a_constant_bends_to_a_constant():
    made = apply(Signal.independent((None, 4), 0.3, 0.0), "sigmoid")
    exact = 1 / (1 + math.exp(-0.3))
    assert made.mean == pytest.approx(exact)
    assert made.pairs == pytest.approx(np.full((2, 2, 2), exact**2))


@pytest.mark.parametrize("name", ["relu", "gelu", "tanh", "exponential", "square"])
def test_what_explodes_stays_a_number(name):
    function = np.square if name == "square" else name
    made = apply(Signal.independent((None, 8), 0.0, 1e300), function)
    assert np.isfinite(made.pairs).all()
    assert made.second >= (0.9 if name == "tanh" else 1e290)
    assert np.isfinite(made.edges.parents[0][1](Gradient(1.0)).second)
