"""How any kernel acts: its axes, and from them its fan_in and fan_out, by layer type.

`fan_in` counts the inputs that one output sums over, `fan_out` the outputs that
one input reaches (averaged over positions, borders left out). They are what
Var(w) = gain² / fan has to divide by, so they follow the layer's arithmetic, not
the rank of its kernel: one function a layer type, registered where it is defined.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, Literal, get_args

import keras
import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Mode = Literal["fan_in", "fan_out", "fan_avg"]
MODES: tuple[str, ...] = get_args(Mode)


@dataclass(frozen=True)
class Fans:
    """How many terms meet at an output (`fan_in`) and leave an input (`fan_out`).

    Both are floats: a stride or a group can make them fractions.
    """

    fan_in: float
    fan_out: float

    def over(self, mode: Mode) -> float:
        """Return the fan that `mode` names ("fan_in", "fan_out" or "fan_avg")."""
        if mode == "fan_in":
            return self.fan_in
        if mode == "fan_out":
            return self.fan_out
        return (self.fan_in + self.fan_out) / 2


@dataclass(frozen=True)
class KernelLayout:
    """Which axes of a kernel do what.

    Attributes:
        inputs: axes that an output sums over.
        outputs: axes that tell the outputs of an input apart.
        field: axes of the receptive field: summed over, and reaching as many outputs.
        batch: axes that number kernels acting each on its own part of the input.
        blocks: equal blocks along the last output axis that are kernels of their
            own: the gates of a recurrent cell, the groups of a convolution.
        input_share: the share of `field` that meets at an output; 1 / strides where
            a transposed convolution leaves the rest out.
        output_share: the share of `field` through which an input is read; 1 / strides
            where a convolution steps over the rest.
        neighbours: the axis along which neighbours are the input's neighbouring units,
            and the one of the output's; None where there is none. Left out, the last
            ones of `inputs` and `outputs`.
    """

    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    field: tuple[int, ...] = ()
    batch: tuple[int, ...] = ()
    blocks: int = 1
    input_share: float = 1.0
    output_share: float = 1.0
    neighbours: tuple[int | None, int | None] | None = None

    @property
    def unit_axes(self) -> tuple[int | None, int | None]:
        """The axes of neighbouring units, of the input and of the output."""
        if self.neighbours is not None:
            return self.neighbours
        last = (axes[-1] if axes else None for axes in (self.inputs, self.outputs))
        return next(last), next(last)

    def fans(self, shape: Shape) -> Fans:
        """Return the fans of a kernel of this layout and shape."""
        field = _size(shape, self.field)
        return Fans(
            field * _size(shape, self.inputs) * self.input_share,
            field * _size(shape, self.outputs) / self.blocks * self.output_share,
        )

    def stack(self, shape: Shape, *, with_field: bool = True) -> tuple[int, int, int]:
        """Return the kernel as a stack of matrices: how many, rows and columns.

        Rows are what an output sums over (positions of the field among them, unless
        `with_field` is False), columns the outputs of one block.
        """
        field = _size(shape, self.field) if with_field else 1
        return (
            _size(shape, self.batch) * self.blocks,
            field * _size(shape, self.inputs),
            _size(shape, self.outputs) // self.blocks,
        )

    def unstack(self, matrices: NDArray[Any], shape: Shape) -> NDArray[Any]:
        """Return the kernel that a stack of matrices (see `stack`) stands for."""
        rank = len(shape)
        batch, field, inputs, outputs = (
            [axis % rank for axis in axes]
            for axes in (self.batch, self.field, self.inputs, self.outputs)
        )
        sizes = [shape[axis] for axis in (*batch, *field, *inputs, *outputs)]
        if outputs:
            sizes[-1] //= self.blocks
        sizes.insert(len(batch), self.blocks)
        # The blocks lie along the last output axis, each in one piece.
        blocks = outputs[-1] - 0.5 if outputs else -1
        order = [*batch, blocks, *field, *inputs, *outputs]
        return matrices.reshape(sizes).transpose(np.argsort(order)).reshape(shape)


def _size(shape: Shape, axes: tuple[int, ...]) -> int:
    return math.prod(shape[axis] for axis in axes)


def kernel_fans(
    shape: tuple[int, ...],
    layer: keras.layers.Layer | None = None,
    weight: str | None = None,
) -> Fans:
    """Return the fans of the weight called `weight` of `layer`.

    Args:
        shape: the weight's shape, every size a positive integer.
        layer: the layer that holds it; without one (or for a layer type that is
            not registered) the fans follow from the shape alone, as in Keras:
            the last axis is the output, the one before it the input, the others
            are the receptive field.
        weight: the weight's name in its layer, such as "kernel".

    Raises:
        ValueError: `shape` has a size that is unknown, zero or negative.

    >>> kernel_fans((3, 3, 16, 32))
    Fans(fan_in=144.0, fan_out=288.0)
    >>> layer = keras.layers.Conv2D(32, 3, groups=4)
    >>> kernel_fans((3, 3, 4, 32), layer, "kernel")
    Fans(fan_in=36.0, fan_out=72.0)

    Source: Glorot & Bengio 2010, section 4.2; He et al. 2015, section 2.2.
    """
    shape = checked_shape(shape)
    return kernel_layout(layer, weight, shape).fans(shape)


def checked_shape(shape: Any) -> Shape:
    """Return `shape` as a tuple of positive ints, or raise a ValueError."""
    try:
        sizes = tuple(shape)
    except TypeError:
        sizes = (shape,)
    for size in sizes:
        # NumPy integers and 0-d tensors have __index__; None and floats do not.
        if not hasattr(size, "__index__") or isinstance(size, bool) or size <= 0:
            raise ValueError(
                "An initializer needs a shape whose sizes are all positive integers. "
                f"Received: shape={shape}. Build the layer on an input whose "
                "feature and channel sizes are known and not zero."
            )
    return tuple(int(size) for size in sizes)


@singledispatch
def kernel_layout(layer: Any, weight: str | None, shape: Shape) -> KernelLayout:
    """Return the layout of one weight of `layer`; here, of a type nobody registered.

    Register a layer type of your own in a line or two:

    >>> class Outer(keras.layers.Layer):
    ...     "Keeps its kernel as (outputs, inputs)."
    >>> @kernel_layout.register(Outer)
    ... def _outer(layer, weight, shape):
    ...     return KernelLayout(inputs=(1,), outputs=(0,))
    >>> kernel_fans((64, 20), Outer(), "kernel")
    Fans(fan_in=20.0, fan_out=64.0)
    """
    gates = _gates(layer, shape)
    if len(shape) == 1:
        # A vector scales or shifts; Keras takes its size for both fans.
        return KernelLayout(inputs=(0,), outputs=(0,))
    if not shape:
        return KernelLayout()
    field = tuple(range(len(shape) - 2))
    return KernelLayout(inputs=(-2,), outputs=(-1,), field=field, blocks=gates)


def _gates(layer: Any, shape: Shape) -> int:
    """Return how many gates a recurrent cell has fused along its kernel's last axis."""
    size = getattr(layer, "units", None) or getattr(layer, "filters", None)
    if not hasattr(layer, "recurrent_initializer") or not shape or not size:
        return 1
    return shape[-1] // size if shape[-1] % size == 0 else 1


def _spatial(shape: Shape) -> tuple[int, ...]:
    return tuple(range(len(shape) - 2))


def _step(layer: Any) -> float:
    """Return the share of positions that a layer's strides visit."""
    return 1.0 / float(math.prod(layer.strides))


@kernel_layout.register(keras.layers.Conv1D)
@kernel_layout.register(keras.layers.Conv2D)
@kernel_layout.register(keras.layers.Conv3D)
def _conv(layer: Any, weight: str | None, shape: Shape) -> KernelLayout:
    # (*field, inputs / groups, outputs); an input reaches its own group only.
    # Dilation moves the taps apart and changes no count.
    return KernelLayout(
        inputs=(-2,),
        outputs=(-1,),
        field=_spatial(shape),
        blocks=layer.groups,
        output_share=_step(layer),
    )


@kernel_layout.register(keras.layers.Conv1DTranspose)
@kernel_layout.register(keras.layers.Conv2DTranspose)
@kernel_layout.register(keras.layers.Conv3DTranspose)
def _conv_transpose(layer: Any, weight: str | None, shape: Shape) -> KernelLayout:
    # (*field, outputs, inputs); with a stride only each stride-th tap meets an output.
    return KernelLayout(
        inputs=(-1,), outputs=(-2,), field=_spatial(shape), input_share=_step(layer)
    )


@kernel_layout.register(keras.layers.DepthwiseConv1D)
@kernel_layout.register(keras.layers.DepthwiseConv2D)
def _depthwise(layer: Any, weight: str | None, shape: Shape) -> KernelLayout:
    return _depthwise_layout(layer, shape)


def _depthwise_layout(layer: Any, shape: Shape) -> KernelLayout:
    # (*field, channels, multiplier): each channel is a convolution of its own.
    return KernelLayout(
        outputs=(-1,), field=_spatial(shape), batch=(-2,), output_share=_step(layer)
    )


@kernel_layout.register(keras.layers.SeparableConv1D)
@kernel_layout.register(keras.layers.SeparableConv2D)
def _separable(layer: Any, weight: str | None, shape: Shape) -> KernelLayout:
    if weight == "depthwise_kernel":
        return _depthwise_layout(layer, shape)
    return KernelLayout(inputs=(-2,), outputs=(-1,), field=_spatial(shape))


@kernel_layout.register(keras.layers.EinsumDense)
def _einsum(layer: Any, weight: str | None, shape: Shape) -> KernelLayout:
    """By the equation: what only the kernel and the input share is summed over."""
    read, output = layer.equation.replace(".", "").replace(" ", "").split("->")
    source, kernel = read.split(",")
    if not kernel:
        raise ValueError(
            "EinsumDense needs an equation that gives its kernel an axis, such as "
            f"'abc,cd->abd'. Received: equation={layer.equation!r}"
        )
    if len(kernel) != len(shape):  # a bias
        return KernelLayout(inputs=(0,), outputs=(0,)) if shape else KernelLayout()
    numbered = list(enumerate(kernel))
    return KernelLayout(
        inputs=tuple(i for i, a in numbered if a not in output),
        outputs=tuple(i for i, a in numbered if a in output and a not in source),
        batch=tuple(i for i, a in numbered if a in output and a in source),
        neighbours=(
            next((i for i, a in numbered if a == source[-1] and a not in output), None),
            next((i for i, a in numbered if a == output[-1] and a not in source), None),
        ),
    )


@kernel_layout.register(keras.layers.Embedding)
def _embedding(layer: Any, weight: str | None, shape: Shape) -> KernelLayout:
    # A lookup sums over one row, whatever the size of the vocabulary.
    if weight is not None and weight.startswith("reverse"):
        return KernelLayout(inputs=(0,), outputs=(1,))
    return KernelLayout(outputs=(1,), batch=(0,))


@kernel_layout.register(keras.layers.AdditiveAttention)
def _additive_attention(layer: Any, weight: str | None, shape: Shape) -> KernelLayout:
    # A score is the sum over all units of scale · tanh(query + key).
    return KernelLayout(inputs=(0,))
