"""The figures of one batch, and the vector in which they leave the training step.

A figure is a value with a share, the weight that it has when batches are merged; a
share of 0 means that there was nothing to measure. Everything uses Keras's `ops`, so
that the same code serves the compiled steps of every backend. A `Layout` says what each
place of the vector stands for.
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

# The most entries of a weight that its update ratio is measured on. To keep whole
# kernels over each update would cost the step more than all other figures together.
SAMPLED_ENTRIES = 2**14

# Neighbouring entries of a weight that are sampled together.
RUN = 64

# Values of an output that its histogram is made from.
SAMPLED_VALUES = 2**10

# The most elements of a tensor that is copied, to be measured together with others; and
# the most elements that are measured together.
SMALL = 2**16
TOGETHER = 2**20

T = TypeVar("T")


class Figures(NamedTuple):
    """One statistic of several outputs or weights, and the share of each in its mean.

    Values and shares are vectors. Shares that do not depend on the batch are arrays.
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
    """Several numbers for each of several outputs, as rows of a matrix.

    "alive": the share of each unit's elements that are not 0. "sample" and
    "gradient_sample": some of the values.
    """

    keys: tuple[str, ...]
    kind: str
    values: Any


class Update(NamedTuple):
    """One update of the main weight of a layer, whose path is `key`.

    `before` and `after` are entries of the weight, as `sampled` picks them.
    """

    key: str
    gradient: Any
    before: Any
    after: Any


class Layout(NamedTuple):
    """What the places of a step's vector stand for.

    A vector is [index of the layout, values, shares, tails]; values and shares are
    those of `figures`, in their order.

    Attributes:
        calls: key, path and output shape of each call of a layer, in the order in which
            the calls ended.
        figures: key and name of each value.
        tails: key, kind and length of each tail.
        dtype: of the vector.
    """

    calls: tuple[tuple[str, str, Shape], ...]
    figures: tuple[tuple[str, str], ...]
    tails: tuple[tuple[str, str, int], ...]
    dtype: str

    @classmethod
    def of(
        cls,
        outputs: Sequence[Output],
        figures: Sequence[Figures],
        tails: Sequence[Tails],
    ) -> Layout:
        """Return the layout of the vector of one step."""
        return cls(
            tuple((call.key, call.path, _shape(call.tensor)) for call in outputs),
            tuple((key, figure.name) for figure in figures for key in figure.keys),
            tuple(
                (key, tail.kind, tail.values.shape[1])
                for tail in tails
                for key in tail.keys
            ),
            working_dtype([call.tensor for call in outputs]),
        )


def packed(
    layout: Layout, index: float, figures: Sequence[Figures], tails: Sequence[Tails]
) -> Any:
    """Return the figures and tails of one step as a vector."""
    vectors = [
        np.array([index]),
        *(figure.values for figure in figures),
        *(figure.shares for figure in figures),
        *(ops.reshape(tail.values, (-1,)) for tail in tails),
    ]
    parts = []
    for is_constant, run in itertools.groupby(
        vectors, lambda vector: isinstance(vector, np.ndarray)
    ):
        if is_constant:
            # Neighbouring constants are joined into one.
            parts.append(ops.convert_to_tensor(np.concatenate([*run]), layout.dtype))
        else:
            parts += [ops.cast(vector, layout.dtype) for vector in run]
    return ops.concatenate(parts)


def _shape(tensor: Any) -> Shape:
    shape = tuple(tensor.shape)
    return (None, *shape[1:]) if shape else ()


class Stack(NamedTuple):
    """Members of one kind, and their tensors, stacked along a new first axis."""

    members: list[Any]
    x: Any


def unit_axis(layer: Any, rank: int) -> int:
    """Return the axis that counts a layer's units: its features or channels.

    That is the last axis, or the second of images with channels first: as the layer's
    `data_format` says, or else Keras's setting.
    """
    data_format = getattr(layer, "data_format", None)
    if data_format is None and rank >= 4:
        data_format = keras.config.image_data_format()
    return 1 if data_format == "channels_first" and rank >= 3 else rank - 1


def working_dtype(tensors: Sequence[Any]) -> str:
    """Return the dtype for moments: float64 if any tensor has it, else float32."""
    # PyTorch's and TensorFlow's names of dtypes contain Keras's.
    wide = any("float64" in str(x.dtype) for x in tensors)
    return "float64" if wide else "float32"


def stacks(
    members: Sequence[T],
    tensor: Callable[[T], Any],
    kind: Callable[[T], Hashable] = lambda member: None,
) -> list[Stack]:
    """Stack small tensors of the same shape and kind; leave all others on their own.

    In their working dtype: float16 and bfloat16 are too coarse for sums and counts.
    """
    groups: dict[Hashable, list[tuple[T, Any]]] = {}
    for index, member in enumerate(members):
        x = tensor(member)
        shape = tuple(x.shape)
        small = None not in shape and math.prod(shape) <= SMALL
        key = (working_dtype([x]), shape, kind(member)) if small else index
        groups.setdefault(key, []).append((member, x))
    return [
        Stack([member for member, _ in part], _stacked([x for _, x in part]))
        for group in groups.values()
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
        x = ops.stack([ops.cast(tensor, dtype) for tensor in tensors])
    # Scalars become a column, so that there is an axis to sum over.
    return x if len(x.shape) > 1 else x[:, None]


def joined(vectors: Sequence[Any]) -> Any:
    """Concatenate vectors, in their working dtype."""
    dtype = working_dtype(vectors)
    return ops.concatenate([ops.cast(vector, dtype) for vector in vectors])


def unscaled(x: Any, scale: Any) -> Any:
    """Return `x` divided by a loss scale, in its working dtype."""
    dtype = working_dtype([x])
    x = ops.cast(x, dtype)
    if isinstance(scale, float) and scale == 1:
        return x
    return x / ops.cast(scale, dtype)


def sampled(weight: Any) -> Any:
    """Return at most `SAMPLED_ENTRIES` entries of a weight, spread evenly over it.

    From a larger weight, every k-th run of 64 entries is taken: to fetch single entries
    from memory would cost as much as the whole. A k that divides the runs of a row is
    skipped, as it would sample the same few columns in every row.
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
    """Return values spread evenly over each tensor, repeated if the tensor is small."""
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
    """Return the number of elements of each tensor: an array, if shapes are static."""
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
