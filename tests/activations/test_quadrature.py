"""Gaussian quadrature against closed forms and mpmath, and what it refuses."""

import math
import warnings

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_initlab.activations.quadrature import (
    GaussianMoments,
    gaussian_expectation,
    gaussian_moments,
)

pytestmark = pytest.mark.once


def cdf(x):
    return 0.5 * math.erfc(-x / math.sqrt(2))


def pdf(x):
    return math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


K = 0.3137  # on no edge of the initial panels
SHIFTED_RELU = (pdf(K) - K * cdf(-K), (1 + K * K) * cdf(-K) - K * pdf(K), cdf(-K))
EXACT = {
    "constant": (lambda x: 3.0 + 0 * x, (3.0, 9.0, 0.0)),
    "identity": (lambda x: x, (0.0, 1.0, 1.0)),
    "fourth power": (lambda x: x**4, (3.0, 105.0, 240.0)),
    "exponential": (np.exp, (math.exp(0.5), math.exp(2), math.exp(2))),
    "steep exponential": (
        lambda x: np.exp(2 * x),
        (math.exp(2), math.exp(8), 4 * math.exp(8)),
    ),
    "cosine": (
        np.cos,
        (math.exp(-0.5), (1 + math.exp(-2)) / 2, (1 - math.exp(-2)) / 2),
    ),
    "kink": (lambda x: np.maximum(x - K, 0), SHIFTED_RELU),
    "jump": (lambda x: np.where(x > K, 2.0, 0.0), (2 * cdf(-K), 4 * cdf(-K), 0.0)),
    "integer jump": (lambda x: (x > K).astype(int), (cdf(-K), cdf(-K), 0.0)),
    "jump and slope": (
        lambda x: np.where(np.abs(x) > K, x, 0),
        (0.0, 2 * (K * pdf(K) + cdf(-K)), 2 * cdf(-K)),
    ),
    "rare": (
        lambda x: np.where(x > 5.1, 1.0, 0.0),
        (cdf(-5.1), cdf(-5.1), 0.0),
    ),
}


def triple(moments: GaussianMoments):
    return (moments.mean, moments.second_moment, moments.derivative_second_moment)


@pytest.mark.parametrize("name", EXACT)
def test_unnamed_kinks_and_jumps_cost_no_accuracy(name):
    function, exact = EXACT[name]
    assert triple(gaussian_moments(function)) == pytest.approx(
        exact, rel=1e-12, abs=1e-12
    )
    assert gaussian_expectation(function) == pytest.approx(
        exact[0], rel=1e-12, abs=1e-14
    )


@pytest.mark.parametrize("kink", [0.0026, 0.499, -1.0005, 1e-7, 0.5])
def test_a_kink_or_jump_beside_a_panels_edge_is_seen(kink):
    # No Gauss point of the panel [0, 0.5] lies between the edge and the kink.
    found = gaussian_moments(lambda x: np.abs(x - kink))
    assert found.second_moment == pytest.approx(1 + kink**2, rel=1e-13)
    assert found.mean == pytest.approx(
        2 * pdf(kink) + kink * (1 - 2 * cdf(-kink)), rel=1e-13
    )
    assert found.derivative_second_moment == pytest.approx(1.0, rel=1e-12)
    step = gaussian_moments(lambda x: np.where(x >= kink, 1.0, 0.0))
    assert triple(step) == pytest.approx((cdf(-kink), cdf(-kink), 0.0), abs=1e-13)


def test_a_rare_event_is_relatively_exact():
    expected = gaussian_expectation(EXACT["rare"][0])
    assert expected == pytest.approx(cdf(-5.1), rel=1e-11)


@pytest.mark.parametrize(
    ("mean", "variance"), [(0.0, 100.0), (-1.5, 0.3), (2.0, 1e-6), (40.0, 0.01)]
)
def test_other_means_and_variances_agree_with_mpmath(mean, variance):
    found = gaussian_moments(np.tanh, mean=mean, variance=variance)
    deviation = mpmath.sqrt(variance)
    edges = sorted({*range(-14, 15), *(e for e in [-mean / deviation] if abs(e) < 14)})

    def expectation(function):
        return float(
            mpmath.quad(
                lambda z: function(mean + deviation * z) * mpmath.npdf(z), edges
            )
        )

    exact = (
        expectation(mpmath.tanh),
        expectation(lambda x: mpmath.tanh(x) ** 2),
        expectation(lambda x: mpmath.sech(x) ** 4),
    )
    assert triple(found) == pytest.approx(exact, rel=1e-11, abs=1e-12)


def test_a_known_derivative_is_used():
    found = gaussian_moments(np.sin, derivative=lambda x: 7.0 + 0 * x)
    assert found.derivative_second_moment == pytest.approx(49.0, rel=1e-13)


def test_kinks_are_given_in_the_units_of_x():
    # A pulse that no point of the first panels meets: named, it cannot be missed.
    low, high = 3.02, 3.03

    def pulse(x):
        return np.where((x > low) & (x < high), 1.0, 0.0)

    exact = cdf((high - 3) / 2) - cdf((low - 3) / 2)
    found = gaussian_expectation(pulse, mean=3, variance=4, kinks=(low, high))
    assert found == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float32, 2e-5), (np.float16, 2e-2)]
)
def test_low_precision_is_detected_and_its_noise_not_amplified(dtype, tolerance):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = gaussian_moments(
            lambda x: np.maximum(x.astype(dtype) - dtype(K), dtype(0))
        )
    assert triple(found) == pytest.approx(SHIFTED_RELU, rel=tolerance)


@pytest.mark.parametrize("derivative", [None, lambda x: np.cosh(x) ** -2])
def test_variance_zero_is_the_value_at_the_mean(derivative):
    found = gaussian_moments(np.tanh, derivative=derivative, mean=0.5, variance=0)
    exact = (math.tanh(0.5), math.tanh(0.5) ** 2, math.cosh(0.5) ** -4)
    assert triple(found) == pytest.approx(exact, rel=1e-11)
    assert gaussian_expectation(np.tanh, mean=0.5, variance=0) == math.tanh(0.5)


def test_noise_ends_with_a_warning_and_a_fair_result():
    random = np.random.default_rng(0)
    with pytest.warns(RuntimeWarning, match="did not converge"):
        found = gaussian_moments(lambda x: x + 1e-3 * random.normal(size=x.shape))
    assert triple(found)[1:] == pytest.approx((1.0, 1.0), abs=1e-2)


@pytest.mark.parametrize(
    ("function", "tolerance"),
    [
        (lambda x: np.tanh(x.astype("float32")).astype("float64"), 1e-5),
        (lambda x: np.tanh((x + 1000) - 1000), 1e-9),
    ],
    ids=["float32 inside", "cancellation"],
)
def test_hidden_noise_is_not_amplified(function, tolerance):
    assert triple(gaussian_moments(function)) == pytest.approx(
        triple(gaussian_moments(np.tanh)), rel=tolerance, abs=tolerance
    )


def test_variance_is_never_negative():
    assert GaussianMoments(1.0, 1.0 - 1e-16, 0.0).variance == 0.0
    assert GaussianMoments(1.0, 3.0, 0.0).variance == 2.0


@settings(deadline=None, max_examples=25)
@given(
    mean=st.floats(-5, 5),
    variance=st.floats(1e-3, 30),
    kink=st.floats(-5, 5),
)
def test_absolute_value_at_any_unnamed_kink(mean, variance, kink):
    found = gaussian_moments(lambda x: np.abs(x - kink), mean=mean, variance=variance)
    deviation, offset = math.sqrt(variance), mean - kink
    ratio = offset / deviation
    exact = 2 * deviation * pdf(ratio) + offset * (1 - 2 * cdf(-ratio))
    assert found.mean == pytest.approx(exact, rel=1e-11)
    assert found.second_moment == pytest.approx(variance + offset**2, rel=1e-11)
    assert found.derivative_second_moment == pytest.approx(1.0, rel=1e-11)


@settings(deadline=None, max_examples=25)
@given(scale=st.floats(0.1, 5), mean=st.floats(-3, 3))
def test_scale_of_x_and_of_the_law_are_one(scale, mean):
    inside = gaussian_moments(lambda x: np.tanh(scale * x), mean=mean / scale)
    outside = gaussian_moments(np.tanh, mean=mean, variance=scale**2)
    assert inside.mean == pytest.approx(outside.mean, rel=1e-11, abs=1e-12)
    assert inside.second_moment == pytest.approx(outside.second_moment, rel=1e-11)
    assert inside.derivative_second_moment == pytest.approx(
        scale**2 * outside.derivative_second_moment, rel=1e-10
    )


@pytest.mark.parametrize("compute", [gaussian_expectation, gaussian_moments])
@pytest.mark.parametrize(
    ("function", "law", "message"),
    [
        (np.tanh, {"variance": -1.0}, r"not negative.*Received: variance=-1\.0"),
        (np.tanh, {"variance": math.nan}, "Received: variance=nan"),
        (np.tanh, {"variance": math.inf}, "Received: variance=inf"),
        (np.tanh, {"mean": math.inf}, "Received: mean=inf"),
        (lambda x: x[:-1], {}, "shape of its input.*Received: shape"),
        (lambda x: 1.0, {}, r"Received: shape \(\).*return `c \+ 0 \* x`"),
        (np.log, {}, "finite within 14.*Received: nan at x=-14"),
        (np.exp, {"variance": 1e4}, "Received: inf at x="),
        (lambda x: 1e200 * x, {}, "Received: a second moment that overflows"),
        (lambda x: x + 1j, {}, "real numbers.*Received: dtype complex128"),
    ],
)
def test_refusals_say_what_was_received(compute, function, law, message):
    with pytest.raises(ValueError, match=message):
        compute(function, **law)


def test_what_cancels_is_told_from_what_bends_in_few_points():
    # x - tanh(x) near 0 is noise in its last digits: no halving settles it.
    points = []

    def shrunk(x):
        points.append(x.size)
        return x - np.tanh(x)

    known = gaussian_moments(shrunk, variance=1e-6)
    assert known.second_moment == pytest.approx(15 * 1e-18 / 9, rel=1e-5)
    assert sum(points) < 50_000  # 10 million before
