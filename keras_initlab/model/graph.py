"""The graph of a model: its calls in order, nested models opened."""

from __future__ import annotations

import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import keras
import numpy as np

from keras_initlab.model import keras_internals, symbols
from keras_initlab.model.layers import (
    Names,
    call_keys,
    children,
    every_place,
    is_closed,
    is_weightless,
)

Shape = tuple[int | None, ...]

# Sizes that replace an unknown batch, and other unknown sizes, if a call needs numbers;
# the small one if that fails, as a table of positions may have fewer rows.
ASSUMED_BATCH, ASSUMED_SIZE, SMALL_SIZE = 32, 64, 8


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer or of a bare operation in a model's graph.

    `inputs` and `outputs` number the tensors that it reads and returns. `key` is the
    layer's path inside the model, with `#0`, `#1` if it is called more than once. In a
    bare operation inside a user's own layer that multiplies with a weight, `kernel` is
    the id of the layer and the name of the weight; `owner` is that layer, for every
    call inside it.
    """

    operation: Any
    path: str
    key: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    node: Any
    kernel: tuple[int, str] | None = None
    owner: Any = None

    @property
    def is_layer(self) -> bool:
        """Whether a layer is called, not a bare operation such as `keras.ops.add`."""
        return isinstance(self.operation, keras.layers.Layer)

    def filled(self, by_symbol: dict[int, Any]) -> tuple[tuple[Any, ...], Any]:
        """Return (args, kwargs) of the call with values, by id, for the symbols.

        As Keras does, without `training` for a layer that does not take it.
        """
        args, kwargs = self.node.arguments.fill_in(by_symbol)
        if self.is_layer and not keras_internals.takes_training(self.operation):
            kwargs = {k: v for k, v in kwargs.items() if k != "training"}
        return args, kwargs


@dataclass(frozen=True, eq=False)
class Graph:
    """The calls of a model in an order in which they can run."""

    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    # The inputs' shapes if unknown sizes were assumed; see `opened`.
    assumed: tuple[Shape, ...] = ()
    # Tensors that are the same whatever the inputs are, by their numbers.
    constants: Mapping[int, Any] = field(default_factory=dict)

    @cached_property
    def consumers(self) -> dict[int, tuple[Call, ...]]:
        """The calls that read each tensor."""
        readers: dict[int, list[Call]] = {}
        for call in self.calls:
            for tensor in dict.fromkeys(call.inputs):
                readers.setdefault(tensor, []).append(call)
        return {tensor: tuple(calls) for tensor, calls in readers.items()}

    @cached_property
    def after_weights(self) -> frozenset[int]:
        """The tensors that a layer with weights has made or fed."""
        after: set[int] = set()
        for call in self.calls:
            if not (is_weightless(call.operation) and after.isdisjoint(call.inputs)):
                after.update(call.outputs)
        return frozenset(after)

    def calls_of(self, layer: Any) -> list[Call]:
        """Return the calls of one layer, in order."""
        return [call for call in self.calls if call.operation is layer]


class NoGraph(ValueError):
    """The calls inside a layer cannot be traced as a graph; the message says why."""


def has_graph(model: Any) -> bool:
    """Say whether `model` is built of a graph that can be walked.

    True for a functional or built Sequential model whose class leaves `call` alone;
    a subclass with a `call` of its own may do anything.
    """
    return keras_internals.functional_of(model) is not None


def graph_of(model: Any) -> Graph:
    """Return the graph of a functional or Sequential model, nested ones opened.

    Raises:
        ValueError: the model has no graph (see `has_graph`).
    """
    functional = keras_internals.functional_of(model)
    if functional is None:
        raise ValueError(
            "Expected a functional or a built Sequential model, whose graph can be "
            f"walked. Received: {type(model).__name__} {model.name!r}"
        )
    return _Walk(model, functional).graph


def graph_of_call(layer: Any, inputs: list[Any], call: Callable[[], Any]) -> Graph:
    """Return the graph from symbols to what `call` computes of them inside a layer.

    Raises:
        NoGraph: as in `opened`.
    """
    inner = [place.layer for place in every_place(layer)]
    with (
        keras_internals.nodes_forgotten((layer, *inner)),
        keras_internals.calls_forgotten(layer),
        keras_internals.lenient_calls(inner, _composite(inner), _refusals()),
        keras.StatelessScope(),
        symbols.asked_first(),
        symbols.merged_with_tensors(),
    ):
        try:
            return _graph_between(layer, inputs, call())
        except _refusals() as error:
            raise _no_graph(error) from error


def _graph_between(layer: Any, inputs: list[Any], returned: Any) -> Graph:
    """Return the graph from symbols to what a call has returned, without its None.

    Numbers among it, such as a bias of zeros, are constants of the graph.
    """
    outputs = [x for x in keras.tree.flatten(returned) if x is not None]
    computed = [x for x in outputs if keras.utils.is_keras_tensor(x)]
    if not computed:
        raise ValueError("what it returns does not depend on its inputs")
    walked = _Walk(layer, keras_internals.function_between(inputs, computed)).graph
    left = iter(walked.outputs)
    constants = {
        -1 - place: x
        for place, x in enumerate(outputs)
        if not keras.utils.is_keras_tensor(x)
    }
    numbers = [
        -1 - place if -1 - place in constants else next(left)
        for place in range(len(outputs))
    ]
    return replace(walked, outputs=tuple(numbers), constants=constants)


def _composite(inner: list[Any]) -> list[Any]:
    """Return the layers that hold others, and whose call may be followed."""
    return [held for held in inner if children(held) and not is_closed(held)]


def _no_graph(error: Exception) -> NoGraph:
    message = " ".join(str(error).split()) or "no message"
    said = textwrap.shorten(message, 160, placeholder=" ...")
    return NoGraph(
        f"its call cannot be followed on symbols ({type(error).__name__}: {said})"
    )


def opened(layer: Any, arguments: Any, training: bool) -> Graph | None:
    """Return the graph of the calls inside a composite layer or subclassed model.

    Its `call` is run on symbols of the shapes in `arguments`, which leaves no trace in
    the layer. If it refuses symbols with unknown sizes, or takes them for 0,
    `ASSUMED_SIZE` or `SMALL_SIZE` is used for these and, if need be, `ASSUMED_BATCH`
    for the batch; the graph records this.

    Args:
        layer: a built layer or model.
        arguments: (args, kwargs) of its call, with objects that have a `shape` in
            place of tensors, except for those whose values are known.
        training: passed on where `call` takes it.

    Returns:
        The graph from those tensors, in order, to the outputs; None for a layer that
        holds no other layers.

    Raises:
        NoGraph: `call` cannot be run on symbols, or cannot be expressed as a graph. It
            holds the message of `call` or Keras.
    """
    if has_graph(layer):
        return graph_of(layer)
    inner = [place.layer for place in every_place(layer)]
    if not inner:
        return None
    return on_sizes(
        arguments, lambda shapes: _traced(layer, inner, arguments, training, shapes)
    )


def on_sizes(arguments: Any, trace: Callable[[list[Shape]], Graph]) -> Graph:
    """Return the graph that `trace` makes of the shapes of tensors in `arguments`.

    If it refuses unknown sizes, or takes them for 0, `ASSUMED_SIZE` or `SMALL_SIZE` is
    used for these and, if need be, `ASSUMED_BATCH` for the batch; the graph records
    this.

    Raises:
        NoGraph: it refuses these as well.
    """
    flat = keras.tree.flatten(arguments)
    own_shapes = [tuple(tensor.shape) for tensor in flat if stands_in(tensor)]
    numbers = itertools.product((ASSUMED_SIZE, SMALL_SIZE), (None, ASSUMED_BATCH))
    sizes = [(None, None), *((batch, size) for size, batch in numbers)]
    tries = [[_with_sizes(s, *assumed) for s in own_shapes] for assumed in sizes]
    refusal: NoGraph | None = None
    for number, sized in enumerate(tries):
        if sized in tries[:number]:
            continue
        try:
            traced = trace(sized)
            _check_sizes(traced, sized)
        except NoGraph as error:
            refusal = error
        else:
            assumed = () if sized == own_shapes else tuple(sized)
            return replace(traced, assumed=assumed)
    assert refusal is not None
    raise refusal


def _check_sizes(graph: Graph, shapes: list[Shape]) -> None:
    """Refuse a graph in which a size that is not known, or assumed, does not fit.

    Keras's `arange(0, None)` is empty, and a row outside of a table is NaN on JAX.
    """
    if not any(0 in shape for shape in shapes):
        for call in graph.calls:
            if any(0 in symbol.shape for symbol in call.node.outputs):
                raise NoGraph("a size that is not known is 0 in its call")
    for call in graph.calls:
        arguments = call.node.arguments
        for leaf in keras.tree.flatten((arguments.args, arguments.kwargs)):
            if keras.ops.is_tensor(leaf):
                values = keras.ops.convert_to_numpy(leaf)
                if values.dtype.kind == "f" and np.isnan(values).any():
                    raise NoGraph("it computes NaN from the sizes that were assumed")


def stands_in(argument: Any) -> bool:
    """Whether an argument has a shape but no values: it stands in for a tensor.

    A mask or table that a layer is called with beside them has values, and keeps them.
    """
    if not isinstance(getattr(argument, "shape", None), tuple):
        return False
    has_values = isinstance(argument, keras.Variable | np.ndarray | np.generic)
    return not (has_values or keras.ops.is_tensor(argument))


def _with_sizes(shape: Shape, batch: int | None, size: int | None) -> Shape:
    """Return a shape with numbers for the sizes that are not known."""
    return tuple(
        length if length is not None else size if axis else batch
        for axis, length in enumerate(shape)
    )


def _traced(
    layer: Any, inner: list[Any], arguments: Any, training: bool, shapes: list[Shape]
) -> Graph:
    """Return the graph of a `call` on symbols of those shapes."""
    dtype = _input_dtype(layer, inner)
    inputs = [keras.Input(batch_shape=shape, dtype=dtype) for shape in shapes]
    # Not by a map, which takes keyword arguments in another order than `flatten`.
    left = iter(inputs)
    leaves = keras.tree.flatten(arguments)
    flat = [next(left) if stands_in(leaf) else leaf for leaf in leaves]
    args, kwargs = keras.tree.pack_sequence_as(arguments, flat)
    if keras_internals.takes_training(layer):
        kwargs = {**kwargs, "training": training}
    with (
        keras_internals.nodes_forgotten((layer, *inner)),
        keras_internals.lenient_calls(inner, _composite(inner), _refusals()),
        symbols.asked_first(),
        symbols.merged_with_tensors(),
    ):
        try:
            returned = type(layer).call(layer, *args, **kwargs)
            return _graph_between(layer, inputs, returned)
        except _refusals() as error:
            raise _no_graph(error) from error


def _refusals() -> tuple[type[Exception], ...]:
    """Return the errors with which code refuses a symbol in place of a tensor.

    A symbol has no values and may lack sizes; functions of a backend, of NumPy and of
    the user say so with one of these. Anything else is a mistake in `call`.
    """
    errors: list[type[Exception]] = [
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ]
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None:
        errors.append(tensorflow.errors.OpError)  # is none of the above
    return tuple(errors)


def _input_dtype(layer: Any, inner: list[Any]) -> str:
    """Return the dtype that the first layer reads: int32 for an Embedding."""
    first = next(
        (held for held in (layer, *inner) if not isinstance(held, keras.Model)), None
    )
    return "int32" if isinstance(first, keras.layers.Embedding) else layer.compute_dtype


class _Walk:
    """Numbers the tensors of a model or layer and lists the calls inside it."""

    def __init__(self, owner: Any, functional: Any) -> None:
        self._tensors = 0
        self._paths = {id(place.layer): place.path for place in every_place(owner)}
        self._names = Names(self._paths.values())
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
        for node in keras_internals.nodes_of(functional):
            operation = node.operation
            path = self._path_of(operation, prefix)
            read = [numbers[id(symbol)] for symbol in node.input_tensors]
            nested = keras_internals.functional_of(operation)
            # A model that is called with a tensor twice, or with some inputs left out,
            # cannot be opened by position: it stays one call.
            if nested is not None and len(nested.inputs) == len(read):
                written = self._enter(nested, read, f"{path}/")
            else:
                written = self._number(node.outputs)
                call = (operation, path, tuple(read), tuple(written), node)
                self._raw.append(call)
            numbers.update(zip(map(id, node.outputs), written, strict=True))
        return [numbers[id(symbol)] for symbol in functional.outputs]

    def _path_of(self, operation: Any, prefix: str) -> str:
        """Return the path of a layer's place; of a bare operation, the like."""
        if id(operation) not in self._paths:
            name = self._names.free(f"{prefix}{operation.name}")
            self._paths[id(operation)] = name
        return self._paths[id(operation)]

    def _calls(self) -> Iterator[Call]:
        keys = call_keys([path for _, path, *_ in self._raw])
        for key, call in zip(keys, self._raw, strict=True):
            operation, path, inputs, outputs, node = call
            yield Call(operation, path, key, inputs, outputs, node)


def as_function(call: Call) -> Any:
    """Return a bare operation on one tensor as a function of that tensor."""
    arguments = call.node.arguments
    symbol = id(call.node.input_tensors[0])

    def function(x: Any) -> Any:
        args, kwargs = arguments.fill_in({symbol: x})
        return call.operation.call(*args, **kwargs)

    return function


def built_shapes(model: Any) -> list[tuple[str, tuple[int | None, ...]]]:
    """Return name and shape of each input that a subclassed model was built for."""
    inputs: list[tuple[str, tuple[int | None, ...]]] = []
    for name, shapes in keras_internals.build_shapes(model).items():
        flat: list[Any] = []
        keras.tree.map_shape_structure(flat.append, shapes)
        for index, shape in enumerate(flat):
            label = name if len(flat) == 1 else f"{name}_{index}"
            inputs.append((label.removesuffix("_shape"), (None, *tuple(shape)[1:])))
    return inputs


def built_arguments(model: Any, tensors: list[Any]) -> tuple[tuple[Any, ...], Any]:
    """Return `tensors`, in the order of `built_shapes`, as a call's arguments.

    A subclassed model that was built for a list or a dict of tensors is called on one.
    """
    left = iter(tensors)
    arguments = {
        name.removesuffix("_shape"): keras.tree.map_shape_structure(
            lambda _: next(left), shapes
        )
        for name, shapes in keras_internals.build_shapes(model).items()
    }
    if len(arguments) == 1:
        return tuple(arguments.values()), {}
    return (), arguments
