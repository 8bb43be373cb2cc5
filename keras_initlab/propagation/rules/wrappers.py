"""Wrappers of a layer: at each step, in both directions, with a normalised kernel."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import layers
from keras.layers import Layer

from keras_initlab.model.keras_internals import own_variables
from keras_initlab.propagation.algebra.along_axis import turned
from keras_initlab.propagation.algebra.sums import add, concatenate, multiply
from keras_initlab.propagation.context import RuleContext
from keras_initlab.propagation.dispatch import layer_rule
from keras_initlab.propagation.signal import Array, Gradient, Signal, packed
from keras_initlab.propagation.weights.moments import WeightMoments

_TIME = 1


@layer_rule("TimeDistributed")
def time_distributed(
    layer: Layer, x: Signal, *_: Signal, context: RuleContext
) -> Signal:
    """Return the signal after a layer that is called on each step by itself.

    To that layer, two steps are like two inputs: their moments are found by treating
    them as such. A layer that acts on steps as on positions receives all of them.
    """
    if _takes_steps_as_positions(layer.layer):
        with context.scope(record=False):
            return context.call(layer.layer, x)
    pairs = x.pairs
    other_step = pairs[:, 1, 0].copy()
    near = x.near.get(_TIME)
    if near is not None and len(near) and x.size(x.positions) > x.size((_TIME,)):
        other_step[0] = near.mean()  # at the same place
    with context.scope(record=False):
        step = context.call(layer.layer, _step(x, pairs, parent=True))
    shapes = [pairs[:, :, 1], np.stack([other_step, pairs[:, 1, 0]], axis=1)]
    shapes.append(np.stack([pairs[:, 1, 1], pairs[:, 1, 1]], axis=1))
    outputs = [step]
    for across in shapes[1:]:
        if np.allclose(across, shapes[0]):
            outputs.append(step)
            continue
        seen = pairs.copy()
        seen[:, :, 1] = across
        with context.scope(record=False, design=False):
            outputs.append(context.call(layer.layer, _step(x, seen)))
    return _steps_of(x, *outputs)


_LIKE_POSITIONS = (
    *(layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D),
    *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU),
)


def _takes_steps_as_positions(layer: Layer) -> bool:
    """Say whether a layer's rule holds for a tensor with an axis of steps in front."""
    last = getattr(layer, "data_format", "channels_last") != "channels_first"
    return type(layer) in _LIKE_POSITIONS and last


def _step(x: Signal, pairs: Array, *, parent: bool = False) -> Signal:
    """Return the signal of one step.

    Its gradient represents that of all steps together, so that weights' gradients are
    complete.
    """
    steps = x.size((_TIME,))

    def pull(gradient: Gradient) -> Gradient:
        profile = {axis + 1: v for axis, v in gradient.profile.items()}
        return replace(gradient.times(1 / steps), profile=profile)

    return x.evolve(
        shape=(x.shape[0], *x.shape[2:]),
        units=tuple(a - 1 for a in x.units if a != _TIME) or (len(x.shape) - 2,),
        pairs=pairs.copy(),
        near={axis - 1: v for axis, v in x.near.items() if axis != _TIME},
        profile={axis - 1: v for axis, v in x.profile.items() if axis != _TIME},
        parents=((x, pull),) if parent else (),
    )


def _steps_of(x: Signal, this_step: Signal, other_step: Signal, both: Signal) -> Signal:
    """Return the signal of all steps.

    Args:
        x: the input, with its steps.
        this_step: the output of one step.
        other_step, both: the same, but there "differs in input" means in step, or in
            step and input.
    """
    steps = x.size((_TIME,))
    places = this_step.size(this_step.positions)
    counts = np.array([places - 1, steps - 1, (places - 1) * (steps - 1)], float)
    total = max(counts.sum(), 1.0)
    pairs = this_step.pairs.copy()
    for index, step in ((0, other_step), (1, both)):
        kinds = np.stack(
            [this_step.pairs[:, 1, index], step.pairs[:, 0, 1], step.pairs[:, 1, 1]]
        )
        pairs[:, 1, index] = counts @ kinds / total
    near = {axis + 1: v for axis, v in this_step.near.items()}
    near_steps, far = x.near.get(_TIME), float(x.pairs[0, 1, 0])
    spread = x.second - far
    if near_steps is not None and spread > 1e-12 * x.second:
        # As a share of the covariance of two steps, which moves like that of all.
        level = float(other_step.pairs[0, 0, 1])
        near[_TIME] = level + (near_steps - far) / spread * (this_step.second - level)
    profile = {axis + 1: v for axis, v in this_step.profile.items()}
    if _TIME in x.profile:
        profile[_TIME] = x.profile[_TIME]

    def pull(gradient: Gradient) -> Gradient:
        profile = {a - 1: v for a, v in gradient.profile.items() if a != _TIME}
        return replace(gradient.times(steps), profile=profile)

    return this_step.evolve(
        shape=(x.shape[0], x.shape[_TIME], *this_step.shape[1:]),
        units=tuple(axis + 1 for axis in this_step.units),
        pairs=pairs,
        near=near,
        profile=profile,
        parents=((this_step, pull),),
    )


@layer_rule("Bidirectional")
def bidirectional(layer: Layer, x: Signal, *_: Signal, context: RuleContext) -> Any:
    """Return the two directions' signals, merged; their weights are independent."""
    args, named = context.arguments
    states = [
        state
        for state in keras.tree.flatten((args[1:], named.get("initial_state")))
        if isinstance(state, Signal)
    ]
    half = len(states) // 2
    ahead, *ahead_states = context.outputs(layer.forward_layer, x, *states[:half])
    behind, *behind_states = context.outputs(layer.backward_layer, x, *states[half:])
    final_states = (*ahead_states, *behind_states)
    if layer.return_sequences:
        behind = turned(behind, _TIME)
    merged = _merged(layer.merge_mode, ahead, behind)
    return packed((*merged, *final_states))


def _merged(mode: str | None, ahead: Signal, behind: Signal) -> tuple[Signal, ...]:
    if mode is None:
        return ahead, behind
    if mode == "concat":
        return (concatenate([ahead, behind], -1),)
    if mode == "mul":
        return (multiply(ahead, behind),)
    return (add([ahead, behind], [0.5, 0.5] if mode == "ave" else None),)


@layer_rule("SpectralNormalization")
def spectral_normalization(layer: Layer, x: Signal, *, context: RuleContext) -> Any:
    """Return the signal after a layer whose kernel is divided by its greatest stretch.

    As in the first call in training: by a few power iterations from a random start, on
    a kernel of independent entries. In inference the kernel is not changed. Designers
    do not choose its scale, which would be divided out.
    """
    inner = layer.layer
    if not context.training:
        return packed(context.outputs(inner, x))
    weight = next(
        variable.name
        for variable in own_variables(inner)
        if variable.name in ("kernel", "embeddings") or variable is layer.kernel
    )
    drawn_moments = context.weight(inner, weight)
    columns = int(layer.kernel.shape[-1])
    rows = math.prod(layer.kernel.shape) // max(columns, 1)
    square = drawn_moments.second_moment * _stretch(
        rows, columns, layer.power_iterations
    )
    if context.from_values:
        _, kernel = layer.normalized_weights()
        values = keras.ops.convert_to_numpy(kernel).astype(np.float64)
        square = drawn_moments.second_moment / max(float((values**2).mean()), 1e-300)
    if not square > 0:
        return packed(context.outputs(inner, x))
    scaled = WeightMoments(
        drawn_moments.mean / math.sqrt(square),
        drawn_moments.second_moment / square,
        drawn_moments.centred,
    )
    with context.scope(fixed={(inner, weight): scaled}):
        return packed(context.outputs(inner, x))


def _stretch(rows: int, columns: int, iterations: int) -> float:
    """Return the squared stretch that power iterations find, for entries of square 1.

    From a random start they find m₂ₖ / m₂ₖ₋₁ after k iterations, m the moments of the
    eigenvalues of WᵀW: Σ binom(p, r) binom(p - 1, r) / (r + 1) · (columns/rows)ʳ rowsᵖ.

    >>> _stretch(3, 5, 1)
    8.0

    Source: Marchenko & Pastur 1967; Bai & Silverstein 2010, lemma 3.1.
    """

    def moment(power: int) -> float:
        ratio = columns / rows
        terms = (
            math.comb(power, r) * math.comb(power - 1, r) / (r + 1) * ratio**r
            for r in range(power)
        )
        return sum(terms)

    most = 40  # the moments' ratio has long settled at (√rows + √columns)²
    power = 2 * min(iterations, most)
    return rows * moment(power) / moment(power - 1)
