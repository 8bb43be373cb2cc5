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

# How much larger than what may be missing from it a sum of squares is to be.
_EXACT = 1e4


class _Group(NamedTuple):
    """Outputs of one shape and kind, stacked; results have a row for each.

    `shares` are the numbers of elements; `rows` is (outputs, batch, elements). `totals`
    are the sums of the inputs' unit vectors, and `counts` their numbers; both are None
    unless the cosine is asked for.
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
    """Return the figures and tails of outputs of shape (batch, ...).

    Outputs without elements are left out.

    Args:
        outputs: as the recorder returns them.
        request: what to measure.
        passes: those of the backend.
        across: `sums`, added up over all replicas, and the number of replicas; None if
            there is one.
    """
    figures: list[Figures] = []
    tails: list[Tails] = []
    variances = []
    groups = _groups(outputs, request, passes)
    for group, of_all in zip(groups, _split_sums(groups, across), strict=True):
        moments = _moments(group, request, passes, of_all)
        variances += [figure.values for figure in moments if figure.name == "variance"]
        figures += moments
        if group.totals is not None:
            figures.append(_input_cosines(group, of_all))
        if {"zero_fraction", "dead_fraction"} & {*request.statistics}:
            fractions, alive = _of_units(group, request, passes)
            figures += fractions
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
    """Whether the `sums` of all replicas have to be added up."""
    names = {"batch_variance", "input_cosine"} & {*request.statistics}
    shapes = [output.tensor.shape for output in outputs]
    measurable = any(None not in shape[1:] and 0 not in shape for shape in shapes)
    return bool(names) and measurable


def sums(outputs: Sequence[Output], request: Request, passes: Passes) -> Any:
    """Return the vector whose sum over all replicas `of_outputs` takes as `across`."""
    groups = _groups(outputs, request, passes)
    vectors = [
        ops.reshape(_summands(group), (-1,)) for group in groups if _is_static(group)
    ]
    dtype = working_dtype([output.tensor for output in outputs])
    return ops.cast(joined(vectors), dtype)


def _groups(
    outputs: Sequence[Output], request: Request, passes: Passes
) -> list[_Group]:
    bounds: dict[str, Bounds | None] = dict.fromkeys(output.key for output in outputs)
    if "saturated_fraction" in request.statistics:
        bounds = {output.key: request.bounds(output.layer) for output in outputs}

    def kind(output: Output) -> tuple[Bounds | None, int]:
        axis = unit_axis(output.layer, len(output.tensor.shape))
        return bounds[output.key], axis

    nonempty = [output for output in outputs if 0 not in output.tensor.shape]
    return [
        _group(stack, *kind(stack.members[0]), request, passes)
        for stack in stacks(nonempty, lambda output: output.tensor, kind)
    ]


def _group(
    stack: Stack, bounds: Bounds | None, axis: int, request: Request, passes: Passes
) -> _Group:
    keys = tuple(output.key for output in stack.members)
    shape = ops.shape(stack.x)
    batch = shape[1] if len(shape) > 1 else 1
    rows = ops.reshape(stack.x, (len(keys), batch, -1))
    factors = counts = None
    if "input_cosine" in request.statistics:
        norms = passes.row_norms(rows)
        nonzero = norms > _shortest(rows)
        safe = ops.where(nonzero, norms, ops.ones_like(norms))
        factors = ops.cast(nonzero, norms.dtype) / safe
        counts = ops.sum(ops.cast(nonzero, norms.dtype), axis=1)
    means, totals = passes.column_sums(rows, factors)
    shares = shares_of(stack)
    return _Group(stack, keys, shares, rows, batch, means, totals, counts, bounds, axis)


def _shortest(rows: Any) -> Any:
    """Return the norm below which the squares in it lose digits, or are 0."""
    size = ops.cast(ops.shape(rows)[-1], rows.dtype)
    # An element whose square is too small is off by `tiny` at most.
    tiny = np.finfo(working_dtype([rows])).tiny
    return ops.sqrt(size * (_EXACT * float(tiny)))


def _moments(
    group: _Group, request: Request, passes: Passes, across: Any
) -> list[Figures]:
    """Return mean, variance and batch variance."""
    # Two passes: the mean of squares minus the squared mean would lose all digits in
    # float32 where the mean is large. The variance is that within units, which is also
    # the batch variance, plus that between units.
    within = passes.mean_square(group.rows, group.means[:, None])
    mean = ops.mean(group.means, axis=1)
    between = passes.mean_square(group.means, mean[:, None])
    shares = group.shares
    figures = [
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
        figures.append(Figures(group.keys, "batch_variance", within, shares))
    return figures


def _input_cosines(group: _Group, across: Any) -> Figures:
    """Return the mean cosine over all pairs of nonzero rows; shares count the pairs.

    Of rows next to 0 it is not known: their norms have lost digits.

    No pair is formed: |Σu|² is the sum of the cosines of all ordered pairs, including
    each unit vector u with itself.
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
    """Return the fractions of zeros, and the share of each unit that is not 0."""
    x, rank = group.stack.x, len(group.stack.x.shape) - 1
    axis = group.axis + 1
    has_units = rank == 1 or (rank > 1 and x.shape[axis] is not None)
    if rank < 2 or not has_units:
        x, axis = ops.reshape(x, (len(group.keys), -1, 1)), 2
    alive = passes.alive(x, axis)
    figures, tails = [], []
    if "zero_fraction" in request.statistics:
        zeros = 1 - ops.mean(alive, axis=1)
        figures.append(Figures(group.keys, "zero_fraction", zeros, group.shares))
    if "dead_fraction" in request.statistics and has_units:
        tails.append(Tails(group.keys, "alive", alive))
    return figures, tails


def _saturated(group: _Group, bounds: Bounds) -> Figures:
    low, high, near, counts_low = bounds
    rows = group.rows
    saturated = ops.logical_and(rows > high - near, rows < high + near)
    if counts_low:
        at_low = ops.logical_and(rows < low + near, rows > low - near)
        saturated = ops.logical_or(saturated, at_low)
    share = ops.mean(ops.cast(saturated, rows.dtype), axis=(1, 2))
    return Figures(group.keys, "saturated_fraction", share, group.shares)


def _custom(group: _Group, name: str, function: Any) -> Figures:
    """Return the value of a user's function for each output."""
    count, x = len(group.keys), group.stack.x
    values = [ops.cast(ops.mean(function(x[i])), x.dtype) for i in range(count)]
    return Figures(group.keys, name, ops.stack(values), np.ones(count))


def _is_static(group: _Group) -> bool:
    """Whether the number of elements per input is static, so that sums can be split."""
    return group.means.shape[1] is not None


def _summands(group: _Group) -> Any:
    """Return the terms of the sums over replicas, a row for each output."""
    batch = ops.cast(group.batch, group.means.dtype)
    parts = [batch * ops.ones_like(group.means[:, :1]), group.means * batch]
    if group.totals is not None:
        parts += [group.counts[:, None], group.totals]
    return ops.concatenate(parts, axis=1)


def _split_sums(groups: Sequence[_Group], across: Any) -> list[Any]:
    """Return each group's batch, means, counts and totals over all replicas.

    And the number of replicas; None for a group that is not summed over replicas.
    """
    if across is None:
        return [None] * len(groups)
    vector, replicas = across
    split: list[Any] = []
    start = 0
    for group in groups:
        if not _is_static(group):
            split.append(None)
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
        split.append((batch[0, 0], means, counts, totals, replicas))
    return split
