"""Preprocessing inside a model: where a signal that was standardised is first read.

The layers between an input and the first layer that learns (a Rescaling, `x / 255`,
augmentation) are how a user standardises: their output is assumed to be standardised,
whatever the scale of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import keras

from keras_initlab.model.graph import Call, Graph, has_graph
from keras_initlab.model.layers import learns
from keras_initlab.model.roles import NORMALISING

# An output, by the key of its call in a flat graph and its place there.
Output = tuple[str, int]

# Operations that move, drop or join values do not change their scale: the tensor before
# them is the standardised one, and padding, dropout and one-hot parts are followed.
_MOVING = frozenset(
    "CenterCrop Concatenate Cropping1D Cropping2D Cropping3D Flatten Identity Masking "
    "Permute RandomCrop RandomFlip RepeatVector Reshape "
    "UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D "
    "Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D AlphaDropout "
    "GaussianDropout GaussianNoise "
    "BroadcastTo Cast Copy DepthToSpace ExpandDims Flip GetItem Hstack Moveaxis Pad "
    "Ravel Repeat Roll Slice SpaceToDepth Split Squeeze Stack StopGradient Swapaxes "
    "Take Tile Transpose Vstack".split()
)

# Layers whose output has its own scale, whatever that of their input.
_ENCODING = frozenset(
    "CategoryEncoding Discretization HashedCrossing Hashing IntegerLookup StringLookup "
    "TextVectorization UnitNormalization "
    "Cos FullLike LayerNorm MultiHot Normalize OneHot OnesLike RMSNorm Sin Softmax "
    "ZerosLike".split()
)


def masks_of(model: Any) -> dict[int, str]:
    """Return the names of the inputs of a model that are masks, by their places.

    Those of dtype bool, and those of whole numbers that are named a mask.
    """
    if not has_graph(model):
        return {}
    return {
        place: symbol.name
        for place, symbol in enumerate(model.inputs)
        if symbol.dtype == "bool" or ("int" in symbol.dtype and "mask" in symbol.name)
    }


def standardised(graph: Graph, masks: Collection[int] = ()) -> dict[Output, str]:
    """Return the outputs of preprocessing that are assumed to be standardised.

    These are the outputs that were computed from the inputs without trained weights,
    and that are read by a layer or operation with trained weights, or together with the
    output of one. Inputs that are read directly are not among them. Each is listed with
    the path of the layer that made it.

    Args:
        graph: the flat graph of a model, composite layers opened.
        masks: the places of inputs that have no scale.
    """
    paths: dict[Output, str] = {}
    raw = [x for place, x in enumerate(graph.inputs) if place not in masks]
    for tensor, maker in _first_read(graph, raw):
        if maker is None:
            continue
        place = maker.outputs.index(tensor)
        if _is_float(maker.node.outputs[place]):
            paths[maker.key, place] = maker.path
    return paths


def read_as_given(graph: Graph, keeps: Callable[[Call], bool]) -> set[int]:
    """Return the inputs whose values reach trained weights with their own scale.

    Args:
        graph: as for `standardised`.
        keeps: says of a call that does more than move values whether its output has the
            scale of its input.
    """
    first = _first_read(graph, graph.inputs, lambda call: _moves(call) or keeps(call))
    return {tensor for tensor, maker in first if maker is None}


def _moves(call: Call) -> bool:
    return type(call.operation).__name__ in _MOVING


def _first_read(
    graph: Graph, inputs: Collection[int], moves: Callable[[Call], bool] = _moves
) -> Iterator[tuple[int, Call | None]]:
    """Yield the tensors that the first calls that learn read, and their makers.

    For a tensor that was only moved, the tensor before; the maker of an input is None.
    """
    raw, learned = set(inputs), set[int]()
    makers: dict[int, Call] = {}
    read: list[int] = []
    for call in graph.calls:
        meets = raw.intersection(call.inputs)
        if _learns(call) or not learned.isdisjoint(call.inputs):
            learned.update(call.outputs)
            read.extend(meets)
        elif meets and not _encodes(call):
            raw.update(call.outputs)
            makers.update(dict.fromkeys(call.outputs, call))
    seen: set[int] = set()
    while read:
        tensor = read.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        maker = makers.get(tensor)
        if maker is not None and moves(maker):
            read.extend(raw.intersection(maker.inputs))
        else:
            yield tensor, maker


def _learns(call: Call) -> bool:
    """Say whether a call multiplies with, or adds, trainable weights."""
    if call.owner is not None and learns(call.owner):
        return True  # what an own layer does with its input is its own affair
    if call.is_layer:
        return learns(call.operation)
    arguments = call.node.arguments
    return any(
        isinstance(value, keras.Variable) and value.trainable
        for value in keras.tree.flatten((arguments.args, arguments.kwargs))
    )


def _encodes(call: Call) -> bool:
    kind = type(call.operation).__name__
    if kind in _ENCODING or isinstance(call.operation, NORMALISING):
        return True
    if any(symbol.dtype == "bool" for symbol in call.node.outputs):
        return True
    # Such as the place of the greatest: no bytes that are images still.
    makes_floats = any(map(_is_float, call.node.outputs))
    return not makes_floats and any(map(_is_float, call.node.input_tensors))


def _is_float(symbol: Any) -> bool:
    return bool(keras.backend.is_float_dtype(symbol.dtype))
