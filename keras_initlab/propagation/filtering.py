"""Sums along one axis with known weights: resizing, blurring, running sums."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from keras_initlab.propagation.signal import Array, Gradient, Pull, Signal

# How far apart along the axis two results are still told from any two.
_LAGS = 64


def along(signal: Signal, axis: int, weights: Array) -> Signal:
    """Return y_i = Σ w_ij x_j, j along `axis`.

    Args:
        signal: x.
        axis: an axis whose size is known.
        weights: of shape (new size, old size).
    """
    axis = axis % len(signal.shape)
    new, old = weights.shape
    in_units = axis in signal.units
    kin = signal.units if in_units else signal.positions
    others = signal.size(tuple(a for a in kin if a != axis))
    # `kinds[o, a, i]`: a for this axis' kind of index, o for the other one.
    kinds = signal.pairs.swapaxes(0, 1) if in_units else signal.pairs
    uneven = signal.profile.get(axis)
    scaled, level = weights, 1.0
    if uneven is not None and len(uneven) == old:
        scaled = weights * np.sqrt(uneven)
        level = float(np.sqrt(uneven).mean()) or 1.0
    far = kinds[:, 1] / level**2
    sums = scaled.sum(axis=1)
    gram = scaled @ scaled.T
    products = np.outer(sums, sums)
    # E[y y'] by places of the two along the axis, one element with itself and apart.
    alike = np.einsum("oi,mn->oimn", kinds[:, 0] - far, gram)
    apart = np.einsum("oi,mn->oimn", far, products)
    own = signal.near.get(axis)
    if own is not None and not in_units:
        lags = np.abs(np.subtract.outer(np.arange(old), np.arange(old)))
        extra = np.concatenate([[0.0], own - far[0, 0], [0.0]])
        alike[0, 0] += scaled @ extra[np.minimum(lags, len(own) + 1)] @ scaled.T
    made = np.empty((2, 2, 2))
    diagonal = np.arange(new)
    same, shared = (
        (alike + apart)[..., diagonal, diagonal],
        apart[..., diagonal, diagonal],
    )
    made[:, 0] = same.mean(axis=-1)
    off = float(new * (new - 1))
    total = shared.mean(axis=-1) * (others - 1)
    if off:
        for table, number in ((alike + apart, 1), (apart, others - 1)):
            rest = table.sum(axis=(-1, -2)) - table[..., diagonal, diagonal].sum(-1)
            total = total + rest / off * (new - 1) * number
    count = (others - 1) + (new - 1) * others
    mean = signal.mean / level * float(sums.mean())
    made[:, 1] = total / count if count else mean**2
    shape = list(signal.shape)
    shape[axis] = new
    rows = same[0, 0]
    profile = {a: v for a, v in signal.profile.items() if a != axis}
    if rows.mean() > 0 and np.ptp(rows) > 1e-6 * rows.mean():
        profile[axis] = rows / rows.mean()
    near = {}
    for other, values in signal.near.items():
        if other != axis:
            near[other] = (values - far[0, 0]) * np.trace(gram) / new + shared[
                0, 0
            ].mean()
    if not in_units:
        near[axis] = _lagged(alike[0, 0] + apart[0, 0], float(made[0, 1, 0]))
    pairs = made.swapaxes(0, 1) if in_units else made
    return signal.evolve(
        shape=tuple(shape),
        mean=mean,
        pairs=pairs.copy(),
        near={a: v for a, v in near.items() if len(v)},
        profile=profile,
        parents=((signal, _pull(axis, weights, others, in_units)),),
    )


def _lagged(table: Array, far: float) -> Array:
    """Return the mean of each diagonal, up to the last that is not `far`."""
    lags = range(1, min(len(table), _LAGS))
    means = np.array([np.diagonal(table, lag).mean() for lag in lags])
    unlike = np.flatnonzero(np.abs(means - far) > 1e-6 * (abs(far) + 1e-12))
    return means[: unlike.max(initial=-1) + 1]


def _pull(axis: int, weights: Array, others: int, in_units: bool) -> Pull:
    old = weights.shape[1]
    squares, gram = weights**2, weights.T @ weights
    sums = weights.sum(axis=0)
    between = (gram.sum() - np.trace(gram)) / max(old * (old - 1), 1)
    all_pairs = float(sums.sum() ** 2) / old**2

    def pull(gradient: Gradient) -> Gradient:
        values = gradient.profile.get(axis, np.ones(len(weights)))
        at = values @ squares
        across = 0.0 if in_units else gradient.position
        second = gradient.second * at.mean() + across * float(
            (sums**2).mean() - squares.sum() / old
        )
        profile = {a: v for a, v in gradient.profile.items() if a != axis}
        if at.mean() > 0 and np.ptp(at) > 1e-6 * at.mean():
            profile[axis] = at / at.mean()
        if in_units:
            position = gradient.position * float(squares.sum()) / old
            inputs = gradient.inputs * float(squares.sum()) / old
        else:
            share = (old - 1) / max(old * others - 1, 1)
            met = (gradient.second - gradient.position) * between * share
            position = met + gradient.position * all_pairs
            inputs = gradient.inputs * all_pairs
        return Gradient(float(second), float(position), profile, inputs)

    return pull


def weights_of(function: Callable[[Array], Array], length: int) -> Array:
    """Return the weights with which a linear function sums a row of `length` values.

    `function` takes and returns an array of shape (rows, values).
    """
    return np.asarray(function(np.eye(length, dtype="float32")), np.float64).T
