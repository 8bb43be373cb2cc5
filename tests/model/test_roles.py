import keras
import pytest
from keras import layers, ops

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


class Squeeze(layers.Layer):
    def call(self, x):
        return ops.squeeze(ops.expand_dims(x, -1), -1)


class Temperature(layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(), initializer="ones", name="factor")

    def call(self, x):
        return x * self.factor


def advantage(a):
    return a - ops.mean(a, axis=-1, keepdims=True)


BEHIND = {
    "times 2": lambda x: dense("head", x) * 2,
    "Rescaling": lambda x: layers.Rescaling(3.0, 1.0)(dense("head", x)),
    "Normalization, inverted": lambda x: layers.Normalization(
        mean=3.0, variance=4.0, invert=True
    )(dense("head", x)),
    "Lambda": lambda x: layers.Lambda(lambda y: y * 2 + 1)(dense("head", x)),
    "a bounded action": lambda x: 2 * ops.tanh(dense("head", x)),
    "clip": lambda x: ops.clip(dense("head", x), -1, 1),
    "squeeze": lambda x: ops.squeeze(layers.Dense(1, name="head")(x), -1),
    "squeezed by a layer": lambda x: Squeeze()(dense("head", x)),
    "softmax of a temperature": lambda x: ops.softmax(dense("head", x) / 0.7),
    "cast": lambda x: ops.cast(dense("head", x), "float16"),
    "Dropout": lambda x: layers.Dropout(0.1)(dense("head", x)),
    "Concatenate": lambda x: layers.Concatenate()(
        [dense("head1", x), dense("head2", x)]
    ),
    "stack": lambda x: ops.stack([dense("head1", x), dense("head2", x)], 1),
    "Average": lambda x: layers.Average()([dense("head1", x), dense("head2", x)]),
    "wide and deep": lambda x: layers.Add()(
        [dense("head1", x), dense("head2", layers.ReLU()(dense("deep", x)))]
    ),
    "a difference predicted": lambda x: x + dense("head", layers.ReLU()(dense("a", x))),
    "noise predicted": lambda x: x - dense("head", layers.ReLU()(dense("a", x))),
    "duelling": lambda x: (
        layers.Dense(1, name="head1")(x) + advantage(dense("head2", x))
    ),
    "duelling, one deeper": lambda x: (
        layers.Dense(1, name="head1")(layers.ReLU()(dense("deep", x)))
        + layers.Lambda(advantage)(dense("head2", x))
    ),
    "experts": lambda x: ops.sum(
        layers.Multiply()(
            [dense("head", x), layers.Dense(8, activation="softmax", name="gate")(x)]
        ),
        -1,
    ),
    "at each step": lambda x: layers.TimeDistributed(
        layers.Dense(3, activation="softmax", name="head"), name="steps"
    )(layers.Reshape((2, 4))(x)),
    "pooled": lambda x: layers.GlobalAveragePooling1D()(
        layers.Conv1D(3, 1, name="head")(layers.Reshape((2, 4))(x))
    ),
}


@pytest.mark.parametrize("name", BEHIND)
def test_heads_behind_what_has_no_weights(name):
    inputs = keras.Input((8,))
    x = layers.ReLU()(dense("trunk", inputs))
    found = roles(keras.Model(inputs, BEHIND[name](x)))[1]
    assert {path.split("/")[-1] for path in found} in ({"head"}, {"head1", "head2"})


def test_a_head_behind_a_mask():
    inputs, mask = keras.Input((8,)), keras.Input((8,))
    x = layers.ReLU()(dense("trunk", inputs))
    outputs = layers.Multiply()([dense("head", x), mask])
    assert roles(keras.Model([inputs, mask], outputs))[1] == {"head"}


@pytest.mark.parametrize(
    "after",
    [
        lambda x: ops.relu(x),
        lambda x: layers.PReLU()(x),
        lambda x: Temperature()(x),
        lambda x: layers.UnitNormalization()(x),
        lambda x: layers.Dot(axes=1)([x, x * 2]),
        lambda x: layers.Multiply()([x, dense("other", x)]),
    ],
)
def test_what_bends_or_learns_ends_no_head(after):
    inputs = keras.Input((8,))
    assert "last" not in roles(keras.Model(inputs, after(dense("last", inputs))))[1]


def test_a_stream_of_several_branches_is_no_head():
    x = inputs = keras.Input((8,))
    x = dense("stem", x)
    for block in "ab":
        x = layers.Add()([x, dense(f"{block}2", layers.ReLU()(dense(f"{block}1", x)))])
    branches, heads = roles(keras.Model(inputs, x))
    assert set(branches) == {"a2", "b2"}
    assert heads == set()


def test_several_heads():
    inputs = keras.Input((8,))
    x = dense("trunk", inputs)
    outputs = [
        layers.Dense(3, activation="softmax", name="class")(x),
        layers.Dense(1, name="value")(x),
    ]
    assert roles(keras.Model(inputs, outputs))[1] == {"class", "value"}
