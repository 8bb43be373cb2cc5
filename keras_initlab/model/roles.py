"""Which kernels end a residual branch, and which are a model's heads."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_initlab import activations
from keras_initlab.model import nonlinearity
from keras_initlab.model.graph import Call, Graph, as_function
from keras_initlab.model.kernels import Kernel
from keras_initlab.model.layers import learns

Key = tuple[int, str]

_ADDING = (keras.layers.Add,)
# Layers that normalise the scale of their output.
NORMALISING = tuple(
    getattr(keras.layers, name)
    for name in (
        "BatchNormalization LayerNormalization GroupNormalization RMSNormalization "
        "UnitNormalization"
    ).split()
    if hasattr(keras.layers, name)
)

# Calls on several tensors that multiply them, and that multiply and sum up.
_MULTIPLYING = ("Multiply", "Divide", "TrueDivide")
_CONTRACTING = ("Dot", "Einsum", "Inner", "Matmul", "Outer", "Tensordot", "Vdot")


@dataclass(frozen=True)
class Branch:
    """A branch that a kernel ends: the number on its stream, and what follows."""

    count: int
    normalised: bool


@dataclass(eq=False)
class Roles:
    """The kernels with a role, by the id of their layer and their weight's name."""

    branches: dict[Key, Branch] = field(default_factory=dict)
    heads: set[Key] = field(default_factory=set)


@dataclass(eq=False)
class _Merge:
    call: Call
    ends: list[tuple[Call, bool]]  # the kernels' calls, and whether normalised after
    shortcut: int  # the tensor that is added to
    fork: int
    bare: bool  # whether the shortcut has no kernel of its own
    count: int = 0  # of branches on the stream


def roles_of(graph: Graph, kernels: list[Kernel]) -> Roles:
    """Return the roles of kernels in the graph of a model, composite layers opened."""
    inside: dict[int, list[Kernel]] = {}
    for kernel in kernels:
        for owner in kernel.owners:
            inside.setdefault(id(owner), []).append(kernel)
    by_key = {kernel.key: kernel for kernel in kernels}
    for call in graph.calls:
        if call.kernel in by_key:
            inside[id(call.operation)] = [by_key[call.kernel]]
    roles = Roles()
    merges = _branches_in(graph, inside, roles)
    _heads_in(graph, inside, merges, roles)
    # The only branch on its stream may be what an output adds to.
    roles.heads -= {key for key, branch in roles.branches.items() if branch.count > 1}
    return roles


def _branches_in(
    graph: Graph, inside: dict[int, list[Kernel]], roles: Roles
) -> dict[int, _Merge]:
    """Find the kernels that end branches; return the merges by their call's id."""
    makers = {tensor: call for call in graph.calls for tensor in call.outputs}
    order = {id(call): index for index, call in enumerate(graph.calls)}
    merges = [
        merge
        for call in graph.calls
        if _adds(call)
        for merge in [_merge(call, makers, order, inside)]
        if merge is not None
    ]
    streams = _streams(merges, makers, inside)
    for merge in merges:
        merge.count = streams[id(merge)]
        for call, normalised in merge.ends:
            last = inside[id(call.operation)][-1]
            roles.branches[last.key] = Branch(merge.count, normalised)
    return {id(merge.call): merge for merge in merges}


def _adds(call: Call) -> bool:
    if len(set(call.inputs)) < 2:
        return False
    if call.is_layer:
        # A user's own layer that adds a scaled branch adds, too.
        return isinstance(call.operation, _ADDING)
    return type(call.operation).__name__ == "Add"


def _merge(
    call: Call,
    makers: dict[int, Call],
    order: dict[int, int],
    inside: dict[int, list[Kernel]],
) -> _Merge | None:
    """Return the merge of a shortcut with branches that left it at a fork, if any."""
    inputs = list(dict.fromkeys(call.inputs))
    everyone = (1 << len(inputs)) - 1
    reached = {tensor: 1 << index for index, tensor in enumerate(inputs)}
    kernels = [0] * len(inputs)
    heap = [(-_when(tensor, makers, order), tensor) for tensor in inputs]
    heapq.heapify(heap)
    seen: set[int] = set()
    fork = None
    while heap:
        _, tensor = heapq.heappop(heap)
        if tensor in seen:
            continue
        seen.add(tensor)
        if reached[tensor] == everyone:
            fork = tensor
            break
        maker = makers.get(tensor)
        if maker is None:
            continue
        if id(maker.operation) in inside:
            for index in range(len(inputs)):
                kernels[index] += bool(reached[tensor] >> index & 1)
        for source in maker.inputs:
            reached[source] = reached.get(source, 0) | reached[tensor]
            heapq.heappush(heap, (-_when(source, makers, order), source))
    if fork is None or len(set(kernels)) < 2:
        # Two towers of one depth: neither is the shortcut.
        return None
    least = min(kernels)
    if kernels.count(least) > 1 and least:
        return None
    shortcut = inputs[kernels.index(least)]
    ends = [
        end
        for tensor, number in zip(inputs, kernels, strict=True)
        if number > least
        for end in _last_kernels(tensor, makers, inside, fork)
    ]
    return _Merge(call, ends, shortcut, fork, bare=not least) if ends else None


def _when(tensor: int, makers: dict[int, Call], order: dict[int, int]) -> int:
    maker = makers.get(tensor)
    return -1 if maker is None else order[id(maker)]


def _last_kernels(
    tensor: int, makers: dict[int, Call], inside: dict[int, list[Kernel]], fork: int
) -> list[tuple[Call, bool]]:
    """Return the calls with kernels from which a tensor comes, gates left out."""
    ends, pending, seen = [], [(tensor, False)], set()
    while pending:
        at, normalised = pending.pop()
        if at in seen or at == fork:
            continue
        seen.add(at)
        maker = makers.get(at)
        if maker is None:
            continue
        if id(maker.operation) in inside:
            activation = nonlinearity.own_nonlinearity(maker.operation)
            if activation is None or not _saturates(activation):
                ends.append((maker, normalised))
            continue
        if maker.is_layer and _saturates(maker.operation):
            continue
        behind = normalised or isinstance(maker.operation, NORMALISING)
        pending.extend((source, behind) for source in maker.inputs)
    return ends


def _saturates(identifier: Any) -> bool:
    """Say whether this is an activation of bounded range, as a gate has."""
    if isinstance(identifier, keras.layers.Layer) and not isinstance(
        identifier, nonlinearity.ACTIVATION_LAYERS
    ):
        return False
    try:
        return activations.resolve(identifier).family == "saturating"
    except (TypeError, ValueError):
        return False


def _streams(
    merges: list[_Merge], makers: dict[int, Call], inside: dict[int, list[Kernel]]
) -> dict[int, int]:
    """Return how many branches are added to the stream that each merge adds to.

    A shortcut with a kernel of its own, or one that was normalised, starts afresh.
    """
    by_call = {id(merge.call): merge for merge in merges}
    stream: dict[int, int] = {}
    counts: dict[int, int] = {}
    for number, merge in enumerate(merges):
        before = _merge_before(merge, makers, by_call, inside)
        stream[id(merge)] = number if before is None else stream[id(before)]
        counts[stream[id(merge)]] = counts.get(stream[id(merge)], 0) + 1
    return {key: counts[number] for key, number in stream.items()}


def _merge_before(
    merge: _Merge,
    makers: dict[int, Call],
    by_call: dict[int, _Merge],
    inside: dict[int, list[Kernel]],
) -> _Merge | None:
    if not merge.bare:
        return None
    tensor = merge.shortcut
    while True:
        maker = makers.get(tensor)
        if maker is None or id(maker.operation) in inside:
            return None
        if id(maker) in by_call:
            return by_call[id(maker)]
        if isinstance(maker.operation, NORMALISING) or len(maker.inputs) != 1:
            return None
        tensor = maker.inputs[0]


def _heads_in(
    graph: Graph,
    inside: dict[int, list[Kernel]],
    merges: dict[int, _Merge],
    roles: Roles,
) -> None:
    """Find the kernels after which nothing learns or bends before an output."""
    makers = {tensor: call for call in graph.calls for tensor in call.outputs}
    pending, seen = list(graph.outputs), set(graph.outputs)
    while pending:
        maker = makers.get(pending.pop())
        if maker is None:
            continue
        held = inside.get(id(maker.operation), [])
        if not held:
            behind = _behind(maker, makers, inside, merges)
            pending.extend(tensor for tensor in behind if tensor not in seen)
            seen.update(behind)
        elif len(held) == 1 and (
            maker.kernel is not None or _makes_outputs(held[0].layer, maker.operation)
        ):
            roles.heads.add(held[0].key)


def _makes_outputs(layer: Any, operation: Any) -> bool:
    """Say whether a call returns its kernel's output in a form fit for the model's.

    That has no activation, or one of bounded range such as softmax.
    """
    whole = operation is layer or nonlinearity.passes_output_on(operation, layer)
    activation = nonlinearity.own_nonlinearity(layer)
    return whole and (activation is None or _saturates(activation))


def _behind(
    call: Call,
    makers: dict[int, Call],
    inside: dict[int, list[Kernel]],
    merges: dict[int, _Merge],
) -> list[int]:
    """Return the inputs of a weightless call whose kernels are heads if it is one."""
    operation, inputs = call.operation, list(dict.fromkeys(call.inputs))
    if call.is_layer and (learns(operation) or isinstance(operation, NORMALISING)):
        return []
    kind = type(operation).__name__
    if len(inputs) > 1 and kind in _CONTRACTING:
        return []
    if kind in _MULTIPLYING:
        scaled = [t for t in inputs if _last_kernels(t, makers, inside, fork=-1)]
        return scaled if len(scaled) == 1 else []
    merge = merges.get(id(call))
    if merge is None:
        return [] if _bends(call) else inputs
    if merge.count > 1:
        return []  # a stream without a head
    return [t for t in inputs if not (merge.bare and t == merge.shortcut)]


def _bends(call: Call) -> bool:
    """Say whether a call is an activation of one tensor that heads do not have."""
    function: Any = None
    if call.is_layer:
        function = nonlinearity.own_nonlinearity(call.operation)
    elif len(call.inputs) == 1:
        function = as_function(call)
    if function is None or _saturates(function):
        return False
    try:
        resolved = activations.resolve(function)
    except (TypeError, ValueError):
        return False  # what moves or mixes values
    return resolved.function is not None and not nonlinearity.is_affine(resolved)
