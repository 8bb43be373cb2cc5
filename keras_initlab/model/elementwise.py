"""Several elementwise calls in a graph that together are one nonlinearity.

x · sigmoid(x), max(x, 0.1 x), relu(x)² and 0.5 x (1 + erf(x / √2)) are written as
several operations, and the first one says little about the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_initlab import activations
from keras_initlab.model import keras_internals, nonlinearity
from keras_initlab.model.graph import Call, Graph

_MERGING = (
    keras.layers.Add,
    keras.layers.Average,
    keras.layers.Maximum,
    keras.layers.Minimum,
    keras.layers.Multiply,
    keras.layers.Subtract,
)
_ELEMENTWISE = (*_MERGING, keras.layers.Rescaling, keras.layers.Identity)

# Where the values of a whole are compared with those of its parts.
_GRID = np.linspace(-3.0, 3.0, 49)
# How many names of operations stand for a function that has none.
_NAMES = 3


@dataclass(frozen=True)
class Composite:
    """A nonlinearity that several calls compute from one tensor.

    Attributes:
        activation: the nonlinearity.
        calls: the calls that take part, by id.
    """

    activation: activations.Activation
    calls: frozenset[int]


def composite_at(graph: Graph, tensor: int) -> Composite | None:
    """Return the nonlinearity that several calls compute from a tensor; None for one.

    It ends where everything that is computed from the tensor, element by element, comes
    together again, and is extended by further calls as long as these bend it more, or
    complete a known activation.
    """
    region = _region(graph, tensor)
    if len(region) < 2 and not any(len(call.node.input_tensors) > 1 for call in region):
        return None
    start, best, last = tensor, None, _GRID
    for end in _cuts(region, tensor):
        whole = _resolved(region, start, end)
        if whole is None:
            break
        values = _values(whole)
        if best is None and _is_affine_in(values, _GRID):
            start = end  # only scaled and shifted: the nonlinearity comes later
            continue
        if whole.family == "periodic" and start != tensor:
            # A factor in front is part of its frequency.
            whole = _resolved(region, tensor, end) or whole
        is_named = whole.name in activations.NAMED or whole.family == "relu"
        if best is None or is_named or not _is_affine_in(values, last):
            best = Composite(whole, frozenset(map(id, _upto(region, end))))
        last = values
    if best is None or len(best.calls) < 2:
        single = best is not None and len(region[0].node.input_tensors) > 1
        return best if single else None
    return best


def _region(graph: Graph, tensor: int) -> list[Call]:
    """Return the calls that only read tensors computed from the given one."""
    inside, calls = {tensor}, []
    readers = graph.consumers.get(tensor, ())
    pending = list(readers)
    shape = _shape_of(readers[0], tensor) if readers else None
    while pending:
        call = pending.pop(0)
        if call in calls or not inside.issuperset(call.inputs) or len(call.outputs) > 1:
            continue
        if tuple(call.node.outputs[0].shape) != shape or not _may_be_elementwise(call):
            continue
        calls.append(call)
        inside.add(call.outputs[0])
        # Those that read several tensors are seen again when all have been made.
        pending.extend(graph.consumers.get(call.outputs[0], ()))
    order = {id(call): place for place, call in enumerate(graph.calls)} if calls else {}
    return sorted(calls, key=lambda call: order[id(call)])


def _shape_of(call: Call, tensor: int) -> tuple[int | None, ...]:
    return tuple(call.node.input_tensors[call.inputs.index(tensor)].shape)


def _may_be_elementwise(call: Call) -> bool:
    """Say whether a call may be elementwise, which is then tried on values."""
    operation = call.operation
    if not call.is_layer:
        return True
    if operation.variables:
        return False
    if isinstance(operation, (*nonlinearity.ACTIVATION_LAYERS, keras.layers.Lambda)):
        return True
    return isinstance(operation, _ELEMENTWISE) or nonlinearity.is_own_function(
        operation
    )


def _cuts(region: list[Call], tensor: int) -> Iterator[int]:
    """Yield, in order, the tensors through which all paths of a region lead."""
    left = {tensor: 0}
    for call in region:
        for source in set(call.inputs):
            left[source] = left.get(source, 0) + 1
    open_tensors = {tensor}
    for place, call in enumerate(region):
        for source in set(call.inputs):
            left[source] -= 1
            if not left[source]:
                open_tensors.discard(source)
        (output,) = call.outputs
        if not open_tensors:
            yield output
        if not left.get(output) and place + 1 < len(region):
            return  # it leaves the region on a way of its own
        open_tensors.add(output)


def _upto(region: list[Call], end: int) -> list[Call]:
    place = next(i for i, call in enumerate(region) if end in call.outputs)
    return region[: place + 1]


def _resolved(
    region: list[Call], start: int, end: int
) -> activations.Activation | None:
    """Return the elementwise function between two tensors, if there is one."""
    calls = _upto(region, end)
    begun = next((i for i, call in enumerate(calls) if start in call.inputs), 0)
    calls = calls[begun:]

    def function(x: Any) -> Any:
        values: dict[int, Any] = {start: x}
        for call in calls:
            symbols = call.node.input_tensors
            by_symbol = {
                id(symbol): values[number]
                for symbol, number in zip(symbols, call.inputs, strict=True)
            }
            args, kwargs = call.filled(by_symbol)
            values[call.outputs[0]] = call.operation.call(*args, **kwargs)
        return values[end]

    names = [keras_internals.automatic_name(type(call.operation)) for call in calls]
    more = [] if len(names) <= _NAMES else ["…"]
    function.__name__ = " → ".join([*names[:_NAMES], *more])
    try:
        resolved = activations.resolve(function)
    except (TypeError, ValueError):
        return None
    return resolved if resolved.function is not None else None


def _values(activation: activations.Activation) -> NDArray[np.float64]:
    function: Callable[[NDArray[np.float64]], Any] | None = activation.function
    assert function is not None
    return np.asarray(function(_GRID), np.float64)


def _is_affine_in(values: NDArray[np.float64], of: NDArray[np.float64]) -> bool:
    """Say whether some values are scale · x + shift of others."""
    design = np.stack([of, np.ones_like(of)], axis=1)
    fit, *_ = np.linalg.lstsq(design, values, rcond=None)
    error = np.abs(design @ fit - values).max()
    return bool(error <= 1e-5 * max(1.0, float(np.abs(values).max())))
