"""Keras's activations: their NumPy forms, derivatives, kinks and families.

`NAMED` has a row for each name in `keras.activations`. A new activation needs none (any
elementwise callable is evaluated); a row makes it faster and gives it a family. The
forms follow `keras.activations` with default arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_initlab.activations.quadrature import GaussianMoments, gaussian_moments

__all__ = ["NAMED", "Activation", "clipped_relu", "elu", "gelu_tanh", "leaky_relu"]

Array = NDArray[np.float64]
Function = Callable[[Array], ArrayLike]
Family = Literal["linear", "relu", "selu", "saturating", "periodic", "other"]


@dataclass(frozen=True)
class Activation:
    """An activation as the rest of the package sees it.

    Attributes:
        name: to show to users: "relu", "leaky_relu(0.3)".
        function: elementwise, 1-D float64 array in, array of that shape out. None if
            the activation is not elementwise.
        derivative: likewise, away from the kinks. With None it is computed
            numerically.
        kinks: points where the function or its derivative jumps; they need not be
            complete.
        family: selects the classical initializer.
        negative_slope: for the "relu" family, the slope left of 0.
        closed_form: from (mean, variance) of the input to the moments of the output;
            None for quadrature.
        frequency: for the "periodic" family: ω of sin(ωx), in radians.
    """

    name: str
    function: Function | None
    derivative: Function | None = None
    kinks: tuple[float, ...] = ()
    family: Family = "other"
    negative_slope: float = 0.0
    closed_form: Callable[[float, float], GaussianMoments] | None = None
    frequency: float = 0.0


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -x))


def _sigmoid_slope(x: Array) -> Array:
    return _sigmoid(x) * _sigmoid(-x)


def _tanh_slope(x: Array) -> Array:
    return 1.0 - np.tanh(x) ** 2


def _softplus(x: Array) -> Array:
    return np.logaddexp(0.0, x)


# math.erfc is exact to the last digit or two, and SciPy is not a dependency.
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _normal_cdf(x: Array) -> Array:
    return np.asarray(0.5 * _erfc(-x / math.sqrt(2.0)), np.float64)


def _normal_pdf(x: Array) -> Array:
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def _mish_slope(x: Array) -> Array:
    t = np.tanh(_softplus(x))
    return t + x * (1.0 - t**2) * _sigmoid(x)


def _hard_sigmoid(x: Array) -> Array:
    return np.clip(x / 6.0 + 0.5, 0.0, 1.0)


def _squareplus(x: Array) -> Array:
    # The plain form (x + √(x² + 4)) / 2 cancels for negative x.
    root = np.sqrt(x**2 + 4.0)
    return np.where(x > 0, (x + root) / 2, 2.0 / np.where(x > 0, 1.0, root - x))


_SELU_SCALE = 1.0507009873554804934193349852946
_SELU_ALPHA = 1.6732632423543772848170429916717


def _exponential_branch(name: str, scale: float, alpha: float) -> Activation:
    """Return scale·x right of 0, scale·alpha·(exp(x) − 1) left of it."""

    def function(x: Array) -> Array:
        left = alpha * np.expm1(np.minimum(x, 0.0))
        return scale * np.where(x > 0, x, left)

    def derivative(x: Array) -> Array:
        return scale * np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0.0)))

    return Activation(name, function, derivative, kinks=(0.0,))


@lru_cache(maxsize=256)
def elu(alpha: float) -> Activation:
    """Return ELU: x right of 0, alpha·(exp(x) − 1) left of it."""
    name = "elu" if alpha == 1.0 else f"elu({alpha:g})"
    return _exponential_branch(name, 1.0, alpha)


@lru_cache(maxsize=256)
def leaky_relu(slope: float) -> Activation:
    """Return leaky ReLU with any slope; ReLU for slope 0."""

    def function(x: Array) -> Array:
        return np.where(x > 0, x, slope * x)

    def derivative(x: Array) -> Array:
        return np.where(x > 0, 1.0, slope)

    def closed_form(mean: float, variance: float) -> GaussianMoments:
        # Moments of the rectified Gaussian, from those of the truncated one.
        if variance == 0.0:
            active, density = float(mean > 0), 0.0
        else:
            ratio = mean / math.sqrt(variance)
            active = 0.5 * math.erfc(-ratio / math.sqrt(2.0))
            density = math.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi)
        spread = math.sqrt(variance) * density
        rectified = mean * active + spread
        squared = (mean**2 + variance) * active + mean * spread
        return GaussianMoments(
            slope * mean + (1 - slope) * rectified,
            slope**2 * (mean**2 + variance) + (1 - slope**2) * squared,
            slope**2 + (1 - slope**2) * active,
        )

    return Activation(
        "relu" if slope == 0.0 else f"leaky_relu({slope:g})",
        function,
        derivative,
        kinks=(0.0,),
        family="relu",
        negative_slope=slope,
        closed_form=closed_form,
    )


@lru_cache(maxsize=256)
def clipped_relu(
    slope: float = 0.0, maximum: float | None = None, threshold: float = 0.0
) -> Activation:
    """Return `keras.activations.relu` with any arguments."""
    if maximum is None and threshold == 0.0:
        return leaky_relu(slope)
    top = math.inf if maximum is None else maximum
    # Keras clips at 0 from below only where it clips from above.
    bottom = -math.inf if maximum is None else 0.0

    def function(x: Array) -> Array:
        right = np.clip(np.where(x > threshold, x, 0.0), bottom, top)
        return right - slope * np.maximum(threshold - x, 0.0)

    def derivative(x: Array) -> Array:
        right = (x > threshold) & (x > bottom) & (x < top)
        return np.where(right, 1.0, 0.0) + slope * np.where(x < threshold, 1.0, 0.0)

    is_relu6 = (slope, maximum, threshold) == (0.0, 6.0, 0.0)
    arguments = (
        f"negative_slope={slope:g}, max_value={maximum}, threshold={threshold:g}"
    )
    return Activation(
        "relu6" if is_relu6 else f"relu({arguments})",
        function,
        derivative,
        kinks=tuple(
            sorted({0.0, threshold} | ({top} if math.isfinite(top) else set()))
        ),
        family="relu" if is_relu6 else "other",
    )


def _linear_moments(mean: float, variance: float) -> GaussianMoments:
    return GaussianMoments(mean, variance + mean**2, 1.0)


def _glu_moments(mean: float, variance: float) -> GaussianMoments:
    # a·σ(b) with a and b, the two halves of the units, independent. Half of the input
    # units see the derivative σ(b), the other half a·σ'(b).
    gate = gaussian_moments(
        _sigmoid, derivative=_sigmoid_slope, mean=mean, variance=variance
    )
    return GaussianMoments(
        mean * gate.mean,
        (variance + mean**2) * gate.second_moment,
        gate.second_moment / 2
        + (variance + mean**2) * gate.derivative_second_moment / 2,
    )


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _gelu_tanh_slope(x: Array) -> Array:
    t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    inner = math.sqrt(2 / math.pi) * (1.0 + 3 * 0.044715 * x**2)
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t**2) * inner


def _silu_slope(x: Array) -> Array:
    return _sigmoid(x) * (1.0 + x * _sigmoid(-x))


def _sparse_plus(x: Array) -> Array:
    return np.where(x <= -1, 0.0, np.where(x < 1, (x + 1) ** 2 / 4, x))


def _shrunk(x: Array) -> Array:
    return np.where(np.abs(x) > 0.5, 1.0, 0.0)


_silu = Activation("silu", lambda x: x * _sigmoid(x), _silu_slope)
_hard_silu = Activation(
    "hard_silu",
    lambda x: x * _hard_sigmoid(x),
    lambda x: np.where(x <= -3, 0.0, np.where(x < 3, x / 3 + 0.5, 1.0)),
    kinks=(-3.0, 3.0),
)


def _not_elementwise(name: str) -> Activation:
    return Activation(name, None, family="saturating")


gelu_tanh = Activation("gelu(approximate=True)", _gelu_tanh, _gelu_tanh_slope)
"""What `keras.ops.gelu` is by default; `keras.activations.gelu` is the exact one."""

_ROWS = [
    Activation(
        "linear",
        lambda x: x,
        lambda x: np.ones_like(x),
        family="linear",
        closed_form=_linear_moments,
    ),
    leaky_relu(0.0),
    clipped_relu(maximum=6.0),
    leaky_relu(0.2),
    elu(1.0),
    replace(_exponential_branch("selu", _SELU_SCALE, _SELU_ALPHA), family="selu"),
    _exponential_branch("celu", 1.0, 1.0),
    Activation("tanh", np.tanh, _tanh_slope, family="saturating"),
    Activation("sigmoid", _sigmoid, _sigmoid_slope, family="saturating"),
    Activation(
        "gelu",
        lambda x: x * _normal_cdf(x),
        lambda x: _normal_cdf(x) + x * _normal_pdf(x),
    ),
    _silu,
    replace(_silu, name="swish"),
    _hard_silu,
    replace(_hard_silu, name="hard_swish"),
    Activation("mish", lambda x: x * np.tanh(_softplus(x)), _mish_slope),
    Activation("softplus", _softplus, _sigmoid),
    Activation(
        "softsign",
        lambda x: x / (1.0 + np.abs(x)),
        lambda x: 1.0 / (1.0 + np.abs(x)) ** 2,
        kinks=(0.0,),
    ),
    Activation("exponential", np.exp, np.exp),
    Activation("log_sigmoid", lambda x: -_softplus(-x), lambda x: _sigmoid(-x)),
    Activation("tanh_shrink", lambda x: x - np.tanh(x), lambda x: np.tanh(x) ** 2),
    Activation("squareplus", _squareplus, lambda x: _squareplus(x) / np.hypot(x, 2.0)),
    Activation(
        "hard_tanh",
        lambda x: np.clip(x, -1.0, 1.0),
        lambda x: np.where(np.abs(x) < 1, 1.0, 0.0),
        kinks=(-1.0, 1.0),
        family="saturating",
    ),
    Activation(
        "hard_sigmoid",
        _hard_sigmoid,
        lambda x: np.where(np.abs(x) < 3, 1 / 6, 0.0),
        kinks=(-3.0, 3.0),
        family="saturating",
    ),
    Activation(
        "sparse_sigmoid",
        lambda x: np.clip((x + 1.0) / 2, 0.0, 1.0),
        lambda x: np.where(np.abs(x) < 1, 0.5, 0.0),
        kinks=(-1.0, 1.0),
        family="saturating",
    ),
    Activation(
        "sparse_plus",
        _sparse_plus,
        lambda x: np.clip((x + 1.0) / 2, 0.0, 1.0),
        kinks=(-1.0, 1.0),
    ),
    Activation(
        "hard_shrink",
        lambda x: np.where(np.abs(x) > 0.5, x, 0.0),
        _shrunk,
        kinks=(-0.5, 0.5),
    ),
    Activation(
        "soft_shrink",
        lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0.0),
        _shrunk,
        kinks=(-0.5, 0.5),
    ),
    Activation("glu", None, closed_form=_glu_moments),
    _not_elementwise("softmax"),
    _not_elementwise("log_softmax"),
    _not_elementwise("sparsemax"),
    # Its arguments have no defaults in Keras: it cannot be used by name alone.
    Activation("threshold", None),
]
NAMED = {row.name.partition("(")[0]: row for row in _ROWS}
"""The names of `keras.activations`, all with their default arguments."""
