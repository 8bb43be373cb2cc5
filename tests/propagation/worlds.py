"""Random tensors of known moments, many times over, and what NumPy makes of them."""

import itertools
import math

import numpy as np

from keras_initlab.propagation.algebra.shape import collapse
from keras_initlab.propagation.signal import Signal
from tests.propagation.simulation import pair_moments

WORLDS, BATCH = 800, 3
KINDS = list(itertools.product((0, 1), repeat=3))


class Law:
    """A Gaussian tensor: a mean and the variance of what kinds of elements share.

    `parts[unit, position, input]` is the variance of what all units, all positions,
    all inputs (those that are 1) have in common. `profile` is the second moment along
    an axis.
    """

    def __init__(self, shape, mean=0.0, parts=None, profile=None, units=None):
        self.shape, self.mean = shape, mean
        self.parts = {(0, 0, 0): 1.0, **(parts or {})}
        self.profile = profile or {}
        self.units = units or (len(shape),)

    @property
    def signal(self):
        pairs = np.full((2, 2, 2), self.mean**2)
        for kind in KINDS:
            for shared, variance in self.parts.items():
                if all(s >= k for s, k in zip(shared, kind, strict=True)):
                    pairs[kind] += variance
        made = Signal((None, *self.shape), self.units, self.mean, pairs)
        profile = {axis: np.array(v, float) for axis, v in self.profile.items()}
        made = Signal(made.shape, made.units, self.mean, pairs.copy(), profile=profile)
        made.pairs[:, 1] *= made.unevenness
        return Signal(
            made.shape,
            made.units,
            self.mean * math.sqrt(made.unevenness),
            made.pairs,
            profile=profile,
        )

    def draw(self, generator):
        """Return an array of shape (worlds, batch, ...)."""
        shape = (WORLDS, BATCH, *self.shape)
        total = np.full(shape, self.mean)
        for (unit, place, other), variance in self.parts.items():
            sizes = [
                1
                if (axis == 0 and other)
                or (axis > 0 and (unit if axis in self.units else place))
                else size
                for axis, size in enumerate(shape[1:])
            ]
            noise = generator.standard_normal((WORLDS, *sizes))
            total = total + math.sqrt(variance) * noise
        for axis, values in self.profile.items():
            form = [1] * len(shape)
            form[axis + 1] = -1
            total = total * np.sqrt(values).reshape(form)
        return total


def by_world(function, *drawn):
    """Return what a function of batches makes of draws, world by world."""
    flat = [x.reshape(-1, *x.shape[2:]) for x in drawn]
    made = function(*flat)
    return made.reshape(WORLDS, BATCH, *made.shape[1:])


def moments(values, units):
    """Return means and standard errors of E[x], the pairs, and of positions' means."""
    positions = tuple(a for a in range(1, values.ndim - 1) if a not in units)
    rows = [
        [
            one.mean(),
            *pair_moments(one, units).ravel(),
            *pair_moments(one.mean(axis=positions, keepdims=True), units)[0, 0],
        ]
        for one in values
    ]
    rows = np.array(rows)
    return rows.mean(axis=0), rows.std(axis=0, ddof=1) / math.sqrt(len(rows))


def complaints(signal, values, slack=0.0, sigmas=5.0):
    """Return where a signal's moments are not those of a drawn tensor."""
    off = []
    if signal.shape[1:] != values.shape[2:]:
        return [f"shape {signal.shape}, not {values.shape[2:]}"]
    found, errors = moments(values, signal.units)
    middle = collapse(signal, signal.positions, keepdims=True).pairs[0, 0]
    expected = [signal.mean, *signal.pairs.ravel(), *middle]
    names = ["mean", *map(str, KINDS), "places", "places, two inputs"]
    for name, value, one, error in zip(names, expected, found, errors, strict=True):
        apart = signal.near and name in map(str, KINDS[2:4] + KINDS[6:])
        if np.isnan(one) or apart:
            continue  # what two positions share goes by how far apart they are
        if abs(value - one) > sigmas * error + slack * abs(found[1]) + 1e-9:
            off.append(f"{name}: {value:.4g}, not {one:.4g} ± {error:.2g}")
    for axis in range(1, values.ndim - 1):
        others = tuple(a for a in range(values.ndim) if a not in (0, axis + 1))
        rows = (values**2).mean(axis=others)
        level = rows.mean()
        error = rows.std(axis=0, ddof=1) / math.sqrt(len(rows)) / level
        own = signal.profile.get(axis, np.ones(values.shape[axis + 1]))
        measured = rows.mean(axis=0) / level
        if (np.abs(own - measured) > sigmas * error + slack + 1e-9).any():
            off.append(f"profile along {axis}: {own}, not {measured}")
    return off
