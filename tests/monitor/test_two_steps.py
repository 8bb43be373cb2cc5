"""A step that is not measured is Keras's own; the measured one is compiled once."""

import datetime
import pickle

import keras
import numpy as np
import pytest
from keras import layers

from keras_initlab.monitor import VarianceMonitor
from keras_initlab.taps import tap

from .models import BACKEND, data, fit, frozen, mlp


class Counting(layers.Layer):
    """Counts how often the Python of its call is run, but for shapes alone."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def call(self, x):
        if not keras.src.backend.common.symbolic_scope.in_symbolic_scope():
            self.calls += 1
        return x


def counted(**settings):
    counting = Counting()
    model = keras.Sequential([keras.Input((6,)), counting, layers.Dense(2, name="out")])
    return frozen(model, **settings), counting


def spied(model):
    """Return the calls of what stands for Keras's own training function."""
    model.make_train_function()
    own, calls = model.train_function, []

    def spy(*args):
        calls.append(args)
        return own(*args)

    model.__dict__["train_function"] = spy
    return spy, calls


@pytest.mark.parametrize(("every", "measured"), [(1, 8), (3, 4), (10**9, 2)])
def test_what_is_not_measured_is_the_very_function_that_keras_made(every, measured):
    model = frozen(mlp())
    spy, calls = spied(model)
    fit(model, *data(64), [VarianceMonitor(every)], epochs=2)
    assert len(calls) == 8 - measured
    assert model.train_function is spy


@pytest.mark.parametrize(("every", "traces"), [(1, 1), (10**9, 2)])
def test_each_step_is_traced_once(every, traces):
    if BACKEND == "torch":
        pytest.skip("PyTorch runs the Python of each step")
    model, counting = counted()
    fit(model, *data(64), [VarianceMonitor(every)], epochs=3)
    assert counting.calls == traces


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"window": 2, "log": "layers", "on_finding": "ignore"},
        {"every": 2},
        {"layers": None, "statistics": None},
    ],
)
def test_a_later_fit_compiles_nothing(settings):
    if BACKEND == "torch":
        pytest.skip("PyTorch runs the Python of each step")
    model, counting = counted()
    fit(model, *data(64), [VarianceMonitor(3)])
    before = counting.calls
    monitor = VarianceMonitor(**{"every": 3, **settings})
    fit(model, *data(64), [monitor])
    assert counting.calls == before
    assert monitor.stats


def test_what_is_asked_anew_is_compiled_anew():
    model, counting = counted()
    fit(model, *data(64), [VarianceMonitor(1, layers=["out"])])
    before = counting.calls
    again = VarianceMonitor(1, layers=["out"])
    fit(model, *data(64), [again])
    assert BACKEND == "torch" or counting.calls == before
    whole = VarianceMonitor(1, gradients=True)
    fit(model, *data(64), [whole])
    assert [stats.layer for stats in again.stats] == ["out"]
    assert len(whole.stats) == 2
    assert whole.stats[1].gradient_second_moment > 0
    # Compiling the model lets go of what was compiled for it.
    frozen(model)
    before = counting.calls
    fit(model, *data(64), [whole])
    assert counting.calls > before


def test_figures_of_two_fits_do_not_mix():
    model = frozen(mlp())
    x, y = data(64)
    first, second = VarianceMonitor(1), VarianceMonitor(2)
    fit(model, x, y, [first])
    fit(model, 3 * x[:32], y[:32], [second])
    kernel, bias = model.layers[0].get_weights()
    outputs = np.maximum(3 * x[:16] @ kernel + bias, 0)
    np.testing.assert_allclose(second.history["hidden"], [outputs.var()], rtol=1e-4)


def test_a_span_of_time(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(tap.time, "monotonic", lambda: clock[0])

    class Tick(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            clock[0] += 0.3

    model = frozen(mlp())
    _, calls = spied(model)
    monitor = VarianceMonitor(datetime.timedelta(seconds=1), window=1)
    fit(model, *data(16 * 10), [monitor, Tick()], epochs=2)
    # The first step, and the first one after each second: 1.2, 2.4, ...
    assert monitor.steps == [0, 4, 8, 2, 6]
    assert monitor.epochs == [0, 0, 0, 1, 1]
    assert len(calls) == 20 - 5


def test_epochs_within_a_span_of_time_have_no_entry():
    monitor = VarianceMonitor(datetime.timedelta(hours=1))
    fit(frozen(mlp()), *data(32), [monitor], epochs=3)
    assert monitor.epochs == [0]
    assert [len(values) for values in monitor.history.values()] == [1, 1, 1]
    assert monitor.stats


@pytest.mark.torch
@pytest.mark.parametrize("seconds", [0, -1])
def test_bad_spans_are_refused(seconds):
    with pytest.raises(ValueError, match="positive span of time"):
        VarianceMonitor(datetime.timedelta(seconds=seconds))


def test_steps_that_a_callback_makes_are_not_counted():
    x, y = data(64)
    model = frozen(mlp())

    class Extra(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if BACKEND != "jax":
                model.train_on_batch(100 * x[:16], y[:16])

    alone, beside = VarianceMonitor(1), VarianceMonitor(1)
    fit(model, x, y, [alone])
    fit(model, x, y, [beside, Extra()])
    assert alone.history == beside.history


def test_a_fit_within_a_fit():
    x, y = data(64)
    model = frozen(mlp())
    outer, inner = VarianceMonitor(1), VarianceMonitor(1)

    class Nested(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                fit(model, 100 * x[:32], y[:32], [inner])

    fit(model, x, y, [outer, Nested()], epochs=2)
    assert outer.epochs == [0, 1]
    assert inner.epochs == [0]
    assert inner.history["hidden"][0] > 100 * outer.history["hidden"][0]
    np.testing.assert_allclose(*outer.history["hidden"], rtol=1e-5)


def test_one_monitor_in_a_fit_within_its_fit_is_refused():
    # It would forget the outer fit, and leave it, without a word.
    x, y = data(64)
    model, other = frozen(mlp()), frozen(mlp())
    monitor = VarianceMonitor(1)

    class Nested(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            for watched in (model, other):
                with pytest.raises(ValueError, match="a monitor of its own"):
                    fit(watched, x[:32], y[:32], [monitor])

    fit(model, x, y, [monitor, Nested()], epochs=2)
    assert monitor.epochs == [0, 1]
    fit(other, x, y, [monitor])
    assert monitor.epochs == [0]


@pytest.mark.torch
def test_one_monitor_twice_is_refused():
    monitor, model = VarianceMonitor(1), frozen(mlp())
    with pytest.raises(ValueError, match="the same one twice"):
        fit(model, *data(32), [monitor, monitor])
    fit(model, *data(32), [monitor])
    assert monitor.epochs == [0]


@pytest.mark.torch
@pytest.mark.parametrize("chosen", [None, "hidden", ["hidden", layers.Dense]])
def test_monitors_are_pickled(chosen):
    monitor = VarianceMonitor(2, layers=chosen, gradients=True)
    fit(frozen(mlp()), *data(32), [monitor])
    again = pickle.loads(pickle.dumps(monitor))
    assert again.history == monitor.history
    fit(frozen(mlp()), *data(32), [again])
    assert set(again.history) == set(monitor.history)
