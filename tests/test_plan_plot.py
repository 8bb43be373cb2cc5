"""`Plan.plot`: the signal before and after a rewrite, predicted and measured."""

import io

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from keras_initlab.plan import Plan

pytestmark = pytest.mark.torch

DEPTH = 12


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(128, 32)).astype("float32")


@pytest.fixture
def model():
    return keras.Sequential(
        [
            keras.Input((32,)),
            *[layers.Dense(32, "relu", name=f"d{i}") for i in range(DEPTH)],
            layers.Dense(4, name="head"),
        ]
    )


def lines(figure):
    """Return the courses drawn, by label, as log10 of the variance."""
    figure.savefig(io.BytesIO())
    (axes,) = figure.axes
    return {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}


def weights(model):
    return [np.array(keras.ops.convert_to_numpy(one)) for one in model.weights]


def test_predictions_before_and_after_are_two_lines(model):
    fading = [one.variance for one in il.propagate(model)]
    plan = il.rewrite_initializers(model, "isometric", seed=0)
    steady = [one.variance for one in il.propagate(model)]
    drawn = lines(plan.plot())
    np.testing.assert_allclose(drawn["before, predicted"], np.log10(fading), rtol=1e-5)
    np.testing.assert_allclose(drawn["after, predicted"], np.log10(steady), rtol=1e-5)
    assert drawn["before, predicted"][DEPTH - 1] < -3
    assert drawn["after, predicted"][:DEPTH].std() < 0.05


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_is_measured_agrees_and_the_weights_stay(model, x, dry_run):
    plan = il.rewrite_initializers(model, "isometric", seed=0, dry_run=dry_run)
    kept, held = weights(model), [one.initializer for one in plan_kernels(model)]
    drawn = lines(plan.plot(x))
    for old, new in zip(kept, weights(model), strict=True):
        np.testing.assert_array_equal(old, new)
    assert held == [one.initializer for one in plan_kernels(model)]
    for side in ("before", "after"):
        predicted, measured = drawn[f"{side}, predicted"], drawn[f"{side}, measured"]
        # One draw of 32 units: within half a decade over twelve layers.
        np.testing.assert_allclose(measured, predicted, atol=0.5)


def test_the_measured_draw_after_is_the_models_own_given_a_seed(model, x):
    plan = il.rewrite_initializers(model, "activation", seed=0)
    expected = [one.variance for one in il.measure(model, x)]
    drawn = lines(plan.plot(x))
    np.testing.assert_allclose(drawn["after, measured"], np.log10(expected), rtol=1e-4)


def test_the_weights_are_back_where_measuring_fails(model):
    plan = il.rewrite_initializers(model, seed=0)
    kept = weights(model)
    with pytest.raises(ValueError, match="Received"):
        plan.plot(np.zeros((0, 32), "float32"))
    for old, new in zip(kept, weights(model), strict=True):
        np.testing.assert_array_equal(old, new)


def test_on_a_figure_of_ones_own(model):
    from matplotlib.figure import Figure

    figure = Figure()
    assert il.rewrite_initializers(model).plot(figure=figure) is figure


def test_a_plan_of_ones_own_has_no_signals():
    with pytest.raises(ValueError, match=r"Received: a plan for 'net' without one"):
        Plan([], model="net", applied=False).plot()


def plan_kernels(model):
    from keras_initlab.model.kernels import kernels_of

    return kernels_of(model)
