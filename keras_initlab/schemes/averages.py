"""Convolutions whose outputs are averaged over all positions before the head."""

from __future__ import annotations

from typing import Any

import keras

from keras_initlab.model.graph import Graph
from keras_initlab.model.kernels import Kernel
from keras_initlab.schemes.kernels import has_field

_AVERAGES = tuple(
    getattr(keras.layers, f"GlobalAveragePooling{rank}D") for rank in (1, 2, 3)
)
# Behind these each position has weights of its own.
_PLACES = (keras.layers.Flatten, keras.layers.Reshape)


def averaged_kernels(graph: Graph, kernels: list[Kernel]) -> set[tuple[int, str]]:
    """Return the convolutions' kernels that a mean over all positions reads.

    Where a Flatten comes between, positions are told apart by the weights behind it.
    """
    averaged: set[int] = set()
    layers: set[int] = set()
    for call in reversed(graph.calls):
        if _is_average(call.operation):
            averaged.update(call.inputs)
        elif averaged.intersection(call.outputs):
            layers.add(id(call.operation))
            if not isinstance(call.operation, _PLACES):
                averaged.update(call.inputs)
    return {
        kernel.key
        for kernel in kernels
        if id(kernel.layer) in layers and has_field(kernel)
    }


def _is_average(operation: Any) -> bool:
    if isinstance(operation, _AVERAGES):
        return True
    # keras.ops.mean over all axes but the batch and the channels.
    axes = getattr(operation, "axis", None)
    is_mean = type(operation).__name__ == "Mean"
    return is_mean and isinstance(axes, list | tuple) and set(axes) == {1, 2}
