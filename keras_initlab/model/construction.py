"""The layer under construction: who is asking an initializer for which weight.

Keras calls an initializer with a shape and a dtype, no more. But while a weight is
created, every open name scope knows its caller (the layer), and the variable itself is
on the call stack. This file turns them into a `Construction`; everything else asks
`under_construction()`.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import keras

from keras_initlab.model import keras_internals, nonlinearity
from keras_initlab.model.keras_internals import own_variables
from keras_initlab.model.layers import children, is_weightless

# Where in a model a weight stands.
WeightPlace = tuple[Any, ...]


@dataclass(frozen=True)
class Construction:
    """The weight under construction.

    `layer` holds it, `parents` are the layers around that one (outermost first),
    `weight` is its name in the layer ("kernel"), `place` says where in the model it
    stands: nested tuples of names and numbers that come out the same each time the
    same model is built, in any process.
    """

    layer: Any
    weight: str | None
    parents: tuple[Any, ...] = ()
    place: WeightPlace = field(default=())


_local = threading.local()


def under_construction() -> Construction | None:
    """Return the weight under construction; None where there is none."""
    declared = getattr(_local, "declared", None)
    if declared is not None:
        return declared  # type: ignore[no-any-return]
    variable = keras_internals.variable_on_stack()
    scopes = keras_internals.open_layers() or _building_model(variable)
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
    """Return the activation that the weight's output will meet, if that is known.

    That is the layer's own activation or, if that is linear and the layer is in a
    `Sequential` that already holds the layers after it, the next one that a transparent
    path leads to. None if there is none or it is not known.
    """
    activation = nonlinearity.own_nonlinearity(construction.layer)
    if activation is not None:
        return activation
    child = construction.layer
    for parent in reversed(construction.parents):
        if isinstance(parent, keras.Sequential):
            layers = parent.layers
            index = next((i for i, held in enumerate(layers) if held is child), None)
            if index is None:
                return None
            after = layers[index + 1 :]
            ahead = nonlinearity.next_in_sequence(after)
            if ahead is not None or not all(map(nonlinearity.is_transparent, after)):
                return ahead
        elif not nonlinearity.passes_output_on(parent, child):
            return None
        child = parent
    return None


def reads_inputs(construction: Construction) -> bool:
    """Return whether the layer is known to read a model's inputs.

    True if there are only layers without weights between an `Input`, or the tensor that
    a model is called on, and the layer.
    """
    child = construction.layer
    for parent in reversed(construction.parents):
        held = parent.layers if isinstance(parent, keras.Sequential) else None
        for layer in children(parent) if held is None else held:
            if layer is child:
                break
            if not is_weightless(layer):
                return False
        child = parent
    arguments = keras_internals.call_arguments(child) or ()
    pending = [
        value
        for value in keras.tree.flatten(arguments)
        if keras.utils.is_keras_tensor(value)
    ]
    if not pending:
        return bool(construction.parents)
    while pending:
        node, _ = keras_internals.node_of(pending.pop())
        if not (node.is_input or is_weightless(node.operation)):
            return False
        pending.extend(node.input_tensors)
    return True


def _building_model(variable: Any) -> list[Any]:
    """Return the outermost layer on the stack that holds `variable`, in a list.

    This is for when no name scope is open: on JAX and PyTorch `fit` builds a model on
    symbols, and its weights get their values after all scopes are closed. The model's
    own method is then still on the stack.
    """
    if variable is None:
        return []
    for layer in reversed(keras_internals.layers_on_stack()):
        if _holds(layer, variable) or _path_to_owner(layer, variable):
            return [layer]
    return []


def _path_to_owner(layer: Any, variable: Any) -> list[Any]:
    """Return the layers from below `layer` down to the one that holds `variable`.

    A layer with no `build` of its own is built by running its `call` on symbols. The
    weights created there get their values at the end, when only the outer scope is
    still open; by then the inner layer holds the variable.
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
    return any(held is variable for held in own_variables(layer))


def _position(child: Any, parent: Any) -> Any:
    for index, sibling in enumerate(children(parent)):
        if sibling is child:
            return index
    return type(child).__name__


def _weight_position(layer: Any, variable: Any) -> WeightPlace:
    """Name the weight in its layer, and count the ones before it of that name."""
    if variable is None:
        return ()
    before = 0
    for held in own_variables(layer):
        if held is variable:
            break
        before += held.name == variable.name
    return (variable.name, before)


# The place of a call in a functional graph. Automatic names ("dense_7") count the
# calls of the whole process and say nothing of the model; the graph does: a call is
# known by the calls that feed it and by which of their consumers it is. What the
# graph cannot tell apart, two towers on two inputs without names, draws alike.

_call_places: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def _place_of_call(layer: Any) -> WeightPlace:
    """Return the place in the functional graph where `layer` is being called."""
    name = _given_name(layer)
    arguments = keras_internals.call_arguments(layer)
    if arguments is None:
        return (name,)
    place = _place_of_inputs(keras.tree.flatten(arguments), None)
    return (name, place) if place else (name,)


def _given_name(operation: Any) -> str:
    """Return the name that the user gave to `operation`, "" if Keras chose it."""
    automatic = keras_internals.automatic_name(type(operation))
    matched = re.fullmatch(rf"{re.escape(automatic)}(_\d+)?", operation.name)
    return "" if matched else operation.name


def _place_of_inputs(inputs: list[Any], call: Any) -> str:
    """Digest where `inputs` come from and which of their consumers `call` is.

    `call` is the graph node that consumes them, None for the call under way.
    """
    symbols = [value for value in inputs if keras.utils.is_keras_tensor(value)]
    if not symbols:
        return ""
    readers = keras_internals.nodes_after(symbols[0])
    order = next((i for i, node in enumerate(readers) if node is call), len(readers))
    feeding = [_place_of_symbol(symbol) for symbol in symbols]
    return _digest((order, feeding))


def _place_of_symbol(symbol: Any) -> tuple[str, int]:
    """Return the place of the call that made `symbol`, and its index there.

    Walks up with a stack of its own: a graph is deeper than Python's recursion.
    """
    target, tensor_index = keras_internals.node_of(symbol)
    pending = [] if target in _call_places else [target]
    while pending:
        call = pending[-1]
        above = [keras_internals.node_of(source)[0] for source in call.input_tensors]
        missing = [node for node in above if node not in _call_places]
        if missing:
            pending.extend(missing)
            continue
        pending.pop()
        name = _given_name(call.operation)
        kind = type(call.operation).__name__
        _call_places[call] = _digest(
            (kind, name, _place_of_inputs(call.input_tensors, call))
        )
    return (_call_places[target], tensor_index)


def _digest(value: Any) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=16).hexdigest()
