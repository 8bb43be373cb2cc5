"""The monitor where JAX spreads a model over devices, in a process of its own."""

import json

import numpy as np
import pytest

from tests.helpers import run_python

CODE = """
import json
import numpy as np
import keras
import keras_initlab as il
import jax

assert jax.device_count() == 4
x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")

def watched():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((8,)),
        keras.layers.Dense(16, "relu", kernel_initializer=il.Auto(seed=1), name="a"),
        keras.layers.Dense(8, kernel_initializer=il.Auto(seed=1), name="b"),
    ])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    monitor = il.VarianceMonitor(every=2)
    model.fit(x, x, batch_size=16, epochs=2, verbose=0, shuffle=False,
              validation_data=(x, x), callbacks=[monitor])
    model.evaluate(x, x, verbose=0)
    return monitor.history

one = watched()
devices = keras.distribution.list_devices()
{strategy}
print(json.dumps([one, watched()]))
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


@pytest.mark.jax
@pytest.mark.parametrize("strategy", [DATA_PARALLEL, MODEL_PARALLEL])
def test_figures_are_those_of_one_device(strategy):
    printed = run_python(
        CODE.replace("{strategy}", strategy),
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    one, many = json.loads(printed.splitlines()[-1])
    assert one.keys() == many.keys() == {"a", "b"}
    for key in one:
        np.testing.assert_allclose(one[key], many[key], rtol=1e-5)
