"""fan_in and fan_out of any kernel, by layer type.

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
    if layer is None:
        return fans_of_shape(shape)
    return layer_fans(layer, weight, shape)


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


def fans_of_shape(shape: Shape) -> Fans:
    """Return the fans that the shape alone suggests: (..., inputs, outputs)."""
    if not shape:
        return Fans(1.0, 1.0)
    if len(shape) == 1:
        return Fans(float(shape[0]), float(shape[0]))
    field = math.prod(shape[:-2])
    return Fans(float(field * shape[-2]), float(field * shape[-1]))


@singledispatch
def layer_fans(layer: keras.layers.Layer, weight: str | None, shape: Shape) -> Fans:
    """Return the fans of one weight of `layer`; the rule for unregistered types.

    Register a rule for a layer type of your own with `@layer_fans.register`.
    """
    return fans_of_shape(shape)


def _convolution(layer: Any, field: Shape, inputs: int, outputs: int) -> Fans:
    """Fans of a convolution: a stride visits each input that much more rarely."""
    size = math.prod(field)
    return Fans(float(size * inputs), size * outputs / math.prod(layer.strides))


@layer_fans.register(keras.layers.Conv1D)
@layer_fans.register(keras.layers.Conv2D)
@layer_fans.register(keras.layers.Conv3D)
def _conv(layer: Any, weight: str | None, shape: Shape) -> Fans:
    # (*field, inputs / groups, outputs); an input reaches its own group only.
    # Dilation moves the taps apart and changes no count.
    if len(shape) != layer.rank + 2:
        return fans_of_shape(shape)
    return _convolution(layer, shape[:-2], shape[-2], shape[-1] // layer.groups)
