"""The figures of one batch: of an output, of the gradient there, of a weight's step.

A figure is a value with its share, the weight that it has when batches are merged; a
share of 0 says that there was nothing to measure. All is Keras's `ops`, so that one
code serves compiled steps of every backend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_initlab.taps.recorder import Output
from keras_initlab.taps.request import Bounds, Request
from keras_initlab.taps.tensors import ops

# Entries of a weight that its update ratio is measured by, at most: all of the smaller
# ones. The whole of every kernel, kept over each update, would cost the step more than
# all other figures together.
SAMPLED_ENTRIES = 2**14

RUN = 64

# Values of an output that its histogram is made from.
SAMPLED_VALUES = 2**10


class Figure(NamedTuple):
    """A value, and the share that it has in the mean over batches."""

    key: str
    name: str
    value: Any
    share: Any


class Update(NamedTuple):
    """One step of the main weight of the layer at `key`, a path.

    Before and after it the weight is `sampled`.
    """

    key: str
    gradient: Any
    before: Any
    after: Any


class Tail(NamedTuple):
    """Several numbers of an output.

    "alive": for each unit the share of its elements that are not 0. "sample" and
    "gradient_sample": some of the values.
    """

    key: str
    kind: str
    values: Any


def unit_axis(layer: Any, rank: int) -> int:
    """Return the axis that counts a layer's units: its features or channels.

    The last; of images with channels first, by the layer's own word or Keras's
    setting, the second.
    """
    data_format = getattr(layer, "data_format", None)
    if data_format is None and rank >= 4:
        data_format = keras.config.image_data_format()
    return 1 if data_format == "channels_first" and rank >= 3 else rank - 1


def working_dtype(tensors: list[Any]) -> str:
    """Return the dtype in which to keep moments: float32, or float64 if any is."""
    wide = (keras.backend.standardize_dtype(x.dtype) == "float64" for x in tensors)
    return "float64" if any(wide) else "float32"


class Kit(NamedTuple):
    """What a backend does in a way of its own.

    Attributes:
        column_means: takes (batch, units) and returns the mean over the batch.
        nonfinite: takes matrices and their variances, and returns of each how many
            elements are not finite.
    """

    column_means: Callable[[Any], Any]
    nonfinite: Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]]


def of_outputs(
    outputs: Sequence[Output], request: Request, kit: Kit
) -> tuple[list[Figure], list[Tail]]:
    """Return the figures of outputs of shape (batch, ...), and what has more numbers.

    Those of which nothing is known, as there are no elements, are left out.
    """
    figures: list[Figure] = []
    tails: list[Tail] = []
    counted = []
    for key, tensor, layer, _ in outputs:
        if any(size == 0 for size in tensor.shape):
            continue
        # float16 and bfloat16 can neither hold the sums nor the counts.
        x = ops.cast(tensor, working_dtype([tensor]))
        rows = ops.reshape(x, (_batch(x), -1))
        found, ends = _of_output(key, x, rows, layer, request, kit)
        figures += [Figure(key, name, *one) for name, one in found.items()]
        tails += ends
        counted.append((key, rows, found["variance"][0]))
    if counted and "nonfinite" in request.statistics:
        keys, matrices, variances = zip(*counted, strict=True)
        counts = kit.nonfinite(matrices, variances)
        figures += [
            Figure(key, "nonfinite", count, 1.0)
            for key, count in zip(keys, counts, strict=True)
        ]
    return figures, tails


def of_way_back(
    keys: Sequence[str],
    gradients: Mapping[int, Any],
    updates: Sequence[Update],
    scale: Any,
    request: Request,
) -> tuple[list[Figure], list[Tail]]:
    """Return the figures of gradients and of weights' steps.

    Args:
        keys: of the outputs.
        gradients: of them, by their index, where one reached them.
        updates: what the weight tap took.
        scale: the loss scale that gradients carry.
        request: what to measure.
    """
    figures: list[Figure] = []
    tails: list[Tail] = []
    for index in sorted(gradients):
        more, ends = of_gradient(keys[index], gradients[index], scale, request)
        figures += more
        tails += ends
    for update in updates:
        figures += of_weight(update, scale, request.statistics)
    return figures, tails


def of_step(
    outputs: Sequence[Output],
    gradients: Mapping[int, Any],
    updates: Sequence[Update],
    scale: Any,
    request: Request,
    kit: Kit,
) -> tuple[list[Figure], list[Tail]]:
    """Return all figures of one step; see `of_outputs` and `of_way_back`."""
    figures, tails = of_outputs(outputs, request, kit)
    keys = [output.key for output in outputs]
    more, ends = of_way_back(keys, gradients, updates, scale, request)
    return figures + more, tails + ends


def _of_output(
    key: str, x: Any, rows: Any, layer: Any, request: Request, kit: Kit
) -> tuple[dict[str, tuple[Any, Any]], list[Tail]]:
    """Return values and shares by name."""
    names = request.statistics
    batch, count = _batch(x), _size(x)
    # Two passes. The mean of squares minus the squared mean would lose everything in
    # float32 where the mean is large. Within the units and between them: the variance
    # over the batch falls off on the way.
    means = kit.column_means(rows)
    within = ops.mean(ops.square(rows - means))
    mean = ops.mean(means)
    variance = within + ops.mean(ops.square(means - mean))
    found = {"mean": (mean, count), "variance": (variance, count)}
    tails: list[Tail] = []
    if "batch_variance" in names:
        found["batch_variance"] = within, _if(batch > 1, count)
    if "input_cosine" in names:
        found["input_cosine"] = _input_cosine(rows)
    if {"zero_fraction", "dead_fraction"} & {*names}:
        alive = _alive(layer, x)
        if "zero_fraction" in names:
            found["zero_fraction"] = 1 - ops.mean(alive), count
        if "dead_fraction" in names and len(alive.shape):
            tails.append(Tail(key, "alive", alive))
    bounds = request.bounds(layer) if "saturated_fraction" in names else None
    if bounds is not None:
        found["saturated_fraction"] = _saturated(rows, bounds), count
    for name, function in request.custom:
        found[name] = ops.cast(ops.mean(function(x)), x.dtype), 1.0
    return found, tails + (_sample(key, "sample", x) if request.samples else [])


def of_gradient(
    key: str, gradient: Any, scale: Any, request: Request
) -> tuple[list[Figure], list[Tail]]:
    """Return the figures of the gradient at an output; it carries a loss scale."""
    gradient = ops.convert_to_tensor(gradient)  # from slices, where it is sparse
    if any(size == 0 for size in gradient.shape):
        return [], []
    gradient = _unscaled(gradient, scale)
    value = ops.mean(ops.square(gradient))
    found = [Figure(key, "gradient_second_moment", value, _size(gradient))]
    return found, _sample(key, "gradient_sample", gradient) if request.samples else []


def of_weight(update: Update, scale: Any, names: tuple[str, ...]) -> list[Figure]:
    """Return the figures of one step of a weight.

    A step that leaves it as it is, where gradients are accumulated or a loss scale was
    too large, has no share in the update ratio.
    """
    found = []
    key, gradient, before, after = update
    gradient = ops.convert_to_tensor(gradient)  # an embedding's are slices
    dtype = working_dtype([gradient])
    if "weight_gradient_second_moment" in names:
        value = ops.mean(ops.square(_unscaled(gradient, scale)))
        found.append(Figure(key, "weight_gradient_second_moment", value, 1.0))
    if "update_ratio" in names:
        before, after = ops.cast(before, dtype), ops.cast(after, dtype)
        step = ops.sum(ops.square(after - before))
        length = ops.sum(ops.square(before))
        there = ops.logical_and(step > 0, length > 0)
        safe = ops.where(there, length, ops.ones_like(length))
        ratio = ops.where(ops.isnan(step), step, ops.sqrt(step / safe))
        there = ops.logical_or(there, ops.isnan(step))
        found.append(Figure(key, "update_ratio", ratio, ops.cast(there, dtype)))
    return found


def sampled(weight: Any) -> Any:
    """Return all of a weight of `SAMPLED_ENTRIES` or less, of others an even share.

    That is every k-th run of 64 entries: single ones, spread as evenly, would be as
    dear to fetch from memory as the whole.
    """
    size = math.prod(weight.shape)
    flat = ops.reshape(weight, (-1,))
    if size <= SAMPLED_ENTRIES:
        return flat
    runs = size // RUN
    every = -(-runs * RUN // SAMPLED_ENTRIES)
    return ops.reshape(flat[: runs * RUN], (runs, RUN))[::every]


def _unscaled(gradient: Any, scale: Any) -> Any:
    dtype = working_dtype([gradient])
    gradient = ops.cast(gradient, dtype)
    if isinstance(scale, float) and scale == 1:
        return gradient
    return gradient / ops.cast(scale, dtype)


def _batch(x: Any) -> Any:
    return ops.shape(x)[0] if len(x.shape) else 1


def _size(x: Any) -> Any:
    shape = ops.shape(x)
    if all(isinstance(size, int) for size in shape):
        return float(math.prod(shape))
    count = ops.cast(1, working_dtype([x]))
    for size in shape:
        count = count * ops.cast(size, count.dtype)
    return count


def _if(condition: Any, count: Any) -> Any:
    if isinstance(condition, bool):
        return count if condition else 0.0
    return ops.where(condition, count, 0.0)


def _alive(layer: Any, x: Any) -> Any:
    """Return the share of elements that are not 0, of each unit if they are known."""
    # 1 for all that is not 0, by arithmetic alone: XLA would write the truth values of
    # a comparison to memory, as large as the output, before it sums them.
    huge = 1e308 if "64" in keras.backend.standardize_dtype(x.dtype) else 1e38
    ones = ops.minimum(ops.abs(x) * huge, 1.0)
    rank = len(x.shape)
    if rank == 0:
        return ops.mean(ones)
    if rank == 1:
        return ops.mean(ones)[None]
    axis = unit_axis(layer, rank)
    if x.shape[axis] is None:
        return ops.mean(ones)
    return ops.mean(ones, axis=tuple(i for i in range(rank) if i != axis))


def _share(condition: Any, dtype: Any) -> Any:
    return ops.mean(ops.cast(condition, dtype))


def _input_cosine(rows: Any) -> tuple[Any, Any]:
    """Return the mean cosine over all pairs of rows that are not 0, and their number.

    Of all pairs at once: |Σu|² is the sum of the cosines of all ordered pairs, each
    unit vector u with itself included.
    """
    squares = ops.sum(ops.square(rows), axis=1)
    there = squares > 0
    ones = ops.ones_like(squares)
    lengths = ops.where(there, ops.rsqrt(ops.where(there, squares, ones)), 0 * ones)
    total = ops.matmul(lengths[None], rows)[0]
    count = ops.sum(ops.cast(there, rows.dtype))
    pairs = count * (count - 1)
    cosine = (ops.sum(ops.square(total)) - count) / ops.maximum(pairs, 1.0)
    return cosine, ops.where(ops.isfinite(cosine), pairs, ops.zeros_like(pairs))


def _saturated(rows: Any, bounds: Bounds) -> Any:
    low, high, near, counts_low = bounds
    saturated = ops.logical_and(rows > high - near, rows < high + near)
    if counts_low:
        other = ops.logical_and(rows < low + near, rows > low - near)
        saturated = ops.logical_or(saturated, other)
    return _share(saturated, rows.dtype)


def nonfinite_if_any(matrices: Sequence[Any], variances: Sequence[Any]) -> list[Any]:
    """Count what is not finite; look for it only where a variance is not.

    A variance is finite only where all elements are, and seldom is it not.
    """
    dtype = working_dtype([*matrices])
    finite = ops.isfinite(ops.stack([ops.cast(one, dtype) for one in variances]))
    counts = ops.cond(
        ops.all(finite),
        lambda: ops.zeros((len(matrices),), dtype),
        # Row by row: what a branch may need is set aside in every step.
        lambda: ops.stack(
            [ops.cast(ops.sum(ops.map(_row_nonfinite, one)), dtype) for one in matrices]
        ),
    )
    return [counts[index] for index in range(len(matrices))]


def _row_nonfinite(row: Any) -> Any:
    return ops.sum(1 - ops.cast(ops.isfinite(row), row.dtype))


def _sample(key: str, kind: str, x: Any) -> list[Tail]:
    """Return values spread over all of `x`, some of them twice where it has few."""
    count = _size(x)
    if isinstance(count, float):
        places = np.linspace(0, count - 1, SAMPLED_VALUES).round().astype("int32")
    else:
        steps = ops.arange(SAMPLED_VALUES, dtype=count.dtype) / (SAMPLED_VALUES - 1)
        places = ops.cast(ops.round(steps * (count - 1)), "int32")
    return [Tail(key, kind, ops.take(ops.reshape(x, (-1,)), places))]
