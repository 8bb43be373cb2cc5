"""Softmax moments against draws, and where they are known."""

import numpy as np
import pytest

from keras_initlab.propagation.algebra.softmax import softmax_moments
from keras_initlab.propagation.rules.activation import softmax
from keras_initlab.propagation.signal import Gradient, Signal


def drawn(count, variance, rows=20_000):
    generator = np.random.default_rng(0)
    logits = np.sqrt(variance) * generator.standard_normal((rows, count))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("variance", [0.01, 1.0, 9.0, 100.0, 900.0])
@pytest.mark.parametrize("count", [2, 10, 300])
def test_moments_are_those_of_draws(count, variance):
    a = drawn(count, variance)
    found = softmax_moments(count, variance)
    squares = (a**2).mean(axis=1)
    error = squares.std() / np.sqrt(len(a))
    assert found.second == pytest.approx(squares.mean(), abs=5 * error + 1e-3 / count)
    # Σⱼ (∂aⱼ/∂sᵢ)² over all i, a row at a time.
    sums = (a**2).sum(axis=1, keepdims=True)
    jacobian = (a**2 * (1 - 2 * a + sums)).mean(axis=1)
    error = jacobian.std() / np.sqrt(len(a))
    assert found.jacobian == pytest.approx(
        jacobian.mean(), abs=5 * error + 1e-3 / count**2
    )


def test_one_of_two_is_sure_in_the_end():
    assert softmax_moments(2, 1e6).second == pytest.approx(0.5, abs=2e-3)
    assert softmax_moments(2, 1e6).jacobian == pytest.approx(0.0, abs=2e-3)


def test_many_logits():
    # E[a²] is e^{σ²} / n² for many.
    assert softmax_moments(50_000, 1.0).second * 50_000**2 == pytest.approx(
        np.e, rel=0.01
    )


def test_what_units_share_is_lost():
    signal = Signal.independent((None, 10))
    shifted = signal.evolve(pairs=signal.pairs + 5.0)
    assert softmax(signal).pairs == pytest.approx(softmax(shifted).pairs)


def test_the_units_of_an_input_sum_to_one():
    made = softmax(Signal.independent((None, 10)))
    assert 10 * made.mean == pytest.approx(1.0)
    total = 10 * made.pairs[0, 0, 0] + 90 * made.pairs[1, 0, 0]
    assert total == pytest.approx(1.0)
    assert (
        made.edges.parents[0][1](Gradient(1.0)).second
        == softmax_moments(10, 1.0).jacobian
    )
