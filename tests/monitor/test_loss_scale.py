"""Steps that a LossScaleOptimizer leaves out do not count in gradients' figures."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_initlab.monitor import VarianceMonitor

from .models import BACKEND

FIGURES = ["gradient_second_moment", "weight_gradient_second_moment", "update_ratio"]
# Times a gradient of about 1: beyond float16's 65,504, and well within.
TOO_LARGE, FITTING = 2.0**20, 2.0**8


def run(initial_scale, steps, growth=2000, **settings):
    """Return a monitor of `steps` steps on one batch, and the steps left out."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_float16")
    model = keras.Sequential([keras.Input((8,)), layers.Dense(16, "tanh", name="a")])
    model.add(layers.Dense(4, name="b"))
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(1e-3), initial_scale, dynamic_growth_steps=growth
    )
    # Keras would wrap it once more.
    model.compile(
        optimizer,
        "mse",
        auto_scale_loss=False,
        jit_compile=False if BACKEND == "torch" else "auto",
    )
    x = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
    x, y = np.tile(x, (steps, 1)), 4 * np.ones((16 * steps, 4), "float32")
    monitor = VarianceMonitor(1, gradients=True, **settings)
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0, callbacks=[monitor])
    made = int(keras.ops.convert_to_numpy(optimizer.iterations))
    return monitor, steps - made


def by_step(monitor, name):
    return [row.get(name) for row in monitor.records if row["layer"] == "a"]


def test_steps_that_were_left_out_have_no_gradients():
    monitor, left_out = run(TOO_LARGE, 12, window=1)
    assert 2 <= left_out <= 9
    fitting, none = run(FITTING, 1, window=1)
    assert none == 0
    for name in FIGURES:
        figures = by_step(monitor, name)
        assert figures[:left_out] == [None] * left_out
        assert np.isfinite(figures[left_out:]).all()
        # The weights are as they were: the first step that counts is one's first.
        assert figures[left_out] == pytest.approx(by_step(fitting, name)[0], rel=2e-2)
    # What is measured forward is there all the same.
    assert np.isfinite(by_step(monitor, "variance")).all()


def test_epoch_counts_the_steps_that_were_made():
    monitor, left_out = run(TOO_LARGE, 12)
    assert left_out >= 2
    fitting, _ = run(FITTING, 12 - left_out)
    for one, other in zip(monitor.stats, fitting.stats, strict=True):
        for name in FIGURES:
            expected = getattr(other, name)
            assert getattr(one, name) == pytest.approx(expected, rel=2e-2)


def test_epoch_of_steps_left_out_has_no_gradients():
    monitor, left_out = run(2.0**60, 3, histograms=True)
    assert left_out == 3
    for stats in monitor.stats:
        assert [getattr(stats, name) for name in FIGURES] == [None] * 3
        assert np.isfinite(stats.variance)
    assert monitor.gradient_samples == {}


@pytest.mark.parametrize("steps", [11, 12])
def test_samples_are_those_of_the_last_step_that_was_made(steps):
    # The scale doubles after each step that is made, until one is left out again.
    monitor, left_out = run(TOO_LARGE, steps, growth=1, histograms=True)
    assert left_out >= 3
    assert set(monitor.gradient_samples) == {"a", "b"}
    for sample in monitor.gradient_samples.values():
        assert np.isfinite(sample).all()
        assert sample.any()
