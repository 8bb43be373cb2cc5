"""Figures with gradients, whatever else is asked of `fit`, against NumPy."""

import signal
import time

import keras
import numpy as np
import pytest
from keras import layers

from keras_initlab.monitor import VarianceMonitor
from tests.helpers import finish, start_python

from .models import BACKEND, data, fit, frozen
from .test_statistics import BATCH, RATE, assert_figures, network, twin


def trained(x, y, data_of=None, **settings):
    """Return a monitor of a fit, and what NumPy makes of its steps."""
    model = network()
    model.compile(keras.optimizers.SGD(RATE, **settings), "mse")
    steps = list(twin(model, x, y))
    monitor = VarianceMonitor(1, gradients=True)
    if data_of is None:
        fit(model, x, y, [monitor])
    else:
        steps_per_epoch = -(-len(x) // BATCH)
        given = data_of(x, y)
        model.fit(
            given,
            steps_per_epoch=steps_per_epoch,
            shuffle=False,
            verbose=0,
            callbacks=[monitor],
        )
    return monitor, steps


def batches(x, y):
    while True:
        for start in range(0, len(x), BATCH):
            yield x[start : start + BATCH], y[start : start + BATCH]


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return -(-len(self.x) // BATCH)

    def __getitem__(self, index):
        part = slice(index * BATCH, (index + 1) * BATCH)
        return self.x[part], self.y[part]


def as_dataset(x, y):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)


@pytest.mark.parametrize("source", [batches, Batches, as_dataset])
def test_sources_of_data(source):
    if source is as_dataset and BACKEND != "tensorflow":
        pytest.skip("imports TensorFlow")
    x, y = data(64)
    assert_figures(*trained(x, y, source))


def test_moving_averages_of_weights():
    assert_figures(*trained(*data(64), use_ema=True, ema_momentum=0.5))


def test_a_change_of_trainable_between_two_fits():
    x, y = data(48)
    model = network()
    model.compile(keras.optimizers.SGD(RATE), "mse")
    monitor = VarianceMonitor(1, gradients=True)
    fit(model, x, y, [monitor])
    model.layers[1].trainable = False
    model.compile(keras.optimizers.SGD(RATE), "mse")
    first = next(twin(model, x, y))
    fit(model, x[:BATCH], y[:BATCH], [monitor])
    hidden, bent, out = monitor.stats
    assert bent.update_ratio is bent.weight_gradient_second_moment is None
    for stats in (hidden, out):
        assert stats.update_ratio == pytest.approx(first[stats.layer][3], rel=1e-4)
    model.layers[1].trainable = True
    model.compile(keras.optimizers.SGD(RATE), "mse")
    steps = list(twin(model, x, y))
    fit(model, x, y, [monitor])
    assert_figures(monitor, steps)


def test_single_batches_outside_fit_are_not_touched():
    x, y = data(32)
    model, other = network(), network()
    other.set_weights(model.get_weights())
    for one in (model, other):
        one.compile(keras.optimizers.SGD(RATE), "mse")
    monitor = VarianceMonitor(1, gradients=True)
    fit(model, x, y, [monitor])
    fit(other, x, y)
    told = list(monitor.records)
    for one in (model, other):
        one.train_on_batch(x[:BATCH], y[:BATCH])
    assert monitor.records == told
    for one, same in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(one, same, rtol=1e-5, atol=1e-7)


def recurrent(name):
    x = keras.Input((4, 6))
    inner = {
        "simple": lambda: layers.SimpleRNN(5, name="inner"),
        "lstm": lambda: layers.LSTM(5, name="inner"),
        "both": lambda: layers.Bidirectional(layers.GRU(3), name="inner"),
    }
    h = inner[name]()(x)
    return keras.Model(x, layers.Dense(2, name="out")(h))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["simple", "lstm", "both"])
def test_gradients_at_recurrent_layers_and_weights_of_samples(name, weighted):
    x, y = data(32, (4, 6))
    shares = np.linspace(0, 2, 32).astype("float32") if weighted else np.ones(32)
    model = frozen(recurrent(name))
    monitor = VarianceMonitor(1, gradients=True)
    fit(model, x, y, [monitor], sample_weight=shares if weighted else None)
    inner = keras.Model(model.input, model.get_layer("inner").output)
    kernel, bias = model.get_layer("out").get_weights()
    squares = []
    for start in (0, 16):
        part = slice(start, start + 16)
        h = keras.ops.convert_to_numpy(inner(x[part])).astype("float64")
        slope = 2 * (h @ kernel + bias - y[part]) / y[part].size
        slope *= shares[part, None]
        squares.append(np.mean((slope @ kernel.T) ** 2))
    found = {stats.layer: stats for stats in monitor.stats}
    value = found["inner"].gradient_second_moment
    np.testing.assert_allclose(value, np.mean(squares), rtol=1e-4)
    # Of a Bidirectional layer, each of the two inside it has a kernel.
    own = [one for key, one in found.items() if key.startswith("inner") and one.weight]
    assert len(own) == (2 if name == "both" else 1)
    assert all(one.weight_gradient_second_moment > 0 for one in own)


BARE = """
import sys, time, keras, numpy as np

def built():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, name="out")])
    model.compile(keras.optimizers.SGD(0.05), "mse")
    return model
"""
# The backup is of Keras alone: without the package it is read.
READ = """
sys.modules["keras_initlab"] = None
built().load_weights(sys.argv[3])
del sys.modules["keras_initlab"]
"""
TRAINED = """
from keras_initlab.monitor import VarianceMonitor

class Slow(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 2 and sys.argv[2] == "die":
            print("ready", flush=True)
            time.sleep(120)

x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
model = built()
monitor = VarianceMonitor(1, gradients=True)
backup = keras.callbacks.BackupAndRestore(sys.argv[1])
model.fit(x, x[:, :2], epochs=5, verbose=0, callbacks=[monitor, backup, Slow()])
print(monitor.epochs)
"""


@pytest.mark.slow
def test_a_killed_training_is_taken_up_again(tmp_path):
    process = start_python(BARE + TRAINED, str(tmp_path), "die")
    assert process.stdout.readline().strip() == "ready"
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    [kept] = [path for path in tmp_path.rglob("*") if path.suffix == ".h5"]
    again = start_python(BARE + READ + TRAINED, str(tmp_path), "live", str(kept))
    assert finish(again, timeout=120).strip().splitlines()[-1] in (
        "[3, 4]",
        "[2, 3, 4]",
    )
