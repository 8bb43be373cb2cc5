"""The monitor where a model is spread over devices, in processes of its own."""

import json
import socket

import numpy as np
import pytest

from tests.helpers import finish, run_python, start_python, xla_devices

SETUP = """
import json
import numpy as np
import keras
import keras_initlab as il

x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")

def built(scaled=False):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((8,)),
        keras.layers.Dense(16, "relu", kernel_initializer=il.Auto(seed=1), name="a"),
        keras.layers.Dense(8, kernel_initializer=il.Auto(seed=1), name="b"),
    ])
    optimizer = keras.optimizers.SGD(0.05)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, 2.0**8)
    model.compile(optimizer, "mse")
    return model

def watched(model):
    monitor = il.VarianceMonitor(every=2, gradients=True)
    model.fit(x, x, batch_size=16, epochs=2, verbose=0, shuffle=False,
              validation_data=(x, x), callbacks=[monitor])
    model.evaluate(x, x, verbose=0)
    return monitor.records
"""
# By one strategy after the other: starting Python takes longer than either.
JAX = """
import jax
assert jax.device_count() == 4
found = [watched(built())]
devices = keras.distribution.list_devices()
"""
MANY = """
found.append(watched(built()))
"""
DATA_PARALLEL = """
keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
"""
MODEL_PARALLEL = """
mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"], devices)
layout = keras.distribution.LayoutMap(mesh)
layout[".*kernel"] = (None, "model")
keras.distribution.set_distribution(
    keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
)
"""
MIRRORED = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
found = []
for scaled in (False, True):
    one = watched(built(scaled))
    with strategy.scope():
        model = built(scaled)
    found.append([one, watched(model)])
print(json.dumps(found))
"""


def assert_same(one, many):
    assert [(r["epoch"], r["layer"]) for r in one] == [
        (r["epoch"], r["layer"]) for r in many
    ]
    for expected, found in zip(one, many, strict=True):
        assert expected.keys() == found.keys()
        assert {"update_ratio", "weight_gradient_second_moment"} <= found.keys()
        for name in expected.keys() - {"layer", "weight"}:
            np.testing.assert_allclose(
                found[name], expected[name], rtol=1e-4, atol=1e-7, err_msg=name
            )


@pytest.mark.jax
def test_figures_are_those_of_one_device():
    code = SETUP + JAX + DATA_PARALLEL + MANY + MODEL_PARALLEL + MANY
    printed = run_python(code + "print(json.dumps(found))", XLA_FLAGS=xla_devices(4))
    one, data_parallel, model_parallel = json.loads(printed.splitlines()[-1])
    assert_same(one, data_parallel)
    assert_same(one, model_parallel)


@pytest.mark.tensorflow
def test_replicas_of_a_mirrored_strategy():
    printed = run_python(SETUP + MIRRORED)
    plain, scaled = json.loads(printed.splitlines()[-1])
    assert_same(*plain)
    assert_same(*scaled)


# Two processes on loopback. Each prints what its monitor says of all of them.
RANKS = """
import sys
import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

rank, port = int(sys.argv[1]), int(sys.argv[2])
torch.distributed.init_process_group(
    "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
)

class Parallel(keras.Model):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.__dict__["wrapped"] = DistributedDataParallel(inner)

    def call(self, x):
        return self.wrapped(x) if self.__dict__["in_step"] else self.inner(x)

    def train_step(self, data):
        self.__dict__["in_step"] = True
        try:
            return super().train_step(data)
        finally:
            self.__dict__["in_step"] = False

model = Parallel(built())
model.__dict__["in_step"] = False
model.compile(keras.optimizers.SGD(0.05), "mse")
# The half of each batch of 16 that is this rank's.
mine = np.concatenate([np.split(x, 8)[i] for i in range(rank, 8, 2)])
written = []
monitor = il.VarianceMonitor(every=2, gradients=True, sinks=[written.extend])
model.fit(mine, mine, batch_size=8, epochs=2, verbose=0, shuffle=False,
          callbacks=[monitor])
for record in monitor.records:
    record["layer"] = record["layer"].split("/")[-1]
print(json.dumps([monitor.records, len(written)]))
torch.distributed.destroy_process_group()
"""


def in_two_processes(code):
    ports = [socket.socket() for _ in range(2)]
    for one in ports:
        one.bind(("127.0.0.1", 0))
    # Two neighbours are needed, and the first of those tried is seldom taken.
    port = ports[0].getsockname()[1]
    for one in ports:
        one.close()
    running = [start_python(SETUP + code, str(rank), str(port)) for rank in range(2)]
    printed = [finish(one, timeout=120) for one in running]
    return [json.loads(one.splitlines()[-1]) for one in printed]


def assert_one_of_two_writes(code):
    here = {}
    exec(SETUP, here)
    one = json.loads(json.dumps(here["watched"](here["built"]())))
    (first, written), (second, nothing) = in_two_processes(code)
    first = [r for r in first if r["layer"] in "ab"]
    assert (written > 0, nothing) == (True, 0)
    assert_same(one, first)
    assert_same(one, [r for r in second if r["layer"] in "ab"])


@pytest.mark.tensorflow
def test_several_workers_are_declined_aloud():
    # Keras's own fit fails there: github.com/keras-team/keras/issues/20585
    import tensorflow as tf

    from keras_initlab.taps import backends

    class Model:
        distribute_strategy = tf.distribute.MultiWorkerMirroredStrategy.__new__(
            tf.distribute.MultiWorkerMirroredStrategy
        )

    class Extended:
        def _in_multi_worker_mode(self):
            return True

    Model.distribute_strategy._extended = Extended()
    assert "several processes" in backends.load("test").why_not(Model)


@pytest.mark.slow
@pytest.mark.torch
def test_ranks_of_distributed_data_parallel():
    assert_one_of_two_writes(RANKS)
