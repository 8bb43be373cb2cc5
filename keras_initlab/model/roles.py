"""Which kernels end a residual branch, and which are a model's heads."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_initlab import activations
from keras_initlab.model import nonlinearity
from keras_initlab.model.graph import Call, Graph
from keras_initlab.model.kernels import Kernel

Key = tuple[int, str]

_ADDING = (keras.layers.Add,)
# What sets its output's scale anew.
NORMALISING = tuple(
    getattr(keras.layers, name)
    for name in (
        "BatchNormalization LayerNormalization GroupNormalization RMSNormalization "
        "UnitNormalization"
    ).split()
    if hasattr(keras.layers, name)
)

# What may stand between a head and the model's output, besides an activation.
_PLAIN = (
    keras.layers.Activation,
    keras.layers.Softmax,
    keras.layers.Reshape,
    keras.layers.Flatten,
    keras.layers.Identity,
)


@dataclass(frozen=True)
class Branch:
    """A branch that a kernel ends: how many its stream has, and what comes after."""

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


def roles_of(graph: Graph, kernels: list[Kernel]) -> Roles:
    """Return the roles of kernels in the graph of a model, composite layers opened."""
    inside: dict[int, list[Kernel]] = {}
    for kernel in kernels:
        for owner in (kernel.layer, *kernel.parents[1:]):
            inside.setdefault(id(owner), []).append(kernel)
    by_key = {kernel.key: kernel for kernel in kernels}
    for call in graph.calls:
        if call.kernel in by_key:
            inside[id(call.operation)] = [by_key[call.kernel]]
    roles = Roles()
    _branches_in(graph, inside, roles)
    _heads_in(graph, inside, roles)
    for key in roles.branches:
        roles.heads.discard(key)
    return roles


def _branches_in(graph: Graph, inside: dict[int, list[Kernel]], roles: Roles) -> None:
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
        for call, normalised in merge.ends:
            last = inside[id(call.operation)][-1]
            key = (id(last.layer), last.weight)
            roles.branches[key] = Branch(streams[id(merge)], normalised)


def _adds(call: Call) -> bool:
    if len(set(call.inputs)) < 2:
        return False
    if call.is_layer:
        # A layer of the user's own that adds a scaled branch adds, too.
        return isinstance(call.operation, _ADDING)
    return type(call.operation).__name__ == "Add"


def _merge(
    call: Call,
    makers: dict[int, Call],
    order: dict[int, int],
    inside: dict[int, list[Kernel]],
) -> _Merge | None:
    """Return the merge of a shortcut and branches that left it at a fork, if it is."""
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
    """Return the calls with kernels that a tensor comes from, gates left out."""
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
            own = nonlinearity.own_nonlinearity(maker.operation)
            if own is None or not _saturates(own):
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


def _heads_in(graph: Graph, inside: dict[int, list[Kernel]], roles: Roles) -> None:
    """Find the kernels between which and an output there is no more than a softmax."""
    makers = {tensor: call for call in graph.calls for tensor in call.outputs}
    for output in graph.outputs:
        tensor = output
        while (maker := makers.get(tensor)) is not None:
            operation = maker.operation
            held = inside.get(id(operation), [])
            if held:
                own = nonlinearity.own_nonlinearity(operation)
                is_whole = held[0].layer is operation or maker.kernel is not None
                if len(held) == 1 and is_whole and _ends(own):
                    roles.heads.add(held[0].key)
                break
            plain = isinstance(operation, _PLAIN)
            bends = nonlinearity.own_nonlinearity(operation) if plain else None
            if not plain or len(maker.inputs) != 1 or not _ends(bends):
                break
            tensor = maker.inputs[0]


def _ends(activation: Any) -> bool:
    """Say whether an activation is one that outputs have: none, softmax, sigmoid."""
    return activation is None or _saturates(activation)
