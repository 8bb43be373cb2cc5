"""Whatever `fit` takes, and wherever the model lies."""

import json

import keras
import numpy as np
import pytest

import keras_initlab as il
from tests.calibration.models import siamese, uniform
from tests.calibration.test_calibrate import plain
from tests.helpers import run_python, xla_devices


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return uniform(64, 16, seed=index), np.zeros((64, 10))


def dataset():
    import tensorflow as tf

    x, y = uniform(64, 16), np.zeros((64, 10))
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(64)


def loader():
    torch = pytest.importorskip("torch")
    x, y = (torch.as_tensor(array) for array in (uniform(64, 16), np.zeros((64, 10))))
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 64)


def generator():
    yield uniform(64, 16), np.zeros((64, 10))


@pytest.mark.parametrize(
    "data", [dataset, loader, generator, Batches], ids=lambda one: one.__name__
)
def test_the_first_batch_of_what_fit_takes(data):
    model, twin = plain(), plain()
    twin.set_weights(model.get_weights())
    il.calibrate(model, uniform(64, 16))
    il.calibrate(twin, data())
    for one, other in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_inputs_by_name_and_in_a_list():
    x = {"first": uniform(64, 8), "second": uniform(64, 8, seed=1)}
    by_name = il.calibrate(siamese(), x)
    assert by_name.passes > 1
    assert [row.after for row in by_name] == pytest.approx([1, 1], rel=0.01)
    inputs = [keras.Input((8,)), keras.Input((4,))]
    joined = keras.layers.concatenate(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3)(joined))
    (row,) = il.calibrate(model, [uniform(64, 8), uniform(64, 4)])
    assert row.after == pytest.approx(1, rel=0.01)


SETUP = """
import json
import numpy as np
import keras
import keras_initlab as il

x = np.random.default_rng(0).uniform(size=(64, 8)).astype("float32")

def built():
    keras.utils.set_random_seed(0)
    return keras.Sequential([
        keras.Input((8,)),
        keras.layers.Dense(16, "relu", kernel_initializer=il.Auto(seed=1)),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(8, kernel_initializer=il.Auto(seed=1)),
    ])

def calibrated(model):
    report = il.calibrate(model, x, biases=True)
    model.compile(keras.optimizers.SGD(0.05), "mse")
    model.fit(x, x, batch_size=16, verbose=0)
    return [row.factor for row in report]
"""
# Kernels are split over two devices, and the batch over two.
SPLIT = """
import jax
assert jax.device_count() == 4
one = calibrated(built())
devices = keras.distribution.list_devices()
mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"], devices)
layout = keras.distribution.LayoutMap(mesh)
layout[".*kernel"] = (None, "model")
keras.distribution.set_distribution(
    keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
)
model = built()
print(json.dumps([one, calibrated(model)]))
kernel = model.layers[0].kernel.value
assert len(kernel.devices()) == 4
assert not kernel.is_fully_replicated
"""
MIRRORED = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
one = calibrated(built())
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = built()
il.calibrate(model, x)
copies = model.layers[0].kernel.value.values
np.testing.assert_array_equal(*[copy.numpy() for copy in copies])
with strategy.scope():
    model = built()
print(json.dumps([one, calibrated(model)]))
"""


@pytest.mark.jax
def test_over_devices_as_on_one():
    one, many = json.loads(run_python(SETUP + SPLIT, XLA_FLAGS=xla_devices(4)))
    assert many == pytest.approx(one, rel=1e-4)


@pytest.mark.tensorflow
def test_over_replicas_as_on_one():
    one, many = json.loads(run_python(SETUP + MIRRORED))
    assert many == pytest.approx(one, rel=1e-4)
