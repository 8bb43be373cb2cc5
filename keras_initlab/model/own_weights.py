"""Weights that a user's own layer holds, and how its `call` reads them.

`call` is run on symbols that represent the inputs and the weights, so that a weight can
be followed, through transposes and casts, to what it multiplies.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_initlab.model import keras_internals
from keras_initlab.model.contractions import CONTRACTIONS
from keras_initlab.model.graph import (
    Graph,
    NoGraph,
    Shape,
    graph_of_call,
    on_sizes,
    stands_in,
)
from keras_initlab.model.keras_internals import own_variables, sublayers

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

# The name that Keras gives to a variable that has none.
MADE_UP_NAME = re.compile(r"((jax|nnx)_)?variable(_\d+)?")
# Distinct sizes, by which the axes of a tensor are recognised.
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)
# Operations that only move, repeat, cast or choose the entries of one tensor.
_MOVING = frozenset(
    "Transpose Swapaxes Moveaxis ExpandDims Squeeze Cast Copy ConvertToTensor Identity "
    "Reshape GetItem Slice Split Flip StopGradient BroadcastTo Repeat Tile".split()
)
# Operations that receive weights as views; all others receive their values.
CONVOLUTIONS = frozenset(("Conv", "ConvTranspose", "DepthwiseConv"))
READ_AS_VIEWS = CONTRACTIONS | CONVOLUTIONS
_SCALING = frozenset("Multiply Divide TrueDivide Negative".split())


def is_own(layer: Any) -> bool:
    """Say whether the `call` of a layer is not one of Keras's."""
    call = getattr(type(layer), "call", None)
    module = str(getattr(call, "__module__", "keras"))
    return module.partition(".")[0] != "keras" and call is not keras.layers.Layer.call


def held_weights(layer: Any) -> dict[str, Any]:
    """Return the variables that a layer itself holds, by name.

    If Keras made up a variable's name ("variable_7"), or two have the same name, it is
    the name of the attribute: "w", or "heads[0]" in a list.
    """
    variables = own_variables(layer)
    counts = Counter(variable.name for variable in variables)
    unnamed = {
        id(variable)
        for variable in variables
        if counts[variable.name] > 1 or MADE_UP_NAME.fullmatch(variable.name)
    }
    attributes = _attribute_names(layer) if unnamed else {}
    weights: dict[str, Any] = {}
    for variable in variables:
        attribute = attributes.get(id(variable)) if id(variable) in unnamed else None
        weights.setdefault(attribute or variable.name, variable)
    return weights


def _attribute_names(layer: Any) -> dict[int, str]:
    """Return the names of the attributes that hold variables, by the variables' ids."""
    names: dict[int, str] = {}
    for name, value in keras_internals.weight_attributes(layer).items():
        for path, variable in keras.tree.flatten_with_path(value):
            place = "".join(f"[{key!r}]" for key in path)
            names.setdefault(id(variable), f"{name}{place}")
    return names


@dataclass(frozen=True, eq=False)
class WeightView:
    """A weight as an operation reads it: entries moved, some selected, all scaled.

    Attributes:
        layer, name: the weight.
        values: the tensor of the weight's current values.
        axes: for each axis, the weight's axis that it is, None for a new one; None as a
            whole if the entries were reshaped or some selected.
        factor: by which the entries were multiplied.
    """

    layer: Any
    name: str
    values: Any
    axes: tuple[int | None, ...] | None
    factor: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, as the operation reads it."""
        return tuple(self.values.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(keras.ops.convert_to_numpy(self.values), dtype)


def view_of(layer: Any, name: str, values: Any) -> WeightView:
    """Return a weight as it is, by its values."""
    return WeightView(layer, name, values, tuple(range(len(values.shape))))


def without_views(arguments: Arguments) -> Arguments:
    """Return the arguments of a call with the values of weights in place of views."""
    args, kwargs = keras.tree.map_structure(
        lambda leaf: leaf.values if isinstance(leaf, WeightView) else leaf, arguments
    )
    return args, kwargs


def computed(operation: Any, arguments: Arguments) -> list[Any]:
    """Return the results of an operation on weights alone: views of one, or tensors."""
    args, kwargs = without_views(arguments)
    outputs: list[Any] = keras.tree.flatten(operation.call(*args, **kwargs))
    views = [x for x in keras.tree.flatten(arguments) if isinstance(x, WeightView)]
    kind = type(operation).__name__
    if len(views) != 1:
        return outputs
    (view,) = views
    factor = 1.0
    if kind in _SCALING:
        numbers = [
            x for x in keras.tree.flatten(arguments) if isinstance(x, int | float)
        ]
        if kind != "Negative" and (len(numbers) != 1 or not numbers[0]):
            return outputs
        factor = -1.0 if kind == "Negative" else float(numbers[0])
        first = args[0] if args else kwargs.get("x1")
        if "Divide" in kind:
            if isinstance(first, int | float):
                return outputs
            factor = 1 / factor
    elif kind not in _MOVING:
        return outputs
    axes = _axes_behind(operation, arguments, view)
    return [
        WeightView(view.layer, view.name, x, axes, view.factor * factor)
        for x in outputs
    ]


def _axes_behind(
    operation: Any, arguments: Arguments, view: WeightView
) -> tuple[int | None, ...] | None:
    """Return the weight's axes after an operation, recognised by their sizes."""
    rank = len(view.shape)
    if view.axes is None or rank > len(_PRIMES):
        return None
    sizes = _PRIMES[:rank]
    trial = keras.ops.zeros(sizes)
    args, kwargs = keras.tree.map_structure(
        lambda leaf: trial if leaf is view else leaf, arguments
    )
    try:
        (output,) = keras.tree.flatten(operation.call(*args, **kwargs))
    except Exception:  # a shape or an index that belongs to the weight's own sizes
        return None
    axes = dict(zip(sizes, view.axes, strict=True))
    if not all(size == 1 or size in axes for size in output.shape):
        return None
    return tuple(axes.get(int(size)) for size in output.shape)


@dataclass(frozen=True, eq=False)
class OwnGraph:
    """The calls inside a layer, and the names of its weights by their tensors."""

    graph: Graph
    weights: dict[int, str]


def own_graph(layer: Any, arguments: Arguments, training: bool) -> OwnGraph | None:
    """Return the graph of a user's own layer, starting from its inputs and weights.

    Args:
        layer: a built layer or model.
        arguments: (args, kwargs) of its call, with objects that have a `shape` in
            place of tensors, except for those whose values are known.
        training: passed on where `call` takes it.

    Returns:
        The graph, with sizes assumed as by `graph.opened`; None for Keras's layers, and
        for those that only hold others.

    Raises:
        NoGraph: see `graph.opened`.
    """
    weights = held_weights(layer)
    if not is_own(layer) or not (weights or not sublayers(layer)):
        return None
    names: dict[int, str] = {}

    def trace(shapes: list[Shape]) -> Graph:
        names.clear()
        graph, of_weights = _traced(layer, weights, arguments, training, shapes)
        names.update(of_weights)
        return graph

    return OwnGraph(on_sizes(arguments, trace), names)


def _traced(
    layer: Any,
    weights: dict[str, Any],
    arguments: Arguments,
    training: bool,
    shapes: list[Shape],
) -> tuple[Graph, dict[int, str]]:
    """Return the graph from symbols of those shapes, and the tensors of weights in it.

    Raises:
        NoGraph: see `graph.opened`.
    """
    inputs: list[Any] = []

    def symbol(argument: Any) -> Any:
        if not stands_in(argument):
            return argument
        dtype = getattr(argument, "dtype", None) or layer.compute_dtype
        inputs.append(keras.Input(batch_shape=shapes[len(inputs)], dtype=dtype))
        return inputs[-1]

    # Not by a map, which takes keyword arguments in another order than `flatten`.
    leaves = [symbol(leaf) for leaf in keras.tree.flatten(arguments)]
    args, kwargs = keras.tree.pack_sequence_as(arguments, leaves)
    if keras_internals.takes_training(layer):
        kwargs = {**kwargs, "training": training}
    with _weights_as_symbols(layer, weights) as symbols:
        whole = graph_of_call(
            layer,
            [*inputs, *symbols.values()],
            lambda: type(layer).call(layer, *args, **kwargs),
        )
    count = len(inputs)
    _check_sizes(whole, set(whole.inputs[count:]))
    graph = replace(whole, inputs=whole.inputs[:count])
    if _computed_from(graph, set(graph.inputs)).isdisjoint(graph.outputs):
        raise NoGraph("its outputs do not depend on its inputs")
    return graph, dict(zip(whole.inputs[count:], symbols, strict=True))


def _check_sizes(graph: Graph, weights: set[int]) -> None:
    """Refuse a graph in which weights are repeated for a batch of unknown size."""
    for call in graph.calls:
        if weights.issuperset(call.inputs):
            weights = weights.union(call.outputs)
            if any(None in symbol.shape for symbol in call.node.outputs):
                raise NoGraph("its weights take a size that is not known")


def _computed_from(graph: Graph, tensors: set[int]) -> set[int]:
    for call in graph.calls:
        if not tensors.isdisjoint(call.inputs):
            tensors = tensors.union(call.outputs)
    return tensors


@contextlib.contextmanager
def _weights_as_symbols(
    layer: Any, weights: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Put symbols in place of a layer's weights in its attributes, for this block."""
    attributes = keras_internals.weight_attributes(layer)
    symbols: dict[str, Any] = {}
    by_variable: dict[int, Any] = {}
    reachable = {
        id(held) for value in attributes.values() for held in keras.tree.flatten(value)
    }
    for name, variable in weights.items():
        if id(variable) in reachable and "float" in variable.dtype:
            symbols[name] = keras.Input(
                batch_shape=tuple(variable.shape), dtype=layer.compute_dtype
            )
            by_variable[id(variable)] = symbols[name]
    held = vars(layer)
    try:
        for name, value in attributes.items():
            held[name] = keras.tree.map_structure(
                lambda leaf: by_variable.get(id(leaf), leaf), value
            )
        yield symbols
    finally:
        held.update(attributes)
