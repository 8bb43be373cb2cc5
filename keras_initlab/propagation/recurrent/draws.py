"""The draws of a simulation: sequences of given moments, kernels, dropout masks.

Seeds are fixed: a prediction is the same each time, and the first steps of a longer
sequence are those of a shorter one.

Source: Glasserman 2003, "Monte Carlo methods in financial engineering", sections 4.2
and 4.5, for draws with their opposites and draws that are matched to two moments.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from keras_initlab.initializers.haar import haar_stack
from keras_initlab.propagation.recurrent.cells import Values
from keras_initlab.propagation.recurrent.steps import Steps
from keras_initlab.propagation.signal import Array

_MOST_UNITS, _MOST_UNITS_OF_MAPS = 128, 32
# Units of all gates and draws together, and inputs of each draw: few draws, so that
# their kernels fit in a processor's cache.
_ALL_UNITS, _MOST_DRAWS, _INPUTS, _INPUTS_OF_MAPS = 3072, 256, 8, 4


@dataclass(frozen=True)
class Size:
    """How many draws, inputs, places and units are simulated."""

    draws: int
    inputs: int
    places: int
    units: int

    @staticmethod
    def of(units: int, gates: int, taps: int, *, whole: bool = False) -> Size:
        """Return the size for a cell of `units`, all of them if `whole`."""
        most = _MOST_UNITS_OF_MAPS if taps > 1 else _MOST_UNITS
        width = units if whole else min(units, most)
        draws = min(max(_ALL_UNITS // (gates * width * taps), 4), _MOST_DRAWS)
        inputs = _INPUTS_OF_MAPS if taps > 1 else _INPUTS
        return Size(draws + draws % 2, inputs, taps, width)

    def shape(self, gates: int = 1) -> tuple[int, int, int, int]:
        """Return the shape of an array with units of several gates."""
        return self.draws, self.inputs, self.places, gates * self.units


def draw_kernel(
    size: Size, gates: int, mean: float, variance: float, *, orthogonal: bool
) -> Values:
    """Return recurrent kernels of given moments, for all draws."""
    shape = (size.draws // 2, size.places * size.units, gates * size.units)
    half = _orthogonal(shape) if orthogonal else _noise(shape, 4)
    # Each with its opposite: odd functions of the kernel are then 0 on average.
    draw = np.concatenate([half, -half])
    return draw * np.float32(np.sqrt(variance)) + np.float32(mean)


@lru_cache(maxsize=16)
def _orthogonal(shape: tuple[int, int, int]) -> Values:
    """Return matrices whose shorter side's vectors are orthogonal, of variance 1."""
    stack = haar_stack(*shape, np.random.default_rng(5))
    return np.asarray(stack * np.sqrt(max(shape[1:])), np.float32)


def draw_mask(size: Size, rate: float) -> Values:
    """Return what dropout multiplies states by, the same for all steps."""
    mask = np.random.default_rng(6).random(size.shape()) >= rate
    return np.asarray(mask / (1 - rate), np.float32)


def draw_sequences(law: Steps, size: Size, gates: int = 1, *, seed: int) -> Values:
    """Return Gaussian sequences of given moments, of shape (steps, draws, …).

    Each is the sum of a part shared by all inputs and places, parts shared within one
    input or one place, and a part of its own.
    """
    draws, inputs, places, units = size.shape(gates)
    kinds = law.pairs - law.mean[:, None] * law.mean
    shape = (len(law.mean), draws, inputs, places, units)
    of_input, of_all = (*shape[:3], 1, units), (*shape[:2], 1, 1, units)
    if places == 1:
        parts = [(kinds[0] - kinds[1], shape), (kinds[1], of_all)]
    else:
        same, input_, place, both = kinds
        parts = [
            (same - input_ - place + both, shape),
            (input_ - both, (*shape[:2], 1, places, units)),
            (place - both, of_input),
            (both, of_all),
        ]
    least = 1e-9 * float(np.diagonal(kinds[0]).max(initial=0.0))
    values = np.zeros(shape, law.pairs.dtype) + law.mean.reshape(-1, 1, 1, 1, 1)
    for number, (covariance, part) in enumerate(parts):
        if np.diagonal(covariance).max() > least:
            noise = _noise(part, 10 * seed + number, gates)
            values += _correlated(noise.astype(values.dtype, copy=False), covariance)
    return values


def _correlated(noise: Values, covariance: Array) -> Values:
    """Return noise with a covariance of its steps, the first axis."""
    levels = np.diagonal(covariance)
    if np.abs(covariance - np.diag(levels)).max() < 1e-9 * levels.max():
        root = np.sqrt(np.maximum(levels, 0))
        return noise * root.reshape(-1, *[1] * (noise.ndim - 1))
    # By steps in order, so that earlier ones do not depend on how many follow.
    wide = covariance.astype(np.float64)
    try:
        factor = np.linalg.cholesky(wide + 1e-6 * np.diag(levels.max() + 0 * levels))
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(wide)
        factor = vectors * np.sqrt(np.maximum(values, 0.0))
    flat: Values = factor.astype(noise.dtype) @ noise.reshape(len(noise), -1)
    return flat.reshape(noise.shape)


@lru_cache(maxsize=4)  # layers of one shape, forward and backward, have the same
def _noise(shape: tuple[int, ...], seed: int, gates: int = 1) -> Values:
    """Return N(0, 1) values, at each step and gate of mean 0 and variance 1.

    Where there are enough of them, those of two steps are not correlated by chance.
    """
    draw = np.random.default_rng(seed).standard_normal(shape, np.float32)
    split = draw.reshape(shape[0], -1, gates, shape[-1] // gates)
    split -= split.mean(axis=(1, 3), keepdims=True)
    split /= np.sqrt((split**2).mean(axis=(1, 3), keepdims=True))
    for gate in range(gates):
        rows = split[:, :, gate].reshape(shape[0], -1)
        if rows.shape[1] > 4 * shape[0]:
            factor = np.linalg.cholesky(rows @ rows.T / rows.shape[1])
            rows = np.linalg.inv(factor) @ rows
            split[:, :, gate] = rows.reshape(split[:, :, gate].shape)
    return draw
