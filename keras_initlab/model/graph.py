"""The walk: a model's calls in order, nested models opened. Keras's graph internals
are read here and nowhere else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras.src.models.functional import Functional
from keras.src.ops.function import Function

from keras_initlab import activations
from keras_initlab.model import nonlinearity


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer or of a bare operation in a model's graph.

    `inputs` and `outputs` number the tensors that it reads and makes. `key` is the
    layer's path inside the model, with `#0`, `#1` where it is called more than once.
    """

    operation: Any
    path: str
    key: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    node: Any

    @property
    def is_layer(self) -> bool:
        """Whether a layer is called, not a bare operation such as `keras.ops.add`."""
        return isinstance(self.operation, keras.layers.Layer)


@dataclass(frozen=True, eq=False)
class Graph:
    """The calls of a model in an order in which they can run."""

    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @cached_property
    def consumers(self) -> dict[int, tuple[Call, ...]]:
        """The calls that read each tensor."""
        found: dict[int, list[Call]] = {}
        for call in self.calls:
            for tensor in dict.fromkeys(call.inputs):
                found.setdefault(tensor, []).append(call)
        return {tensor: tuple(calls) for tensor, calls in found.items()}

    def calls_of(self, layer: Any) -> list[Call]:
        """Return the calls of one layer, in order."""
        return [call for call in self.calls if call.operation is layer]


def has_graph(model: Any) -> bool:
    """Say whether `model` is built of a graph that can be walked.

    True for a functional or built Sequential model whose class leaves `call` alone;
    a subclass with a `call` of its own may do anything.
    """
    return _functional(model) is not None


def _functional(model: Any) -> Any:
    if isinstance(model, keras.Sequential):
        plain = type(model).call is keras.Sequential.call
        return model._functional if plain else None
    if isinstance(model, Functional):
        return model if type(model).call is Functional.call else None
    return None


def graph_of(model: Any) -> Graph:
    """Return the graph of a functional or Sequential model, nested ones opened.

    Raises:
        ValueError: the model has no graph (see `has_graph`).
    """
    if not has_graph(model):
        raise ValueError(
            "Expected a functional or a built Sequential model, whose graph can be "
            f"walked. Received: {type(model).__name__} {model.name!r}"
        )
    return _Walk(_functional(model)).graph


def opened(layer: Any, arguments: Any, training: bool) -> Graph | None:
    """Return the graph of the calls inside a composite layer or subclassed model.

    Its `call` is run on symbols of the shapes in `arguments`, and leaves no trace.

    Args:
        layer: a built layer or model that holds others.
        arguments: (args, kwargs) of its call, with objects that have a `shape` in
            place of tensors.
        training: passed on where `call` takes it.

    Returns:
        The graph from those tensors, in order, to the outputs; None where `call`
        cannot be run on symbols, or does not show in a graph what it does.
    """
    if has_graph(layer):
        return graph_of(layer)
    inside = list(layer._flatten_layers(include_self=False))
    if not inside:
        return None
    counts = [(one, len(one._inbound_nodes)) for one in (layer, *inside)]
    outbound = [(one, len(one._outbound_nodes)) for one in (layer, *inside)]
    symbols: list[Any] = []

    def symbol(one: Any) -> Any:
        if not isinstance(getattr(one, "shape", None), tuple):
            return one
        made = keras.Input(batch_shape=tuple(one.shape), dtype=_dtype_of(layer))
        symbols.append(made)
        return made

    try:
        args, kwargs = keras.tree.map_structure(symbol, arguments)
        if layer._call_has_training_arg:
            kwargs = {**kwargs, "training": training}
        outputs = type(layer).call(layer, *args, **kwargs)
        functional = Function(symbols, keras.tree.flatten(outputs))
        return _Walk(functional).graph
    except Exception:
        # Whatever a call trips over on symbols (a backend's own functions, values
        # that are asked for): it is then measured as a whole.
        return None
    finally:
        for one, count in counts:
            del one._inbound_nodes[count:]
        for one, count in outbound:
            del one._outbound_nodes[count:]


def _dtype_of(layer: Any) -> str:
    first = next(
        (one for one in layer._flatten_layers() if not isinstance(one, keras.Model)),
        None,
    )
    return "int32" if isinstance(first, keras.layers.Embedding) else layer.compute_dtype


class _Walk:
    """Numbers the tensors of a model and lists its calls."""

    def __init__(self, functional: Any) -> None:
        self._tensors = 0
        self._raw: list[tuple[Any, str, tuple[int, ...], tuple[int, ...], Any]] = []
        inputs = self._number(functional.inputs)
        outputs = self._enter(functional, inputs, "")
        self.graph = Graph(tuple(self._calls()), tuple(inputs), tuple(outputs))

    def _number(self, symbols: list[Any]) -> list[int]:
        first = self._tensors
        self._tensors += len(symbols)
        return list(range(first, self._tensors))

    def _enter(self, functional: Any, inputs: list[int], prefix: str) -> list[int]:
        """List the calls of one model; return the numbers of its outputs."""
        numbers = {id(s): n for s, n in zip(functional.inputs, inputs, strict=True)}
        for depth in sorted(functional._nodes_by_depth, reverse=True):
            for node in functional._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                operation = node.operation
                path = f"{prefix}{operation.name}"
                read = [numbers[id(symbol)] for symbol in node.input_tensors]
                inner = _functional(operation)
                # A model called with a tensor twice or with some inputs left out
                # cannot be opened by position: it stays one call.
                if inner is not None and len(inner.inputs) == len(read):
                    made = self._enter(inner, read, f"{path}/")
                else:
                    made = self._number(node.outputs)
                    self._raw.append((operation, path, tuple(read), tuple(made), node))
                numbers.update(zip(map(id, node.outputs), made, strict=True))
        return [numbers[id(symbol)] for symbol in functional.outputs]

    def _calls(self) -> Iterator[Call]:
        total: dict[str, int] = {}
        for _, path, *_ in self._raw:
            total[path] = total.get(path, 0) + 1
        seen: dict[str, int] = {}
        for operation, path, read, made, node in self._raw:
            order = seen.get(path, 0)
            seen[path] = order + 1
            key = path if total[path] == 1 else f"{path}#{order}"
            yield Call(operation, path, key, read, made, node)


@dataclass(frozen=True)
class Following:
    """What a tensor meets: the nearest nonlinearity, and how sure that is."""

    nonlinearity: Any
    note: str = ""


def following_nonlinearity(graph: Graph, tensors: tuple[int, ...]) -> Following:
    """Return the nonlinearity that `tensors` meet first, through transparent calls.

    Breadth first: of several paths the shortest counts, and where as short a one
    leads elsewhere the note says so. None (linear) where every path ends at another
    kernel, an unknown layer or the model's output before it is bent.
    """
    pending = deque(tensors)
    seen = set(tensors)
    found: list[Any] = []
    unknown: list[str] = []
    while pending and not found:
        for _ in range(len(pending)):
            for call in graph.consumers.get(pending.popleft(), ()):
                bend = _bend_of(call)
                if bend is not None:
                    found.append(bend)
                elif _is_transparent(call):
                    fresh = [one for one in call.outputs if one not in seen]
                    pending.extend(fresh)
                    seen.update(fresh)
                elif not _has_kernel(call.operation):
                    unknown.append(call.operation.name)
    if found:
        names = list(dict.fromkeys(readable(one) for one in found))
        others = [*names[1:], *(f"{one}, whose effect is unknown" for one in unknown)]
        note = f"also feeds {', '.join(others)}" if others else ""
        return Following(found[0], note)
    note = f"linear up to {unknown[0]}, whose effect is unknown" if unknown else ""
    return Following(None, note)


def readable(identifier: Any) -> str:
    """Return an activation's name for people."""
    try:
        return activations.resolve(identifier).name
    except (TypeError, ValueError):
        name = getattr(identifier, "name", None) or getattr(
            identifier, "__name__", type(identifier).__name__
        )
        return str(name)


def _bend_of(call: Call) -> Any:
    """Return the nonlinearity that a call is, None if it is something else."""
    operation = call.operation
    if not call.is_layer:
        return _bare_nonlinearity(call)
    if isinstance(operation, (*nonlinearity.ACTIVATION_LAYERS, keras.layers.Lambda)):
        return nonlinearity.own_nonlinearity(operation)
    return None


# Bare operations that move, add or rescale values: transparent, as their layers are.
_TRANSPARENT_OPERATIONS = frozenset(
    "Add Subtract Average Concatenate Stack Hstack Vstack "
    "Reshape Ravel Transpose Swapaxes Moveaxis Squeeze ExpandDims Flip Roll Repeat "
    "Tile BroadcastTo GetItem Slice Split Take Pad DepthToSpace SpaceToDepth "
    "Cast SaturateCast ConvertToTensor Copy StopGradient Mean Sum Max "
    "MaxPool AveragePool AdaptiveMaxPool AdaptiveAveragePool "
    "BatchNorm LayerNorm RMSNorm Normalize Negative".split()
)


def _is_transparent(call: Call) -> bool:
    if call.is_layer:
        return nonlinearity.is_transparent(call.operation)
    kind = type(call.operation).__name__
    return kind in _TRANSPARENT_OPERATIONS or _is_affine(call)


def _bare_nonlinearity(call: Call) -> Any:
    """Return what a bare operation on one tensor bends it by, None if it does not."""
    kind = type(call.operation).__name__
    if len(call.inputs) != 1 or kind in _TRANSPARENT_OPERATIONS:
        return None
    function = as_function(call)
    try:
        resolved = activations.resolve(function)
    except (TypeError, ValueError):
        # Softmax and its like mix units: known by name, not by value.
        name = keras.src.utils.naming.to_snake_case(kind)
        return name if hasattr(keras.activations, name) else None
    return None if _is_affine(call) else resolved


def as_function(call: Call) -> Any:
    """Return a bare operation on one tensor as a function of that tensor."""
    arguments = call.node.arguments
    symbol = id(call.node.input_tensors[0])

    def function(x: Any) -> Any:
        args, kwargs = arguments.fill_in({symbol: x})
        return call.operation.call(*args, **kwargs)

    return function


def _is_affine(call: Call) -> bool:
    """Say whether a bare operation on one tensor only scales and shifts it."""
    if len(call.inputs) != 1:
        return False
    try:
        function = activations.resolve(as_function(call)).function
    except (TypeError, ValueError):
        return False
    if function is None:
        return False
    values = function(np.linspace(-3.0, 3.0, 13))
    return bool(np.allclose(np.diff(values, 2), 0, atol=1e-5))


def _has_kernel(operation: Any) -> bool:
    return any(name.endswith("kernel_initializer") for name in vars(operation))


def built_shapes(model: Any) -> list[tuple[str, tuple[int | None, ...]]]:
    """Return name and shape of each input that a subclassed model was built for."""
    recorded = model._build_shapes_dict or {}
    found: list[tuple[str, tuple[int | None, ...]]] = []
    for name, shapes in recorded.items():
        flat: list[Any] = []
        keras.tree.map_shape_structure(flat.append, shapes)
        for index, shape in enumerate(flat):
            label = name if len(flat) == 1 else f"{name}_{index}"
            found.append((label.removesuffix("_shape"), (None, *tuple(shape)[1:])))
    return found


_STANDARDISING = (keras.layers.Normalization, keras.layers.Rescaling)


def standardised(graph: Graph) -> frozenset[int]:
    """Return the ids of the last Normalization or Rescaling behind each input."""
    found: set[int] = set()
    for tensor in graph.inputs:
        last = None
        while len(readers := graph.consumers.get(tensor, ())) == 1:
            if not isinstance(readers[0].operation, _STANDARDISING):
                break
            last = readers[0]
            tensor = last.outputs[0]
        if last is not None:
            found.add(id(last.operation))
    return frozenset(found)


def built_arguments(model: Any, tensors: list[Any]) -> tuple[tuple[Any, ...], Any]:
    """Return `tensors`, in the order of `built_shapes`, as a call's arguments.

    A subclassed model that was built for a list or a dict of tensors is called on one.
    """
    left = iter(tensors)
    found = {
        name.removesuffix("_shape"): keras.tree.map_shape_structure(
            lambda _: next(left), shapes
        )
        for name, shapes in (model._build_shapes_dict or {}).items()
    }
    if len(found) == 1:
        return tuple(found.values()), {}
    return (), found
