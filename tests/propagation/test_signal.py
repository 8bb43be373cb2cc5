"""Signals: how they are seen, and how gradients find their way back."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_initlab.propagation.algebra.elementwise import affine, apply
from keras_initlab.propagation.algebra.gradients import gradients
from keras_initlab.propagation.algebra.sampling import samples, signal_of
from keras_initlab.propagation.algebra.sums import add, concatenate, multiply
from keras_initlab.propagation.signal import Gradient, Signal, relabelled
from tests.propagation.simulation import pair_moments


@given(st.integers(0, 1000), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_other_units_are_the_same_pairs_counted_anew(seed, a, b, c):
    values = np.random.default_rng(seed).normal(0.5, 1, (3, a, b, c))
    for before, after in itertools.permutations([(3,), (1,), (1, 3), (1, 2, 3)], 2):
        # What a signal knows is the mean over a kind's pairs: make it all there is.
        pairs = np.nan_to_num(pair_moments(values, before))
        signal = Signal((None, a, b, c), before, values.mean(), pairs)
        known = relabelled(signal, after)
        kinds = {}
        for differ in itertools.product((0, 1), repeat=3):
            apart = [axis for axis, d in zip((1, 2, 3), differ, strict=True) if d]
            number = np.prod([(a, b, c)[axis - 1] - 1 for axis in apart])
            old = tuple(
                int(any((axis in before) == flag for axis in apart))
                for flag in (True, False)
            )
            new = tuple(
                int(any((axis in after) == flag for axis in apart))
                for flag in (True, False)
            )
            if number:
                kinds.setdefault(new, []).append((number, pairs[old]))
        for new, rows in kinds.items():
            total = sum(number * row for number, row in rows)
            count = sum(number for number, _ in rows)
            assert known[new] == pytest.approx(total / count)


def test_figures():
    signal = Signal.independent((None, 3, 4), 2.0, 5.0)
    signal.pairs[0, 0, 1] += 1.0
    assert (signal.mean, signal.second, signal.variance) == (2.0, 9.0, 5.0)
    assert signal.batch_variance == 4.0
    assert signal.cosine == pytest.approx(5 / 9)
    assert (signal.units, signal.positions, signal.axes) == ((2,), (1,), (1, 2))
    assert Signal.independent((None, 3), 0.0, 0.0).cosine is None


def test_a_gradient_comes_once_for_each_way():
    x = Signal.independent((None, 8))
    y = add([affine(x, 2.0), apply(x, "relu")])
    z = Signal.independent((None, 8))
    both = add([multiply(x, z), z])
    found = gradients([y, both], Gradient(1.0))
    # y is 2x + relu(x): 3 for half of all, 2 for the others. And x z is z's share.
    assert found[x.serial].second == pytest.approx((9 + 4) / 2 + 1.0)
    assert found[z.serial].second == pytest.approx(1.0 + 1.0)


def test_a_signal_that_is_added_twice_has_twice_the_gradient():
    x = Signal.independent((None, 8))
    found = gradients([add([x, x])], Gradient(1.0))
    assert found[x.serial].second == pytest.approx(4.0)


def test_a_joined_signal_has_what_its_parts_have():
    x, y = Signal.independent((None, 6)), Signal.independent((None, 2), 0.0, 9.0)
    joined = concatenate([x, y], 1)
    bent = apply(joined, "tanh")
    found = gradients([apply(bent, "relu")], Gradient(1.0))
    z = np.random.default_rng(0).standard_normal(1_000_000)
    slopes = [(((1 - np.tanh(s * z) ** 2) * (z > 0)) ** 2).mean() for s in (1.0, 3.0)]
    assert found[x.serial].second == pytest.approx(slopes[0], rel=0.01)
    assert found[y.serial].second == pytest.approx(slopes[1], rel=0.01)
    expected = (6 * slopes[0] + 2 * slopes[1]) / 8
    assert found[joined.serial].second == pytest.approx(expected, rel=0.01)
    assert found[bent.serial].second == pytest.approx(0.5)


def test_joined_more_than_once():
    x, y, z = (Signal.independent((None, 4)) for _ in range(3))
    inner = concatenate([x, y], 1)
    whole = apply(concatenate([inner, z], 1), "relu")
    found = gradients([whole], Gradient(1.0))
    for one in (x, y, z, inner):
        assert found[one.serial].second == pytest.approx(0.5)


finite = st.floats(-2, 2)


@given(st.lists(st.tuples(finite, st.floats(0, 4)), min_size=2, max_size=4))
def test_the_order_of_addends_is_nothing(laws):
    signals = [Signal.independent((None, 3, 5), m, v) for m, v in laws]
    one, two = add(signals), add(signals[::-1])
    assert one.pairs == pytest.approx(two.pairs)
    assert one.mean == pytest.approx(two.mean)


@given(finite, st.floats(0, 4), st.sampled_from(["relu", "tanh", "gelu"]))
def test_a_signal_less_itself_is_nothing(mean, variance, name):
    x = Signal.independent((None, 3, 5), mean, variance)
    y = apply(x, name)
    for nothing in (
        add([y, y], [1.0, -1.0]),
        add([add([x, y]), x, y], [1.0, -1.0, -1.0]),
        add([add([y, y]), affine(y, 2.0)], [1.0, -1.0]),
    ):
        assert nothing.second == pytest.approx(0.0, abs=1e-9)
        assert nothing.mean == pytest.approx(0.0, abs=1e-9)


LAWS = {
    "independent": {},
    "inputs alike": {(0, 0, 1): 0.5},
    "positions alike": {(0, 1, 0): 0.5},
    "all of it": {(0, 0, 1): 0.7, (0, 1, 0): 0.5, (1, 0, 0): 0.3, (0, 1, 1): 0.4},
}


def drawn_of(signals, seed):
    shapes = [one.shape for one in signals]
    generator = np.random.default_rng(seed)
    return samples(signals, generator, shapes, lambda *_: None)


@pytest.mark.parametrize("name", LAWS)
def test_a_sample_has_the_signal_it_was_drawn_from(name):
    signal = Signal.independent((None, 24, 24), 0.5)
    for kind, more in LAWS[name].items():
        signal.pairs[kind] += more
    rows = []
    for seed in range(40):
        drawn = drawn_of([signal], seed)[signal.serial]
        made = signal_of(drawn, signal.shape, signal)
        assert made.origin.measured
        assert made.units == signal.units
        rows.append([made.mean, *made.pairs.ravel()])
    rows = np.array(rows)
    error = rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
    expected = np.array([signal.mean, *signal.pairs.ravel()])
    assert (np.abs(rows.mean(axis=0) - expected) < 5 * error + 1e-3).all()


def test_what_two_signals_share_is_drawn_once():
    x = Signal.independent((None, 16))
    y = apply(x, "relu")
    drawn = drawn_of([x, y], 0)
    assert drawn[y.serial] == pytest.approx(np.maximum(drawn[x.serial], 0), abs=1e-6)


@given(st.integers(0, 1000))
def test_moments_of_a_sample_are_those_of_its_pairs(seed):
    values = np.random.default_rng(seed).normal(0.3, 1, (3, 2, 4)).astype("float32")
    made = signal_of(values, (None, 2, 4), Signal.independent((None, 2, 4)))
    assert made.pairs == pytest.approx(pair_moments(values, (2,)))
