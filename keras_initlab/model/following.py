"""What a kernel's output meets in a graph: the nearest nonlinearity."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_initlab import activations
from keras_initlab.model import keras_internals, nonlinearity
from keras_initlab.model.contractions import CONTRACTIONS
from keras_initlab.model.elementwise import composite_at
from keras_initlab.model.graph import Call, Graph, as_function
from keras_initlab.model.own_kernels import uses_of
from keras_initlab.model.own_weights import CONVOLUTIONS


@dataclass(frozen=True)
class Following:
    """What a tensor meets: the nearest nonlinearity, and how sure that is.

    `reaches_end` says that nothing bends it before an output of the graph.
    """

    nonlinearity: Any
    note: str = ""
    reaches_end: bool = False


def following_nonlinearity(graph: Graph, tensors: tuple[int, ...]) -> Following:
    """Return the nonlinearity that `tensors` meet first, through transparent calls.

    Breadth first: of several paths the shortest counts, and where as short a one
    leads elsewhere the note says so. Several elementwise calls that make one
    nonlinearity of a tensor (x · sigmoid(x)) count as that. None (linear) where every
    path ends at another kernel, an unknown layer or the model's output before it is
    bent.
    """
    pending = deque(tensors)
    seen = set(tensors)
    bends: list[Any] = []
    unknown: list[str] = []
    while pending and not bends:
        for _ in range(len(pending)):
            tensor = pending.popleft()
            whole = composite_at(graph, tensor)
            if whole is not None:
                bends.append(whole.activation)
            for call in graph.consumers.get(tensor, ()):
                if whole is not None and id(call) in whole.calls:
                    continue
                bend = _bend_of(call)
                if bend is not None:
                    bends.append(bend)
                elif _is_transparent(call):
                    fresh = [tensor for tensor in call.outputs if tensor not in seen]
                    pending.extend(fresh)
                    seen.update(fresh)
                elif not _has_kernel(call):
                    unknown.append(call.operation.name)
    if bends:
        names = list(dict.fromkeys(readable(bend) for bend in bends))
        fed = [*names[1:], *(f"{name}, whose effect is unknown" for name in unknown)]
        note = f"also feeds {', '.join(fed)}" if fed else ""
        return Following(bends[0], note)
    note = f"linear up to {unknown[0]}, whose effect is unknown" if unknown else ""
    return Following(None, note, not seen.isdisjoint(graph.outputs))


def readable(identifier: Any) -> str:
    """Return an activation's name for people."""
    try:
        return activations.resolve(identifier).name
    except (TypeError, ValueError):
        name = getattr(identifier, "name", None) or getattr(
            identifier, "__name__", type(identifier).__name__
        )
        return str(name)


def _bend_of(call: Call) -> Any:
    """Return the nonlinearity that a call is, None if it is something else."""
    operation = call.operation
    if not call.is_layer:
        return _bare_nonlinearity(call)
    return nonlinearity.nonlinearity_of_layer(operation)


# Bare operations that move, add or rescale values: transparent, as their layers are.
_TRANSPARENT_OPERATIONS = frozenset(
    "Add Subtract Average Concatenate Stack Hstack Vstack "
    "Reshape Ravel Transpose Swapaxes Moveaxis Squeeze ExpandDims Flip Roll Repeat "
    "Tile BroadcastTo GetItem Slice Split Take Pad DepthToSpace SpaceToDepth "
    "Cast SaturateCast ConvertToTensor Copy StopGradient Mean Sum Max "
    "MaxPool AveragePool AdaptiveMaxPool AdaptiveAveragePool "
    "BatchNorm LayerNorm RMSNorm Normalize Negative".split()
)


def _is_transparent(call: Call) -> bool:
    if call.is_layer:
        return nonlinearity.is_transparent(call.operation)
    kind = type(call.operation).__name__
    return kind in _TRANSPARENT_OPERATIONS or _is_affine(call)


def _bare_nonlinearity(call: Call) -> Any:
    """Return what a bare operation on one tensor bends it by, None if it does not."""
    kind = type(call.operation).__name__
    if len(call.inputs) != 1 or kind in _TRANSPARENT_OPERATIONS:
        return None
    function = as_function(call)
    try:
        resolved = activations.resolve(function)
    except (TypeError, ValueError):
        # Softmax and its like mix units: known by name, not by value.
        name = keras_internals.automatic_name(type(call.operation))
        return name if hasattr(keras.activations, name) else None
    return None if _is_affine(call) else resolved


def _is_affine(call: Call) -> bool:
    """Say whether a bare operation on one tensor only scales and shifts it."""
    if len(call.inputs) != 1:
        return False
    try:
        function = activations.resolve(as_function(call)).function
    except (TypeError, ValueError):
        return False
    if function is None:
        return False
    values = function(np.linspace(-3.0, 3.0, 13))
    return bool(np.allclose(np.diff(values, 2), 0, atol=1e-5))


def _has_kernel(call: Call) -> bool:
    """Say whether a call multiplies with a kernel, or one tensor with another."""
    operation = call.operation
    if type(operation).__name__ in CONTRACTIONS | CONVOLUTIONS:
        return True
    if any(name.endswith("kernel_initializer") for name in vars(operation)):
        return True
    return call.is_layer and any(use.multiplies for use in uses_of(operation).values())
