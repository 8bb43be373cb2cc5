"""Private names of Keras stand in model/keras_internals.py alone.

A private name may be used where the package has declared it: on `self` or `cls`, or
on any object where no object of Keras has it.
"""

import ast
import functools

import keras
import numpy as np
import pytest
from keras import layers

from keras_initlab.model import keras_internals
from tests.helpers import ROOT

PACKAGE = ROOT / "keras_initlab"
HOME = "model/keras_internals.py"
# Of NamedTuple, Python, PyTorch and TensorFlow.
OF_OTHERS = {"_replace", "_asdict", "_fields", "_getframe", "_C", "_functorch"}
OF_OTHERS |= {"_current_graph_task_id", "_in_multi_worker_mode"}
OF_OTHERS |= {"_version"}
# Methods that take a part of a name, no name.
OF_STRINGS = {"endswith", "removesuffix", "startswith", "removeprefix"}


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


@functools.cache
def names_in_keras():
    """Return the private names of what Keras hands out: layers, models, symbols."""
    inputs = keras.Input((3, 4))
    dense, gru = layers.Dense(4), layers.GRU(4, return_sequences=True)
    attention = layers.MultiHeadAttention(2, 2)
    grouped = layers.GroupQueryAttention(2, 4, 2)
    x = gru(dense(inputs))
    outputs = grouped(attention(x, x), x)
    model = keras.Model(inputs, layers.BatchNormalization()(outputs))
    model.compile("adam", "mse")
    plain = keras.Sequential([keras.Input((3,)), layers.Dropout(0.1)])
    things = [
        *(inputs, dense, gru, gru.cell, attention, grouped, model, plain),
        *(model.layers[-1], model.optimizer, dense.kernel, keras.losses.Loss()),
        *(plain.layers[0], plain.layers[0].seed_generator, keras.callbacks.Callback()),
        *(keras.metrics.Mean(), keras.initializers.HeNormal(), layers.RNN(gru.cell)),
        *(keras.layers.TimeDistributed(dense), keras_internals.node_of(x)[0]),
    ]
    return {name for thing in things for name in dir(thing) if is_private(name)}


def is_a_private_name(string, own):
    """Say whether a string is a private attribute's name, as getattr takes it."""
    if not string.isidentifier() or not is_private(string) or len(string) < 2:
        return False
    return string in names_in_keras() or string not in own


def strings_that_are_no_names(tree):
    """Return the ids of docstrings and of parts of names."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    ids = set()
    for node in ast.walk(tree):
        if isinstance(node, kinds) and isinstance(node.body[0], ast.Expr):
            ids.add(id(node.body[0].value))
        elif isinstance(node, ast.JoinedStr):
            ids |= {id(part) for part in node.values}
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in OF_STRINGS
        ):
            ids |= {id(argument) for argument in node.args}
    return ids


def declared_names(tree):
    """Return the private names that a file gives to its own objects."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and is_own(node.value)
        ):
            names.add(node.attr)
    return {name for name in names if is_private(name)}


def is_own(node):
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


@functools.cache
def declared_in_the_package():
    trees = (ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py"))
    return set().union(*map(declared_names, trees))


def is_internal_module(name):
    first, *parts = name.split(".")
    return first == "keras" and any(part == "src" or is_private(part) for part in parts)


def violations(source):
    """Return what a file's source uses of Keras that is private, with its lines."""
    tree = ast.parse(source)
    own = declared_in_the_package() | declared_names(tree) | OF_OTHERS
    skipped = strings_that_are_no_names(tree)
    found = []
    for node in ast.walk(tree):
        name = ""
        if isinstance(node, ast.Import):
            name = next((a.name for a in node.names if is_internal_module(a.name)), "")
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            name = next(filter(is_internal_module, modules), "")
        elif isinstance(node, ast.Attribute):
            whole = ast.unparse(node)
            foreign = node.attr not in own
            if node.attr in names_in_keras() - OF_OTHERS and not is_own(node.value):
                foreign = True
            if (is_private(node.attr) and foreign) or is_internal_module(whole):
                name = whole
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in skipped
            and (is_a_private_name(node.value, own) or "keras.src" in node.value)
        ):
            name = repr(node.value)
        if name:
            found.append((node.lineno, name))
    return found


PATHS = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", [path for path in PATHS if path != HOME])
def test_a_file_uses_public_names_of_keras_alone(path):
    assert not violations((PACKAGE / path).read_text())


def test_the_home_exists():
    assert HOME in PATHS
    assert violations((PACKAGE / HOME).read_text())


@pytest.mark.parametrize(
    "source",
    [
        "import keras.src",
        "from keras.src.ops.function import Function",
        "from keras import src",
        "import keras\nkeras.src.utils",
        "layer._flatten_layers()",
        "node = layer._inbound_nodes[0]",
        "symbol._keras_history",
        "getattr(layer, '_remat_mode', None)",
        "self._flatten_layers()",
        "import importlib\nimportlib.import_module('keras.src.utils')",
        # A name that the package and Keras have both is Keras's on another object.
        "class A:\n    def f(self, layer):\n        self._layers = layer._layers",
        "layer._metrics",
        "layer._call_signature",
        "patches.set(optimizer, '_all_reduce_sum_gradients', tapped)",
    ],
)
def test_private_use_is_seen(source):
    assert violations(source)


@pytest.mark.parametrize(
    "source",
    [
        "import keras\nkeras.layers.Dense(3).kernel",
        "def f():\n    '_layers'",
        "name.removesuffix('_kernel')",
        "f'{name}_initializer'",
        "class A:\n    def f(self):\n        self._own_thing = 1\nA()._own_thing",
    ],
)
def test_public_use_and_private_names_of_ones_own_are_let_through(source):
    assert not violations(source)


class Holder(layers.Layer):
    def __init__(self):
        super().__init__()
        self.inner = layers.Dense(3)

    def call(self, x):
        return self.inner(x)


def test_sublayers_and_own_variables_are_those_held_directly():
    layer = Holder()
    layer(np.ones((2, 4), "float32"))
    assert keras_internals.sublayers(layer) == [layer.inner]
    assert keras_internals.own_variables(layer) == []
    names = [v.name for v in keras_internals.own_variables(layer.inner)]
    assert names == ["kernel", "bias"]


def test_rematerialized_layers_are_those_made_in_a_scope():
    assert not keras_internals.is_rematerialized(layers.Dense(3))
    with keras.RematScope(mode="full"):
        assert keras_internals.is_rematerialized(layers.Dense(3))


def test_training_is_taken_where_call_has_it():
    assert keras_internals.takes_training(layers.Dropout(0.1))
    assert not keras_internals.takes_training(layers.Flatten())


def test_build_shapes_are_those_of_the_call():
    layer = layers.Dense(3)
    assert keras_internals.build_shapes(layer) == {}
    layer.build((None, 4))
    assert keras_internals.build_shapes(layer) == {"input_shape": (None, 4)}


def test_nodes_name_their_call_and_its_readers():
    inputs = keras.Input((4,))
    dense, relu = layers.Dense(3), layers.ReLU()
    hidden = dense(inputs)
    relu(hidden)
    node, index = keras_internals.node_of(hidden)
    assert (node.operation, index) == (dense, 0)
    assert [n.operation for n in keras_internals.nodes_after(hidden)] == [relu]


def test_nodes_of_a_model_come_in_an_order_that_can_run():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.ops.relu(layers.Dense(3)(inputs)))
    kinds = [type(n.operation).__name__ for n in keras_internals.nodes_of(model)]
    assert kinds == ["Dense", "Relu"]


def test_a_function_may_have_two_operations_of_one_name():
    inputs = keras.Input((4,))
    twins = [layers.Dense(4, name="twin") for _ in range(2)]
    hidden = twins[0](inputs)
    function = keras_internals.function_between([inputs], [twins[1](hidden)])
    assert [n.operation for n in keras_internals.nodes_of(function)] == twins
    assert [twin.name for twin in twins] == ["twin", "twin"]
    with pytest.raises(ValueError, match="not connected"):
        keras_internals.function_between([keras.Input((4,))], [hidden])
    assert [twin.name for twin in twins] == ["twin", "twin"]


def test_nodes_made_in_the_block_are_forgotten_of_operations_too():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.ops.relu(layers.Dense(3)(inputs)))
    operations = model.operations
    before = [len(one._inbound_nodes) for one in operations]
    with keras_internals.nodes_forgotten([model]):
        type(model).call(model, keras.Input((4,)))
        assert [len(one._inbound_nodes) for one in operations] != before
    assert [len(one._inbound_nodes) for one in operations] == before


@pytest.mark.parametrize(
    "layer",
    [
        layers.MultiHeadAttention(2, 3, dropout=0.1),
        layers.GroupQueryAttention(3, 4, 2),
    ],
    ids=["heads", "groups"],
)
def test_attention_parts_are_the_layers_inside(layer):
    layer.build((None, 5, 6), (None, 5, 6))
    parts = keras_internals.attention_parts(layer)
    kernels = (parts.query, parts.key, parts.value, parts.output)
    assert all(isinstance(part, layers.EinsumDense) for part in kernels)
    assert isinstance(parts.softmax, layers.Softmax)
    assert parts.gate is None
    assert parts.window is None
    assert keras_internals.computes_attention_as(layer, type(layer))


def test_attention_of_ones_own_is_told_apart():
    class Own(layers.MultiHeadAttention):
        def _compute_attention(self, *args, **kwargs):
            return super()._compute_attention(*args, **kwargs)

    layer = Own(2, 3)
    kind = layers.MultiHeadAttention
    assert not keras_internals.computes_attention_as(layer, kind)
