"""The softmax of independent Gaussian logits, by quadrature.

With 1/Zᵏ = ∫ tᵏ⁻¹ e^{-tZ} dt / Γ(k) the moments of eˢ/Σeˢ factor into expectations
of one logit each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from keras_initlab.propagation.signal import Array

# Step of sums over logits and log t, and the widest logits that are summed over.
_STEP, _WIDEST = 0.3, 20.0


@dataclass(frozen=True)
class SoftmaxMoments:
    """Moments of a = softmax(s) for n independent logits of one variance.

    Attributes:
        second: E[a²].
        jacobian: Σⱼ E[(∂aⱼ/∂sᵢ)²] for one i.
    """

    second: float
    jacobian: float


@lru_cache(maxsize=4096)
def softmax_moments(count: int, variance: float) -> SoftmaxMoments:
    """Return the moments for `count` logits of variance `variance`.

    >>> moments = softmax_moments(10, 0.0)
    >>> round(moments.second, 6)
    0.01
    """
    if count <= 1:
        return SoftmaxMoments(1.0, 0.0)
    if variance <= 1e-12:
        a = 1.0 / count
        return SoftmaxMoments(a * a, a * a * (1 - a))
    if variance > _WIDEST**2:
        # One logit leads by far, unless two are level, which becomes rarer as 1 / σ.
        near = softmax_moments(count, _WIDEST**2)
        share = _WIDEST / math.sqrt(variance)
        second = (1 - share) / count + share * near.second
        return SoftmaxMoments(second, share * near.jacobian)
    step, alone, square, cube, fourth_power = _expectations(variance)
    of_others = alone ** (count - 1)
    second = float((square * of_others).sum() * step)
    third = float((cube * of_others).sum() * step) / 2
    fourth = float((fourth_power * of_others).sum() * step) / 6
    both = float((square**2 * alone ** (count - 2)).sum() * step) / 6
    # ∂aⱼ/∂sᵢ = aⱼ (δ - aᵢ): Σⱼ of its square is aᵢ² (1 - 2 aᵢ + Σⱼ aⱼ²).
    jacobian = second - 2 * third + fourth + (count - 1) * both
    return SoftmaxMoments(second, max(0.0, jacobian))


@lru_cache(maxsize=256)
def _expectations(variance: float) -> tuple[float, Array, Array, Array, Array]:
    """Return tᵏ E[e^{ks} e^{-t eˢ}] on a grid of log t, for k of 0, 2, 3 and 4.

    The grid, whose step comes first, serves any number of logits.
    """
    deviation = math.sqrt(variance)
    nodes = np.linspace(-8.0, 8.0, max(129, math.ceil(16 * deviation / _STEP)))
    weights = np.exp(-(nodes**2) / 2)
    weights /= weights.sum()
    # The range of t over which t eˢ grows from negligible to dominant.
    low, high = -16.0 - 8 * deviation, 6.0 + 8 * deviation
    log_t = np.linspace(low, high, math.ceil((high - low) / _STEP))
    grown = log_t[:, None] + deviation * nodes[None, :]
    powers = np.exp(np.clip(grown, -60.0, 6.0))
    decay = np.exp(-powers)

    def expectation(power: int) -> Array:
        # The powers of t are shared out among the factors.
        return np.asarray((powers**power * decay) @ weights, np.float64)

    alone = np.maximum(decay @ weights, 1e-300)
    square, cube, fourth_power = (expectation(k) for k in (2, 3, 4))
    return float(log_t[1] - log_t[0]), alone, square, cube, fourth_power
