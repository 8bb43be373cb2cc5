"""Sizes that an operation has recorded from symbols, on arrays of other sizes.

`ops.reshape(x, (ops.shape(x)[0], -1, 8))` on symbols records None for the size of the
batch. Keras runs such a `call` again on tensors, and never the operation that it
recorded: on arrays, a size has to stand there.
"""

from __future__ import annotations

from typing import Any

from keras import Operation

from keras_initlab.propagation.arguments import signals_in
from keras_initlab.propagation.context import Arguments
from keras_initlab.propagation.signal import Shape

# Operations that are made of the shape of their result, and where they keep it.
_SHAPES = {"Reshape": "newshape", "BroadcastTo": "shape", "Slice": "shape"}


def with_sizes_of(operation: Any, arguments: Arguments, arrays: dict[int, Any]) -> Any:
    """Return the operation with sizes where it has recorded None for them.

    Args:
        operation: a bare operation; all but the few that record shapes are left alone.
        arguments: of its call, with signals for tensors.
        arrays: the sample of each signal, by serial number.
    """
    name = _SHAPES.get(type(operation).__name__)
    if name is None or not isinstance(operation, Operation):
        return operation
    recorded = getattr(operation, name)
    if not isinstance(recorded, list | tuple) or None not in recorded:
        return operation
    (x, *_) = signals_in(arguments)
    sizes = tuple(arrays[x.serial].shape)
    if name == "newshape":
        return type(operation)(_reshaped(tuple(recorded), x.shape, sizes))
    # Size for size: neither moves an axis.
    own = (None,) * (len(recorded) - len(sizes)) + sizes
    filled = [b if a is None else a for a, b in zip(recorded, own, strict=True)]
    return type(operation)(tuple(filled))


def _reshaped(recorded: Shape, open_shape: Shape, sizes: tuple[int, ...]) -> Shape:
    """Return a target of `reshape`: open axes keep their order, and their sizes.

    One that no axis before is the size of fits what is left.
    """
    left = [n for n, size in zip(sizes, open_shape, strict=True) if size is None]
    filled: list[int | None] = []
    for size in recorded:
        if size is None and left:
            filled.append(left.pop(0))
        elif size is None and -1 not in (*filled, *recorded):
            filled.append(-1)
        else:
            filled.append(size)
    return tuple(filled)
