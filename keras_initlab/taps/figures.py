"""The figures of one batch: of an output, of the gradient there, of a weight's step.

A figure is a value with its share, the weight that it has when batches are merged; a
share of 0 says that there was nothing to measure. All is Keras's `ops`, so that one
code serves compiled steps of every backend.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_initlab.taps.passes import Passes
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


def dtype_of(outputs: Sequence[Output]) -> str:
    """Return the dtype in which to keep the figures of outputs."""
    return working_dtype([output.tensor for output in outputs])


class Figures(NamedTuple):
    """One statistic of several outputs or weights, and the share each has in its mean.

    Values are a vector. Shares are one too, an array where they are known beforehand.
    """

    keys: tuple[str, ...]
    name: str
    values: Any
    shares: Any


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


class _Seen(NamedTuple):
    """An output as it is measured: in its working dtype, and as (batch, elements)."""

    key: str
    layer: Any
    x: Any
    rows: Any


class _Group(NamedTuple):
    """Outputs of one shape, whose small vectors go together as rows of a matrix.

    With `cosine`, `totals` are the sums of the inputs' unit vectors, and `counts` says
    of how many; both are None otherwise.
    """

    members: list[_Seen]
    batch: Any
    means: Any
    totals: Any
    counts: Any


def of_outputs(
    outputs: Sequence[Output], request: Request, passes: Passes, across: Any = None
) -> tuple[list[Figures], list[Tail]]:
    """Return the figures of outputs of shape (batch, ...), and what has more numbers.

    Those of which nothing is known, as there are no elements, are left out.

    Args:
        outputs: what was recorded.
        request: what to measure.
        passes: how this backend does it.
        across: `sums` over all replicas, and their number; None where this is all.
    """
    figures: list[Figures] = []
    tails: list[Tail] = []
    matrices, variances = [], []
    groups = _groups(outputs, request, passes)
    for group, all_of_it in zip(groups, _apart(groups, across), strict=True):
        found = _moments(group, request, passes, all_of_it)
        figures += found
        if group.totals is not None:
            figures.append(_input_cosines(group, all_of_it))
        matrices += [one.rows for one in group.members]
        variances += [one.values for one in found if one.name == "variance"]
    seen = [one for group in groups for one in group.members]
    if seen and "nonfinite" in request.statistics:
        keys = tuple(one.key for one in seen)
        counts = passes.nonfinite(matrices, _joined(variances))
        figures.append(Figures(keys, "nonfinite", counts, np.ones(len(keys))))
    if {"zero_fraction", "dead_fraction"} & {*request.statistics}:
        more, tails = _of_units_alive(seen, request, passes)
        figures += more
    for one in seen:
        figures += _alone(one, request)
        tails += _sample(one.key, "sample", one.x) if request.samples else []
    return figures, tails


def needs_sums(outputs: Sequence[Output], request: Request) -> bool:
    """Whether replicas have to know of each other what `sums` returns."""
    names = {"batch_variance", "input_cosine"} & {*request.statistics}
    return bool(names) and any(_width(one) is not None for one in outputs)


def sums(outputs: Sequence[Output], request: Request, passes: Passes) -> Any:
    """Return a vector whose sum over replicas `of_outputs` takes as `across`."""
    groups = _groups(outputs, request, passes)
    vectors = [ops.reshape(_summed(one), (-1,)) for one in groups if _known(one)]
    return ops.cast(_joined(vectors), dtype_of(outputs))


def of_way_back(
    keys: Sequence[str],
    gradients: Mapping[int, Any],
    updates: Sequence[Update],
    scale: Any,
    request: Request,
    passes: Passes,
) -> tuple[list[Figures], list[Tail]]:
    """Return the figures of gradients and of weights' steps.

    Args:
        keys: of the outputs.
        gradients: of them, by their index, where one reached them.
        updates: what the weight tap took.
        scale: the loss scale that gradients carry.
        request: what to measure.
        passes: how this backend does it.
    """
    figures: list[Figures] = []
    tails: list[Tail] = []
    # From slices, where they are sparse.
    known = {
        keys[index]: ops.convert_to_tensor(gradients[index])
        for index in sorted(gradients)
    }
    known = {key: one for key, one in known.items() if 0 not in one.shape}
    if known:
        figures.append(
            Figures(
                tuple(known),
                "gradient_second_moment",
                _mean_squares([*known.values()], scale, passes),
                _shares([_size(one) for one in known.values()]),
            )
        )
    if request.samples:
        for key, gradient in known.items():
            tails += _sample(key, "gradient_sample", _unscaled(gradient, scale))
    return figures + _of_weights(updates, scale, request.statistics, passes), tails


def of_step(
    outputs: Sequence[Output],
    gradients: Mapping[int, Any],
    updates: Sequence[Update],
    scale: Any,
    request: Request,
    passes: Passes,
    across: Any = None,
) -> tuple[list[Figures], list[Tail]]:
    """Return all figures of one step; see `of_outputs` and `of_way_back`."""
    figures, tails = of_outputs(outputs, request, passes, across)
    keys = [output.key for output in outputs]
    more, ends = of_way_back(keys, gradients, updates, scale, request, passes)
    return figures + more, tails + ends


def _groups(
    outputs: Sequence[Output], request: Request, passes: Passes
) -> list[_Group]:
    """Return outputs in groups of one shape; alone where it is not known."""
    groups: dict[Any, list[_Seen]] = {}
    for key, tensor, layer, _ in outputs:
        if 0 in tensor.shape:
            continue
        # float16 and bfloat16 can neither hold the sums nor the counts.
        dtype = working_dtype([tensor])
        x = ops.cast(tensor, dtype)
        rows = ops.reshape(x, (_batch(x), -1))
        shape = (dtype, *rows.shape)
        kind = key if None in shape else shape
        groups.setdefault(kind, []).append(_Seen(key, layer, x, rows))
    with_cosine = "input_cosine" in request.statistics
    return [_group(one, with_cosine, passes) for one in groups.values()]


def _group(members: list[_Seen], with_cosine: bool, passes: Passes) -> _Group:
    rows = [one.rows for one in members]
    means = ops.stack([passes.column_means(one) for one in rows])
    if not with_cosine:
        return _Group(members, _batch(rows[0]), means, None, None)
    squares = ops.stack([passes.row_squares(one) for one in rows])
    there = squares > 0
    safe = ops.where(there, squares, ops.ones_like(squares))
    lengths = ops.where(there, ops.rsqrt(safe), ops.zeros_like(squares))
    totals = [ops.matmul(lengths[i : i + 1], one)[0] for i, one in enumerate(rows)]
    counts = ops.sum(ops.cast(there, squares.dtype), axis=1)
    return _Group(members, _batch(rows[0]), means, ops.stack(totals), counts)


def _width(output: Output) -> int | None:
    """Return how many elements an output has for each input; None if not known."""
    shape = output.tensor.shape
    if 0 in shape:
        return None
    return None if None in shape[1:] else math.prod(shape[1:])


def _known(group: _Group) -> bool:
    """Whether the length of what is summed over replicas is known beforehand."""
    return group.means.shape[1] is not None


def _summed(group: _Group) -> Any:
    """Return what is summed over replicas, a row for each output."""
    batch = ops.cast(group.batch, group.means.dtype)
    parts = [batch * ops.ones_like(group.means[:, :1]), group.means * batch]
    if group.totals is not None:
        parts += [group.counts[:, None], group.totals]
    return ops.concatenate(parts, axis=1)


def _apart(groups: Sequence[_Group], across: Any) -> list[Any]:
    """Return for each group its batch, means, counts and totals over all replicas.

    And the number of replicas; None where there is but one, or nothing is summed.
    """
    if across is None:
        return [None] * len(groups)
    vector, replicas = across
    found: list[Any] = []
    start = 0
    for group in groups:
        if not _known(group):
            found.append(None)
            continue
        count, width = group.means.shape
        length = (1 + width) * (1 if group.totals is None else 2)
        matrix = ops.reshape(vector[start : start + count * length], (count, length))
        start += count * length
        matrix = ops.cast(matrix, group.means.dtype)
        batch = matrix[:, :1]
        means = matrix[:, 1 : 1 + width] / batch
        counts = totals = None
        if group.totals is not None:
            counts, totals = matrix[:, 1 + width], matrix[:, 2 + width :]
        found.append((batch[0, 0], means, counts, totals, replicas))
    return found


def _moments(
    group: _Group, request: Request, passes: Passes, across: Any
) -> list[Figures]:
    """Return mean, variance and batch variance."""
    keys = tuple(one.key for one in group.members)
    # Two passes. The mean of squares minus the squared mean would lose everything in
    # float32 where the mean is large. Within the units and between them: the variance
    # over the batch falls off on the way.
    within = ops.stack(
        [
            passes.mean_square(one.rows, group.means[i])
            for i, one in enumerate(group.members)
        ]
    )
    mean = ops.mean(group.means, axis=1)
    between = ops.mean(ops.square(group.means - mean[:, None]), axis=1)
    counts = _shares([_size(one.x) for one in group.members])
    found = [
        Figures(keys, "mean", mean, counts),
        Figures(keys, "variance", within + between, counts),
    ]
    if "batch_variance" in request.statistics:
        batch = group.batch
        if across is not None:
            batch, means, *_ = across
            within = within + ops.mean(ops.square(group.means - means), axis=1)
        found.append(Figures(keys, "batch_variance", within, _if(batch > 1, counts)))
    return found


def _input_cosines(group: _Group, across: Any) -> Figures:
    """Return the mean cosine over all pairs of rows that are not 0, and their number.

    Of all pairs at once: |Σu|² is the sum of the cosines of all ordered pairs, each
    unit vector u with itself included.
    """
    counts, totals, replicas = group.counts, group.totals, 1
    if across is not None:
        _, _, counts, totals, replicas = across
    pairs = counts * (counts - 1)
    cosine = (ops.sum(ops.square(totals), axis=1) - counts) / ops.maximum(pairs, 1.0)
    shares = ops.where(ops.isfinite(cosine), pairs, ops.zeros_like(pairs)) / replicas
    return Figures(
        tuple(one.key for one in group.members), "input_cosine", cosine, shares
    )


def _of_units_alive(
    seen: Sequence[_Seen], request: Request, passes: Passes
) -> tuple[list[Figures], list[Tail]]:
    """Return the fractions of zeros, and of each unit how much of it is not 0."""
    fractions, tails = [], []
    for one in seen:
        x, rank = one.x, len(one.x.shape)
        axis = unit_axis(one.layer, rank)
        known = rank == 1 or (rank > 1 and x.shape[axis] is not None)
        if rank < 2 or not known:
            x, axis = ops.reshape(x, (-1, 1)), 1
        alive = passes.alive(x, axis)
        if known:
            tails.append(Tail(one.key, "alive", alive))
        fractions.append(1 - ops.mean(alive))
    figures = []
    if seen and "zero_fraction" in request.statistics:
        keys = tuple(one.key for one in seen)
        shares = _shares([_size(one.x) for one in seen])
        figures = [Figures(keys, "zero_fraction", _stacked(fractions), shares)]
    return figures, tails if "dead_fraction" in request.statistics else []


def _alone(one: _Seen, request: Request) -> list[Figures]:
    """Return the figures that only some layers have, or the user alone knows."""
    found = []
    keys = (one.key,)
    wanted = "saturated_fraction" in request.statistics
    bounds = request.bounds(one.layer) if wanted else None
    if bounds is not None:
        share = _saturated(one.rows, bounds)[None]
        size = _shares([_size(one.x)])
        found.append(Figures(keys, "saturated_fraction", share, size))
    for name, function in request.custom:
        value = ops.cast(ops.mean(function(one.x)), one.x.dtype)[None]
        found.append(Figures(keys, name, value, np.ones(1)))
    return found


def _of_weights(
    updates: Sequence[Update], scale: Any, names: tuple[str, ...], passes: Passes
) -> list[Figures]:
    """Return the figures of one step of weights.

    A step that leaves one as it is, where gradients are accumulated or a loss scale was
    too large, has no share in the update ratio.
    """
    found: list[Figures] = []
    if not updates:
        return found
    keys = tuple(one.key for one in updates)
    # An embedding's are slices.
    gradients = [ops.convert_to_tensor(one.gradient) for one in updates]
    if "weight_gradient_second_moment" in names:
        values = _mean_squares(gradients, scale, passes)
        name = "weight_gradient_second_moment"
        found.append(Figures(keys, name, values, np.ones(len(keys))))
    if "update_ratio" in names:
        dtype = working_dtype(gradients)
        steps, lengths = [], []
        for one in updates:
            before, after = ops.cast(one.before, dtype), ops.cast(one.after, dtype)
            steps.append(passes.mean_square(after, before))
            lengths.append(passes.mean_square(before))
        step, length = ops.stack(steps), ops.stack(lengths)
        there = ops.logical_and(step > 0, length > 0)
        safe = ops.where(there, length, ops.ones_like(length))
        ratio = ops.where(ops.isnan(step), step, ops.sqrt(step / safe))
        there = ops.cast(ops.logical_or(there, ops.isnan(step)), dtype)
        found.append(Figures(keys, "update_ratio", ratio, there))
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


def _mean_squares(tensors: Sequence[Any], scale: Any, passes: Passes) -> Any:
    """Return of each tensor the mean square, without the loss scale it carries."""
    dtype = working_dtype([*tensors])
    values = ops.stack([passes.mean_square(ops.cast(x, dtype)) for x in tensors])
    return _unscaled(_unscaled(values, scale), scale)


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


def _shares(sizes: Sequence[Any]) -> Any:
    """Return sizes as one array, if all are known beforehand, or as a tensor."""
    if all(isinstance(size, float) for size in sizes):
        return np.array(sizes)
    return _stacked(sizes)


def _stacked(values: Sequence[Any]) -> Any:
    dtype = working_dtype([one for one in values if not isinstance(one, float)])
    return ops.stack([ops.cast(one, dtype) for one in values])


def _joined(vectors: Sequence[Any]) -> Any:
    dtype = working_dtype([*vectors])
    return ops.concatenate([ops.cast(one, dtype) for one in vectors])


def _if(condition: Any, shares: Any) -> Any:
    if isinstance(condition, bool):
        return shares if condition else np.zeros(len(shares))
    dtype = "float32" if isinstance(shares, np.ndarray) else shares.dtype
    return ops.cast(condition, dtype) * ops.convert_to_tensor(shares, dtype)


def _saturated(rows: Any, bounds: Bounds) -> Any:
    low, high, near, counts_low = bounds
    saturated = ops.logical_and(rows > high - near, rows < high + near)
    if counts_low:
        other = ops.logical_and(rows < low + near, rows > low - near)
        saturated = ops.logical_or(saturated, other)
    return ops.mean(ops.cast(saturated, rows.dtype))


def _sample(key: str, kind: str, x: Any) -> list[Tail]:
    """Return values spread over all of `x`, some of them twice where it has few."""
    count = _size(x)
    if isinstance(count, float):
        places = np.linspace(0, count - 1, SAMPLED_VALUES).round().astype("int32")
    else:
        steps = ops.arange(SAMPLED_VALUES, dtype=count.dtype) / (SAMPLED_VALUES - 1)
        places = ops.cast(ops.round(steps * (count - 1)), "int32")
    return [Tail(key, kind, ops.take(ops.reshape(x, (-1,)), places))]
