"""Blocks of positions as units, and back."""

from __future__ import annotations

from keras import Operation

from keras_initlab.propagation.algebra.shape import take, transpose
from keras_initlab.propagation.context import RuleContext, UnknownLayer
from keras_initlab.propagation.dispatch import operation_rule
from keras_initlab.propagation.rules.reshaping import reshaped
from keras_initlab.propagation.signal import Signal


def _blocks(operation: Operation, x: Signal) -> tuple[int, int, int]:
    if operation.data_format == "channels_first" or len(x.shape) != 4:
        raise UnknownLayer("blocks of a map whose channels come first")
    height, width, channels = x.shape[1:]
    if height is None or width is None or channels is None:
        raise UnknownLayer("blocks of a map of unknown size")
    return int(height), int(width), int(channels)


def patches(x: Signal, tall: int, wide: int) -> Signal:
    """Return blocks of a map of shape (batch, h, w, c) as one position's units."""
    height, width, channels = (int(size or 0) for size in x.shape[1:])
    high, far = height // tall, width // wide
    x = take(x, 1, 0, high * tall) if height % tall else x
    x = take(x, 2, 0, far * wide) if width % wide else x
    x = x.with_units((3,))
    cut_up = reshaped(x, (x.shape[0], high, tall, far, wide, channels))
    gathered = transpose(cut_up, (0, 1, 3, 2, 4, 5)).with_units((3, 4, 5))
    return reshaped(gathered, (x.shape[0], high, far, tall * wide * channels))


@operation_rule("SpaceToDepth")
def space_to_depth(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return blocks of positions as units."""
    _blocks(operation, x)
    return patches(x, operation.block_size, operation.block_size)


@operation_rule("ExtractPatches")
def extract_patches(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return patches that do not overlap as one position's units."""
    _blocks(operation, x)
    size, strides = tuple(operation.size), operation.strides
    strides = tuple(strides) if isinstance(strides, list | tuple) else (strides,) * 2
    dilated = operation.dilation_rate not in (1, (1, 1), [1, 1])
    even = not (x.shape[1] or 1) % size[0] and not (x.shape[2] or 1) % size[-1]
    if strides != size or dilated or len(size) != 2:
        raise UnknownLayer("patches that overlap")
    if operation.padding == "same" and not even:
        raise UnknownLayer("patches beyond the border")
    return patches(x, *size)


@operation_rule("DepthToSpace")
def depth_to_space(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return units as blocks of positions."""
    height, width, channels = _blocks(operation, x)
    size = operation.block_size
    left = channels // size**2
    x = x.with_units((3,))
    cut_up = reshaped(x, (x.shape[0], height, width, size, size, left))
    spread = transpose(cut_up.with_units((5,)), (0, 1, 3, 2, 4, 5))
    return reshaped(spread, (x.shape[0], height * size, width * size, left))
