"""Convolutions of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from keras.layers import Layer

from keras_initlab.propagation.algebra.mirrors import weighted
from keras_initlab.propagation.algebra.windows import Window
from keras_initlab.propagation.context import RuleContext
from keras_initlab.propagation.dispatch import layer_rule
from keras_initlab.propagation.rules.linear import activated
from keras_initlab.propagation.signal import Signal
from keras_initlab.propagation.weights.moments import WeightMoments


def _spatial(layer: Layer, x: Signal) -> tuple[tuple[int, ...], int]:
    """Return the axes of the positions and that of the channels."""
    rank = len(x.shape)
    if layer.data_format == "channels_first":
        return tuple(range(2, rank)), 1
    # Further axes in front are those of a TimeDistributed.
    return tuple(range(rank - 1 - len(layer.kernel_size), rank - 1)), rank - 1


def windows_of(layer: Layer, x: Signal, places: Sequence[int]) -> dict[int, Window]:
    """Return the window of a convolution along each axis of positions."""
    return {
        axis: Window(
            x.shape[axis],
            layer.kernel_size[index],
            layer.strides[index],
            layer.dilation_rate[index],
            layer.padding,
        )
        for index, axis in enumerate(places)
    }


def convolve(
    layer: Layer,
    x: Signal,
    weight: str,
    filters: int,
    context: RuleContext,
    *,
    windows: dict[int, Window],
    channel: int,
    groups: int = 1,
    per_unit: bool = False,
    bias: str | None = "bias",
    structure: WeightMoments | None = None,
) -> Signal:
    """Return the signal after one kernel that slides over positions."""
    shape = list(x.shape)
    for axis, window in windows.items():
        shape[axis] = window.output_length
    channels = int(x.shape[channel] or 1)
    shape[channel] = filters
    return weighted(
        x,
        context.kernel(layer, weight),
        structure or context.weight(layer, weight),
        axes=(channel, channel),
        shape=tuple(shape),
        units=(channel,),
        fan=1 if per_unit else channels // groups,
        copies=filters / channels if per_unit else filters / groups,
        bias=context.optional_weight(layer, bias) if bias else None,
        windows=windows,
        per_unit=per_unit,
    )


@layer_rule("Conv1D", "Conv2D", "Conv3D")
def conv(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the signal after a convolution."""
    places, channel = _spatial(layer, x)
    x = x.with_units((channel,))
    structure = context.structure(layer, "kernel", x)
    z = convolve(
        layer,
        x,
        "kernel",
        layer.filters,
        context,
        windows=_centred(structure, windows_of(layer, x, places)),
        channel=channel,
        groups=layer.groups,
        structure=structure,
    )
    return activated(layer, z, context)


def _centred(structure: WeightMoments, windows: dict[int, Window]) -> dict[int, Window]:
    if not structure.centred:
        return windows
    return {
        axis: Window(
            w.length,
            w.size,
            w.stride,
            w.dilation,
            w.padding,
            True,
            w.transposed,
            w.extra,
        )
        for axis, w in windows.items()
    }


@layer_rule("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
def conv_transpose(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the signal after a transposed convolution."""
    places, channel = _spatial(layer, x)
    x = x.with_units((channel,))
    extra = layer.output_padding
    extras = extra if isinstance(extra, tuple | list) else [extra] * len(places)
    windows = {
        axis: replace(window, transposed=True, extra=extras[index])
        for index, (axis, window) in enumerate(windows_of(layer, x, places).items())
    }
    windows = _centred(context.weight(layer, "kernel"), windows)
    z = convolve(
        layer, x, "kernel", layer.filters, context, windows=windows, channel=channel
    )
    return activated(layer, z, context)


@layer_rule("DepthwiseConv1D", "DepthwiseConv2D")
def depthwise(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the signal after a convolution of each channel by itself."""
    places, channel = _spatial(layer, x)
    x = x.with_units((channel,))
    filters = layer.depth_multiplier * int(x.shape[channel] or 1)
    windows = _centred(context.weight(layer, "kernel"), windows_of(layer, x, places))
    z = convolve(
        layer,
        x,
        "kernel",
        filters,
        context,
        windows=windows,
        channel=channel,
        per_unit=True,
    )
    return activated(layer, z, context)


@layer_rule("SeparableConv1D", "SeparableConv2D")
def separable(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the signal after a depthwise and a pointwise kernel."""
    places, channel = _spatial(layer, x)
    x = x.with_units((channel,))
    filters = layer.depth_multiplier * int(x.shape[channel] or 1)
    depthwise = context.weight(layer, "depthwise_kernel")
    windows = _centred(depthwise, windows_of(layer, x, places))
    z = convolve(
        layer,
        x,
        "depthwise_kernel",
        filters,
        context,
        windows=windows,
        channel=channel,
        per_unit=True,
        bias=None,
    )
    z = convolve(
        layer,
        z,
        "pointwise_kernel",
        layer.filters,
        context,
        windows={},
        channel=channel,
    )
    return activated(layer, z, context)
