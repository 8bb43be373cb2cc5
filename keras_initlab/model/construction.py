"""The layer under construction: who is asking an initializer for which weight.

Keras calls an initializer with a shape and a dtype, no more. But while a weight is
being made, every open name scope knows its caller (the layer), and the variable
itself is on the call stack. This file, the only one that reads those internals,
turns them into a `Construction`; everything else asks `under_construction()`.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import keras
from keras.src.backend.common import global_state

from keras_initlab.model import nonlinearity
from keras_initlab.model.kernels import children, own_variables

Place = tuple[Any, ...]

# How far up the stack the variable or the outermost call may be. Measured: at most
# 25 frames below an initializer on TensorFlow, which has the deepest stack.
_MAX_FRAMES = 80


@dataclass(frozen=True)
class Construction:
    """The weight being made.

    `layer` holds it, `parents` are the layers around that one (outermost first),
    `weight` is its name in the layer ("kernel"), `place` says where in the model it
    stands: nested tuples of names and numbers that come out the same each time the
    same model is built, in any process.
    """

    layer: Any
    weight: str | None
    parents: tuple[Any, ...] = ()
    place: Place = field(default=())


_local = threading.local()


def under_construction() -> Construction | None:
    """Return the weight that is being made now; None if nobody is making one."""
    declared = getattr(_local, "declared", None)
    if declared is not None:
        return declared  # type: ignore[no-any-return]
    variable = _variable_on_stack()
    scopes = _open_layers() or _building_model(variable)
    if not scopes:
        return None
    owners = _path_to_owner(scopes[-1], variable)
    chain = [*scopes, *owners]
    layer, parents = chain[-1], tuple(chain[:-1])
    weight = None if variable is None else variable.name
    place = (
        _place_of_call(chain[0]),
        *(_position(child, parent) for parent, child in pairwise(chain)),
        _weight_position(layer, variable),
    )
    return Construction(layer, weight, parents, place)


@contextlib.contextmanager
def constructing(construction: Construction) -> Iterator[None]:
    """Declare the weight that initializers called in this block are drawing for."""
    previous = getattr(_local, "declared", None)
    _local.declared = construction
    try:
        yield
    finally:
        _local.declared = previous


def nonlinearity_ahead(construction: Construction) -> Any:
    """Return the activation that the weight's output will meet, as far as it shows.

    That is the layer's own activation or, where that is linear and the layer stands
    in a `Sequential` that already holds the layers after it, the next one that a
    transparent path leads to. None where there is none or it cannot be seen.
    """
    own = nonlinearity.own_nonlinearity(construction.layer)
    if own is not None:
        return own
    child = construction.layer
    for parent in reversed(construction.parents):
        if isinstance(parent, keras.Sequential):
            layers = parent.layers
            index = next((i for i, one in enumerate(layers) if one is child), None)
            if index is None:
                return None
            after = layers[index + 1 :]
            found = nonlinearity.next_in_sequence(after)
            if found is not None or not all(map(nonlinearity.is_transparent, after)):
                return found
        elif not nonlinearity.passes_output_on(parent, child):
            return None
        child = parent
    return None


def _open_layers() -> list[Any]:
    """Return the layers whose name scopes are open, outermost first."""
    stack = global_state.get_global_attribute("name_scope_stack") or []
    layers: list[Any] = []
    for scope in stack:
        caller = scope.caller
        # A layer opens its scope again to make a weight: that is one layer, not two.
        if isinstance(caller, keras.layers.Layer) and caller not in layers[-1:]:
            layers.append(caller)
    return layers


def _frames() -> Iterator[Any]:
    frame: Any = sys._getframe(1)
    for _ in range(_MAX_FRAMES):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _variable_on_stack() -> Any:
    """Return the Keras variable that is calling the initializer, if one is."""
    for frame in _frames():
        if "self" in frame.f_code.co_varnames:
            caller = frame.f_locals.get("self")
            if isinstance(caller, keras.Variable):
                return caller
    return None


def _building_model(variable: Any) -> list[Any]:
    """Return the outermost layer on the stack that holds `variable`, in a list.

    Where no name scope is open: on JAX and PyTorch `fit` builds a model on symbols,
    and its weights get their values when that, and every scope, is over. The model's
    own method is still on the stack then.
    """
    if variable is None:
        return []
    callers: dict[int, Any] = {}
    for frame in _frames():
        if "self" in frame.f_code.co_varnames:
            caller = frame.f_locals.get("self")
            if isinstance(caller, keras.layers.Layer):
                callers[id(caller)] = caller
    for caller in reversed(callers.values()):
        if _holds(caller, variable) or _path_to_owner(caller, variable):
            return [caller]
    return []


def _path_to_owner(layer: Any, variable: Any) -> list[Any]:
    """Return the layers from below `layer` down to the one that holds `variable`.

    A layer with no `build` of its own is built by running its `call` on symbols. The
    weights made there get their values at the end, when only the outer scope is
    still open; by then the inner layer holds the variable, and is found by it.
    """
    if variable is None or _holds(layer, variable):
        return []
    for child in children(layer):
        if _holds(child, variable):
            return [child]
        below = _path_to_owner(child, variable)
        if below:
            return [child, *below]
    return []


def _holds(layer: Any, variable: Any) -> bool:
    return any(one is variable for one in own_variables(layer))


def _position(child: Any, parent: Any) -> Any:
    for index, one in enumerate(children(parent)):
        if one is child:
            return index
    return type(child).__name__


def _weight_position(layer: Any, variable: Any) -> Place:
    """Name the weight in its layer, and count the ones before it of that name."""
    if variable is None:
        return ()
    before = 0
    for one in own_variables(layer):
        if one is variable:
            break
        before += one.name == variable.name
    return (variable.name, before)


# The place of a call in a functional graph. Automatic names ("dense_7") count the
# calls of the whole process and say nothing of the model; the graph does: a call is
# known by the calls that feed it and by which of their consumers it is. What the
# graph cannot tell apart, two towers on two inputs without names, draws alike.

_call_places: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def _place_of_call(layer: Any) -> Place:
    """Return the place in the functional graph where `layer` is being called."""
    name = _given_name(layer)
    for frame in _frames():
        code = frame.f_code
        if code.co_name == "__call__" and {"self", "args"} <= set(code.co_varnames):
            local = frame.f_locals
            if local.get("self") is layer:
                inputs = keras.tree.flatten((local["args"], local.get("kwargs")))
                place = _place_of_inputs(inputs, None)
                return (name, place) if place else (name,)
    return (name,)


def _given_name(operation: Any) -> str:
    """Return the name that the user gave to `operation`, "" if Keras made it up."""
    automatic = keras.src.utils.naming.to_snake_case(type(operation).__name__)
    matched = re.fullmatch(rf"{re.escape(automatic)}(_\d+)?", operation.name)
    return "" if matched else operation.name


def _place_of_inputs(inputs: list[Any], call: Any) -> str:
    """Digest where `inputs` come from and which of their consumers `call` is.

    `call` is the graph node that consumes them, None for the one being made.
    """
    symbols = [one for one in inputs if keras.utils.is_keras_tensor(one)]
    if not symbols:
        return ""
    consumers = symbols[0]._keras_history.operation._outbound_nodes
    order = next((i for i, one in enumerate(consumers) if one is call), len(consumers))
    feeding = [_place_of_symbol(symbol) for symbol in symbols]
    return _digest((order, feeding))


def _place_of_symbol(symbol: Any) -> tuple[str, int]:
    """Return the place of the call that made `symbol`, and its index there.

    Walks up with a stack of its own: a graph is deeper than Python's recursion.
    """
    operation, node_index, tensor_index = symbol._keras_history
    target = operation._inbound_nodes[node_index]
    pending = [] if target in _call_places else [target]
    while pending:
        call = pending[-1]
        above = [
            one._keras_history.operation._inbound_nodes[one._keras_history.node_index]
            for one in call.input_tensors
        ]
        missing = [one for one in above if one not in _call_places]
        if missing:
            pending.extend(missing)
            continue
        pending.pop()
        given = _given_name(call.operation)
        kind = type(call.operation).__name__
        _call_places[call] = _digest(
            (kind, given, _place_of_inputs(call.input_tensors, call))
        )
    return (_call_places[target], tensor_index)


def _digest(value: Any) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=16).hexdigest()
