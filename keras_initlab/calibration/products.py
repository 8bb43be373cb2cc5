"""The products of Keras's layers with their kernels, without bias and activation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import layers

# Layers whose output is activation(product + bias), linear in their one kernel.
_LINEAR = (
    layers.Dense,
    layers.EinsumDense,
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_CELLS = (layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell)
_ABSENT = object()


def is_linear(layer: Any) -> bool:
    """Whether a layer adds a bias to a product with its kernel, as Keras's do."""
    return _calls_as(layer, _LINEAR)


def is_separable(layer: Any) -> bool:
    """Whether a layer is a depthwise convolution and a pointwise one behind it."""
    return _calls_as(layer, _SEPARABLE)


def is_cell(layer: Any) -> bool:
    """Whether a layer is a recurrent cell of Keras's."""
    # The cell of ConvLSTM has no public name.
    convolves = hasattr(layer, "input_conv") and not _is_own_class(layer)
    return _calls_as(layer, _CELLS) or convolves


def _calls_as(layer: Any, kinds: tuple[type, ...]) -> bool:
    calls = [getattr(kind, "call", None) for kind in kinds if isinstance(layer, kind)]
    return any(type(layer).call is call for call in calls)


def _is_own_class(layer: Any) -> bool:
    return type(layer).__module__.partition(".")[0] != "keras"


def product(layer: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Return a linear layer's output before its bias and its activation."""
    with attributes(layer, bias=None, use_bias=False, activation=None):
        return call(*args, **kwargs)


def finished(layer: Any, x: Any) -> Any:
    """Return a product with the layer's bias and activation."""
    if layer.bias is not None:
        x = keras.ops.add(x, bias_along(layer, layer.bias))
    if layer.activation is not None:
        x = layer.activation(x)
    return x


def bias_along(layer: Any, bias: Any) -> Any:
    """Return a bias in a shape that can be added to the layer's output."""
    shape = unit_shape(layer, bias)
    return bias if len(shape) == len(bias.shape) else keras.ops.reshape(bias, shape)


def unit_shape(layer: Any, bias: Any) -> tuple[int, ...]:
    """Return the shape in which a bias is added: see `bias_along`."""
    if getattr(layer, "data_format", None) == "channels_first":
        return (int(bias.shape[0]), *(1 for _ in range(layer.rank)))
    return tuple(bias.shape)


def depthwise_product(layer: Any, inputs: Any) -> Any:
    """Return the output of the depthwise kernel of a separable convolution."""
    return keras.ops.depthwise_conv(
        inputs,
        layer.depthwise_kernel,
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
    )


def pointwise_product(layer: Any, inputs: Any) -> Any:
    """Return the output of the pointwise kernel of a separable convolution."""
    return keras.ops.conv(
        inputs,
        layer.pointwise_kernel,
        strides=1,
        padding="valid",
        data_format=layer.data_format,
    )


def gate_count(layer: Any, kernel: Any) -> int:
    """Return how many gates a kernel has; 1 if its layer is not a recurrent cell."""
    if kernel is None or not is_cell(layer):
        return 1
    units = getattr(layer, "units", None) or layer.filters
    return int(kernel.shape[-1]) // int(units)


def gates(cell: Any, inputs: Any, count: int) -> list[Any]:
    """Return the product of a recurrent cell's kernel with its input, gate by gate.

    Args:
        cell: a cell of Keras's.
        inputs: of one step, or of all steps along the second axis.
        count: how many gates the cell has.
    """
    if hasattr(cell, "input_conv"):
        shape = tuple(inputs.shape)
        steps = keras.ops.reshape(inputs, (-1, *shape[len(shape) - cell.rank - 1 :]))
        product = cell.input_conv(steps, cell.kernel, padding=cell.padding)
        axis = 1 if cell.data_format == "channels_first" else -1
    else:
        product, axis = keras.ops.matmul(inputs, cell.kernel), -1
    return list(keras.ops.split(product, count, axis=axis))


@contextlib.contextmanager
def attributes(layer: Any, **values: Any) -> Iterator[None]:
    """Give a layer other attributes in this block, where it has them."""
    held = vars(layer)
    before = {name: held.get(name, _ABSENT) for name in values}
    # Not by assignment, which Keras would track.
    held.update({n: v for n, v in values.items() if before[n] is not _ABSENT})
    try:
        yield
    finally:
        held.update({n: v for n, v in before.items() if v is not _ABSENT})
