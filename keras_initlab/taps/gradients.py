"""The figures of gradients and of weights' steps in one batch."""

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
    tails: list[Tails] = []
    pairs = [(keys[index], gradients[index]) for index in sorted(gradients)]
    for stack in stacks([pair for pair in pairs if 0 not in pair[1].shape], _second):
        of = tuple(key for key, _ in stack.members)
        values = _mean_squares(stack.x, scale, passes)
        figures.append(Figures(of, "gradient_second_moment", values, shares_of(stack)))
        if request.samples:
            plain = stack._replace(x=unscaled(stack.x, scale))
            tails.append(samples_of(plain, of, "gradient_sample"))
    if "weight_gradient_second_moment" in request.statistics:
        pairs = [(one.key, one.gradient) for one in updates]
        for stack in stacks(pairs, _second):
            of = tuple(key for key, _ in stack.members)
            values, shares = _mean_squares(stack.x, scale, passes), np.ones(len(of))
            figures.append(Figures(of, "weight_gradient_second_moment", values, shares))
    if "update_ratio" in request.statistics and updates:
        figures.append(_update_ratios(updates, passes))
    return figures, tails


def _update_ratios(updates: Sequence[Update], passes: Passes) -> Figures:
    """Return how far weights went, of their length.

    A step that leaves one as it is, where gradients are accumulated or a loss scale was
    too large, has no share.
    """
    keys: tuple[str, ...] = ()
    steps, lengths = [], []
    dtype = working_dtype([one.after for one in updates])
    olds = stacks(updates, lambda one: ops.cast(one.before, dtype))
    news = stacks(updates, lambda one: ops.cast(one.after, dtype))
    for old, new in zip(olds, news, strict=True):
        keys += tuple(one.key for one in old.members)
        steps.append(passes.mean_square(new.x, old.x))
        lengths.append(passes.mean_square(old.x))
    step, length = joined(steps), joined(lengths)
    there = ops.logical_and(step > 0, length > 0)
    safe = ops.where(there, length, ops.ones_like(length))
    ratio = ops.where(ops.isnan(step), step, ops.sqrt(step / safe))
    there = ops.logical_or(there, ops.isnan(step))
    return Figures(keys, "update_ratio", ratio, ops.cast(there, ratio.dtype))


def _second(pair: tuple[str, Any]) -> Any:
    return pair[1]


def _mean_squares(x: Any, scale: Any, passes: Passes) -> Any:
    """Return the mean squares of a stack, without the loss scale it carries."""
    return unscaled(unscaled(passes.mean_square(x), scale), scale)
