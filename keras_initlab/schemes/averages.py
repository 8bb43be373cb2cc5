"""Convolutions whose outputs are averaged over all positions before the head.

A linear network would pass only the mean pixel to such a head, and give every tap the
same gradient. So these layers start as nonlinear as their depth allows, and use all
taps: the angle of their pairs and their second moment are larger. Both were chosen by
validation accuracy: `examples/benchmarks/depth_averages.py`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import keras
import numpy as np

from keras_initlab import activations
from keras_initlab.activations.quadrature import gaussian_expectation
from keras_initlab.model.graph import Graph
from keras_initlab.model.kernels import Kernel
from keras_initlab.schemes.kernels import has_field

_AVERAGES = tuple(
    getattr(keras.layers, f"GlobalAveragePooling{rank}D") for rank in (1, 2, 3)
)
# After these, each position has its own weights.
_PLACES = (keras.layers.Flatten, keras.layers.Reshape)

# The whole network is as nonlinear as so many layers of ReLU without pairs, less so if
# it has more than so many; the share of ReLU's variance that is not linear in its
# input; the most that pairs lose.
_LAYERS, _DEEP = 2.0, 16
_NONLINEAR, _MOST_MIXING = (math.pi - 2) / (2 * (math.pi - 1)), 0.5
# The even share of an activation's variance; the least and most that kernels of pairs
# read; and the growth of gradients that is allowed over the whole depth.
_EVEN, _LEAST, _MOST, _GROWTH = 0.15, 0.25, 4.0, 1.0
# The most of an activation's second moment that its mean may have, for which pairs may
# read up to 16; ReLU's has 0.32 at any q.
_MEAN, _MOST_FOR_MEAN = 0.375, 16.0
_TINY = 1e-6


@lru_cache(maxsize=1024)
def averaged_theta(nonlinearity: activations.Activation, depth: int, q: float) -> float:
    """Return the angle by which outputs leave their pairs, for a number of layers.

    sin² θ is 2 / depth for ReLU, at most 1/2, so that the network is equally nonlinear
    at any depth; beyond 16 layers it is 32 / depth², as deeper ones bear less. It is
    larger for activations of which a smaller share of their variance is not linear in
    their input: as much larger as that share is smaller. If it is their odd part that
    is not linear, as for tanh, so that no larger q is allowed (see `averaged_q`), it is
    2 / depth at any depth.

    >>> for name in ("relu", "gelu", "tanh"):
    ...     phi = activations.resolve(name)
    ...     q = averaged_q(phi, 16)
    ...     print([round(averaged_theta(phi, depth, q), 2) for depth in (4, 16, 50)])
    [0.79, 0.36, 0.11]
    [0.79, 0.45, 0.14]
    [0.79, 0.36, 0.2]

    Source: Li, Nica & Roy 2022, section 3, for activations shaped by 1 / √depth.
    """
    mixing = _LAYERS / depth
    known = nonlinearity.function is not None
    if known and _may_be_larger(activations.odd_part(nonlinearity), q, depth):
        share = min(_nonlinear_share(nonlinearity, q), _NONLINEAR)
        mixing *= min(1.0, _DEEP / depth) * _NONLINEAR / max(share, _TINY)
    return math.asin(math.sqrt(min(mixing, _MOST_MIXING)))


@lru_cache(maxsize=1024)
def averaged_q(nonlinearity: activations.Activation, depth: int) -> float:
    """Return the second moment of pre-activations of layers that are averaged.

    It is the smallest at which the even part has 15 % of φ's variance, if φ has one;
    between 0.25 and 4 / ψ'(0)², with ψ the odd part; and less if gradients would grow
    by more than (1 + 1 / depth)ᵈᵉᵖᵗʰ over the whole depth.

    Where φ's mean is most of what it gives, as for softplus, q is larger, up to
    16 / ψ'(0)². The mean tells images apart no more than a bias does, but kernels learn
    by it as fast as it is large: it, and not the images, limits the learning rate.

    >>> [round(averaged_q(activations.resolve(name), 16), 2)
    ...     for name in ("relu", "gelu", "softplus", "tanh", "sigmoid")]
    [0.25, 0.25, 16.57, 0.39, 1.58]
    """
    if nonlinearity.function is None or nonlinearity.family == "linear":
        return 1.0
    odd = activations.odd_part(nonlinearity)
    slope = activations.moments(odd, variance=_TINY).derivative_second_moment
    slope = max(slope, _TINY)
    q, most = _LEAST / slope, _MOST / slope
    while q < most and not _even_share(nonlinearity, odd, q) > _EVEN:
        q *= 1.1
    q = within_growth(odd, min(q, most), depth, _GROWTH) or 1.0
    while q < _MOST_FOR_MEAN / slope and _mean_share(nonlinearity, q) > _MEAN:
        if not _may_be_larger(odd, q, depth):
            break
        q *= 1.1
    return q


def within_growth(
    odd: activations.Activation, q: float, depth: int, growth: float
) -> float | None:
    """Return q, or less if gradients would grow by more over the whole depth.

    None if the odd part is 0: nothing reads pairs after an even function.
    """
    while q > _TINY:
        at = activations.moments(odd, variance=q)
        if not at.second_moment > 0:
            return None
        if depth * (q * at.derivative_second_moment / at.second_moment - 1) <= growth:
            return float(q)
        q *= 0.9
    return None


def _may_be_larger(odd: activations.Activation, q: float, depth: int) -> bool:
    """Say whether gradients would not grow too much at a tenth more than q."""
    return within_growth(odd, 1.1 * q, depth, _GROWTH) == 1.1 * q


def _even_share(
    nonlinearity: activations.Activation, odd: activations.Activation, q: float
) -> float:
    """Return the share of the even part in φ's variance."""
    variance = activations.moments(nonlinearity, variance=q).variance
    half = activations.moments(odd, variance=q).second_moment / 4
    return 1 - half / variance if variance > 0 else 0.0


def _nonlinear_share(nonlinearity: activations.Activation, q: float) -> float:
    """Return the share of φ's variance that is not linear in φ's input."""
    function = nonlinearity.function
    assert function is not None
    covariance = gaussian_expectation(
        lambda x: np.multiply(x, function(x)), variance=q, kinks=nonlinearity.kinks
    )
    variance = activations.moments(nonlinearity, variance=q).variance
    return max(1 - covariance**2 / (q * variance), 0.0) if variance > 0 else 0.0


def _mean_share(nonlinearity: activations.Activation, q: float) -> float:
    """Return the share of the squared mean in φ's second moment."""
    at = activations.moments(nonlinearity, variance=q)
    return at.mean**2 / at.second_moment if at.second_moment > 0 else 0.0


def averaged_kernels(graph: Graph, kernels: list[Kernel]) -> set[tuple[int, str]]:
    """Return the kernels of convolutions before a mean over all positions.

    After a Flatten, each position has its own weights, so these do not count.
    """
    averaged: set[int] = set()
    layers: set[int] = set()
    for call in reversed(graph.calls):
        if _is_average(call.operation):
            averaged.update(call.inputs)
        elif averaged.intersection(call.outputs):
            layers.add(id(call.operation))
            if not isinstance(call.operation, _PLACES):
                averaged.update(call.inputs)
    return {
        kernel.key
        for kernel in kernels
        if id(kernel.layer) in layers and has_field(kernel)
    }


def _is_average(operation: Any) -> bool:
    if isinstance(operation, _AVERAGES):
        return True
    # keras.ops.mean over all axes but the batch and the channels.
    axes = getattr(operation, "axis", None)
    is_mean = type(operation).__name__ == "Mean"
    return is_mean and isinstance(axes, list | tuple) and set(axes) == {1, 2}
