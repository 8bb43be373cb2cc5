"""Running figures: what many batches come to, in one packed vector a window.

A window's vector is [stamp, values, shares, tails]. The stamp is its number + 1, and 0
in a slot that holds nothing; values and shares are those of the layout's entries, in
its order. Of the tails, those of units alive are 0 while the unit has been 0 in every
batch; samples are those of the last batch.

A value is the mean over batches, each with its share, but for variances: they are of
all batches' elements together, by the formula of Chan, Golub & LeVeque ("Algorithms
for computing the sample variance", 1983), which adds what the means differ by.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from keras_initlab.taps.figures import Figures, Tails
from keras_initlab.taps.tensors import ops


class Layout(NamedTuple):
    """What the places of a window's vector stand for.

    Attributes:
        entries: key and name of each value.
        tails: key, kind and length of each part of the end.
        dtype: of the vector.
    """

    entries: tuple[tuple[str, str], ...]
    tails: tuple[tuple[str, str, int], ...]
    dtype: str

    @property
    def size(self) -> int:
        """The length of a window's vector."""
        return 1 + 2 * len(self.entries) + sum(length for *_, length in self.tails)


def layout_of(figures: Sequence[Figures], tails: Sequence[Tails], dtype: str) -> Layout:
    """Return the layout of what one step measures."""
    return Layout(
        tuple((key, one.name) for one in figures for key in one.keys),
        tuple(
            (key, one.kind, one.values.shape[1]) for one in tails for key in one.keys
        ),
        dtype,
    )


def packed(
    layout: Layout, figures: Sequence[Figures], tails: Sequence[Tails], stamp: Any
) -> Any:
    """Return a batch as a window's vector; what it lacks of the layout has no share."""
    dtype, found = layout.dtype, layout_of(figures, tails, layout.dtype)
    values = [ops.cast(one.values, dtype) for one in figures]
    shares = [
        one.shares
        if isinstance(one.shares, np.ndarray)
        else ops.cast(one.shares, dtype)
        for one in figures
    ]
    if found.entries != layout.entries:
        # The last place is that of what is lacking.
        places = {entry: index for index, entry in enumerate(found.entries)}
        order = [places.get(entry, len(found.entries)) for entry in layout.entries]
        chosen = np.array(order, "int32")
        zero = np.zeros(1)
        values = [ops.take(_joined([*values, zero], dtype), chosen)]
        shares = [ops.take(_joined([*shares, zero], dtype), chosen)]
    known = isinstance(stamp, float)
    stamp = np.array([stamp]) if known else ops.cast(stamp, dtype)[None]
    rest = [ops.reshape(ops.cast(one.values, dtype), (-1,)) for one in tails]
    if found.tails != layout.tails:
        ends = {
            (key, one.kind): ops.cast(one.values[index], dtype)
            for one in tails
            for index, key in enumerate(one.keys)
        }
        rest = [
            ends.get((key, kind), np.zeros(length))
            for key, kind, length in layout.tails
        ]
    return _joined([stamp, *values, *shares, *rest], dtype)


def _joined(vectors: Sequence[Any], dtype: str) -> Any:
    """Return vectors as one; neighbours that are known beforehand as one constant."""
    parts = []
    for known, run in itertools.groupby(
        vectors, lambda one: isinstance(one, np.ndarray)
    ):
        if known:
            parts.append(ops.convert_to_tensor(np.concatenate([*run]), dtype))
        else:
            parts += run
    return ops.concatenate(parts)


def merge(layout: Layout, window: Any, batch: Any, xp: Any = ops) -> Any:
    """Return the vector of two samples taken together; anew if the stamps differ."""
    count = len(layout.entries)
    old = xp.where(window[:1] == batch[:1], window, xp.zeros_like(window))
    values, more = old[1 : 1 + count], batch[1 : 1 + count]
    shares, share = (one[1 + count : 1 + 2 * count] for one in (old, batch))
    total = shares + share
    part = share / xp.where(total > 0, total, xp.ones_like(total))
    # A part of 0 or 1 takes the one or the other as it is, also where that is NaN.
    delta = xp.where((shares > 0) & (share > 0), more - values, xp.zeros_like(values))
    merged = xp.where(shares > 0, values, more) + delta * part
    means, is_variance = _pairs(layout)
    if is_variance.any():
        between = xp.square(xp.take(delta, means)) * part * (1 - part)
        merged = xp.where(is_variance, merged + between, merged)
    parts = [batch[:1], merged, total]
    # Neighbours of one kind go as one.
    for kind, start, end in _runs(layout):
        one, other = old[start:end], batch[start:end]
        parts.append(xp.maximum(one, other) if kind == "alive" else other)
    return xp.concatenate(parts)


@lru_cache(maxsize=64)
def _pairs(layout: Layout) -> tuple[Any, Any]:
    """Return where each variance has its mean, and which entries are variances."""
    places = {entry: index for index, entry in enumerate(layout.entries)}
    partners = [
        places[key, "mean"] if name == "variance" else index
        for index, (key, name) in enumerate(layout.entries)
    ]
    return (
        np.array(partners, "int32"),
        np.array([name == "variance" for _, name in layout.entries], bool),
    )


def _runs(layout: Layout) -> list[tuple[str, int, int]]:
    """Return where tails of one kind that follow each other begin and end."""
    runs: list[tuple[str, int, int]] = []
    for (_, kind, length), start in zip(layout.tails, _starts(layout), strict=True):
        if runs and runs[-1][0] == kind:
            runs[-1] = (kind, runs[-1][1], start + length)
        else:
            runs.append((kind, start, start + length))
    return runs


def updated(
    layout: Layout,
    state: Any,
    figures: Sequence[Figures],
    tails: Sequence[Tails],
    step: Any,
    window: int | None,
) -> Any:
    """Return the state, of shape (slots, size), with a batch merged into its window."""
    if window is None:
        return merge(layout, state[0], packed(layout, figures, tails, 1.0))[None]
    number = ops.floor_divide(step, window)
    slot = ops.mod(number, state.shape[0])
    batch = packed(layout, figures, tails, number + 1)
    row = merge(layout, ops.take(state, slot, axis=0), batch)
    return ops.slice_update(state, (slot, 0), row[None])


def read(vectors: Sequence[tuple[Layout, Any]]) -> dict[str, dict[str, Any]]:
    """Return what is in the vectors of one window, by key and name.

    There are several where its steps did not all call the same layers, where one part
    of the figures is kept apart from another, and where several devices measure.
    """
    union = Layout(
        tuple(dict.fromkeys(entry for one, _ in vectors for entry in one.entries)),
        tuple(dict.fromkeys(tail for one, _ in vectors for tail in one.tails)),
        "float64",
    )
    whole = np.zeros(union.size)
    for layout, vector in vectors:
        whole = merge(union, whole, _widened(layout, vector, union, whole), np)
    count = len(union.entries)
    values, shares = whole[1 : 1 + count], whole[1 + count : 1 + 2 * count]
    found: dict[str, dict[str, Any]] = {}
    for (key, name), value, share in zip(union.entries, values, shares, strict=True):
        if share > 0:
            value = float(value) * (float(share) if name == "nonfinite" else 1.0)
            found.setdefault(key, {})[name] = value
    for (key, kind, length), start in zip(union.tails, _starts(union), strict=True):
        values = whole[start : start + length]
        known = found.get(key, {})
        if kind == "alive" and "mean" in known:
            known["dead_fraction"] = float((values == 0).mean())
        elif ("mean" if kind == "sample" else "gradient_second_moment") in known:
            known[kind] = values
    return found


def _widened(layout: Layout, vector: Any, union: Layout, rest: Any) -> Any:
    """Return a vector in a layout that has all of its own; other tails are `rest`'s."""
    wide = rest.copy()
    count, to = len(layout.entries), len(union.entries)
    wide[: 1 + 2 * to] = 0
    wide[0] = vector[0]
    places = {entry: index for index, entry in enumerate(union.entries)}
    chosen = np.array([places[entry] for entry in layout.entries], int)
    wide[1 + chosen] = vector[1 : 1 + count]
    wide[1 + to + chosen] = vector[1 + count : 1 + 2 * count]
    starts = dict(zip(union.tails, _starts(union), strict=True))
    for tail, start in zip(layout.tails, _starts(layout), strict=True):
        at, length = starts[tail], tail[-1]
        wide[at : at + length] = vector[start : start + length]
    return wide


def _starts(layout: Layout) -> list[int]:
    """Return where each tail begins."""
    lengths = [length for *_, length in layout.tails]
    starts = itertools.accumulate(lengths, initial=1 + 2 * len(layout.entries))
    return [*starts][:-1]
