"""Windows that slide along an axis: which inputs an output sees, with padding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from keras_initlab.propagation.signal import Array

# How far apart two outputs are that still count as neighbours.
_NEIGHBOURS = 6


def distinct(every: float, same: float, number: float) -> float:
    """Return the mean over pairs of two different positions.

    Args:
        every: the mean over all pairs.
        same: the mean over pairs of one position with itself.
        number: of positions; infinite where it is not known.
    """
    if not 1 < number < math.inf:
        return every
    return max(0.0, (every * number - same) / (number - 1))


@dataclass(frozen=True)
class Window:
    """One axis of a convolution or a pooling.

    Attributes:
        length: of the input; None where unknown, which counts as without borders.
        size: taps of the window.
        stride, dilation: as in Keras.
        padding: "same", "valid", "causal", or zeros put in front and behind.
        centred: all weight lies on the centre tap.
        transposed: whether the input is the smaller side, as the output of a
            convolution is; `length` is still that of the input.
        extra: outputs that `output_padding` adds to a transposed window; None for
            what its padding implies.
    """

    length: int | None
    size: int
    stride: int = 1
    dilation: int = 1
    padding: str | tuple[int, int] = "valid"
    centred: bool = False
    transposed: bool = False
    extra: int | None = None

    @property
    def reach(self) -> int:
        """How far the window extends: (size - 1) · dilation + 1."""
        return (self.size - 1) * self.dilation + 1

    @property
    def output_length(self) -> int | None:
        """How many outputs there are."""
        if self.length is None:
            return None
        if self.transposed:
            return self._wide
        front, behind = self.pads
        return max(0, (self.length + front + behind - self.reach) // self.stride + 1)

    @property
    def _wide(self) -> int:
        """The longer side of a transposed window."""
        assert self.length is not None
        if self.extra is not None:
            pad = self.reach // 2 if self.padding == "same" else 0
            total = (self.length - 1) * self.stride + self.reach - 2 * pad
            return total + self.extra
        if self.padding == "same":
            return self.length * self.stride
        return self.length * self.stride + max(self.reach - self.stride, 0)

    @property
    def pads(self) -> tuple[int, int]:
        """Zeros in front and behind."""
        length = self._wide if self.transposed else self.length
        if isinstance(self.padding, tuple):
            return self.padding
        if self.padding == "causal":
            return self.reach - 1, 0
        if self.padding == "valid" or length is None:
            return 0, 0
        outputs = -(-length // self.stride)
        total = max((outputs - 1) * self.stride + self.reach - length, 0)
        return total // 2, total - total // 2

    @cached_property
    def taps(self) -> Array:
        """Share of each tap in the kernel's second moment."""
        if not self.centred:
            return np.full(self.size, 1 / self.size)
        shares = np.zeros(self.size)
        shares[(self.size - 1) // 2] = 1.0
        return shares

    @property
    def is_plain(self) -> bool:
        """Whether every output sees every tap."""
        return self.length is None or (
            self.size == 1 and self.stride == 1 and not self.transposed
        )

    def forward(self, profile: Array | None) -> tuple[float, float, Array | None]:
        """Return the share of an input with second moment `profile` that outputs see.

        Returns:
            The mean over outputs of Σ share · profile; the same for two positions
            whose covariance is even, Σ share · E[√profile]²; and the outputs'
            profile (None where even).
        """
        return self._pass(profile, back=self.transposed)

    def sums(self, profile: Array | None) -> tuple[float, float]:
        """Return E[r²] and E[r]², r = Σ √profile over the taps that an output sees."""
        if self.length is None:
            seen = (self.size * self._open_share) ** 2
            return seen, seen
        if profile is not None and len(profile) != self.length:
            profile = None
        values = np.ones(self.length) if profile is None else profile
        outputs = self.output_length or 0
        index, valid = _taps_at(self, *self._sides)
        if self.transposed:
            roots = np.zeros(outputs)
            np.add.at(roots, index, np.sqrt(values)[:, None] * valid)
        else:
            roots = (np.sqrt(values[index]) * valid).sum(axis=1)
        return float((roots**2).mean()), float(roots.mean() ** 2)

    def meetings(
        self, profile: Array | None, gradient: Array | None
    ) -> tuple[float, float]:
        """Return the products of inputs and gradients that a tap sees.

        Returns:
            For one tap, and on average over taps: the mean over outputs of profile ·
            gradient; the square of the mean of √(profile · gradient).
        """
        if self.length is None:
            return self._open_share, self._open_share**2
        wide, narrow = self._sides
        outputs = self.output_length or 0
        values = _of_length(profile, self.length)
        arrived = _of_length(gradient, outputs)
        index, valid = _taps_at(self, wide, narrow)
        if self.transposed:
            both = values[:, None] * arrived[index]
        else:
            both = values[index] * arrived[:, None]
        both = np.where(valid, both, 0.0)
        mean = both.sum(axis=0) / max(outputs, 1)
        roots = np.sqrt(both).sum(axis=0) / max(outputs, 1)
        return float(mean.mean()), float((roots**2).mean())

    @property
    def _open_share(self) -> float:
        """The share of taps that an output of a window without borders sees."""
        return 1 / self.stride if self.transposed else 1.0

    @property
    def _sides(self) -> tuple[int, int]:
        """The lengths of the longer and the shorter side; both known."""
        length, outputs = self.length or 0, self.output_length or 0
        return (outputs, length) if self.transposed else (length, outputs)

    def neighbours(self, profile: Array | None) -> Array | None:
        """Return what two outputs 1, 2, … apart see through the same taps.

        This corresponds to the second figure of `forward`, for any two outputs: next to
        a border, neighbours miss the same taps. None if there is no border.
        """
        if self.length is None or self.transposed or not self.output_length:
            return None
        if profile is not None and len(profile) != self.length:
            profile = None
        if profile is None:
            return _even_neighbours(self)
        return _neighbours(self, profile)

    def taps_inside(self) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return the input of each output and tap, and whether it is inside."""
        return _taps_at(self, *self._sides)

    def backward(self, profile: Array | None) -> tuple[float, float, Array | None]:
        """Return the share of a gradient of second moment `profile` at the inputs."""
        return self._pass(profile, back=not self.transposed)

    def _pass(
        self, profile: Array | None, *, back: bool
    ) -> tuple[float, float, Array | None]:
        if self.length is None:
            if self.stride == 1:
                return 1.0, 1.0, None
            share = 1 / self.stride if back else 1.0
            return share, share**2, None
        wide, narrow = self._sides
        if profile is not None and len(profile) != (narrow if back else wide):
            profile = None
        even = profile is None
        if even:
            answer = _even_pass(self, wide, narrow, back)
            if answer is not None:
                return answer
        values = np.ones(narrow if back else wide) if profile is None else profile
        return _reduce(self, values, wide, narrow, back)


def _of_length(values: Array | None, length: int) -> Array:
    """Return a profile of that length; an even one for what is none."""
    if values is None or len(values) != length:
        return np.ones(length)
    return values


@lru_cache(maxsize=4096)
def _even_pass(
    window: Window, wide: int, narrow: int, back: bool
) -> tuple[float, float, Array | None]:
    values = np.ones(narrow if back else wide)
    return _reduce(window, values, wide, narrow, back)


@lru_cache(maxsize=1024)
def _even_neighbours(window: Window) -> Array | None:
    return _neighbours(window, np.ones(window.length or 1))


def _neighbours(window: Window, values: Array) -> Array | None:
    outputs = window.output_length or 0
    index, valid = _taps_at(window, window.length or 0, outputs)
    root = np.sqrt(np.where(valid, values[index], 0.0))
    if np.ptp(root) == 0:
        return None
    reach = range(1, min(outputs, _NEIGHBOURS + 1))
    pairs = [(root[:-d] * root[d:]).mean(axis=0) for d in reach]
    return np.array(pairs).reshape(-1, window.size) @ window.taps


def _reduce(
    window: Window, values: Array, wide: int, narrow: int, back: bool
) -> tuple[float, float, Array | None]:
    index, valid = _taps_at(window, wide, narrow)
    shares = window.taps[None, :]
    if not narrow or not wide:
        return 0.0, 0.0, None
    if back:
        seen = np.zeros(wide)
        np.add.at(seen, index, np.where(valid, values[:, None] * shares, 0.0))
        root = np.sqrt(values)[:, None] * valid
        # Two positions meet the same tap from outputs a multiple of the stride apart.
        cross = float((shares[0] * (root.sum(axis=0) / wide) ** 2).sum())
    else:
        at = np.where(valid, values[index], 0.0)
        seen = at @ window.taps
        cross = float((window.taps * np.sqrt(at).mean(axis=0) ** 2).sum())
    mean = float(seen.mean())
    profile = None
    if mean > 0 and np.ptp(seen) > 1e-9 * mean:
        profile = seen / mean
    return mean, cross, profile


@lru_cache(maxsize=1024)
def _taps_at(
    window: Window, wide: int, narrow: int
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the input of each output and tap, and whether it is inside."""
    front, _ = window.pads
    starts = np.arange(narrow) * window.stride - front
    index = starts[:, None] + np.arange(window.size) * window.dilation
    valid = (index >= 0) & (index < wide)
    return np.clip(index, 0, max(wide - 1, 0)), valid
