"""LayerStats and Bounds: records between who computes signals and who shows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Source = Literal["predicted", "measured", "monitored"]
Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class LayerStats:
    """What is known of the signal at one layer's output.

    Figures are over all elements of the output (batch and units) unless said
    otherwise. What the producer does not know is `None`, never 0.

    Attributes:
        layer: path inside the model without the model's own name (`encoder/dense`),
            with `#0`, `#1` for the calls of a shared layer.
        weight: the weight that the gradient figures speak of.
        shape: of the output, with None for the batch.
        mean: E[x].
        variance: E[(x - E[x])²].
        second_moment: E[x²].
        batch_variance: variance over the batch, averaged over units.
        input_cosine: mean cosine between the outputs of two inputs, -1 to 1.
        zero_fraction: share of elements that are 0.
        dead_fraction: share of units that are 0 over the whole window.
        saturated_fraction: share of elements at a bounded activation's ends.
        nonfinite: how many elements are NaN or infinite.
        gradient_second_moment: E[(dL/dx)²] at the output.
        weight_gradient_second_moment: E[(dL/dw)²].
        update_ratio: ‖Δw‖ / ‖w‖ of one step.
        source: how the figures came about.

    >>> LayerStats("dense", variance=1.0, source="predicted").mean is None
    True
    """

    layer: str
    weight: str | None = None
    shape: Shape | None = None
    mean: float | None = None
    variance: float | None = None
    second_moment: float | None = None
    batch_variance: float | None = None
    input_cosine: float | None = None
    zero_fraction: float | None = None
    dead_fraction: float | None = None
    saturated_fraction: float | None = None
    nonfinite: int | None = None
    gradient_second_moment: float | None = None
    weight_gradient_second_moment: float | None = None
    update_ratio: float | None = None
    # Keyword-only, so that it can follow the optional fields without a default:
    # a record that does not say where it comes from would be a lie in waiting.
    source: Source = field(kw_only=True)


class Bounds(NamedTuple):
    """The range of a bounded activation, and where in it a value is saturated.

    Attributes:
        low, high: the ends of the range.
        near: how near to an end is saturated.
        counts_low: whether the lower end counts (that of ReLU6 does not).
    """

    low: float
    high: float
    near: float
    counts_low: bool
