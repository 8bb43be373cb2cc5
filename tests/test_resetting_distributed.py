"""reset_weights under tf.distribute and keras.distribution."""

import pytest

from tests.helpers import run_python, xla_devices
from tests.initializers.test_distribution import (
    DATA_PARALLEL,
    JAX,
    MODEL,
    MODEL_PARALLEL,
    SHARDED,
    TWO_CPUS,
    assert_alike,
)

RESET_ONE = """
model = build()
il.reset_weights(model, seed=3)
one = weights(model)
"""
RESET_MANY = """
before = [v.value.sharding for v in many.weights]
il.reset_weights(many, seed=3)
assert before == [v.value.sharding for v in many.weights]
"""
MIRRORED = """
import tensorflow as tf
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    many = build()
    many.compile("adam", "mse")
many.fit(np.ones((4, 16, 16)), np.ones((4, 8)), verbose=0)
il.reset_weights(many, seed=3, optimizer=True)
replicas = many.layers[1].kernel.value.values
assert len(replicas) == 2
assert np.array_equal(replicas[0].numpy(), replicas[1].numpy())
assert not any(v.numpy().any() for v in many.optimizer.variables[2:])
print(json.dumps([one, weights(many)]))
"""


@pytest.mark.slow
@pytest.mark.jax
@pytest.mark.parametrize(
    ("strategy", "check"), [(DATA_PARALLEL, ""), (MODEL_PARALLEL, SHARDED)]
)
def test_keras_distribution(strategy, check):
    code = MODEL + RESET_ONE + JAX.format(strategy=strategy, check=RESET_MANY + check)
    assert_alike(run_python(code, XLA_FLAGS=xla_devices(8)))


@pytest.mark.slow
@pytest.mark.tensorflow
def test_mirrored_strategy():
    assert_alike(run_python(TWO_CPUS + MODEL + RESET_ONE + MIRRORED))
