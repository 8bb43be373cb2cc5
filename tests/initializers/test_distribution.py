"""A seeded model has the same weights on many devices as on one."""

import json

import numpy as np
import pytest

from tests.helpers import run_python, xla_devices

MODEL = """
import json
import numpy as np
import keras
import keras_initlab as il
from keras import layers

def build():
    inputs = keras.Input((16, 16))
    x = layers.Dense(32, "relu", kernel_initializer=il.Auto(seed=1))(inputs)
    x = layers.Dense(32, kernel_initializer=il.Orthogonal(seed=1))(x)
    x = layers.MultiHeadAttention(2, 8, kernel_initializer=il.Auto(seed=1))(x, x)
    x = layers.Conv1D(16, 3, kernel_initializer=il.Sparse(0.5, seed=1))(x)
    x = layers.Dense(8, kernel_initializer=il.HeUniform(seed=1))(layers.Flatten()(x))
    return keras.Model(inputs, x)

def weights(model):
    return [np.asarray(v, dtype="float64").tolist() for v in model.get_weights()]

one = weights(build())
"""
# By one strategy after the other: starting Python takes longer than either.
JAX = """
import jax
assert jax.device_count() == 8
devices = keras.distribution.list_devices()
found = [one]
"""
MANY = """
many = build()
assert len(many.layers[1].kernel.value.sharding.device_set) == 8
{check}
found.append(weights(many))
"""
DATA_PARALLEL = """
keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
"""
MODEL_PARALLEL = """
mesh = keras.distribution.DeviceMesh((2, 4), ["batch", "model"], devices)
layout = keras.distribution.LayoutMap(mesh)
layout[".*dense.*kernel"] = (None, "model")
layout[".*conv.*kernel"] = (None, None, "model")
keras.distribution.set_distribution(
    keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
)
"""
SHARDED = """
spec = many.layers[1].kernel.value.sharding.spec
assert tuple(spec) == (None, "model"), spec
"""
MIRRORED = """
import tensorflow as tf
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
with strategy.scope():
    many = build()
replicas = many.layers[1].kernel.value.values
assert len(replicas) == 2
assert np.array_equal(replicas[0].numpy(), replicas[1].numpy())
print(json.dumps([one, weights(many)]))
"""
TWO_CPUS = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
"""


def assert_alike(printed, strategies=1):
    one, *others = json.loads(printed.splitlines()[-1])
    assert len(others) == strategies
    for many in others:
        assert len(one) == len(many) == 16
        for a, b in zip(one, many, strict=True):
            np.testing.assert_array_equal(a, b)


def by_both_strategies(setup, check=""):
    data = DATA_PARALLEL + MANY.format(check=check)
    split = MODEL_PARALLEL + MANY.format(check=check + SHARDED)
    code = setup + JAX + data + split + "print(json.dumps(found))"
    return run_python(code, XLA_FLAGS=xla_devices(8))


@pytest.mark.jax
def test_keras_distribution():
    assert_alike(by_both_strategies(MODEL), strategies=2)


@pytest.mark.tensorflow
def test_mirrored_strategy():
    assert_alike(run_python(TWO_CPUS + MODEL + MIRRORED))
