import keras
import pytest
from keras import layers

from keras_initlab.model import graph
from keras_initlab.model.kernels import kernels_of
from keras_initlab.model.roles import roles_of


def roles(model):
    """Return branches by path (count, normalised) and the heads' paths."""
    kernels = kernels_of(model)
    names = {(id(kernel.layer), kernel.weight): kernel.path for kernel in kernels}
    found = roles_of(graph.graph_of(model), kernels)
    branches = {
        names[key]: (one.count, one.normalised) for key, one in found.branches.items()
    }
    return branches, {names[key] for key in found.heads}


def dense(name, x):
    return layers.Dense(8, name=name)(x)


def test_branches_on_one_stream_are_counted():
    x = inputs = keras.Input((8,))
    for block in "abc":
        y = dense(f"{block}2", layers.ReLU()(dense(f"{block}1", x)))
        x = layers.ReLU()(layers.Add()([x, y]))
    branches, heads = roles(keras.Model(inputs, dense("head", x)))
    assert branches == {"a2": (3, False), "b2": (3, False), "c2": (3, False)}
    assert heads == {"head"}


def test_a_projection_starts_a_stream_and_is_no_branch():
    x = inputs = keras.Input((8,))
    x = layers.Add()([dense("a2", dense("a1", x)), dense("project", x)])
    x = x + dense("b2", dense("b1", x))
    branches, _ = roles(keras.Model(inputs, x))
    assert branches == {"a2": (2, False), "b2": (2, False)}


def test_normalisation_after_the_last_kernel_is_seen():
    inputs = keras.Input((8,))
    y = layers.BatchNormalization()(dense("one", inputs))
    branches, _ = roles(keras.Model(inputs, layers.Add()([inputs, y])))
    assert branches == {"one": (1, True)}


def test_a_gate_at_the_end_of_a_branch_is_not_its_end():
    inputs = keras.Input((8,))
    y = dense("main", inputs)
    gate = layers.Dense(8, activation="sigmoid", name="gate")(y)
    branches, _ = roles(keras.Model(inputs, inputs + y * gate))
    assert set(branches) == {"main"}


def test_attention_ends_a_branch_with_its_output_kernel():
    inputs = keras.Input((6, 8))
    y = layers.MultiHeadAttention(2, 4, name="mha")(inputs, inputs)
    branches, _ = roles(keras.Model(inputs, layers.Add()([inputs, y])))
    assert list(branches) == ["mha/attention_output"]


def test_two_towers_are_no_residual():
    one, two = keras.Input((8,)), keras.Input((8,))
    model = keras.Model([one, two], layers.Add()([dense("a", one), dense("b", two)]))
    assert roles(model)[0] == {}
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Add()([dense("a", inputs), dense("b", inputs)]))
    assert roles(model)[0] == {}


@pytest.mark.parametrize(
    ("after", "is_head"),
    [
        (lambda x: x, True),
        (lambda x: layers.Activation("softmax")(x), True),
        (lambda x: layers.Softmax()(layers.Reshape((8,))(x)), True),
        (lambda x: layers.ReLU()(x), False),
        (lambda x: layers.BatchNormalization()(x), False),
    ],
)
def test_heads_are_what_an_output_comes_from(after, is_head):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, after(dense("last", dense("first", inputs))))
    assert roles(model)[1] == ({"last"} if is_head else set())


def test_several_heads():
    inputs = keras.Input((8,))
    x = dense("trunk", inputs)
    outputs = [
        layers.Dense(3, activation="softmax", name="class")(x),
        layers.Dense(1, name="value")(x),
    ]
    assert roles(keras.Model(inputs, outputs))[1] == {"class", "value"}
