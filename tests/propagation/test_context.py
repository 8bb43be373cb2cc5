"""What a rule asks its context: scopes around inner calls."""

import keras
import pytest
from keras import layers

from keras_initlab.propagation.signal import Signal
from keras_initlab.propagation.walk import Propagation
from keras_initlab.propagation.weights import WeightMoments

FIXED = WeightMoments(0.0, 1.0)


@pytest.fixture
def model():
    kernel = {"kernel_initializer": "he_normal", "use_bias": False}
    return keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, name="first", **kernel)]
    )


@pytest.fixture
def dense(model):
    return model.layers[0]


def x():
    return Signal.independent((None, 8))


def test_calls_in_a_scope_that_does_not_record_are_no_records(model, dense):
    context = Propagation(model)
    with context.scope(record=False):
        with context.scope():
            context.call(dense, x())
        context.note(dense, x())
    assert context.records == []
    context.call(dense, x())
    assert [record.path for record in context.records] == ["first"]


def test_fixed_moments_count_inside_their_scope_alone(model, dense):
    context = Propagation(model)
    with context.scope(fixed={(dense, "kernel"): FIXED}):
        assert context.weight(dense, "kernel") == FIXED
        assert context.call(dense, x()).second == pytest.approx(8.0)
    assert context.call(dense, x()).second == pytest.approx(2.0)


def test_fixed_moments_are_not_chosen_by_a_designer(model, dense):
    def halve(layer, weight, response, current):
        return WeightMoments(0.0, 0.5)

    context = Propagation(model, designer=halve)
    with context.scope(fixed={(dense, "kernel"): FIXED}):
        assert context.call(dense, x()).second == pytest.approx(8.0)
    assert context.call(dense, x()).second == pytest.approx(4.0)


def test_repeated_calls_neither_choose_kernels_nor_count_among_their_outputs(
    model, dense
):
    asked = []

    def choose(layer, weight, response, current):
        asked.append(response)
        return current

    context = Propagation(model, designer=choose)
    with context.scope(design=False):
        context.call(dense, x())
    assert asked == []
    assert context.kernel_outputs == {}
    context.call(dense, x())
    assert len(asked) == len(context.kernel_outputs) == 1


def test_a_scope_that_an_error_leaves_is_closed(model, dense):
    context = Propagation(model)
    with (
        pytest.raises(ZeroDivisionError),
        context.scope(record=False, fixed={(dense, "kernel"): FIXED}),
    ):
        raise ZeroDivisionError
    context.call(dense, x())
    assert len(context.records) == 1
    assert context.weight(dense, "kernel") != FIXED
