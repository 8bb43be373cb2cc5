"""The figures of gradients and of updates of weights in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_initlab.taps.backends.base import Passes
from keras_initlab.taps.figures import (
    Figures,
    Tails,
    Update,
    joined,
    samples_of,
    shares_of,
    stacks,
    unscaled,
    working_dtype,
)
from keras_initlab.taps.ops import ops
from keras_initlab.taps.request import Request


def of_gradients(
    keys: Sequence[str],
    gradients: Mapping[int, Any],
    updates: Sequence[Update],
    scale: Any,
    request: Request,
    passes: Passes,
) -> tuple[list[Figures], list[Tails]]:
    """Return the figures of gradients and of updates of weights.

    Args:
        keys: those of the outputs.
        gradients: those at the outputs, by the output's index, where there is one.
        updates: as the `WeightTap` recorded them.
        scale: the loss scale that gradients carry.
        request: what to measure.
        passes: those of the backend.
    """
    figures: list[Figures] = []
    tails: list[Tails] = []
    pairs = [(keys[index], gradients[index]) for index in sorted(gradients)]
    for stack in stacks([pair for pair in pairs if 0 not in pair[1].shape], _gradient):
        of_stack = tuple(key for key, _ in stack.members)
        values, shares = _mean_squares(stack.x, scale, passes), shares_of(stack)
        figures.append(Figures(of_stack, "gradient_second_moment", values, shares))
        if request.samples:
            plain = stack._replace(x=unscaled(stack.x, scale))
            tails.append(samples_of(plain, of_stack, "gradient_sample"))
    name = "weight_gradient_second_moment"
    if name in request.statistics:
        pairs = [(update.key, update.gradient) for update in updates]
        for stack in stacks(pairs, _gradient):
            of_stack = tuple(key for key, _ in stack.members)
            values, shares = (
                _mean_squares(stack.x, scale, passes),
                np.ones(len(of_stack)),
            )
            figures.append(
                Figures(of_stack, "weight_gradient_second_moment", values, shares)
            )
    if "update_ratio" in request.statistics and updates:
        figures.append(_update_ratios(updates, passes))
    return figures, tails


def _update_ratios(updates: Sequence[Update], passes: Passes) -> Figures:
    """Return ‖Δw‖ / ‖w‖ of each weight.

    An update that leaves a weight unchanged has no share: gradients are still being
    accumulated, or the loss scale was too large.
    """
    keys: tuple[str, ...] = ()
    steps, lengths = [], []
    dtype = working_dtype([update.after for update in updates])
    olds = stacks(updates, lambda update: ops.cast(update.before, dtype))
    news = stacks(updates, lambda update: ops.cast(update.after, dtype))
    for old, new in zip(olds, news, strict=True):
        keys += tuple(update.key for update in old.members)
        steps.append(passes.mean_square(new.x, old.x))
        lengths.append(passes.mean_square(old.x))
    step, length = joined(steps), joined(lengths)
    moved = ops.logical_and(step > 0, length > 0)
    safe = ops.where(moved, length, ops.ones_like(length))
    ratio = ops.where(ops.isnan(step), step, ops.sqrt(step / safe))
    measured = ops.logical_or(moved, ops.isnan(step))
    return Figures(keys, "update_ratio", ratio, ops.cast(measured, ratio.dtype))


def _gradient(pair: tuple[str, Any]) -> Any:
    return pair[1]


def _mean_squares(x: Any, scale: Any, passes: Passes) -> Any:
    """Return the mean squares of a stack of gradients, without their loss scale."""
    return unscaled(unscaled(passes.mean_square(x), scale), scale)
