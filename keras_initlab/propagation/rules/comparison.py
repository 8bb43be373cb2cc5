"""Operations that compare, round or choose: constant except where they jump."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import Operation

from keras_initlab.propagation.algebra.elementwise import affine, apply_function
from keras_initlab.propagation.algebra.multivariate import multivariate, share_gaussian
from keras_initlab.propagation.algebra.sums import add, aligned, multiply
from keras_initlab.propagation.arguments import (
    Operand,
    constant,
    lifted,
    operands,
    pair,
)
from keras_initlab.propagation.context import RuleContext, UnknownLayer
from keras_initlab.propagation.dispatch import operation_rule
from keras_initlab.propagation.rules.arithmetic import sum_of_operands
from keras_initlab.propagation.signal import Array, Function, Signal

Step = Callable[[Array], Any]


def stepped(x: Signal, function: Step) -> Signal:
    """Return a function of x that is constant except where it jumps."""

    def value(z: Array) -> Array:
        return np.asarray(function(z), np.float64)

    output = apply_function(x, Function(value, np.zeros_like))
    return output.amend(parents=(), notes=())


_COMPARED: dict[str, Step] = {
    "Greater": lambda gap: gap > 0,
    "GreaterEqual": lambda gap: gap >= 0,
    "Less": lambda gap: gap < 0,
    "LessEqual": lambda gap: gap <= 0,
    "Equal": lambda gap: gap == 0,
    "NotEqual": lambda gap: gap != 0,
}


@operation_rule(*_COMPARED)
def compared(operation: Operation, *_: Signal, context: RuleContext) -> Signal:
    """Return 1 where a comparison holds, else 0: no gradient passes."""
    gap = sum_of_operands(*pair(context), -1.0)
    return stepped(gap, _COMPARED[type(operation).__name__])


_ROUNDED: dict[str, Step] = {
    "Sign": np.sign,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Trunc": np.trunc,
    "LogicalNot": np.logical_not,
}


@operation_rule(*_ROUNDED)
def round_down(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return whole numbers, through which no gradient passes."""
    return stepped(x, _ROUNDED[type(operation).__name__])


@operation_rule("Round")
def round_to(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return x rounded to a number of decimals."""
    return stepped(x, lambda z: np.round(z, operation.decimals))


@operation_rule("Cast", "SaturateCast")
def cast(operation: Operation, x: Signal, *, context: RuleContext) -> Signal:
    """Return x, or x cast to whole numbers or truth values."""
    if "float" in operation.dtype:
        return x
    if "int" in operation.dtype:
        return stepped(x, np.trunc)
    return stepped(x, lambda z: z != 0)


@operation_rule("Where")
def where(operation: Operation, *_: Signal, context: RuleContext) -> Signal:
    """Return x where a condition holds, y elsewhere."""
    values = operands(context, "condition", "x1", "x2")
    signals = [value for value in values if isinstance(value, Signal)]
    if not any(isinstance(value, np.ndarray) for value in values) and share_gaussian(
        *signals
    ):
        return _chosen_by_function(values, signals)
    condition, x, y = aligned(lifted(values))
    fails = affine(condition, -1.0, 1.0)
    if isinstance(values[0], np.ndarray):
        fails = constant(values[0] == 0, x)
    if share_gaussian(condition, x) or share_gaussian(condition, y):
        raise UnknownLayer("a choice by what is where among")
    return choose(condition, fails, x, y)


def _chosen_by_function(values: list[Operand], signals: list[Signal]) -> Signal:
    places = [
        index for index, argument in enumerate(values) if isinstance(argument, Signal)
    ]

    def filled(arrays: tuple[Array, ...]) -> tuple[Any, Any, Any]:
        whole: list[Any] = list(values)
        for place, array in zip(places, arrays, strict=True):
            whole[place] = array
        return whole[0], whole[1], whole[2]

    def value(*arrays: Array) -> Array:
        condition, x, y = filled(arrays)
        return np.asarray(np.where(np.asarray(condition) != 0, x, y), np.float64)

    def partial(place: int) -> Callable[..., Array]:
        def slope(*arrays: Array) -> Array:
            holds = np.asarray(filled(arrays)[0]) != 0
            taken = [np.zeros_like(holds), holds, ~holds][place]
            return np.broadcast_to(taken, np.shape(arrays[0])).astype(np.float64)

        return slope

    return multivariate(signals, value, [partial(place) for place in places])


def choose(condition: Signal, fails: Signal, x: Signal, y: Signal) -> Signal:
    """Return c x + (1 - c) y for a c of zeros and ones, independent of x and y."""
    choice = add([multiply(condition, x), multiply(fails, y)])
    # E[c (1 - c')] is missing from the sum, as `add` assumes independent addends.
    across = x.mean * y.mean * (condition.mean - condition.pairs)
    pairs = condition.pairs * x.pairs + fails.pairs * y.pairs + 2 * across
    return choice.evolve(pairs=pairs, parents=choice.edges.parents)
