"""The moments of a batch where trained weights read it first.

They replace those that follow from assumed inputs; `batch_moments` measures them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_initlab.model.preprocessing import Output
from keras_initlab.propagation.signal import Shape, Signal

Array = NDArray[np.float64]
# Returns the signal that replaces the one predicted by a rule.
Stand = Callable[[Signal], Signal]


@dataclass(frozen=True, eq=False)
class MeasuredMoments:
    """The moments of a tensor on a batch.

    Attributes:
        name: the input, or the path of the layer that made the tensor.
        count: the number of inputs in the batch.
        mean: E[x].
        pairs: as `Signal.pairs`, of two elements that differ in unit, position, input.
    """

    name: str
    count: int
    mean: float
    pairs: Array

    @property
    def second(self) -> float:
        """E[x²]."""
        return float(self.pairs[0, 0, 0])

    @property
    def variance(self) -> float:
        """E[x²] − E[x]²."""
        return max(0.0, self.second - self.mean**2)

    @property
    def cosine(self) -> float | None:
        """The cosine between two inputs; None where it does not show."""
        if self.count < 2 or not self.second > 0:
            return None
        return float(np.clip(self.pairs[0, 0, 1] / self.second, -1.0, 1.0))

    def signal(self, shape: Shape, scale: float = 1.0) -> Signal:
        """Return a signal of these moments, `scale` times as large in the square."""
        signal = Signal.independent(shape)
        return signal.amend(mean=math.sqrt(scale) * self.mean, pairs=scale * self.pairs)

    def __str__(self) -> str:
        cosine = "" if self.cosine is None else f", cosine {self.cosine:.3g}"
        return (
            f"{self.name}: mean {self.mean:.4g}, variance {self.variance:.4g}, "
            f"E x² {self.second:.4g}{cosine}"
        )


@dataclass(frozen=True, eq=False)
class SharedTokens:
    """How often two tokens of a batch are equal.

    Attributes:
        name: the path of the embedding that looks them up.
        count: the number of inputs in the batch.
        alike: `alike[p, i]` is the share of the pairs of tokens at different positions
            (p=1), of different inputs (i=1), that are the same token.
    """

    name: str
    count: int
    alike: Array

    def applied(self, signal: Signal) -> Signal:
        """Return the signal of rows that are looked up as often as that."""
        pairs = np.full((2, 2, 2), signal.mean**2)
        pairs[0] += signal.variance * self.alike
        return signal.evolve(pairs=pairs)

    def __str__(self) -> str:
        return (
            f"{self.name}: two positions hold the same token in {self.alike[1, 0]:.3g} "
            f"of pairs, two inputs in {self.alike[1, 1]:.3g}"
        )


@dataclass(frozen=True, eq=False)
class Given:
    """The moments of a model's inputs on a batch, before and after preprocessing.

    Attributes:
        inputs: of the model's inputs; None for one that is not a tensor of numbers.
        outputs: of outputs of calls in the flat graph, which they replace.
        read: of the inputs of layers that learn, by the layers' ids.
        measured: all that were measured, each tensor once.
    """

    inputs: Sequence[MeasuredMoments | None]
    outputs: Mapping[Output, MeasuredMoments | SharedTokens]
    read: Mapping[int, MeasuredMoments]
    measured: Sequence[MeasuredMoments | SharedTokens]

    @property
    def lines(self) -> list[str]:
        """A sentence for each tensor that was measured."""
        lines = [str(moments) for moments in self.measured]
        if any(moments.count < 2 for moments in self.measured):
            lines.append(
                "a batch of one does not show how alike two inputs are: their cosine "
                "is taken from the mean"
            )
        return lines

    @property
    def records(self) -> list[dict[str, Any]]:
        """The moments that were measured, as flat dicts."""
        return [
            {
                "input": moments.name,
                "source": "measured",
                "count": moments.count,
                "mean": moments.mean,
                "variance": moments.variance,
                "second_moment": moments.second,
                "input_cosine": moments.cosine,
            }
            for moments in self.measured
            if isinstance(moments, MeasuredMoments)
        ]

    def signals(self, shapes: Sequence[Shape], scale: float) -> list[Signal]:
        """Return the signals of the inputs, `scale` times as large in the square."""
        return [
            Signal.independent(shape, 0.0, scale)
            if moments is None
            else moments.signal(shape, scale)
            for shape, moments in zip(shapes, self.inputs, strict=True)
        ]

    def stands(self, scale: float) -> dict[Output, Stand]:
        """Return the signals that replace outputs of preprocessing."""

        def stand(moments: MeasuredMoments | SharedTokens) -> Stand:
            if isinstance(moments, SharedTokens):
                return moments.applied
            return lambda signal: moments.signal(signal.shape, scale)

        return {output: stand(moments) for output, moments in self.outputs.items()}
