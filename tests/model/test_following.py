import keras
import pytest
from keras import layers, ops

from keras_initlab import activations
from keras_initlab.model import graph
from keras_initlab.model.following import following_nonlinearity


def meets(after, width=4):
    """Return what the output of a Dense meets in a graph that goes on as `after`."""
    inputs = keras.Input((width,))
    dense = layers.Dense(width, name="followed")
    model = keras.Model(inputs, after(dense(inputs)))
    walked = graph.graph_of(model)
    (call,) = walked.calls_of(dense)
    return following_nonlinearity(walked, call.outputs)


FOLLOWING = {
    "ops.relu": (ops.relu, "relu"),
    "ops.leaky_relu": (lambda x: ops.leaky_relu(x, 0.3), "leaky_relu(0.3)"),
    "activations.relu": (keras.activations.relu, "relu"),
    "scaled": (lambda x: ops.tanh(x * 2.0 + 1.0), "tanh"),
    "reshaped": (lambda x: ops.silu(ops.reshape(x, (-1, 2, 2))), "silu"),
    "sum": (lambda x: layers.ELU()(x + 1.0 + x), "elu"),
    "softmax": (ops.softmax, "softmax"),
    "mean": (lambda x: ops.gelu(ops.mean(x, axis=-1), approximate=False), "gelu"),
    "normalised": (lambda x: layers.ReLU()(layers.LayerNormalization()(x)), "relu"),
    "lambda": (lambda x: layers.Lambda(lambda y: ops.tanh(y))(x), "tanh"),
    "kernel": (lambda x: layers.ReLU()(layers.Dense(4)(x)), None),
    "nothing": (lambda x: x, None),
    "gate": (lambda x: layers.ReLU()(layers.Multiply()([x, layers.Dense(4)(x)])), None),
}


@pytest.mark.parametrize("name", FOLLOWING)
def test_following(name):
    after, expected = FOLLOWING[name]
    found = meets(after).nonlinearity
    assert (found is None) == (expected is None)
    if expected is not None:
        assert activations.resolve(found).name == expected


def test_the_nearest_of_several_counts_and_the_rest_is_noted():
    def near_and_far(x):
        far = layers.Activation("tanh")(layers.Dropout(0.1)(x))
        return layers.Add()([layers.Activation("relu")(x), far])

    assert meets(near_and_far).nonlinearity is keras.activations.relu

    def both(x):
        relu, tanh = layers.ReLU()(x), layers.Activation("tanh")(x)
        return layers.Concatenate()([relu, tanh])

    found = meets(both)
    assert found.note in ("also feeds tanh", "also feeds relu")
