"""The figures of gradients and of weights' steps in one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_initlab.taps.figures import (
    SMALL,
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
from keras_initlab.taps.outputs import of_outputs
from keras_initlab.taps.passes import Passes
from keras_initlab.taps.recorder import Output
from keras_initlab.taps.request import Request
from keras_initlab.taps.tensors import ops

GRADIENT = "weight_gradient_second_moment"


def of_way_back(
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
    # From slices, where they are sparse.
    known = [
        (keys[index], ops.convert_to_tensor(gradients[index]))
        for index in sorted(gradients)
    ]
    for stack in stacks([one for one in known if 0 not in one[1].shape], _gradient):
        of = tuple(key for key, _ in stack.members)
        values = _mean_squares(stack.x, scale, passes)
        figures.append(Figures(of, "gradient_second_moment", values, shares_of(stack)))
        if request.samples:
            plain = stack._replace(x=unscaled(stack.x, scale))
            tails.append(samples_of(plain, of, "gradient_sample"))
    return figures + _of_weights(updates, scale, request.statistics, passes), tails


def of_step(
    outputs: Sequence[Output],
    gradients: Mapping[int, Any],
    updates: Sequence[Update],
    scale: Any,
    request: Request,
    passes: Passes,
    across: Any = None,
) -> tuple[list[Figures], list[Tails]]:
    """Return all figures of one step; see `of_outputs` and `of_way_back`."""
    figures, tails = of_outputs(outputs, request, passes, across)
    keys = [output.key for output in outputs]
    more, ends = of_way_back(keys, gradients, updates, scale, request, passes)
    return figures + more, tails + ends


def without_gradients(
    updates: Sequence[Update],
    passes: Passes,
    if_measured: Callable[[Callable[[], Any], Any], Any],
) -> list[Update]:
    """Return updates that have no large gradients, but their mean squares.

    A branch that needs all gradients at its end would keep them all: in a step that is
    not measured too, each would have memory of its own, and caches would not do.

    Args:
        updates: what the weight tap took.
        passes: how this backend does it.
        if_measured: returns what a function returns, in a step that is measured, else
            another value.
    """
    found = []
    for one in updates:
        gradient = ops.convert_to_tensor(one.gradient)
        shape = tuple(gradient.shape)
        if None not in shape and math.prod(shape) > SMALL:
            dtype = working_dtype([gradient])

            def measured(gradient: Any = gradient, dtype: str = dtype) -> Any:
                return passes.mean_square(ops.cast(gradient, dtype)[None])

            square = if_measured(measured, ops.zeros((1,), dtype))
            one = one._replace(gradient=None, square=square)
        found.append(one)
    return found


def _of_weights(
    updates: Sequence[Update], scale: Any, names: Sequence[str], passes: Passes
) -> list[Figures]:
    """Return the figures of one step of weights."""
    found: list[Figures] = []
    if GRADIENT in names:
        for one in updates:
            if one.square is not None:
                value = unscaled(unscaled(one.square, scale), scale)
                found.append(Figures((one.key,), GRADIENT, value, np.ones(1)))
        known = [
            # An embedding's are slices.
            (one.key, ops.convert_to_tensor(one.gradient))
            for one in updates
            if one.square is None
        ]
        for stack in stacks(known, _gradient):
            keys = tuple(key for key, _ in stack.members)
            values = _mean_squares(stack.x, scale, passes)
            shares = np.ones(len(keys))
            found.append(Figures(keys, "weight_gradient_second_moment", values, shares))
    if "update_ratio" in names and updates:
        found.append(_update_ratios(updates, passes))
    return found


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


def _gradient(one: tuple[str, Any]) -> Any:
    return one[1]


def _mean_squares(x: Any, scale: Any, passes: Passes) -> Any:
    """Return the mean squares of a stack, without the loss scale it carries."""
    return unscaled(unscaled(passes.mean_square(x), scale), scale)
