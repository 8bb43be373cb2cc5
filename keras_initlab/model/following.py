"""The nearest nonlinearity after a kernel in a graph."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_initlab import activations
from keras_initlab.activations.periodic import rescaled
from keras_initlab.model import keras_internals, nonlinearity
from keras_initlab.model.contractions import CONTRACTIONS
from keras_initlab.model.elementwise import composite_at
from keras_initlab.model.graph import Call, Graph, as_function
from keras_initlab.model.own_kernels import uses_of
from keras_initlab.model.own_weights import CONVOLUTIONS


@dataclass(frozen=True)
class Following:
    """The nearest nonlinearity that a tensor meets, with a note if that is uncertain.

    `reaches_end` says that there is none before an output of the graph.
    """

    nonlinearity: Any
    note: str = ""
    reaches_end: bool = False


def following_nonlinearity(graph: Graph, tensors: tuple[int, ...]) -> Following:
    """Return the nonlinearity that `tensors` meet first, through transparent calls.

    The search is breadth first: of several paths the shortest counts, and the note says
    if an equally short one leads elsewhere. Several elementwise calls that together are
    one nonlinearity (x · sigmoid(x)) count as one. None (linear) if every path ends at
    another kernel, an unknown layer or the model's output without a nonlinearity. A
    factor on the way to a sine is part of the sine's frequency.
    """
    pending = deque((tensor, 1.0) for tensor in tensors)
    seen = set(tensors)
    bends: list[Any] = []
    unknown: list[str] = []
    while pending and not bends:
        for _ in range(len(pending)):
            tensor, scale = pending.popleft()
            whole = composite_at(graph, tensor)
            if whole is not None:
                bends.append(_scaled(whole.activation, scale))
            for call in graph.consumers.get(tensor, ()):
                if whole is not None and id(call) in whole.calls:
                    continue
                effect = _effect_of(call)
                if effect.bend is not None:
                    bends.append(_scaled(effect.bend, scale))
                elif effect.factor is not None:
                    fresh = [output for output in call.outputs if output not in seen]
                    pending.extend((output, scale * effect.factor) for output in fresh)
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


@dataclass(frozen=True)
class _Effect:
    """The nonlinearity of a call, or the factor by which it multiplies values."""

    bend: Any = None
    factor: float | None = None


# Bare operations that move, add or rescale values: transparent, as their layers are.
_TRANSPARENT_OPERATIONS = frozenset(
    "Add Subtract Average Concatenate Stack Hstack Vstack "
    "Reshape Ravel Transpose Swapaxes Moveaxis Squeeze ExpandDims Flip Roll Repeat "
    "Tile BroadcastTo GetItem Slice Split Take Pad DepthToSpace SpaceToDepth "
    "Cast SaturateCast ConvertToTensor Copy StopGradient Mean Sum Max "
    "MaxPool AveragePool AdaptiveMaxPool AdaptiveAveragePool "
    "BatchNorm LayerNorm RMSNorm Normalize Negative".split()
)


def _effect_of(call: Call) -> _Effect:
    operation = call.operation
    if not call.is_layer:
        return _effect_of_bare(call)
    bend = nonlinearity.nonlinearity_of_layer(operation)
    if bend is not None:
        is_plain = isinstance(operation, nonlinearity.ACTIVATION_LAYERS)
        return _Effect(bend=bend) if is_plain else _bend_or_factor(bend)
    if not nonlinearity.is_transparent(operation):
        return _Effect()
    scale = operation.scale if type(operation) is keras.layers.Rescaling else 1.0
    return _Effect(factor=float(scale) if isinstance(scale, int | float) else 1.0)


def _effect_of_bare(call: Call) -> _Effect:
    """Return the effect of a bare operation; of several tensors if transparent."""
    if type(call.operation).__name__ in _TRANSPARENT_OPERATIONS:
        return _Effect(factor=1.0)
    if len(call.inputs) != 1:
        return _Effect()
    try:
        return _bend_or_factor(activations.resolve(as_function(call)))
    except (TypeError, ValueError):
        # Softmax and its like mix units: known by name, not by value.
        name = keras_internals.automatic_name(type(call.operation))
        return _Effect(bend=name if hasattr(keras.activations, name) else None)


def _bend_or_factor(identifier: Any) -> _Effect:
    """Return the effect of a function of one tensor, which may be affine."""
    try:
        resolved = activations.resolve(identifier)
    except (TypeError, ValueError):
        return _Effect(bend=identifier)
    if resolved.function is not None and nonlinearity.is_affine(resolved):
        ends = np.asarray(resolved.function(np.array([-3.0, 3.0])))
        return _Effect(factor=float(ends[1] - ends[0]) / 6)
    return _Effect(bend=identifier)


def _scaled(bend: Any, factor: float) -> Any:
    """Return the nonlinearity of a tensor before it is multiplied by `factor`.

    Only sines depend on it: for others, the kernel makes up for the scale.
    """
    if factor == 1.0:
        return bend
    try:
        resolved = activations.resolve(bend)
    except (TypeError, ValueError):
        return bend
    return rescaled(resolved, factor, 0.0) if resolved.family == "periodic" else bend


def _has_kernel(call: Call) -> bool:
    """Say whether a call multiplies with a kernel, or one tensor with another."""
    operation = call.operation
    if type(operation).__name__ in CONTRACTIONS | CONVOLUTIONS:
        return True
    if any(name.endswith("kernel_initializer") for name in vars(operation)):
        return True
    return call.is_layer and any(use.multiplies for use in uses_of(operation).values())
