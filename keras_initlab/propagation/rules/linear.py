"""Dense, EinsumDense, Embedding and convolutions of every kind."""

from __future__ import annotations

import math
from typing import Any

from keras_initlab.propagation.dispatch import layer_rule
from keras_initlab.propagation.mirrors import weighted
from keras_initlab.propagation.signal import Gradient, Signal
from keras_initlab.propagation.weights import WeightMoments
from keras_initlab.propagation.windows import Window


def activated(layer: Any, signal: Signal, context: Any) -> Signal:
    """Return the signal behind the layer's own activation."""
    function = getattr(layer, "activation", None)
    made: Signal = signal if function is None else context.activate(signal, function)
    return made


@layer_rule("Dense")
def dense(layer: Any, x: Signal, *, context: Any) -> Signal:
    """Return the signal behind a Dense layer."""
    last = len(x.shape) - 1
    x = x.with_units((last,))
    z = weighted(
        x,
        context,
        layer,
        "kernel",
        context.structure(layer, "kernel", x),
        axes=(last, last),
        shape=(*x.shape[:-1], layer.units),
        units=(last,),
        fan=int(x.shape[-1] or 1),
        copies=layer.units,
        bias=context.optional_weight(layer, "bias"),
    )
    return activated(layer, z, context)


@layer_rule("EinsumDense")
def einsum_dense(layer: Any, x: Signal, *, context: Any) -> Signal:
    """Return the signal behind an EinsumDense layer, axes by its equation."""
    source, kernel, made = _equation(layer.equation, len(x.shape))
    sizes = dict(zip(source, x.shape, strict=True))
    sizes |= dict(zip(kernel, layer.kernel.shape, strict=True))
    summed = [axis for axis in source if axis in kernel and axis not in made]
    fresh = [axis for axis in made if axis not in source]
    own = [axis for axis in kernel if axis in source and axis in made]
    # Where nothing new is made, those that each have a kernel of their own are units.
    numbered = fresh or own
    before = tuple(source.index(axis) for axis in summed if sizes[axis] != 1)
    if not before:
        before = tuple(source.index(axis) for axis in summed or own)
    x = x.with_units(before or x.units)
    kept = {
        source.index(a): made.index(a)
        for a in source
        if a in made and a != source[0] and a not in numbered
    }
    z = weighted(
        x,
        context,
        layer,
        "kernel",
        context.structure(layer, "kernel", x),
        axes=(len(x.shape) - 1, len(made) - 1),
        shape=tuple(sizes[axis] for axis in made),
        units=tuple(made.index(axis) for axis in numbered) or (len(made) - 1,),
        fan=math.prod(sizes[axis] or 1 for axis in summed),
        copies=math.prod(sizes[axis] or 1 for axis in fresh),
        bias=context.optional_weight(layer, "bias"),
        kept=kept,
        per_unit=not fresh,
        own_positions=_share_apart(source, made, own, sizes) if fresh else 0.0,
    )
    return activated(layer, z, context)


def _share_apart(
    source: str, made: str, own: list[str], sizes: dict[str, int | None]
) -> float:
    """Return the share of pairs of positions that are apart along the axes `own`."""
    places = [a for a in source[1:] if a in made]
    every = math.prod(sizes[a] or 64 for a in places)
    alike = math.prod(sizes[a] or 64 for a in places if a not in own)
    return (every - alike) / (every - 1) if every > 1 else 0.0


def _equation(equation: str, rank: int) -> tuple[str, str, str]:
    read, made = equation.replace(" ", "").split("->")
    source, kernel = read.split(",")
    if "..." in source:
        free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
        filling = "".join(free[: rank - len(source.replace("...", ""))])
        source = source.replace("...", filling)
        made = made.replace("...", filling)
    return source, kernel, made


@layer_rule("Embedding", "ReversibleEmbedding")
def embedding(layer: Any, x: Signal, *, context: Any) -> Signal:
    """Return the signal of looked-up rows; tokens are taken for different."""
    moments = context.weight(layer, "embeddings")
    shape = (*x.shape, layer.output_dim)
    made = Signal.independent(shape, moments.mean, moments.variance)
    alike = 1.0 / max(int(layer.input_dim), 1)
    made.pairs[0, 1, :] += moments.variance * alike
    made.pairs[0, 0, 1] += moments.variance * alike
    places = x.size(x.axes)

    def rule(gradient: Gradient) -> float:
        met = (places - 1) * gradient.position + places * gradient.inputs
        return places * alike * (gradient.second + alike * met)

    return made.evolve(weights=((layer, "embeddings", rule),))


def _spatial(layer: Any, x: Signal) -> tuple[tuple[int, ...], int]:
    """Return the axes of the positions and that of the channels."""
    rank = len(x.shape)
    if layer.data_format == "channels_first":
        return tuple(range(2, rank)), 1
    # Further axes in front are those of a TimeDistributed.
    return tuple(range(rank - 1 - len(layer.kernel_size), rank - 1)), rank - 1


def _windows(layer: Any, x: Signal, places: tuple[int, ...]) -> dict[int, Window]:
    centred = False
    found = {}
    for index, axis in enumerate(places):
        found[axis] = Window(
            x.shape[axis],
            layer.kernel_size[index],
            layer.strides[index],
            layer.dilation_rate[index],
            layer.padding,
            centred,
        )
    return found


def convolve(
    layer: Any,
    x: Signal,
    weight: str,
    filters: int,
    context: Any,
    *,
    windows: dict[int, Window],
    channel: int,
    groups: int = 1,
    per_unit: bool = False,
    bias: str | None = "bias",
    structure: WeightMoments | None = None,
) -> Signal:
    """Return the signal behind one kernel that slides over positions."""
    shape = list(x.shape)
    for axis, window in windows.items():
        shape[axis] = window.output_length
    channels = int(x.shape[channel] or 1)
    shape[channel] = filters
    return weighted(
        x,
        context,
        layer,
        weight,
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
def conv(layer: Any, x: Signal, *, context: Any) -> Signal:
    """Return the signal behind a convolution."""
    places, channel = _spatial(layer, x)
    x = x.with_units((channel,))
    structure = context.structure(layer, "kernel", x)
    z = convolve(
        layer,
        x,
        "kernel",
        layer.filters,
        context,
        windows=_centred(structure, _windows(layer, x, places)),
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
def conv_transpose(layer: Any, x: Signal, *, context: Any) -> Signal:
    """Return the signal behind a transposed convolution."""
    places, channel = _spatial(layer, x)
    x = x.with_units((channel,))
    extra = layer.output_padding
    extras = extra if isinstance(extra, tuple | list) else [extra] * len(places)
    windows = {
        axis: Window(
            x.shape[axis],
            layer.kernel_size[i],
            layer.strides[i],
            layer.dilation_rate[i],
            layer.padding,
            transposed=True,
            extra=extras[i],
        )
        for i, axis in enumerate(places)
    }
    windows = _centred(context.weight(layer, "kernel"), windows)
    z = convolve(
        layer, x, "kernel", layer.filters, context, windows=windows, channel=channel
    )
    return activated(layer, z, context)


@layer_rule("DepthwiseConv1D", "DepthwiseConv2D")
def depthwise(layer: Any, x: Signal, *, context: Any) -> Signal:
    """Return the signal behind a convolution of each channel by itself."""
    places, channel = _spatial(layer, x)
    x = x.with_units((channel,))
    filters = layer.depth_multiplier * int(x.shape[channel] or 1)
    windows = _centred(context.weight(layer, "kernel"), _windows(layer, x, places))
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
def separable(layer: Any, x: Signal, *, context: Any) -> Signal:
    """Return the signal behind a depthwise and a pointwise kernel."""
    places, channel = _spatial(layer, x)
    x = x.with_units((channel,))
    filters = layer.depth_multiplier * int(x.shape[channel] or 1)
    depthwise = context.weight(layer, "depthwise_kernel")
    windows = _centred(depthwise, _windows(layer, x, places))
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
