"""What a softmax makes of independent Gaussian logits, by quadrature.

With 1/Zᵏ = ∫ tᵏ⁻¹ e^{-tZ} dt / Γ(k) the moments of eˢ/Σeˢ factor into expectations
of one logit each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from keras_initlab.propagation.hermite import gaussian_grid
from keras_initlab.propagation.signal import Array

# Integrals are shared by all numbers of logits up to this one.
_USUAL = 4096


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
    step, alone, two, three, four = _expectations(variance, max(count, _USUAL))
    others = alone ** (count - 1)
    second = float((two * others).sum() * step)
    third = float((three * others).sum() * step) / 2
    fourth = float((four * others).sum() * step) / 6
    both = float((two**2 * alone ** (count - 2)).sum() * step) / 6
    # ∂aⱼ/∂sᵢ = aⱼ (δ - aᵢ): Σⱼ of its square is aᵢ² (1 - 2 aᵢ + Σⱼ aⱼ²).
    jacobian = second - 2 * third + fourth + (count - 1) * both
    return SoftmaxMoments(second, max(0.0, jacobian))


@lru_cache(maxsize=64)
def _expectations(
    variance: float, most: int
) -> tuple[float, Array, Array, Array, Array]:
    """Return tᵏ E[e^{ks} e^{-t eˢ}] on a grid of log t, for k of 0, 2, 3 and 4.

    The grid, whose step comes first, serves for up to `most` logits.
    """
    deviation = math.sqrt(variance)
    nodes, weights = gaussian_grid().nodes[::2], gaussian_grid().weights[::2]
    weights = weights / weights.sum()
    s = deviation * nodes
    # t where t eˢ runs from nothing to everything.
    log_t = np.linspace(
        -8.0 - math.log(most) - 6 * deviation - variance, 5.0 + 8 * deviation, 400
    )
    grown = log_t[:, None] + s[None, :]
    decay = np.exp(-np.exp(np.minimum(grown, 30.0)))

    def expectation(power: int) -> Array:
        # The powers of t are shared out among the factors.
        factors = np.exp(np.minimum(power * grown, 300.0))
        return np.asarray((factors * decay) @ weights, np.float64)

    alone = np.maximum(decay @ weights, 1e-300)
    two, three, four = (expectation(k) for k in (2, 3, 4))
    return float(log_t[1] - log_t[0]), alone, two, three, four
