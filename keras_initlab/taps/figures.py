"""What is measured of one batch: figures, and what several numbers go into.

A figure is a value with its share, the weight that it has when batches are merged; a
share of 0 says that there was nothing to measure. All is Keras's `ops`, so that one
code serves compiled steps of every backend. A step's figures leave it as one vector,
whose places a `Layout` tells.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import keras
import numpy as np

from keras_initlab.stats import Shape
from keras_initlab.taps.ops import ops

if TYPE_CHECKING:
    from keras_initlab.taps.recorder import Output

# Entries of a weight that its update ratio is measured by, at most: all of the smaller
# ones. The whole of every kernel, kept over each update, would cost the step more than
# all other figures together.
SAMPLED_ENTRIES = 2**14

RUN = 64

# Values of an output that its histogram is made from.
SAMPLED_VALUES = 2**10

# Elements of a tensor that is small: it is worth a copy, to measure it along with
# others. And of all that go together, at most.
SMALL = 2**16
TOGETHER = 2**20

T = TypeVar("T")


class Figures(NamedTuple):
    """One statistic of several outputs or weights, and the share each has in its mean.

    Values are a vector. Shares are one too, an array where they are known beforehand.
    """

    keys: tuple[str, ...]
    name: str
    values: Any
    shares: Any

    def unless(self, skipped: Any) -> Figures:
        """Return the same, without a share where `skipped`, a truth value, is so."""
        counted = ops.cast(ops.logical_not(skipped), "float32")
        return self._replace(shares=ops.cast(self.shares, "float32") * counted)


class Tails(NamedTuple):
    """Several numbers of each of several outputs, as rows of a matrix.

    "alive": for each unit the share of its elements that are not 0. "sample" and
    "gradient_sample": some of the values.
    """

    keys: tuple[str, ...]
    kind: str
    values: Any


class Update(NamedTuple):
    """One step of the main weight of the layer at `key`, a path.

    Before and after it the weight is `sampled`.
    """

    key: str
    gradient: Any
    before: Any
    after: Any


class Layout(NamedTuple):
    """What the places of a step's vector stand for.

    A vector is [index of the layout, values, shares, tails]; values and shares are
    those of `entries`, in their order.

    Attributes:
        calls: key, path and output shape of each call of a layer, as they ended.
        entries: key and name of each value.
        tails: key, kind and length of each part of the end.
        dtype: of the vector.
    """

    calls: tuple[tuple[str, str, Shape], ...]
    entries: tuple[tuple[str, str], ...]
    tails: tuple[tuple[str, str, int], ...]
    dtype: str

    @classmethod
    def of(
        cls,
        outputs: Sequence[Output],
        figures: Sequence[Figures],
        tails: Sequence[Tails],
    ) -> Layout:
        """Return the layout of what one step measures."""
        return cls(
            tuple((one.key, one.path, _shape(one.tensor)) for one in outputs),
            tuple((key, one.name) for one in figures for key in one.keys),
            tuple(
                (key, one.kind, one.values.shape[1])
                for one in tails
                for key in one.keys
            ),
            working_dtype([one.tensor for one in outputs]),
        )


def packed(
    layout: Layout, index: float, figures: Sequence[Figures], tails: Sequence[Tails]
) -> Any:
    """Return what one step measured as a vector."""
    rest = [ops.reshape(one.values, (-1,)) for one in tails]
    vectors = [
        np.array([index]),
        *(one.values for one in figures),
        *(one.shares for one in figures),
        *rest,
    ]
    parts = []
    for is_known, run in itertools.groupby(
        vectors, lambda vector: isinstance(vector, np.ndarray)
    ):
        if is_known:
            # Neighbours that are known beforehand go as one constant.
            parts.append(ops.convert_to_tensor(np.concatenate([*run]), layout.dtype))
        else:
            parts += [ops.cast(vector, layout.dtype) for vector in run]
    return ops.concatenate(parts)


def _shape(tensor: Any) -> Shape:
    shape = tuple(tensor.shape)
    return (None, *shape[1:]) if shape else ()


class Stack(NamedTuple):
    """Members of one kind; `x` has one axis more than their tensors, the first."""

    members: list[Any]
    x: Any


def unit_axis(layer: Any, rank: int) -> int:
    """Return the axis that counts a layer's units: its features or channels.

    The last; of images with channels first, by the layer's own word or Keras's
    setting, the second.
    """
    data_format = getattr(layer, "data_format", None)
    if data_format is None and rank >= 4:
        data_format = keras.config.image_data_format()
    return 1 if data_format == "channels_first" and rank >= 3 else rank - 1


def working_dtype(tensors: Sequence[Any]) -> str:
    """Return the dtype in which to keep moments: float32, or float64 if any is."""
    # PyTorch and TensorFlow have names of their own, which hold Keras's.
    wide = any("float64" in str(x.dtype) for x in tensors)
    return "float64" if wide else "float32"


def stacks(
    members: Sequence[T],
    tensor: Callable[[T], Any],
    kind: Callable[[T], Hashable] = lambda one: None,
) -> list[Stack]:
    """Return small tensors of one shape and kind as one, and all others alone.

    In their working dtype: float16 and bfloat16 can neither hold sums nor counts.
    """
    found: dict[Hashable, list[tuple[T, Any]]] = {}
    for index, one in enumerate(members):
        x = tensor(one)
        shape = tuple(x.shape)
        small = None not in shape and math.prod(shape) <= SMALL
        group = (working_dtype([x]), shape, kind(one)) if small else index
        found.setdefault(group, []).append((one, x))
    return [
        Stack([one for one, _ in part], _stacked([x for _, x in part]))
        for group in found.values()
        for part in _parts(group)
    ]


def _parts(group: list[tuple[T, Any]]) -> Iterator[list[tuple[T, Any]]]:
    if len(group) == 1:
        yield group
        return
    length = max(1, TOGETHER // max(1, math.prod(group[0][1].shape)))
    for start in range(0, len(group), length):
        yield group[start : start + length]


def _stacked(tensors: Sequence[Any]) -> Any:
    dtype = working_dtype(tensors)
    if len(tensors) == 1:
        x = ops.cast(tensors[0], dtype)[None]
    else:
        x = ops.stack([ops.cast(one, dtype) for one in tensors])
    # Of scalars a column: there is an axis to sum over.
    return x if len(x.shape) > 1 else x[:, None]


def joined(vectors: Sequence[Any]) -> Any:
    """Return vectors as one, in their working dtype."""
    dtype = working_dtype(vectors)
    return ops.concatenate([ops.cast(one, dtype) for one in vectors])


def unscaled(x: Any, scale: Any) -> Any:
    """Return `x` without a loss scale, in its working dtype."""
    dtype = working_dtype([x])
    x = ops.cast(x, dtype)
    if isinstance(scale, float) and scale == 1:
        return x
    return x / ops.cast(scale, dtype)


def sampled(weight: Any) -> Any:
    """Return entries of a weight: of `SAMPLED_ENTRIES` all, of more an even share.

    That is every k-th run of 64 entries: single ones, spread as evenly, would be as
    dear to fetch from memory as the whole. No k that would make it the share of a few
    columns, as one does that divides the runs in a row.
    """
    size, row = math.prod(weight.shape), weight.shape[-1] if len(weight.shape) else 1
    flat = ops.reshape(weight, (-1,))
    if size <= SAMPLED_ENTRIES:
        return flat
    runs = size // RUN
    every = -(-runs * RUN // SAMPLED_ENTRIES)
    while math.gcd(RUN * every, row) > math.gcd(RUN, row):
        every += 1
    matrix = ops.reshape(flat[: runs * RUN], (runs, RUN))
    return ops.reshape(matrix[::every], (-1,))


def samples_of(stack: Stack, keys: tuple[str, ...], kind: str) -> Tails:
    """Return values spread over all of each tensor, some twice where it has few."""
    flat = ops.reshape(stack.x, (len(stack.members), -1))
    count = flat.shape[1]
    if count is not None:
        places = np.linspace(0, count - 1, SAMPLED_VALUES).round().astype("int32")
    else:
        last = ops.cast(ops.shape(flat)[1] - 1, flat.dtype)
        steps = ops.arange(SAMPLED_VALUES, dtype=flat.dtype) / (SAMPLED_VALUES - 1)
        places = ops.cast(ops.round(steps * last), "int32")
    return Tails(keys, kind, ops.take(flat, places, axis=1))


def shares_of(stack: Stack) -> Any:
    """Return the number of elements of each tensor: an array, if it is known."""
    count, shape = len(stack.members), tuple(stack.x.shape)[1:]
    share = np.full(count, float(math.prod(size for size in shape if size is not None)))
    if None not in shape:
        return share
    sizes = ops.shape(stack.x)[1:]
    product = ops.convert_to_tensor(share, stack.x.dtype)
    for size, static in zip(sizes, shape, strict=True):
        if static is None:
            product = product * ops.cast(size, stack.x.dtype)
    return product
