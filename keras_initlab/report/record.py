"""What is known of a model, layer by layer: the record that reports are made from."""

from __future__ import annotations

from dataclasses import dataclass

from keras_initlab.diagnosis import Finding
from keras_initlab.stats import LayerStats


@dataclass(frozen=True)
class InspectedLayer:
    """One call of one layer.

    What is not known, or what the layer does not have, is None.

    Attributes:
        layer: its path in the model, as in `LayerStats`.
        kind: the layer's class.
        weight: the name of the weight that the next five speak of: its kernel.
        kernel_shape: of that weight.
        fan_in, fan_out: see `keras_initlab.fans`.
        nonlinearity: what the kernel's output meets, by name ("linear" if nothing).
        initializer: of that weight, as text.
        predicted: the signal at the layer's output, by `propagate`.
        measured: the signal there, by `measure` on a batch.
    """

    layer: str
    kind: str
    weight: str | None = None
    kernel_shape: tuple[int, ...] | None = None
    fan_in: float | None = None
    fan_out: float | None = None
    nonlinearity: str | None = None
    initializer: str | None = None
    predicted: LayerStats | None = None
    measured: LayerStats | None = None


@dataclass(frozen=True)
class Inspection:
    """A model's layers, and what is wrong with it.

    Attributes:
        model: the model's name.
        layers: in call order.
        findings: errors first.
        data: what was measured on, such as "x of shape (64, 784)"; None if nothing.
        notes: sentences on what the figures rest on, such as a prediction's
            assumptions.
    """

    model: str
    layers: tuple[InspectedLayer, ...]
    findings: tuple[Finding, ...]
    data: str | None = None
    notes: tuple[str, ...] = ()
