"""The user's own layers: their weights during a prediction."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import Operation
from keras.layers import Layer

from keras_initlab.model.graph import NoGraph
from keras_initlab.model.layers import every_place
from keras_initlab.model.own_weights import (
    OwnGraph,
    WeightView,
    held_weights,
    own_graph,
    view_of,
)
from keras_initlab.propagation.algebra.elementwise import affine
from keras_initlab.propagation.context import Arguments
from keras_initlab.propagation.monte_carlo import Sampler
from keras_initlab.propagation.signal import Shape, Signal
from keras_initlab.propagation.weights.book import WeightBook


def seen_inside(layer: Layer, arguments: Arguments, training: bool) -> OwnGraph | None:
    """Return the calls of a user's own layer that reads its weights itself."""
    try:
        return own_graph(layer, arguments, training)
    except NoGraph:
        return None  # it is opened without its weights, or measured


def operands_of(layer: Layer, own_graph: OwnGraph, book: WeightBook) -> dict[int, Any]:
    """Return the operands for a layer's weights in its graph, by their numbers there.

    A view for a trained weight; for any other its values, as they are not drawn.
    """
    variables = held_weights(layer)
    operands: dict[int, Any] = {}
    for number, name in own_graph.weights.items():
        variable = variables[name]
        scale = book.scale(layer, name)
        values = variable.value if scale == 1.0 else variable.value * scale
        trained = variable.trainable
        operands[number] = view_of(layer, name, values) if trained else values
    return operands


def scales_of(layer: Layer, book: WeightBook) -> dict[int, float]:
    """Return what weights in a layer are to be multiplied by, by their ids."""
    layers = [layer, *(place.layer for place in every_place(layer))]
    scales = {
        id(variable): book.scale(holder, name)
        for holder in layers
        for name, variable in held_weights(holder).items()
    }
    return {key: scale for key, scale in scales.items() if scale != 1.0}


def kernel_in(arguments: Arguments) -> tuple[int, str] | None:
    """Return the weight among the arguments of a call, if there is just one."""
    views = [x for x in keras.tree.flatten(arguments) if isinstance(x, WeightView)]
    return (id(views[0].layer), views[0].name) if len(views) == 1 else None


def multiplied(
    operation: Operation,
    inputs: tuple[Signal, ...],
    arguments: Arguments,
    shapes: list[Shape],
    sampler: Sampler,
    book: WeightBook,
) -> Signal:
    """Return a product with a weight that no rule knows, such as a convolution.

    It is measured with entries of variance 1, and scaled to what the weight's are.
    """
    flat = keras.tree.flatten(arguments)
    (view,) = (x for x in flat if isinstance(x, WeightView))
    random = np.random.default_rng(0).standard_normal(view.shape)
    unit = keras.ops.convert_to_tensor(random, dtype=view.values.dtype)
    args, kwargs = keras.tree.map_structure(
        lambda x: unit if x is view else x, arguments
    )
    output = sampler.measure(operation, inputs, (args, kwargs), shapes)
    assert isinstance(output, Signal)
    kernel = book.kernel(view.layer, view.name)
    moments = kernel.moments(output.second * view.factor**2)
    scaled = affine(output, view.factor * math.sqrt(moments.second_moment))
    kernel.seen(scaled.second)
    return scaled
