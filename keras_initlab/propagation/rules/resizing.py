"""Images at another size."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import Operation
from keras.layers import Layer

from keras_initlab.propagation.algebra.along_axis import AlongAxis, along, interpolation
from keras_initlab.propagation.algebra.shape import repeat
from keras_initlab.propagation.arguments import spatial_axes
from keras_initlab.propagation.context import RuleContext, UnknownLayer
from keras_initlab.propagation.dispatch import layer_rule, mirror_rule, operation_rule
from keras_initlab.propagation.mirrors import moved_by_rule
from keras_initlab.propagation.signal import Signal

_RANKS = ("1D", "2D", "3D")


@layer_rule(*(f"UpSampling{rank}" for rank in _RANKS))
def upsampling(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return each position several times; "bilinear" interpolates between them."""
    how = getattr(layer, "interpolation", "nearest")
    if how not in ("nearest", "bilinear"):
        raise UnknownLayer(f"UpSampling with {how!r}")
    size = layer.size if isinstance(layer.size, list | tuple) else [layer.size]
    y = x
    for axis, times in zip(spatial_axes(layer, x)[0], size, strict=True):
        if how == "nearest":
            y = repeat(y, axis, times)
        else:
            y = along(y, axis, interpolation(x.shape[axis], times))
    return y if how == "nearest" else y.amend(lineage=x.origin.lineage)


@layer_rule("Resizing")
def resizing_layer(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return images at another size."""
    return resized(x, layer, (layer.height, layer.width), layer.data_format)


@operation_rule("Resize")
def resize_operation(
    operation: Operation, x: Signal, *, context: RuleContext
) -> Signal:
    """Return images at another size."""
    return resized(x, operation, operation.size, operation.data_format)


def resized(x: Signal, how: Any, size: Any, data_format: str) -> Signal:
    """Return images at another size, each axis by the weights that Keras gives it.

    Args:
        x: images.
        how: has the settings of `keras.ops.image.resize` as attributes.
        size: new height and width.
        data_format: of the images.
    """
    if len(x.shape) != 4 or how.crop_to_aspect_ratio or how.pad_to_aspect_ratio:
        raise UnknownLayer("a resize_operation that crops or pads")
    first = data_format == "channels_first"
    x = x.with_units((1 if first else 3,))
    for axis, new in zip((2, 3) if first else (1, 2), size, strict=True):
        length = x.shape[axis]
        if length is None:
            raise UnknownLayer("a resize_operation of a map of unknown size")

        if length != new:
            identity = np.eye(length, dtype="float32")
            resized = keras.ops.image.resize(
                identity[:, :, None, None],
                (int(new), 1),
                interpolation=how.interpolation,
                antialias=getattr(how, "antialias", False),
                data_format="channels_last",
            )
            weights = np.asarray(keras.ops.convert_to_numpy(resized), np.float64)
            weights = weights.reshape(length, int(new)).T
            x = along(x, axis, AlongAxis.of_matrix(weights))
    return x


mirror_rule(*(f"UpSampling{rank}" for rank in _RANKS))(moved_by_rule)
