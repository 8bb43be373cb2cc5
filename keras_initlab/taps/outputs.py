"""The figures of layers' outputs in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_initlab.stats import Bounds
from keras_initlab.taps.backends.base import Passes
from keras_initlab.taps.figures import (
    Figures,
    Stack,
    Tails,
    joined,
    samples_of,
    shares_of,
    stacks,
    unit_axis,
    working_dtype,
)
from keras_initlab.taps.ops import ops
from keras_initlab.taps.recorder import Output
from keras_initlab.taps.request import Request


class _Group(NamedTuple):
    """Outputs of one kind, as one tensor; its vectors are rows of matrices.

    `shares` are the numbers of elements; `rows` is (outputs, batch, elements). `totals`
    are the sums of the inputs' unit vectors, and `counts` says of how many; None where
    no cosine is asked for.
    """

    stack: Stack
    keys: tuple[str, ...]
    shares: Any
    rows: Any
    batch: Any
    means: Any
    totals: Any
    counts: Any
    bounds: Bounds | None
    axis: int


def of_outputs(
    outputs: Sequence[Output], request: Request, passes: Passes, across: Any = None
) -> tuple[list[Figures], list[Tails]]:
    """Return the figures of outputs of shape (batch, ...), and what has more numbers.

    Those of which nothing is known, as there are no elements, are left out.

    Args:
        outputs: what was recorded.
        request: what to measure.
        passes: how this backend does it.
        across: `sums` over all replicas, and their number; None where this is all.
    """
    figures: list[Figures] = []
    tails: list[Tails] = []
    variances = []
    groups = _groups(outputs, request, passes)
    for group, of_all in zip(groups, _apart(groups, across), strict=True):
        found = _moments(group, request, passes, of_all)
        variances += [one.values for one in found if one.name == "variance"]
        figures += found
        if group.totals is not None:
            figures.append(_input_cosines(group, of_all))
        if {"zero_fraction", "dead_fraction"} & {*request.statistics}:
            more, alive = _of_units(group, request, passes)
            figures += more
            tails += alive
        if group.bounds is not None:
            figures.append(_saturated(group, group.bounds))
        for name, function in request.custom:
            figures.append(_custom(group, name, function))
        if request.samples:
            tails.append(samples_of(group.stack, group.keys, "sample"))
    if groups and "nonfinite" in request.statistics:
        keys = tuple(key for group in groups for key in group.keys)
        matrices = [group.rows for group in groups]
        counts = passes.nonfinite(matrices, joined(variances))
        figures.append(Figures(keys, "nonfinite", counts, np.ones(len(keys))))
    return figures, tails


def needs_sums(outputs: Sequence[Output], request: Request) -> bool:
    """Whether replicas have to know of each other what `sums` returns."""
    names = {"batch_variance", "input_cosine"} & {*request.statistics}
    shapes = [output.tensor.shape for output in outputs]
    known = any(None not in shape[1:] and 0 not in shape for shape in shapes)
    return bool(names) and known


def sums(outputs: Sequence[Output], request: Request, passes: Passes) -> Any:
    """Return a vector whose sum over replicas `of_outputs` takes as `across`."""
    groups = _groups(outputs, request, passes)
    vectors = [ops.reshape(_summed(one), (-1,)) for one in groups if _known(one)]
    dtype = working_dtype([output.tensor for output in outputs])
    return ops.cast(joined(vectors), dtype)


def _groups(
    outputs: Sequence[Output], request: Request, passes: Passes
) -> list[_Group]:
    bounds: dict[str, Bounds | None] = dict.fromkeys(one.key for one in outputs)
    if "saturated_fraction" in request.statistics:
        bounds = {one.key: request.bounds(one.layer) for one in outputs}

    def kind(output: Output) -> tuple[Bounds | None, int]:
        axis = unit_axis(output.layer, len(output.tensor.shape))
        return bounds[output.key], axis

    there = [one for one in outputs if 0 not in one.tensor.shape]
    return [
        _group(stack, *kind(stack.members[0]), request, passes)
        for stack in stacks(there, lambda one: one.tensor, kind)
    ]


def _group(
    stack: Stack, bounds: Bounds | None, axis: int, request: Request, passes: Passes
) -> _Group:
    keys = tuple(one.key for one in stack.members)
    shape = ops.shape(stack.x)
    batch = shape[1] if len(shape) > 1 else 1
    rows = ops.reshape(stack.x, (len(keys), batch, -1))
    means = passes.column_means(rows)
    totals = counts = None
    if "input_cosine" in request.statistics:
        norms = passes.row_norms(rows)
        there = norms > 0
        safe = ops.where(there, norms, ops.ones_like(norms))
        lengths = ops.cast(there, norms.dtype) / safe
        totals = ops.matmul(lengths[:, None], rows)[:, 0]
        counts = ops.sum(ops.cast(there, norms.dtype), axis=1)
    shares = shares_of(stack)
    return _Group(stack, keys, shares, rows, batch, means, totals, counts, bounds, axis)


def _moments(
    group: _Group, request: Request, passes: Passes, across: Any
) -> list[Figures]:
    """Return mean, variance and batch variance."""
    # Two passes. The mean of squares minus the squared mean would lose everything in
    # float32 where the mean is large. Within the units and between them: the variance
    # over the batch falls off on the way.
    within = passes.mean_square(group.rows, group.means[:, None])
    mean = ops.mean(group.means, axis=1)
    between = passes.mean_square(group.means, mean[:, None])
    shares = group.shares
    found = [
        Figures(group.keys, "mean", mean, shares),
        Figures(group.keys, "variance", within + between, shares),
    ]
    if "batch_variance" in request.statistics:
        batch = group.batch
        if across is not None:
            batch, means, *_ = across
            within = within + passes.mean_square(group.means, means)
        if isinstance(batch, int):
            shares = shares if batch > 1 else np.zeros(len(group.keys))
        else:
            dtype = group.rows.dtype
            shares = ops.cast(batch > 1, dtype) * ops.convert_to_tensor(shares, dtype)
        found.append(Figures(group.keys, "batch_variance", within, shares))
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
    return Figures(group.keys, "input_cosine", cosine, shares)


def _of_units(
    group: _Group, request: Request, passes: Passes
) -> tuple[list[Figures], list[Tails]]:
    """Return the fractions of zeros, and of each unit how much of it is not 0."""
    x, rank = group.stack.x, len(group.stack.x.shape) - 1
    axis = group.axis + 1
    known = rank == 1 or (rank > 1 and x.shape[axis] is not None)
    if rank < 2 or not known:
        x, axis = ops.reshape(x, (len(group.keys), -1, 1)), 2
    alive = passes.alive(x, axis)
    figures, tails = [], []
    if "zero_fraction" in request.statistics:
        zeros = 1 - ops.mean(alive, axis=1)
        figures.append(Figures(group.keys, "zero_fraction", zeros, group.shares))
    if "dead_fraction" in request.statistics and known:
        tails.append(Tails(group.keys, "alive", alive))
    return figures, tails


def _saturated(group: _Group, bounds: Bounds) -> Figures:
    low, high, near, counts_low = bounds
    rows = group.rows
    found = ops.logical_and(rows > high - near, rows < high + near)
    if counts_low:
        other = ops.logical_and(rows < low + near, rows > low - near)
        found = ops.logical_or(found, other)
    share = ops.mean(ops.cast(found, rows.dtype), axis=(1, 2))
    return Figures(group.keys, "saturated_fraction", share, group.shares)


def _custom(group: _Group, name: str, function: Any) -> Figures:
    """Return what a user's function says of each output."""
    count, x = len(group.keys), group.stack.x
    values = [ops.cast(ops.mean(function(x[i])), x.dtype) for i in range(count)]
    return Figures(group.keys, name, ops.stack(values), np.ones(count))


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
    """Return of each group its batch, means, counts and totals over all replicas.

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
