"""Dropout and noise: nothing in inference, exact formulas in training."""

from __future__ import annotations

import math

import numpy as np
from keras.layers import Layer

from keras_initlab.propagation.algebra.concatenation import by_parts
from keras_initlab.propagation.algebra.elementwise import affine, line, noisy
from keras_initlab.propagation.algebra.mirrors import mirror_behind_noise
from keras_initlab.propagation.context import RuleContext
from keras_initlab.propagation.dispatch import layer_rule, mirror_rule
from keras_initlab.propagation.signal import Array, Function, Mirror, Signal

# SELU's saturation -scale·alpha, which alpha dropout sets dropped units to.
_ALPHA_PRIME = -1.0507009873554805 * 1.6732632423543772
# Values that stand for a normal variable, and their probabilities.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()

Cases = list[tuple[float, Function]]


def _rate(layer: Layer, context: RuleContext) -> float:
    """Return the share that is dropped; 0 if nothing is."""
    return float(layer.rate) if context.training else 0.0


def _multiplied(x: Signal, odds: float, shared: Array, cases: Cases) -> Signal:
    """Return x n, with n of mean 1 and variance `odds`, equal for `shared` pairs."""
    if x.origin.parts:
        return by_parts(x, lambda part: _multiplied(part, odds, shared, cases))
    return noisy(
        x,
        odds * x.second,
        same_position=bool(shared[0, 1, 0]),
        slope_second=1 + odds,
        shared=odds * x.pairs * shared if shared.any() else None,
        cases=cases,
    )


def _dropped(rate: float) -> Cases:
    return [(rate, line(0.0)), (1 - rate, line(1 / (1 - rate)))]


def _shared(x: Signal, alike: tuple[int, ...]) -> Array:
    """Return 1 for each kind of pair that differs along the axes `alike` alone."""
    kinds = [
        all(axis in alike or x.shape[axis] == 1 for axis in axes)
        for axes in (x.units, x.positions, (0,))
    ]
    shared = np.zeros((2, 2, 2))
    shared[tuple(slice(0, 1 + same) for same in kinds)] = 1.0
    shared[0, 0, 0] = 0.0
    return shared


@layer_rule("Dropout")
def dropout(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return x b / (1 - p), b of mean 1 - p: E x² grows by 1 / (1 - p)."""
    rate = _rate(layer, context)
    if not rate > 0:
        return x
    if rate >= 1:
        return affine(x, 0.0)
    sizes = getattr(layer, "noise_shape", None)
    # Aligned with the last axes; a size of None is the tensor's own.
    sizes = () if sizes is None else tuple(sizes)
    sizes = (1,) * (len(x.shape) - len(sizes)) + sizes if sizes else ()
    alike = tuple(axis for axis, size in enumerate(sizes) if size == 1)
    return _multiplied(x, rate / (1 - rate), _shared(x, alike), _dropped(rate))


@layer_rule("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D")
def spatial_dropout(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """As dropout, but of whole maps."""
    rate = _rate(layer, context)
    if not rate > 0:
        return x
    if rate >= 1:
        return affine(x, 0.0)
    first = getattr(layer, "data_format", None) == "channels_first"
    x = x.with_units((1 if first else len(x.shape) - 1,))
    return _multiplied(x, rate / (1 - rate), _shared(x, x.positions), _dropped(rate))


@layer_rule("GaussianDropout")
def gaussian_dropout(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return x n, n of mean 1 and variance p / (1 - p)."""
    rate = _rate(layer, context)
    if not 0 < rate < 1:
        return x
    odds = rate / (1 - rate)
    steps = 1 + math.sqrt(odds) * _NODES
    cases = [(float(w), line(float(n))) for w, n in zip(_WEIGHTS, steps, strict=True)]
    return _multiplied(x, odds, np.zeros((2, 2, 2)), cases)


@layer_rule("GaussianNoise")
def gaussian_noise(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return x plus noise of the layer's deviation."""
    deviation = float(layer.stddev)
    if not context.training or not deviation > 0:
        return x
    steps = deviation * _NODES
    cases = [
        (float(w), line(1.0, float(n))) for w, n in zip(_WEIGHTS, steps, strict=True)
    ]
    return noisy(x, deviation**2, cases=cases)


@layer_rule("AlphaDropout")
def alpha_dropout(layer: Layer, x: Signal, *, context: RuleContext) -> Signal:
    """Return a (x b + α'(1 - b)) + c, which keeps mean 0 and variance 1.

    Source: Klambauer et al. 2017, section 3, "New dropout technique".
    """
    rate = _rate(layer, context)
    if not 0 < rate < 1:
        return x
    if x.origin.parts:
        return by_parts(x, lambda part: alpha_dropout(layer, part, context=context))
    keep = 1 - rate
    scale = 1 / math.sqrt(keep * (1 + rate * _ALPHA_PRIME**2))
    shift = -scale * rate * _ALPHA_PRIME
    apart = x.second - 2 * _ALPHA_PRIME * x.mean + _ALPHA_PRIME**2
    return noisy(
        affine(x, scale * keep),
        scale**2 * rate * keep * apart,
        slope_second=1 / keep,  # a² (1 - p) in all
        cases=[
            (rate, line(0.0, scale * _ALPHA_PRIME + shift)),
            (keep, line(1 / keep, shift)),
        ],
    )


@mirror_rule(
    "Dropout",
    "GaussianDropout",
    "GaussianNoise",
    *(f"SpatialDropout{n}D" for n in (1, 2, 3)),
)
def noise_mirror(
    layer: Layer, inputs: tuple[Signal, ...], output: Signal, context: RuleContext
) -> Mirror | None:
    """Return the mirror after noise that is independent for the two of a pair."""
    (x,) = inputs
    assert x.mirror is not None
    return mirror_behind_noise(x, output, x.mirror)
