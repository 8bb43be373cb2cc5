"""Private names of Keras: the only file of the package that uses them.

Each function below is one access, under the name of what it returns. Where a version
of Keras moves or renames something, this is the file to mend; the test
`tests/model/test_keras_internals.py` holds the rest of the package to public names.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import keras
from keras.src.backend import compute_output_spec
from keras.src.backend.common import global_state
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.layers import layer as layer_module
from keras.src.models.functional import Functional
from keras.src.ops.function import Function
from keras.src.ops.node import Node
from keras.src.random.seed_generator import (
    global_seed_generator as global_seed_generator,
)
from keras.src.utils import naming

# How far up the stack the variable or the outermost call may be. Measured: at most
# 25 frames below an initializer on TensorFlow, which has the deepest stack.
_MAX_FRAMES = 80


# Layers and their weights.


def sublayers(layer: Any) -> list[Any]:
    """Return the layers that `layer` holds directly, each once, in order.

    Those of a functional or Sequential model include its `InputLayer`s; the layers
    that a subclass of these holds besides its graph are there, too.
    """
    return list({id(held): held for held in layer._layers}.values())


def own_variables(layer: Any) -> list[Any]:
    """Return the variables that `layer` holds itself, not through inner layers."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def seed_generators(layer: Any) -> list[Any]:
    """Return the generators of random numbers that `layer` holds itself."""
    return list(layer._seed_generators)


def weight_attributes(layer: Any) -> dict[str, Any]:
    """Return the attributes of a layer that hold variables, be it in lists or dicts.

    Without those in which Keras and TensorFlow themselves keep a layer's variables.
    """
    tracked = (layer._trainable_variables, layer._non_trainable_variables)
    return {
        name: value
        for name, value in vars(layer).items()
        if not (name.startswith("_self_") or any(value is held for held in tracked))
        and isinstance(value, keras.Variable | list | tuple | dict)
        and any(isinstance(held, keras.Variable) for held in keras.tree.flatten(value))
    }


def called_with(layer: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return the symbols of a layer's last call in a graph; None of one without."""
    if not layer._inbound_nodes:
        return None
    arguments = layer._inbound_nodes[-1].arguments
    return arguments.args, arguments.kwargs


def variables_made_trainable(layer: Any) -> list[Any]:
    """Return the variables of `layer` itself made to be trained, frozen or not."""
    return list(layer._trainable_variables)


def is_rematerialized(layer: Any) -> bool:
    """Whether `layer` was made in a `keras.RematScope`."""
    return getattr(layer, "_remat_mode", None) is not None


def takes_training(layer: Any) -> bool:
    """Whether the `call` of `layer` has an argument `training`."""
    return bool(layer._call_has_training_arg)


def build_shapes(layer: Any) -> dict[str, Any]:
    """Return the arguments that `build` was called with; empty before that."""
    return layer._build_shapes_dict or {}


def automatic_name(kind: type) -> str:
    """Return the name that Keras gives to the first layer or operation of a class.

    >>> automatic_name(keras.layers.LayerNormalization)
    'layer_normalization'
    """
    return str(naming.to_snake_case(kind.__name__))


# The initializer of an attention layer, which hands it to the layers inside.
PASSED_ON_INITIALIZER = "_kernel_initializer"


@dataclass(frozen=True, eq=False)
class AttentionParts:
    """The layers inside a multi-head or grouped-query attention layer.

    `gate` is None where the output is not gated, `dropout` where nothing is dropped,
    `window` where each position attends to all.
    """

    query: Any
    key: Any
    value: Any
    output: Any
    softmax: Any
    dropout: Any
    gate: Any
    window: int | None


def attention_parts(layer: Any) -> AttentionParts:
    """Return the layers inside a built attention layer."""
    # Keras keeps these two private in the one layer and public in the other.
    gated = getattr(layer, "_use_gate", getattr(layer, "use_gate", False))
    window = getattr(layer, "_sliding_window", getattr(layer, "sliding_window", None))
    return AttentionParts(
        query=layer._query_dense,
        key=layer._key_dense,
        value=layer._value_dense,
        output=layer._output_dense,
        softmax=layer._softmax,
        dropout=getattr(layer, "_dropout_layer", None),
        gate=layer._gate_dense if gated else None,
        window=window,
    )


def computes_attention_as(layer: Any, *kinds: type) -> bool:
    """Whether `layer` computes attention as one of `kinds`, whose subclass it may be.

    A subclass with a `_compute_attention` of its own may do anything.
    """
    compute = getattr(type(layer), "_compute_attention", None)
    return any(compute is kind._compute_attention for kind in kinds)  # type: ignore[attr-defined]


# Graphs: a node is one call of an operation on symbols.


def functional_of(model: Any) -> Any:
    """Return the functional graph that calling `model` runs; None where there is none.

    A subclass with a `call` of its own may do anything, whatever its graph says.
    """
    if isinstance(model, keras.Sequential):
        plain = type(model).call is keras.Sequential.call
        return model._functional if plain else None
    if isinstance(model, Functional):
        return model if type(model).call is Functional.call else None
    return None


def function_between(inputs: list[Any], outputs: list[Any]) -> Any:
    """Return the function from symbols to symbols that were computed from them.

    Two operations may have one name, as two sublayers in a subclass may.

    Raises:
        ValueError: an output does not come from the inputs, or there are none.
    """
    with _names_apart(_operations_behind(outputs)):
        return Function(inputs, outputs)


def _operations_behind(symbols: list[Any]) -> list[Any]:
    """Return the operations that `symbols` were computed by, each once."""
    pending = [symbol for symbol in symbols if keras.utils.is_keras_tensor(symbol)]
    nodes: dict[int, Any] = {}
    while pending:
        node, _ = node_of(pending.pop())
        if id(node) not in nodes:
            nodes[id(node)] = node
            pending.extend(node.input_tensors)
    operations = (node.operation for node in nodes.values())
    return list({id(operation): operation for operation in operations}.values())


@contextlib.contextmanager
def _names_apart(operations: list[Any]) -> Iterator[None]:
    """Number operations of one name in this block: `Function` wants no two alike."""
    seen: set[str] = set()
    renamed: list[tuple[Any, str]] = []
    try:
        for number, operation in enumerate(operations):
            name = operation.name
            if name in seen:
                renamed.append((operation, name))
                operation.name = f"{name}~{number}"
            seen.add(name)
        yield
    finally:
        for operation, name in renamed:
            operation.name = name


def nodes_of(functional: Any) -> Iterator[Any]:
    """Yield the nodes of a functional model or function in an order that can run."""
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            if not node.is_input:
                yield node


def node_of(symbol: Any) -> tuple[Any, int]:
    """Return the node that `symbol` is an output of, and its index there."""
    operation, node_index, tensor_index = symbol._keras_history
    return operation._inbound_nodes[node_index], tensor_index


def nodes_after(symbol: Any) -> list[Any]:
    """Return the nodes that read an output of the operation that made `symbol`."""
    nodes: list[Any] = symbol._keras_history.operation._outbound_nodes
    return nodes


@contextlib.contextmanager
def nodes_forgotten(layers: Iterable[Any]) -> Iterator[None]:
    """Remove the nodes that calls in this block add to `layers`.

    And to the bare operations in the graphs of those that are functional models.
    """
    operations = [
        operation
        for layer in layers
        for operation in (
            layer,
            *(layer.operations if isinstance(layer, Functional) else ()),
        )
    ]
    lists = [
        (nodes, len(nodes))
        for operation in operations
        for nodes in (operation._inbound_nodes, operation._outbound_nodes)
    ]
    try:
        yield
    finally:
        for nodes, count in lists:
            del nodes[count:]


@contextlib.contextmanager
def lenient_calls(
    layers: Iterable[Any],
    composite: Iterable[Any],
    refusals: tuple[type[Exception], ...],
) -> Iterator[None]:
    """Let `layers` be called on symbols, in this block, where Keras would refuse.

    One of the `composite` layers whose `compute_output_spec` does not take its
    arguments runs its `call`; None among the outputs of a layer is left out of its
    node; and sizes that a layer leaves open, though its inputs' are all known, are
    found by its `call`.
    """
    openable = {id(layer) for layer in composite}

    def lenient(layer: Any) -> Any:
        def symbolic_call(*args: Any, **kwargs: Any) -> Any:
            try:
                outputs = type(layer).symbolic_call(layer, *args, **kwargs)
            except refusals:
                if id(layer) not in openable:
                    raise
                return type(layer).call(layer, *args, **kwargs)
            if _is_open(outputs) and not _is_open((args, kwargs)):
                with contextlib.suppress(*refusals):
                    return compute_output_spec(layer.call, *args, **kwargs)
            return outputs

        return symbolic_call

    def node(outputs: Any = None, **arguments: Any) -> Any:
        tensors = [x for x in keras.tree.flatten(outputs) if x is not None]
        return Node(outputs=tensors, **arguments)

    patched = [layer for layer in layers if "symbolic_call" not in vars(layer)]
    for layer in patched:
        # Not by assignment, which Keras would track.
        vars(layer)["symbolic_call"] = lenient(layer)
    before = layer_module.Node
    layer_module.Node = node
    try:
        yield
    finally:
        layer_module.Node = before
        for layer in patched:
            del vars(layer)["symbolic_call"]


def _is_open(tensors: Any) -> bool:
    """Whether one of some symbols has a size that is not known."""
    return any(
        None in tensor.shape
        for tensor in keras.tree.flatten(tensors)
        if keras.utils.is_keras_tensor(tensor)
    )


# The layer under construction: what Keras has open while an initializer is called.


def open_layers() -> list[Any]:
    """Return the layers whose name scopes are open, outermost first."""
    stack = global_state.get_global_attribute("name_scope_stack") or []
    layers: list[Any] = []
    for scope in stack:
        caller = scope.caller
        # A layer opens its scope again to make a weight: that is one layer, not two.
        if isinstance(caller, keras.layers.Layer) and caller not in layers[-1:]:
            layers.append(caller)
    return layers


def variable_on_stack() -> Any:
    """Return the innermost variable whose method is being called, or None."""
    return next(_callers_on_stack(keras.Variable), None)


def layers_on_stack() -> list[Any]:
    """Return the layers whose methods are being called, innermost first, each once."""
    layers = _callers_on_stack(keras.layers.Layer)
    return list({id(layer): layer for layer in layers}.values())


def call_arguments(layer: Any) -> tuple[Any, Any] | None:
    """Return (args, kwargs) of the innermost open call of `layer`, None without one."""
    for frame in _frames():
        code = frame.f_code
        if code.co_name == "__call__" and {"self", "args"} <= set(code.co_varnames):
            local = frame.f_locals
            if local.get("self") is layer:
                return local["args"], local.get("kwargs")
    return None


def _callers_on_stack(kind: type) -> Iterator[Any]:
    for frame in _frames():
        if "self" in frame.f_code.co_varnames:
            caller = frame.f_locals.get("self")
            if isinstance(caller, kind):
                yield caller


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_MAX_FRAMES):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


# The training step: what a tap reads, and puts back.


def is_shape_inference() -> bool:
    """Whether Keras calls layers for their output shapes alone."""
    return bool(in_symbolic_scope())


def with_notes_of(tensor: Any, target: Any) -> Any:
    """Return `target` with what Keras stores on `tensor`: its mask, and its logits."""
    mask = get_keras_mask(tensor)
    if mask is not None:
        set_keras_mask(target, mask)
    logits = getattr(tensor, "_keras_logits", None)
    if logits is not None:
        target._keras_logits = logits
    return target


def output_spec(model: Any, x: Any) -> Any:
    """Return the symbols of what `model` returns, building it on the way."""
    return compute_output_spec(model, x)


def all_layers(model: Any) -> list[Any]:
    """Return a model or layer and all layers inside it, however deep."""
    return list(model._flatten_layers())


@contextlib.contextmanager
def unbuilt_on_failure(model: Any) -> Iterator[None]:
    """Where this block fails, let layers without weights not count as built by it.

    Keras marks a model as built before it is called for the first time.
    """
    before = [
        (layer, layer._build_shapes_dict)
        for layer in all_layers(model)
        if not layer.built
    ]
    try:
        yield
    except BaseException:
        for layer, shapes in before:
            if layer.built and not own_variables(layer):
                layer.built = False
                layer._build_shapes_dict = shapes
                layer._tracker.unlock()
        raise


@contextlib.contextmanager
def calls_forgotten(model: Any) -> Iterator[None]:
    """Put back what calls in this block do to layers, even stateless ones."""
    before = [
        (layer, layer._called, list(layer._losses), set(layer._loss_ids))
        for layer in all_layers(model)
    ]
    try:
        yield
    finally:
        for layer, called, losses, loss_ids in before:
            layer._called = called
            layer._losses[:] = losses
            layer._loss_ids.clear()
            layer._loss_ids.update(loss_ids)


def torch_device() -> str:
    """Return the device that Keras puts tensors on under PyTorch."""
    from keras.src.backend.torch.core import get_device

    return str(get_device())


def inner_optimizer(optimizer: Any) -> Any:
    """Return the optimizer that another one, such as for loss scaling, wraps."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def optimized_variables(optimizer: Any) -> list[Any]:
    """Return the variables that an optimizer was built for, in its order."""
    return list(getattr(inner_optimizer(optimizer), "_trainable_variables", None) or [])


def optimizer_steps(optimizer: Any) -> int:
    """Return how many steps an optimizer has made, those that only accumulate too."""
    return int(keras.ops.convert_to_numpy(inner_optimizer(optimizer)._iterations))


# The method of an optimizer that sums gradients over replicas, under TensorFlow.
SUM_OVER_REPLICAS = "_all_reduce_sum_gradients"

# The methods by which an iterator over epochs hands out batches, by backend: under
# TensorFlow and JAX data are drawn within the training step.
BATCH_ITERATORS = {
    "tensorflow": ("_enumerate_iterator",),
    "jax": ("_enumerate_iterator",),
    "torch": ("_enumerate_iterator", "_get_iterator"),
}


def fit_frame(model: Any) -> FrameType | None:
    """Return the frame of Keras's `fit` of `model` that is under way, or None."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "fit" and frame.f_locals.get("self") is model:
            return frame
        frame = frame.f_back
    return None


def epochs_of(fit: FrameType) -> Any:
    """Return the iterator over epochs of a `fit` under way, or None."""
    return fit.f_locals.get("epoch_iterator")


def calling_callbacks(model: Any) -> Any:
    """Return the CallbackList of `model` that is calling its callbacks, or None."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList):
            return owner if owner.model is model else None
        frame = frame.f_back
    return None
