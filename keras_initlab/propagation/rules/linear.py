"""Dense, EinsumDense and Embedding."""

from __future__ import annotations

import math
from dataclasses import replace

from keras.layers import Layer

from keras_initlab.propagation.algebra.mirrors import weighted
from keras_initlab.propagation.algebra.random_linear import RandomKernel
from keras_initlab.propagation.context import RuleContext
from keras_initlab.propagation.dispatch import layer_rule
from keras_initlab.propagation.signal import Gradient, Signal
from keras_initlab.propagation.weights.moments import WeightMoments


def activated(layer: Layer, signal: Signal, context: RuleContext) -> Signal:
    """Return the signal after the layer's own activation."""
    function = getattr(layer, "activation", None)
    output: Signal = signal if function is None else context.activate(signal, function)
    return output


@layer_rule("Dense")
def dense(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the signal after a Dense layer."""
    last = len(x.shape) - 1
    x = x.with_units((last,))
    z = weighted(
        x,
        context.kernel(layer, "kernel"),
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
def einsum_dense(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the signal after an EinsumDense layer, axes by its equation."""
    source, kernel, result = _equation(layer.equation, len(x.shape))
    z = contracted(
        layer,
        "kernel",
        x,
        (source, kernel, result),
        tuple(layer.kernel.shape),
        context,
        bias=context.optional_weight(layer, "bias"),
    )
    return activated(layer, z, context)


def contracted(
    layer: Layer,
    weight: str,
    x: Signal,
    letters: tuple[str, str, str],
    shape: tuple[int, ...],
    context: RuleContext,
    *,
    bias: WeightMoments | None = None,
    factor: float = 1.0,
) -> Signal:
    """Return Σ x w over the axes that the result lacks, as `einsum` does.

    Args:
        layer, weight: the kernel.
        x: a signal.
        letters: a letter for each axis of x (the batch's first), of the kernel and of
            the result.
        shape: of the kernel, as it is read.
        context: the prediction.
        bias: moments of the bias.
        factor: by which the kernel's entries are multiplied.
    """
    source, kernel, result = letters
    sizes = dict(zip(source, x.shape, strict=True))
    sizes |= dict(zip(kernel, shape, strict=True))
    summed = [axis for axis in source if axis in kernel and axis not in result]
    fresh = [axis for axis in result if axis not in source]
    batch = [axis for axis in kernel if axis in source and axis in result]
    # If the result has no new axes, those along which kernels differ count units.
    numbered = fresh or batch
    before = tuple(source.index(axis) for axis in summed if sizes[axis] != 1)
    if not before:
        before = tuple(source.index(axis) for axis in summed or batch)
    x = x.with_units(before or x.units)
    kept_axes = {
        source.index(a): result.index(a)
        for a in source
        if a in result and a != source[0] and a not in numbered
    }
    return weighted(
        x,
        _scaled(context.kernel(layer, weight), factor),
        context.structure(layer, weight, x),
        axes=(len(x.shape) - 1, len(result) - 1),
        shape=tuple(sizes[axis] for axis in result),
        units=tuple(result.index(axis) for axis in numbered) or (len(result) - 1,),
        fan=math.prod(sizes[axis] or 1 for axis in summed),
        copies=math.prod(sizes[axis] or 1 for axis in fresh),
        bias=bias,
        kept_axes=kept_axes,
        per_unit=not fresh,
        own_positions=_share_apart(source, result, batch, sizes) if fresh else 0.0,
    )


def _scaled(kernel: RandomKernel, factor: float) -> RandomKernel:
    """Return a kernel whose entries an operation multiplies by a factor."""
    if factor == 1.0:
        return kernel

    def moments(response: float) -> WeightMoments:
        unscaled = kernel.moments(response * factor**2)
        return replace(
            unscaled,
            mean=factor * unscaled.mean,
            second_moment=factor**2 * unscaled.second_moment,
        )

    return replace(kernel, moments=moments)


def _share_apart(
    source: str, result: str, batch: list[str], sizes: dict[str, int | None]
) -> float:
    """Return the share of pairs of positions that are apart along the axes `batch`."""
    places = [a for a in source[1:] if a in result]
    every = math.prod(sizes[a] or 64 for a in places)
    alike = math.prod(sizes[a] or 64 for a in places if a not in batch)
    return (every - alike) / (every - 1) if every > 1 else 0.0


def _equation(equation: str, rank: int) -> tuple[str, str, str]:
    read, result = equation.replace(" ", "").split("->")
    source, kernel = read.split(",")
    if "..." in source:
        free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
        filling = "".join(free[: rank - len(source.replace("...", ""))])
        source = source.replace("...", filling)
        result = result.replace("...", filling)
    return source, kernel, result


@layer_rule("Embedding", "ReversibleEmbedding")
def embedding(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return the signal of looked-up rows; tokens are assumed to be different."""
    moments = context.weight(layer, "embeddings")
    shape = (*x.shape, layer.output_dim)
    rows = Signal.independent(shape, moments.mean, moments.variance)
    alike = 1.0 / max(int(layer.input_dim), 1)
    rows.pairs[0, 1, :] += moments.variance * alike
    rows.pairs[0, 0, 1] += moments.variance * alike
    places = x.size(x.axes)

    def rule(gradient: Gradient) -> float:
        met = (places - 1) * gradient.position + places * gradient.inputs
        return places * alike * (gradient.second + alike * met)

    return rows.evolve(weights=((layer, "embeddings", rule),))
