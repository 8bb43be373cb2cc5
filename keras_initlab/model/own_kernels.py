"""Which weights of a user's own layer multiply its input, and along which axes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np
from numpy.typing import NDArray

from keras_initlab.model import keras_internals
from keras_initlab.model.contractions import CONTRACTIONS, factors_of, letters_of
from keras_initlab.model.fans import KernelLayout, Shape, kernel_layout
from keras_initlab.model.graph import (
    Call,
    Graph,
    NoGraph,
    built_arguments,
    built_shapes,
    opened,
)
from keras_initlab.model.own_weights import (
    CONVOLUTIONS,
    Arguments,
    OwnGraph,
    WeightView,
    computed,
    held_weights,
    is_own,
    own_graph,
    view_of,
)

_TRIAL = 4  # inputs of a batch, and the size of axes that are not known


@dataclass(frozen=True)
class Use:
    """How a layer uses one of its weights.

    Attributes:
        multiplies: whether its input is multiplied with the weight, and summed.
        layout: the weight's axes; None if they are not known.
        reason: why the weight is not a kernel; empty for a kernel.
        products: the tensors of the products, in the graph of `own_graph_of`.
    """

    multiplies: bool
    layout: KernelLayout | None = None
    reason: str = ""
    products: tuple[int, ...] = ()


# Why a weight that these operations read is no kernel.
_PRODUCTS = frozenset(("Multiply", "Divide", "TrueDivide"))
_SIDE_USES = {
    **dict.fromkeys(("Add", "Subtract"), "added, not multiplied"),
    **dict.fromkeys(_PRODUCTS, "multiplies element by element, sums nothing"),
    **dict.fromkeys(("Take", "GetItem", "Gather"), "looked up, not multiplied"),
}
AMONG_WEIGHTS = "only used among weights"
ADDED = "it makes an output without an input: not multiplied"

_graphs: WeakKeyDictionary[Any, OwnGraph | None] = WeakKeyDictionary()
_inside: WeakKeyDictionary[Any, Graph | None] = WeakKeyDictionary()
_uses: WeakKeyDictionary[Any, dict[str, Use]] = WeakKeyDictionary()


def uses_of(layer: Any) -> dict[str, Use]:
    """Return how a built layer of the user's own uses its weights of several axes.

    They are found from the products in the graph of its `call`; if `call` does not run
    on symbols, by measuring the effect of a weight's scale on the output. Empty for
    Keras's layers.
    """
    if not is_own(layer) or not layer.built:
        return {}
    if layer not in _uses:
        _uses[layer] = _find_uses(layer)
    return _uses[layer]


def own_graph_of(layer: Any) -> OwnGraph | None:
    """Return the graph of a user's own layer, on inputs as it was built for.

    None for Keras's layers, and if `call` does not run on symbols.
    """
    if not is_own(layer) or not layer.built:
        return None
    if layer not in _graphs:
        _graphs[layer] = None
        arguments = _arguments_of(layer)
        if arguments is not None:
            with contextlib.suppress(NoGraph):  # what it does is measured
                _graphs[layer] = own_graph(layer, arguments, training=True)
    return _graphs[layer]


def graph_inside(layer: Any) -> Graph | None:
    """Return the graph inside a user's own layer or model, on inputs as for its build.

    None for Keras's layers, and if `call` does not run on symbols.
    """
    inner = own_graph_of(layer)
    if inner is not None or not is_own(layer) or not layer.built:
        return None if inner is None else inner.graph
    if layer not in _inside:
        arguments, _inside[layer] = _arguments_of(layer), None
        if arguments is not None:
            with contextlib.suppress(NoGraph):  # what it does is measured
                _inside[layer] = opened(layer, arguments, training=True)
    return _inside[layer]


def _arguments_of(layer: Any) -> Arguments | None:
    """Return what a layer was last called on, or built for."""
    called = keras_internals.called_with(layer)
    if called is not None:
        return called
    try:
        shapes = [shape for _, shape in built_shapes(layer)]
        symbols = [keras.KerasTensor(shape, layer.compute_dtype) for shape in shapes]
        return built_arguments(layer, symbols) if symbols else None
    except (TypeError, ValueError, StopIteration):
        return None  # built for something that is no shape of tensors


def _find_uses(layer: Any) -> dict[str, Use]:
    weights = {
        name: variable
        for name, variable in held_weights(layer).items()
        if len(variable.shape) > 1 and "float" in variable.dtype
    }
    if not weights:
        return {}
    inner = own_graph_of(layer)
    if inner is None:
        return {name: _measured(layer, variable) for name, variable in weights.items()}
    uses = _traced(layer, inner, weights)
    for name, variable in weights.items():
        use = uses.get(name)
        if use is None:
            uses[name] = Use(False, reason="its layer does not use it")
        elif not use.multiplies and use.reason.startswith(AMONG_WEIGHTS):
            # It may be part of a kernel: its mean, but not the deviation of its noise,
            # whose entries start out equal.
            measured = _measured(layer, variable)
            values = keras.ops.convert_to_numpy(variable.value)
            if (measured.multiplies and np.ptp(values)) or measured.reason == ADDED:
                uses[name] = measured
    return uses


def _traced(layer: Any, inner: OwnGraph, weights: dict[str, Any]) -> dict[str, Use]:
    """Return the uses that show in the graph of a layer's call."""
    held: dict[int, Any] = {
        number: view_of(layer, name, weights[name].value)
        for number, name in inner.weights.items()
        if name in weights
    }
    unseen = set(inner.weights) - set(held)
    # What is computed of weights alone: the weights that it is no view of any more.
    computed_of: dict[int, set[str]] = {}
    reasons: dict[str, str] = {}
    readers: dict[str, set[str]] = {}
    uses: dict[str, Use] = {}
    for call in inner.graph.calls:
        arguments = _filled(call, held)
        views = list(_views(arguments))
        names = set().union(*(computed_of.get(n, set()) for n in call.inputs))
        if all(number in held or number in unseen for number in call.inputs):
            results: list[Any] = []
            if unseen.isdisjoint(call.inputs):
                results = computed(call.operation, arguments)
            if len(results) == len(call.outputs):
                held.update(zip(call.outputs, results, strict=True))
            else:
                unseen.update(call.outputs)
            for view in [] if any(map(_is_view, results)) else views:
                reasons.setdefault(view.name, f"{AMONG_WEIGHTS} ({_kind(call)})")
                names.add(view.name)
            computed_of.update(dict.fromkeys(call.outputs, names))
            continue
        for name in names:
            readers.setdefault(name, set()).add(_side_use(call))
        for view in views:
            _merge(uses, view.name, _use_in(call, held, view))
    for name, reason in reasons.items():
        read_by = readers.get(name, set())
        if read_by and "" not in read_by:
            reason = min(read_by)
        uses.setdefault(name, Use(False, reason=reason))
    return uses


def _side_use(call: Call) -> str:
    """Return why what a call reads is no kernel; empty if it may be one."""
    kind = type(call.operation).__name__
    if kind in _PRODUCTS:
        return ""
    # Layers of Keras multiply with weights of their own.
    if call.is_layer and not is_own(call.operation) and kind != "Dot":
        return f"read by {_kind(call)}, not multiplied"
    return _SIDE_USES.get(kind, "")


def _merge(uses: dict[str, Use], name: str, use: Use) -> None:
    before = uses.get(name)
    if before is None or (use.multiplies and not before.multiplies):
        uses[name] = use
    elif use.multiplies:
        products = (*before.products, *use.products)
        uses[name] = Use(True, before.layout, before.reason, products)


def _kind(call: Call) -> str:
    return keras_internals.automatic_name(type(call.operation))


def _is_view(value: Any) -> bool:
    return isinstance(value, WeightView)


def _filled(call: Call, held: dict[int, Any]) -> Arguments:
    """Return a call's arguments with weights, as far as they are, for symbols."""
    symbols = zip(call.inputs, call.node.input_tensors, strict=True)
    by_symbol = {id(s): held.get(number, s) for number, s in symbols}
    arguments: Arguments = call.filled(by_symbol)
    return arguments


def _views(arguments: Arguments) -> Iterator[WeightView]:
    yield from (x for x in keras.tree.flatten(arguments) if _is_view(x))


def _use_in(call: Call, held: dict[int, Any], view: WeightView) -> Use:
    """Return the use of a weight by a call that also reads other tensors."""
    operation, kind = call.operation, type(call.operation).__name__
    arguments = _filled(call, held)
    if kind in CONVOLUTIONS:
        return Use(True, _of_convolution(operation, view), products=call.outputs)
    if kind in CONTRACTIONS:
        factors = factors_of(operation, arguments)
        if factors is not None:
            layout = _of_product(operation, factors, view)
            return Use(True, layout, products=call.outputs)
    if kind in _SIDE_USES:
        return Use(False, reason=_SIDE_USES[kind])
    return Use(False, reason=f"read by {_kind(call)}, not multiplied")


def _of_product(
    operation: Any, factors: tuple[Any, Any], view: WeightView
) -> KernelLayout | None:
    x, y = factors
    letters = letters_of(operation, (len(x.shape), len(y.shape)))
    if letters is None or view.axes is None:
        return None
    first, second, result = letters
    of_weight, of_input = (first, second) if x is view else (second, first)
    axes = dict(zip(of_weight, view.axes, strict=True))

    def those(letters_of_kind: list[str]) -> tuple[int, ...]:
        return tuple(a for x in letters_of_kind if (a := axes[x]) is not None)

    return KernelLayout(
        inputs=those([a for a in of_weight if a not in result]),
        outputs=those([a for a in of_weight if a in result and a not in of_input]),
        batch=those([a for a in of_weight if a in result and a in of_input]),
    )


def _of_convolution(operation: Any, view: WeightView) -> KernelLayout | None:
    rank = len(view.shape)
    if view.axes != tuple(range(rank)):
        return None
    field = tuple(range(rank - 2))
    strides = operation.strides
    strides = strides if isinstance(strides, list | tuple) else [strides] * (rank - 2)
    share = 1.0 / math.prod(strides)
    kind = type(operation).__name__
    if kind == "ConvTranspose":
        return KernelLayout((rank - 1,), (rank - 2,), field, input_share=share)
    if kind == "DepthwiseConv":
        outputs, batch = (rank - 1,), (rank - 2,)
        return KernelLayout((), outputs, field, batch, output_share=share)
    return KernelLayout((rank - 2,), (rank - 1,), field, output_share=share)


def _measured(layer: Any, variable: Any) -> Use:
    """Return the use of a weight from the effect of its scale on the layer's output.

    A kernel has no effect if the input is 0, and some otherwise.
    """
    unknown = Use(False, reason="how its layer uses it cannot be told")
    arguments = _arguments_of(layer)
    if arguments is None:
        return unknown
    generator = np.random.default_rng(0)
    values = np.asarray(keras.ops.convert_to_numpy(variable.value), np.float32)
    random = generator.standard_normal(values.shape).astype("float32")
    kernel = random / max(values.shape[-2], 1) ** 0.5
    changes = []
    try:
        for size in (0.0, 1.0):
            inputs = _trial(arguments, size)
            before, after = (
                _output(layer, variable, w, inputs) for w in (kernel, -kernel)
            )
            changes.append(float(np.abs(before - after).max()))
    except Exception:  # whatever a user's layer may raise
        return unknown
    if not changes[1] > 0:
        return Use(False, reason="it changes nothing of its layer's output")
    if changes[0] > 1e-6 * changes[1]:
        return Use(False, reason=ADDED)
    return Use(True, _layout_by_sizes(values.shape, arguments))


def _trial(arguments: Arguments, size: float) -> Arguments:
    generator = np.random.default_rng(1)

    def array(argument: Any) -> Any:
        if not isinstance(getattr(argument, "shape", None), tuple):
            return argument
        shape = tuple(axis or _TRIAL for axis in argument.shape)
        dtype = getattr(argument, "dtype", "float32")
        values = generator.standard_normal(shape)
        if "float" not in dtype:
            return keras.ops.ones(shape, dtype=dtype)
        return keras.ops.convert_to_tensor(size * values, dtype=dtype)

    args, kwargs = keras.tree.map_structure(array, arguments)
    return args, kwargs


def _output(
    layer: Any, variable: Any, values: NDArray[Any], arguments: Arguments
) -> NDArray[Any]:
    """Return a layer's first output with other values in the place of a weight's."""

    def with_values(variables: list[Any]) -> list[Any]:
        put = keras.ops.convert_to_tensor(values, dtype=variable.dtype)
        return [put if v is variable else v.value for v in variables]

    args, kwargs = arguments
    outputs, _ = layer.stateless_call(
        with_values(layer.trainable_variables),
        with_values(layer.non_trainable_variables),
        *args,
        **kwargs,
    )
    first = keras.tree.flatten(outputs)[0]
    return np.asarray(keras.ops.convert_to_numpy(first), np.float64)


def _layout_by_sizes(shape: Shape, arguments: Arguments) -> KernelLayout | None:
    """Return the layout of a matrix whose last axis alone is as long as an input's."""
    units = {
        x.shape[-1] for x in keras.tree.flatten(arguments) if getattr(x, "shape", None)
    }
    if len(shape) == 2 and shape[0] not in units and shape[1] in units:
        return KernelLayout(inputs=(1,), outputs=(0,))
    return None


_of_shape = kernel_layout.dispatch(object)


@kernel_layout.register(keras.layers.Layer)
def _own_layout(layer: Any, weight: str | None, shape: Shape) -> KernelLayout:
    use = uses_of(layer).get(weight or "")
    if use is not None and use.layout is not None:
        return use.layout
    return _of_shape(layer, weight, shape)
