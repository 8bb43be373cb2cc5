"""After `fit`, however it ended, the model is as if the monitor had never been."""

import json
import zipfile

import keras
import numpy as np
import pytest

from keras_initlab.monitor import VarianceMonitor

from ..helpers import run_python
from .models import BACKEND, busy, data, fit, mlp

# What Keras itself puts on a model that is trained.
KERAS_OWN = {"history", "stop_evaluating", "_jax_state", "_eval_epoch_iterator"}


def compiled(make=mlp, **settings):
    model = make()
    settings.setdefault("jit_compile", False if BACKEND == "torch" else "auto")
    model.compile("adam", "mse", metrics=["mae"], **settings)
    return model


class Snapshot:
    """What can be seen of a model from outside."""

    def __init__(self, model):
        self.model = model
        # One step, so that whatever Keras adds by itself is there.
        x, y = data(16)
        fit(model, x, y, validation_data=(x, y))
        self.functions = self._functions()
        self.state = self._state()

    def _functions(self):
        return [self.model.train_function, self.model.test_function]

    def _state(self):
        model = self.model
        return {
            "attributes": [
                set(layer.__dict__) - KERAS_OWN for layer in model._flatten_layers()
            ],
            "metrics": [id(metric) for metric in model.metrics],
            "metric names": list(model.metrics_names),
            "weights": [id(v) for v in model.weights],
            "variables": [id(v) for v in model.variables],
            "metrics variables": [id(v) for v in model.metrics_variables],
            "config": model.to_json(),
        }

    def check(self):
        assert self._state() == self.state
        before, now = self.functions, self._functions()
        assert [a is b for a, b in zip(before, now, strict=True)] == [True, True]
        assert "train_step" not in self.model.__dict__
        assert "evaluate" not in self.model.__dict__
        self.model.evaluate(*data(16), verbose=0)
        fit(self.model, *data(16))
        assert all(np.isfinite(w).all() for w in self.model.get_weights())


class Raise(keras.callbacks.Callback):
    """Raises in one of its hooks."""

    def __init__(self, hook, error):
        super().__init__()

        def hooked(*args, **kwargs):
            raise error

        setattr(self, hook, hooked)


def test_after_an_ordinary_fit():
    model = compiled()
    snapshot = Snapshot(model)
    x, y = data(48)
    fit(model, x, y, [VarianceMonitor(2)], epochs=2, validation_data=(x, y))
    snapshot.check()


# Before, within and after the steps on every backend; the others on one.
HOOKS = [
    ("on_train_begin", KeyboardInterrupt, True),
    ("on_train_batch_end", KeyboardInterrupt, True),
    ("on_test_batch_end", KeyboardInterrupt, True),
    ("on_epoch_end", ValueError, False),
    ("on_train_end", ValueError, True),
    *(
        pytest.param(*one, marks=pytest.mark.torch)
        for one in (
            ("on_epoch_begin", KeyboardInterrupt, True),
            ("on_epoch_begin", KeyboardInterrupt, False),
            ("on_train_batch_begin", KeyboardInterrupt, True),
            ("on_train_batch_end", ValueError, True),
            ("on_epoch_end", KeyboardInterrupt, True),
            ("on_train_end", ValueError, False),
        )
    ),
]


@pytest.mark.parametrize(("hook", "error", "first"), HOOKS)
def test_after_another_callback_raises(hook, error, first):
    model = compiled(run_eagerly=BACKEND == "tensorflow")
    snapshot = Snapshot(model)
    x, y = data(32)
    callbacks = [VarianceMonitor(1), Raise(hook, error("stop"))]
    # The exception, and with it every frame of fit, is still held afterwards.
    with pytest.raises(error, match="stop") as held:
        fit(
            model,
            x,
            y,
            callbacks if first else callbacks[::-1],
            epochs=2,
            validation_data=(x, y),
        )
    snapshot.check()
    assert held.value.args == ("stop",)


@pytest.mark.parametrize("at", [0, 2])
def test_after_the_data_raise(at):
    def batches():
        x, y = data(16)
        for i in range(4):
            if i == at:
                raise RuntimeError("no more data")
            yield x, y

    model = compiled()
    snapshot = Snapshot(model)
    if at == 0:
        # Keras looks at the first batch before any callback is called.
        with pytest.raises(RuntimeError, match="no more data"):
            model.fit(batches(), verbose=0, callbacks=[VarianceMonitor(1)])
    else:
        with pytest.raises(Exception, match="no more data") as held:
            model.fit(batches(), verbose=0, callbacks=[VarianceMonitor(1)])
        assert held.value is not None
    snapshot.check()


def test_after_the_validation_raises():
    def batches():
        yield data(16)
        raise RuntimeError("no more data")

    model = compiled()
    snapshot = Snapshot(model)
    with pytest.raises(Exception, match="no more data") as held:
        fit(model, *data(32), [VarianceMonitor(1)], validation_data=batches())
    # Keras draws the first batches in `fit` itself, where nobody can watch: nothing may
    # be on the model then.
    snapshot.check()
    assert held.value is not None


def test_after_the_step_itself_raises():
    class Failing(keras.layers.Layer):
        on = False

        def call(self, x):
            if self.on:
                raise RuntimeError("bad layer")
            return x

    model = keras.Sequential([keras.Input((6,)), Failing(), keras.layers.Dense(2)])
    model.compile("sgd", "mse", run_eagerly=True)
    snapshot = Snapshot(model)
    Failing.on = True
    with pytest.raises(RuntimeError, match="bad layer"):
        fit(model, *data(32), [VarianceMonitor(1)])
    Failing.on = False
    if BACKEND == "jax":
        # Keras has given its variables' values to the failed step.
        assert not any("call" in layer.__dict__ for layer in model.layers)
        assert [id(metric) for metric in model.metrics] == snapshot.state["metrics"]
    else:
        snapshot.check()


def test_data_that_end_early_are_no_failure():
    def batches():
        for _ in range(3):
            yield data(16)

    monitor = VarianceMonitor(1)
    compiled().fit(batches(), verbose=0, callbacks=[monitor], epochs=1)
    assert monitor.stats


def test_a_fit_that_was_left_unseen_is_cleaned_up_by_the_next():
    from keras_initlab import taps

    model = compiled()
    snapshot = Snapshot(model)
    own = model.train_function
    left = taps.attach(model, taps.Request(), taps.Schedule(1))
    left.begin_epoch()
    assert model.train_function is not own
    monitor = VarianceMonitor(1)
    fit(model, *data(32), [monitor])
    assert monitor.stats
    left.detach()
    snapshot.check()


@pytest.mark.parametrize("setting", ["default", "eager"])
def test_training_is_the_same_to_the_bit(setting):
    def train(callbacks):
        keras.utils.set_random_seed(1)
        eager = setting == "eager"
        model = compiled(busy, run_eagerly=eager)
        x, y = data(70)
        # With shuffling: the monitor must not draw from the data's generator either.
        model.fit(
            x,
            y,
            batch_size=16,
            epochs=3,
            verbose=0,
            callbacks=callbacks,
            validation_data=(x, y),
        )
        return model.get_weights()

    for one, other in zip(train([]), train([VarianceMonitor(2)]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_metrics_of_layers_keep_their_values():
    class Counts(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.seen = keras.metrics.Sum(name="seen")

        def call(self, x):
            return x

    model = keras.Sequential([keras.Input((6,)), Counts(), keras.layers.Dense(2)])
    model.compile("sgd", "mse", metrics=["mae"])
    with pytest.raises(ValueError, match="stop"):
        fit(
            model,
            *data(32),
            [VarianceMonitor(1), Raise("on_train_batch_end", ValueError("stop"))],
        )
    shapes = [tuple(v.shape) for v in model.metrics_variables]
    assert [np.shape(keras.ops.convert_to_numpy(v)) for v in model.metrics_variables]
    assert all(shape == () for shape in shapes)


class Probe(keras.callbacks.Callback):
    """Uses the model while it is monitored."""

    def __init__(self, path, x, y):
        super().__init__()
        self.path, self.x, self.y = path, x, y

    def on_epoch_end(self, epoch, logs=None):
        self.evaluated = self.model.evaluate(self.x, self.y, verbose=0)
        self.predicted = self.model.predict(self.x, verbose=0)
        self.model.save(self.path)


def read(path):
    with zipfile.ZipFile(path) as archive:
        names = sorted(archive.namelist())
        return names, without_ids(json.loads(archive.read("config.json")))


def without_ids(config):
    """Return a config without addresses in memory, which differ by chance."""
    if isinstance(config, dict):
        return {
            key: without_ids(value)
            for key, value in config.items()
            if key != "shared_object_id"
        }
    if isinstance(config, list):
        return [without_ids(value) for value in config]
    return config


def test_nothing_is_on_layers_or_optimizer_between_steps():
    class Look(keras.callbacks.Callback):
        seen = ()

        def on_train_batch_end(self, batch, logs=None):
            owners = [self.params["model"], *self.params["model"].layers]
            owners.append(owners[0].optimizer)
            names = {"call", "train_step", "compute_loss_and_updates", "apply"}
            self.seen += tuple(names & set(one.__dict__) for one in owners)

    model, look = compiled(), Look()
    monitor = VarianceMonitor(2, gradients=True)
    # Not by `self.model`, which on JAX would let the weights land at each step.
    look.set_params = lambda params: setattr(look, "params", {"model": model})
    fit(model, *data(64), [monitor, look])
    assert len(look.seen) > 8
    assert not any(look.seen)


def test_the_model_can_be_used_and_saved_within_fit(tmp_path):
    def train(name, callbacks):
        keras.utils.set_random_seed(1)
        keras.backend.clear_session()
        model = compiled()
        x, y = data(32)
        probe = Probe(tmp_path / name, x, y)
        fit(model, x, y, [*callbacks, probe], epochs=2)
        return probe

    monitor = VarianceMonitor(1)
    alone = train("alone.keras", [])
    beside = train("beside.keras", [monitor])
    assert read(alone.path) == read(beside.path)
    np.testing.assert_array_equal(alone.predicted, beside.predicted)
    assert alone.evaluated == beside.evaluated
    assert len(monitor.epochs) == 2
    assert {record["layer"] for record in monitor.records} == {"hidden", "norm", "out"}


def test_a_checkpoint_of_fit_loads_without_the_package(tmp_path):
    path, weights = tmp_path / "m.keras", tmp_path / "m.weights.h5"
    model = compiled()
    x, y = data(32)
    fit(
        model,
        x,
        y,
        [
            VarianceMonitor(1),
            keras.callbacks.ModelCheckpoint(path),
            keras.callbacks.ModelCheckpoint(weights, save_weights_only=True),
        ],
        epochs=2,
    )
    run_python(
        f"""
import sys
sys.modules["keras_initlab"] = None  # an import of it would fail
import keras, numpy as np
model = keras.models.load_model({str(path)!r})
model.load_weights({str(weights)!r})
model.fit(np.zeros((4, 6)), np.zeros((4, 2)), verbose=0)
"""
    )
