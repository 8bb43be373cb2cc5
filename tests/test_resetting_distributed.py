"""reset_weights under tf.distribute and keras.distribution."""

import pytest

from tests.helpers import run_python
from tests.initializers.test_distribution import (
    MODEL,
    TWO_CPUS,
    assert_alike,
    by_both_strategies,
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
def test_keras_distribution():
    assert_alike(by_both_strategies(MODEL + RESET_ONE, RESET_MANY), strategies=2)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_mirrored_strategy():
    assert_alike(run_python(TWO_CPUS + MODEL + RESET_ONE + MIRRORED))
