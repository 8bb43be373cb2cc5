"""Layers that a path without kernels leads around: branches, gates, inner levels."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from keras_initlab.model.graph import Call, Graph

# What joins tensors and leaves the values of each as they are.
_JOINING = ("Concatenate", "Stack", "Hstack", "Vstack")


@dataclass(frozen=True)
class Bypassed:
    """Ids of layers beside which the signal has a path without kernels.

    Attributes:
        merged: of the layers whose result is added to what that path carries, or
            multiplies it: a residual branch, a gate, a transform net.
        joined: of these, and of those whose result is joined to it: the inner levels
            of a U-Net.
    """

    merged: frozenset[int] = frozenset()
    joined: frozenset[int] = frozenset()


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
    makers = {made: call for call in graph.calls for made in call.outputs}
    around: dict[bool, set[int]] = {True: set(), False: set()}
    for call in graph.calls:
        if len(set(call.inputs)) > 1:
            joins = type(call.operation).__name__ in _JOINING
            for branch in _branches(call, makers, kernels, masks):
                around[joins].update(id(one.operation) for one in branch)
    merged = frozenset(around[False])
    return Bypassed(merged, merged | around[True])


def _branches(
    merge: Call,
    makers: dict[int, Call],
    kernels: Collection[int],
    masks: Collection[int],
) -> Iterator[set[Call]]:
    """Yield the calls of each branch that a path without kernels leads around."""
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
    """Return the tensors of which no kernel has made this one."""
    found, pending = {tensor}, [tensor]
    while pending:
        maker = makers.get(pending.pop())
        if maker is not None and id(maker.operation) not in kernels:
            fresh = set(maker.inputs) - found
            found |= fresh
            pending += fresh
    return found


def _since(end: int, path: Collection[int], makers: dict[int, Call]) -> set[Call]:
    """Return the calls from a path to `end`; none where something else leads there."""
    found: set[Call] = set()
    pending = [end]
    while pending:
        maker = makers.get(pending.pop())
        if maker is None:
            return set()  # an input of the model
        if maker not in found:
            found.add(maker)
            pending += [tensor for tensor in maker.inputs if tensor not in path]
    return found
