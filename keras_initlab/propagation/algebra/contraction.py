"""Products of two signals summed over axes that they share: matmul, dot, einsum."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from keras_initlab.propagation.signal import (
    Array,
    Edges,
    Gradient,
    Origin,
    Pull,
    Shape,
    Signal,
)

# Stands for an axis whose size is not known, as in `signal`.
_MANY = 64


def contract(
    x: Signal, y: Signal, letters: tuple[str, str, str], shape: Shape | None = None
) -> Signal:
    """Return Σ x y over the axes that the result lacks, as `einsum` does.

    x and y are assumed to be independent of each other.

    Args:
        x, y: two signals.
        letters: a letter for each axis of x, of y and of the result, the batch's first.
        shape: of the result, where a size of its own is not that of an axis.

    Source: E[Σ x y Σ x' y'] = ΣΣ E[x x'] E[y y'].
    """
    of_x, of_y, of_result = letters
    sizes = {**_sizes(x, of_x), **{k: v for k, v in _sizes(y, of_y).items() if v != 1}}
    inner = [a for a in dict.fromkeys(of_x + of_y) if a not in of_result]
    outer = list(of_result[1:])
    units = of_result[-1:] if len(of_result) > 1 else ""
    pairs, count = np.zeros((2, 2, 2)), np.zeros((2, 2, 1))
    for apart, number in _patterns(outer, sizes):
        kind = (
            int(any(a in units for a in apart)),
            int(any(a not in units for a in apart)),
        )
        both = np.zeros(2)
        for summed, times in _patterns(inner, sizes):
            differ = apart | summed
            both += times * _of(x, of_x, differ) * _of(y, of_y, differ)
        pairs[kind] += number * both * math.prod(sizes[a] or _MANY for a in inner)
        count[kind] += number
    mean = x.mean * y.mean * math.prod(sizes[a] or _MANY for a in inner)
    uneven = _together(x, y, of_x, of_y, inner)
    pairs = np.where(count > 0, pairs / np.maximum(count, 1), mean**2) * uneven
    sizes_kept = tuple(sizes[a] for a in outer)
    return Signal(
        shape or (x.shape[0] if x.shape[0] is None else y.shape[0], *sizes_kept),
        (len(of_result) - 1,) if len(of_result) > 1 else (),
        mean,
        pairs,
        profile=_profiles(x, y, of_x, of_y, of_result),
        origin=Origin(measured=x.origin.measured or y.origin.measured),
        edges=Edges(
            parents=(
                (x, _pull(x, y, of_x, of_y, of_result, sizes)),
                (y, _pull(y, x, of_y, of_x, of_result, sizes)),
            )
        ),
    )


def _sizes(signal: Signal, letters: str) -> dict[str, int | None]:
    return dict(zip(letters, signal.shape, strict=True))


def _patterns(
    letters: list[str], sizes: dict[str, int | None]
) -> Iterator[tuple[frozenset[str], float]]:
    """Yield which of some indices differ, and how many elements do so from one."""
    for differ in itertools.product((False, True), repeat=len(letters)):
        apart = [a for a, differs in zip(letters, differ, strict=True) if differs]
        number = math.prod((sizes[a] or _MANY) - 1 for a in apart)
        if number:
            yield frozenset(apart), float(number)


def _of(signal: Signal, letters: str, differ: frozenset[str]) -> Array:
    """Return E[s s'] where some indices differ: of one input, and of two."""
    apart = [
        axis
        for axis, a in enumerate(letters)
        # What is stretched over an index does not differ along it.
        if axis and a in differ and signal.shape[axis] != 1
    ]
    unit = int(any(axis in signal.units for axis in apart))
    place = int(any(axis not in signal.units for axis in apart))
    second: Array = signal.pairs[unit, place]
    return second


def _together(x: Signal, y: Signal, of_x: str, of_y: str, inner: list[str]) -> float:
    """Return the gain of uneven profiles that are large together: E[pq] / E[p] E[q]."""
    gain = 1.0
    for a in dict.fromkeys(of_x + of_y):
        if a in of_x and a in of_y:
            p, q = x.profile.get(of_x.index(a)), y.profile.get(of_y.index(a))
            if p is not None and q is not None and len(p) == len(q):
                gain *= float((p * q).mean())
    return gain


def _profiles(
    x: Signal, y: Signal, of_x: str, of_y: str, of_result: str
) -> dict[int, Array]:
    profiles: dict[int, Array] = {}
    for axis, a in enumerate(of_result):
        values = np.ones(1)
        for signal, letters in ((x, of_x), (y, of_y)):
            if a in letters:
                values = values * signal.profile.get(letters.index(a), np.ones(1))
        if len(values) > 1 and values.mean() > 0:
            profiles[axis] = values / values.mean()
    return profiles


def _pull(
    signal: Signal,
    partner: Signal,
    of_own: str,
    of_other: str,
    of_result: str,
    sizes: dict[str, int | None],
) -> Pull:
    """Return the gradient's way back to one factor, weighted by its partner."""
    free = [a for a in of_result[1:] if a not in of_own]
    units = of_result[-1:]
    # An index of this factor that is summed over is one of the other's too, or of none.
    places = frozenset(
        a
        for axis, a in enumerate(of_own)
        if axis in signal.positions and signal.shape[axis] != 1
    )

    def weighed(gradient: Gradient, differ: frozenset[str]) -> float:
        """E[Σ g w Σ g' w'], over the result's indices that this factor lacks."""
        total = 0.0
        for apart, number in _patterns(free, sizes):
            here = (differ & frozenset(of_result)) | apart
            if not here:
                g = gradient.second
            elif any(a in units for a in here):
                g = 0.0  # gradients of two units are independent
            else:
                g = gradient.position
            total += number * g * float(_of(partner, of_other, differ | apart)[0])
        return total * math.prod(sizes[a] or _MANY for a in free)

    def pull(gradient: Gradient) -> Gradient:
        second = weighed(gradient, frozenset())
        position = weighed(gradient, places) if places else 0.0
        profile = {}
        for axis, a in enumerate(of_own):
            values = np.ones(1)
            if axis and a in of_result:
                values = values * gradient.profile.get(of_result.index(a), np.ones(1))
            if axis and a in of_other:
                values = values * partner.profile.get(of_other.index(a), np.ones(1))
            if len(values) > 1 and values.mean() > 0:
                profile[axis] = values / values.mean()
        across = float(_of(partner, of_other, frozenset())[1])
        inputs = gradient.inputs * across * math.prod(sizes[a] or _MANY for a in free)
        return Gradient(second, position, profile, inputs)

    return pull
