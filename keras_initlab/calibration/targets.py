"""Which kernels are calibrated, and to which targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_initlab.model import graph
from keras_initlab.model.kernels import Kernel
from keras_initlab.model.layers import children, is_closed
from keras_initlab.model.own_weights import is_own
from keras_initlab.model.roles import Roles, roles_of
from keras_initlab.schemes.base import SchemeContext
from keras_initlab.schemes.chosen import reason_to_keep_head
from keras_initlab.schemes.kernels import Seeds, sine_variance
from keras_initlab.schemes.small_starts import small_starts_to_keep
from keras_initlab.schemes.survey import branch_target

UNSEEN_ROLES = (
    "its graph does not show: residual branches and heads have the target of any kernel"
)


def reason_not_to_touch(kernel: Kernel) -> str | None:
    """Return why a kernel is neither scaled nor measured; None if it may be."""
    layer, variable = kernel.layer, kernel.variable
    mode = getattr(layer, "quantization_mode", None)
    if getattr(layer, "lora_enabled", False):
        return "LoRA: left intact"
    if mode is not None:
        return f"quantised ({mode}): left intact"
    if variable is None:
        return f"no weight called {kernel.weight!r}"
    if not keras.backend.is_float_dtype(variable.dtype):
        return f"quantised ({variable.dtype}): left intact"
    return None


def reason_to_leave(kernel: Kernel) -> str | None:
    """Return why a kernel is only measured, not scaled; None if it may be scaled."""
    if not kernel.layer.trainable or not kernel.variable.trainable:
        return "frozen"
    if any(isinstance(p, keras.layers.SpectralNormalization) for p in kernel.parents):
        return "SpectralNormalization sets its scale"
    return None


def chosen_on_purpose(
    model: Any, kernels: Sequence[Kernel], roles: Roles
) -> dict[tuple[int, str], str]:
    """Return the kernels whose scale has a meaning of its own, with the reason.

    As in the schemes: those that start at 0, or next to it, while another path carries
    the signal; heads that start small; and kernels before a sine.
    """
    context = SchemeContext(model, Seeds(None))
    reasons = dict(small_starts_to_keep(model, kernels))
    for kernel in kernels:
        if kernel.variable is None:
            continue
        follows = context.nonlinearity(kernel)
        if sine_variance(kernel, follows) is not None:
            reasons[kernel.key] = "before a sine: its scale is the frequency"
        elif kernel.key in roles.heads and reason_to_keep_head(kernel, follows):
            reasons[kernel.key] = "a head that starts small by its initializer"
    return reasons


def roles_in(model: Any, kernels: Sequence[Kernel]) -> Roles | None:
    """Return the roles of kernels in a model; None where its calls do not show."""
    try:
        return roles_of(_Flat(model).graph, list(kernels))
    except graph.NoGraph:
        return None


def target_of(kernel: Kernel, roles: Roles, target: float) -> tuple[float, str]:
    """Return the target of a kernel's output, by its role, and a note."""
    branch = roles.branches.get(kernel.key)
    note = ""
    if branch is not None:
        target, _, note = branch_target(branch, target, "scaled")
    if kernel.key in roles.heads:
        note = f"head; {note}" if note else "head"
    return target, note


class _Flat:
    """The graph of a model with the user's composite layers opened."""

    def __init__(self, model: Any) -> None:
        self._calls: list[graph.Call] = []
        self._next = 0
        outer = _graph_of(model)
        inputs = self._fresh(len(outer.inputs))
        outputs = self._enter(outer, inputs, "")
        self.graph = graph.Graph(tuple(self._calls), inputs, outputs)

    def _fresh(self, count: int) -> tuple[int, ...]:
        first, self._next = self._next, self._next + count
        return tuple(range(first, self._next))

    def _enter(
        self, inner: graph.Graph, inputs: tuple[int, ...], prefix: str
    ) -> tuple[int, ...]:
        numbers = dict(zip(inner.inputs, inputs, strict=True))
        for call in inner.calls:
            read = tuple(numbers[number] for number in call.inputs)
            path = f"{prefix}/{call.path}" if prefix else call.path
            below = _inside(call)
            outputs: tuple[int, ...] = ()
            if below is not None and len(below.inputs) == len(read):
                outputs = self._enter(below, read, path)
            if len(outputs) != len(call.outputs):
                outputs = self._fresh(len(call.outputs))
                key = f"{path}#{len(self._calls)}"
                seen = graph.Call(call.operation, path, key, read, outputs, call.node)
                self._calls.append(seen)
            numbers.update(zip(call.outputs, outputs, strict=True))
        return tuple(numbers[number] for number in inner.outputs)


def _graph_of(model: Any) -> graph.Graph:
    if graph.has_graph(model):
        return graph.graph_of(model)
    shapes = graph.built_shapes(model)
    symbols = [keras.KerasTensor(shape) for _, shape in shapes]
    try:
        arguments = graph.built_arguments(model, symbols)
    except (TypeError, StopIteration) as error:
        raise graph.NoGraph("built for what is no shape of tensors") from error
    opened = graph.opened(model, arguments, training=True) if shapes else None
    if opened is None:
        raise graph.NoGraph("it holds no layers, or was built for no shapes")
    return opened


def _inside(call: graph.Call) -> graph.Graph | None:
    """Return the graph inside a composite layer of the user's own."""
    layer = call.operation
    if not call.is_layer or not is_own(layer) or not children(layer):
        return None
    if is_closed(layer):
        return None
    arguments = (call.node.arguments.args, call.node.arguments.kwargs)
    try:
        return graph.opened(layer, arguments, training=True)
    except graph.NoGraph:
        return None
