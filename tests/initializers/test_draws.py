import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_initlab.initializers import draws
from tests.helpers import as_numpy, assert_std


def drawn(shape, distribution, seed=0, place=(), dtype="float32"):
    generator = draws.generator(seed, place)
    return as_numpy(draws.draw(shape, 4.0, distribution, generator, dtype))


@pytest.mark.parametrize("distribution", draws.DISTRIBUTIONS)
@pytest.mark.parametrize("size", [1000, 2**18, 2**18 + 1, 3 * 2**18])
def test_small_and_large_draws_have_the_variance(distribution, size):
    values = drawn((size,), distribution)
    assert_std(values, 2.0)
    assert abs(values.mean()) < 5 * 2 / np.sqrt(size)


@pytest.mark.parametrize("distribution", draws.DISTRIBUTIONS)
def test_pieces_drawn_by_threads_repeat_and_differ(distribution, monkeypatch):
    size = 3 * 2**18
    first = drawn((size,), distribution)
    monkeypatch.setattr(draws.os, "cpu_count", lambda: 7)
    np.testing.assert_array_equal(first, drawn((size,), distribution))
    pieces = first.reshape(3, -1)
    assert not np.array_equal(pieces[0], pieces[1])
    assert abs(np.corrcoef(pieces)[0, 1]) < 5 / np.sqrt(2**18)


@settings(max_examples=50, deadline=None)
@given(st.integers(-(2**70), 2**70), st.tuples(st.text(), st.integers()))
def test_any_seed_and_place_make_a_stream_of_their_own(seed, place):
    here = drawn((4,), "normal", seed, place)
    np.testing.assert_array_equal(here, drawn((4,), "normal", seed, place))
    assert not np.array_equal(here, drawn((4,), "normal", seed, (*place, "else")))
    assert not np.array_equal(here, drawn((4,), "normal", seed + 1, place))


def test_a_known_draw_stays_as_it_is():
    """Weights of a seed are part of the interface: a change here breaks them."""
    values = drawn((3,), "normal", 7, ("a", 1))
    known = [0.47500842809677124, -3.347745418548584, 1.9497216939926147]
    np.testing.assert_allclose(values, known, rtol=1e-6)
