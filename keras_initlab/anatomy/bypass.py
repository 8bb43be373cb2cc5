"""Layers that a path without kernels bypasses: branches, gates, inner levels."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from keras_initlab.model.graph import Call, Graph
from keras_initlab.model.kernels import Kernel
from keras_initlab.model.layers import Place

# Operations that join tensors and leave their values unchanged.
_JOINING = ("Concatenate", "Stack", "Hstack", "Vstack")


@dataclass(frozen=True)
class Bypassed:
    """Ids of layers that are bypassed by a path without kernels.

    Attributes:
        merged: of the layers whose output is added to, or multiplied with, the signal
            on that path: a residual branch, a gate, a transform net.
        joined: of these, and of those whose output is concatenated with it: the inner
            levels of a U-Net.
    """

    merged: frozenset[int] = frozenset()
    joined: frozenset[int] = frozenset()


def holds(layers: Collection[int], place: Place | Kernel) -> bool:
    """Whether a layer, or one that it is inside of, is among these ids."""
    return any(id(layer) in layers for layer in place.owners)


def bypassed_in(
    graph: Graph | None, kernels: Collection[int], masks: Collection[int] = ()
) -> Bypassed:
    """Return the layers that are bypassed.

    Args:
        graph: of the calls, if it is known.
        kernels: ids of the layers that hold kernels.
        masks: the model's inputs that carry no signal, but say which tokens count.
    """
    if graph is None:
        return Bypassed()
    makers = {tensor: call for call in graph.calls for tensor in call.outputs}
    around: dict[bool, set[int]] = {True: set(), False: set()}
    for call in graph.calls:
        if len(set(call.inputs)) > 1:
            joins = type(call.operation).__name__ in _JOINING
            for branch in _branches(call, makers, kernels, masks):
                around[joins].update(id(inner.operation) for inner in branch)
    merged = frozenset(around[False])
    return Bypassed(merged, merged | around[True])


def _branches(
    merge: Call,
    makers: dict[int, Call],
    kernels: Collection[int],
    masks: Collection[int],
) -> Iterator[set[Call]]:
    """Yield the calls of each branch that a path without kernels bypasses."""
    inputs = list(dict.fromkeys(merge.inputs))
    for shortcut in inputs:
        path = _without_kernels(shortcut, makers, kernels)
        for end in inputs:
            branch = set() if end in path else _since(end, {*path, *masks}, makers)
            if any(id(call.operation) in kernels for call in branch):
                yield branch


def _without_kernels(
    tensor: int, makers: dict[int, Call], kernels: Collection[int]
) -> set[int]:
    """Return the tensors from which this one is computed without a kernel."""
    tensors, pending = {tensor}, [tensor]
    while pending:
        maker = makers.get(pending.pop())
        if maker is not None and id(maker.operation) not in kernels:
            fresh = set(maker.inputs) - tensors
            tensors |= fresh
            pending += fresh
    return tensors


def _since(end: int, path: Collection[int], makers: dict[int, Call]) -> set[Call]:
    """Return the calls between a path and `end`; none if `end` has other sources."""
    calls: set[Call] = set()
    pending = [end]
    while pending:
        maker = makers.get(pending.pop())
        if maker is None:
            return set()  # an input of the model
        if maker not in calls:
            calls.add(maker)
            pending += [tensor for tensor in maker.inputs if tensor not in path]
    return calls
