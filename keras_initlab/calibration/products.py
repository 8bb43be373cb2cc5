"""What the layers of Keras make with their kernels, apart from bias and activation."""

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
    """Return what a linear layer makes before its bias and its activation."""
    with attributes(layer, bias=None, use_bias=False, activation=None):
        return call(*args, **kwargs)


def finished(layer: Any, x: Any) -> Any:
    """Return a product with the layer's bias and activation."""
    if layer.bias is not None:
        x = keras.ops.add(x, bias_along(layer, layer.bias, len(x.shape)))
    if layer.activation is not None:
        x = layer.activation(x)
    return x


def bias_along(layer: Any, bias: Any, rank: int) -> Any:
    """Return a bias in a shape that can be added to an output of that rank."""
    if getattr(layer, "data_format", None) == "channels_first":
        return keras.ops.reshape(bias, (-1, *(1 for _ in range(rank - 2))))
    return bias


def unit_shape(layer: Any, bias: Any, rank: int) -> tuple[int, ...]:
    """Return the shape of `bias_along`."""
    if getattr(layer, "data_format", None) == "channels_first":
        return (int(bias.shape[0]), *(1 for _ in range(rank - 2)))
    return tuple(bias.shape)


def depthwise_product(layer: Any, inputs: Any) -> Any:
    """Return what the depthwise kernel of a separable convolution makes."""
    padding = layer.padding
    if padding == "causal":
        ahead = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        sizes = [(0, 0), (0, 0), (0, 0)]
        sizes[2 if layer.data_format == "channels_first" else 1] = (ahead, 0)
        inputs = keras.ops.pad(inputs, sizes)
        padding = "valid"
    return keras.ops.depthwise_conv(
        inputs,
        layer.depthwise_kernel,
        strides=layer.strides,
        padding=padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
    )


def pointwise_product(layer: Any, inputs: Any) -> Any:
    """Return what the pointwise kernel of a separable convolution makes."""
    return keras.ops.conv(
        inputs,
        layer.pointwise_kernel,
        strides=1,
        padding="valid",
        data_format=layer.data_format,
    )


def gate_products(cell: Any, inputs: Any, gates: int) -> list[Any]:
    """Return what the kernel of a recurrent cell makes of its input, gate by gate."""
    if hasattr(cell, "input_conv"):
        made = cell.input_conv(inputs, cell.kernel, padding=cell.padding)
        axis = 1 if cell.data_format == "channels_first" else -1
    else:
        made, axis = keras.ops.matmul(inputs, cell.kernel), -1
    return list(keras.ops.split(made, gates, axis=axis))


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
