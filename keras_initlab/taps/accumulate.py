"""Merges the figures of many batches in NumPy, outside the training step.

A merged value is the mean over batches, weighted by their shares. A merged variance is
that of all batches' elements together, by the formula of Chan, Golub & LeVeque
("Algorithms for computing the sample variance", 1983), which adds the variance between
the batches' means.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from keras_initlab.stats import Shape
from keras_initlab.taps.figures import Layout

Array = NDArray[np.float64]

# Steps for which a vector stays on its device. By then it has been computed, and no
# step has to wait while it is read.
LAG = 32

SAMPLES = ("sample", "gradient_sample")


class WindowFigures(NamedTuple):
    """The merged figures of a window's steps.

    Attributes:
        calls: path and output shape of each call of a layer, by its key.
        figures: by key (by path for those of a weight), then by name.
    """

    calls: dict[str, tuple[str, Shape]]
    figures: dict[str, dict[str, Any]]


class Accumulator:
    """The figures of one epoch, window by window.

    Args:
        layouts: those of the vectors; a vector's first entry is the index of its own.
    """

    def __init__(self, layouts: Sequence[Layout]) -> None:
        self._layouts = layouts
        self._waiting: list[tuple[int, Any]] = []
        self._windows: dict[int, WindowFigures] = {}
        # Of the first step, before it is merged with others.
        self._first: Any = None
        # The current window: a merged vector for each layout, the last step's one last.
        self._current = -1
        self._vectors: dict[Layout, Array] = {}

    def add(self, window: int, matrix: Any) -> None:
        """Queue the figures of one step, a row for each replica, to be merged later."""
        if self._first is None:
            self._first = matrix
        self._waiting.append((window, matrix))
        if len(self._waiting) >= 2 * LAG:
            self._fold(LAG)

    def first(self) -> WindowFigures | None:
        """Return what the first step measured, by itself; None before there is one."""
        if self._first is None:
            return None
        alone = Accumulator(self._layouts)
        alone.add(0, self._first)
        return alone.windows()[0]

    def windows(self) -> dict[int, WindowFigures]:
        """Return all windows by number. Only the last one keeps its samples."""
        self._fold(len(self._waiting))
        self._close(keep_samples=True)
        return self._windows

    def _fold(self, count: int) -> None:
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        rows = [
            (window, row.astype(np.float64))
            for window, matrix in batch
            for row in np.atleast_2d(keras.ops.convert_to_numpy(matrix))
        ]
        for (window, index), group in itertools.groupby(
            rows, lambda pair: (pair[0], round(pair[1][0]))
        ):
            if window != self._current:
                self._close()
                self._current = window
            layout = self._layouts[index]
            before = self._vectors.pop(layout, None)
            new = [row for _, row in group]
            self._vectors[layout] = combined(
                layout, np.stack(new if before is None else [before, *new])
            )

    def _close(self, keep_samples: bool = False) -> None:
        """Turn the current window's vectors into its figures."""
        if not self._vectors:
            return
        figures = figures_of(self._vectors)
        if not keep_samples:
            for of_key in figures.values():
                for kind in SAMPLES:
                    of_key.pop(kind, None)
        self._windows[self._current] = WindowFigures(calls_of(self._vectors), figures)
        self._vectors = {}


def combined(layout: Layout, rows: Array) -> Array:
    """Merge vectors of one layout, the rows of an array (vectors, size), into one."""
    count = len(layout.figures)
    values, shares = rows[:, 1 : 1 + count], rows[:, 1 + count : 1 + 2 * count]
    total = shares.sum(axis=0)
    parts = shares / np.where(total > 0, total, 1)
    # A value without a share may be anything, even NaN.
    values = np.where(shares > 0, values, 0)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = (parts * values).sum(axis=0)
        variances, means = _variances(layout)
        between = np.square(values[:, means] - mean[means])
        mean[variances] += (parts[:, variances] * between).sum(axis=0)
    # Of steps that the optimizer left out nothing of the gradients is kept.
    counted = rows[shares[:, _gradients(layout)].any(axis=1)]
    last = {"gradient_sample": counted[-1] if len(counted) else rows[-1]}
    ends = [
        rows[:, start:end].max(axis=0)
        if kind == "alive"
        else last.get(kind, rows[-1])[start:end]
        for kind, start, end in _runs(layout)
    ]
    return np.concatenate([rows[-1, :1], mean, total, *ends])


@lru_cache(maxsize=64)
def _variances(layout: Layout) -> tuple[list[int], list[int]]:
    """Return the index of each variance, and that of the mean that belongs to it."""
    indices = {entry: index for index, entry in enumerate(layout.figures)}
    pairs = [
        (index, indices[key, "mean"])
        for index, (key, name) in enumerate(layout.figures)
        if name == "variance"
    ]
    return [index for index, _ in pairs], [index for _, index in pairs]


@lru_cache(maxsize=64)
def _gradients(layout: Layout) -> list[int]:
    """Return where the figures of gradients at outputs are."""
    return [
        index
        for index, (_, name) in enumerate(layout.figures)
        if name == "gradient_second_moment"
    ]


@lru_cache(maxsize=64)
def _runs(layout: Layout) -> list[tuple[str, int, int]]:
    """Return kind, start and end of each run of neighbouring tails of one kind."""
    tails = zip(layout.tails, _starts(layout), strict=True)
    runs = []
    for kind, group in itertools.groupby(tails, lambda pair: pair[0][1]):
        members = [*group]
        (*_, length), last = members[-1]
        runs.append((kind, members[0][1], last + length))
    return runs


def figures_of(vectors: dict[Layout, Array]) -> dict[str, dict[str, Any]]:
    """Return the figures in the vectors of one window, by key and name.

    There are several vectors if the window's steps did not all call the same layers.
    """
    union = Layout(
        (),
        tuple(dict.fromkeys(entry for layout in vectors for entry in layout.figures)),
        tuple(dict.fromkeys(tail for layout in vectors for tail in layout.tails)),
        "float64",
    )
    rows: list[Array] = []
    for layout, vector in vectors.items():
        base = rows[-1] if rows else np.zeros(1 + 2 * len(union.figures) + _end(union))
        rows.append(_widened(layout, vector, union, base))
    whole = combined(union, np.stack(rows))
    count = len(union.figures)
    values, shares = whole[1 : 1 + count], whole[1 + count : 1 + 2 * count]
    figures: dict[str, dict[str, Any]] = {}
    for (key, name), value, share in zip(union.figures, values, shares, strict=True):
        if share > 0:
            value = float(value) * (float(share) if name == "nonfinite" else 1.0)
            figures.setdefault(key, {})[name] = value
    for (key, kind, length), start in zip(union.tails, _starts(union), strict=True):
        values = whole[start : start + length]
        of_key = figures.get(key, {})
        if kind == "alive" and "mean" in of_key:
            of_key["dead_fraction"] = float((values == 0).mean())
        elif ("mean" if kind == "sample" else "gradient_second_moment") in of_key:
            of_key[kind] = values
    return figures


def calls_of(layouts: Iterable[Layout]) -> dict[str, tuple[str, Shape]]:
    """Return path and shape of each call by key; None for an axis that varies."""
    calls: dict[str, tuple[str, Shape]] = {}
    for key, path, shape in (call for layout in layouts for call in layout.calls):
        _, before = calls.get(key, (path, shape))
        if len(before) == len(shape):
            pairs = zip(before, shape, strict=True)
            before = tuple(a if a == b else None for a, b in pairs)
        calls[key] = path, before
    return calls


def _widened(layout: Layout, vector: Array, union: Layout, base: Array) -> Array:
    """Return a vector in the layout `union`; missing tails are those of `base`."""
    wide = base.copy()
    count, width = len(layout.figures), len(union.figures)
    wide[: 1 + 2 * width] = 0
    indices = {entry: index for index, entry in enumerate(union.figures)}
    chosen = np.array([indices[entry] for entry in layout.figures], int)
    wide[1 + chosen] = vector[1 : 1 + count]
    wide[1 + width + chosen] = vector[1 + count : 1 + 2 * count]
    starts = dict(zip(union.tails, _starts(union), strict=True))
    for tail, start in zip(layout.tails, _starts(layout), strict=True):
        at, length = starts[tail], tail[-1]
        wide[at : at + length] = vector[start : start + length]
    return wide


def _starts(layout: Layout) -> list[int]:
    """Return where each tail begins."""
    lengths = [length for *_, length in layout.tails]
    starts = itertools.accumulate(lengths, initial=1 + 2 * len(layout.figures))
    return [*starts][:-1]


def _end(layout: Layout) -> int:
    """Return the length of all tails."""
    return sum(length for *_, length in layout.tails)
