"""Facts: everything a diagnosis may use. What is not known is None or left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from keras_initlab.stats import LayerStats


@dataclass(frozen=True)
class LayerFacts:
    """What a layer is, apart from any signal.

    Attributes:
        kind: its class.
        bends: whether it applies a nonlinearity to its output.
        normalises: whether its output has a scale of its own, whatever the input's.
        rescaled: whether all layers that read its output normalise it first: its scale
            then makes no difference, and its gradient scales inversely.
        ends: whether it is the last layer with a kernel before an output of the model,
            or comes after that.
        starts: whether no kernel comes before it.
        bypassed: whether its output is added to, or multiplied with, a signal that a
            path without kernels carries around it: a residual branch, a gate.
    """

    kind: str
    bends: bool = False
    normalises: bool = False
    rescaled: bool = False
    ends: bool = False
    starts: bool = False
    bypassed: bool = False


@dataclass(frozen=True)
class KernelFacts:
    """What a kernel is, by its values and by its initializer.

    Attributes:
        layer, weight: where it is.
        initializer: as text.
        nonlinearity: the one that follows, by name.
        units: how many units it has.
        constant: the value of all its entries, if they are equal.
        nonfinite: how many entries are NaN or infinite.
        twins: units with the same weights and bias as another unit.
        read_alike: those of the twins that all following kernels read like the other
            unit: they have the same gradient, and stay twins.
        digest: equal for drawn kernels with equal values.
        scale: the ratio of E[w²] by its initializer to that which fits its
            nonlinearity; 1 within the range of the usual rules.
        by_wrong_fans: the ratio of E[w²] by its initializer's fans to that by the
            layer's fans.
        normalised: whether a normalisation follows before the next kernel.
        branch_end: whether its output is added to a residual stream.
        bypassed: whether a path without kernels leads around it, joined to it later.
        spared: whether the network works without its output while it is 0.
        guarded: whether its scale matters less for another reason, such as attention
            or gates.
        head: whether its output is an output of the model.
        isometric: whether it was drawn so as to preserve the whole signal.
    """

    layer: str
    weight: str
    initializer: str = ""
    nonlinearity: str = "linear"
    units: int = 0
    constant: float | None = None
    nonfinite: int = 0
    twins: int = 0
    read_alike: int | None = None
    digest: str | None = None
    scale: float | None = None
    by_wrong_fans: float | None = None
    normalised: bool = False
    branch_end: bool = False
    bypassed: bool = False
    spared: bool = False
    guarded: bool = False
    head: bool = False
    isometric: bool = False


@dataclass(frozen=True)
class InputFacts:
    """What is known about the values of one input.

    Attributes:
        name: of the input.
        mean, deviation: over all finite values.
        spread: the largest deviation of a feature over the median of those that are
            not constant.
        largest: the feature with that deviation.
        nonfinite: how many values are NaN or infinite.
        missing: how many features are so for every input.
        scaled: whether the model itself scales it before the first kernel.
    """

    name: str
    mean: float
    deviation: float
    spread: float = 1.0
    largest: int = 0
    nonfinite: int = 0
    missing: int = 0
    scaled: bool = False


@dataclass(frozen=True)
class TargetFacts:
    """What is known about the targets of one output.

    Attributes:
        shape: of the batch.
        minimum, maximum, mean, deviation: over all finite values.
        whole: whether all are whole numbers.
        one_hot: whether each row has a single 1.
        nonfinite: how many values are NaN or infinite.
    """

    shape: tuple[int, ...]
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    deviation: float | None = None
    whole: bool = False
    one_hot: bool = False
    nonfinite: int = 0


@dataclass(frozen=True)
class HeadFacts:
    """What is known about one output of a model.

    Attributes:
        layer: the last one on the way to the output.
        units: size of the output's last axis.
        activation: the last one, by name.
        before: the one before it with no kernel between, by name.
        loss: of this output, by Keras's name; None for a user's own, or without one.
        from_logits: whether the loss applies an activation of its own.
        targets: if they are known.
        weighted: whether the losses of several outputs were given weights.
        crossed: whether a user's own loss compares each target with the predictions for
            all inputs, because targets (batch,) and outputs (batch, 1) broadcast.
    """

    layer: str
    units: int = 0
    activation: str = "linear"
    before: str = "linear"
    loss: str | None = None
    from_logits: bool = False
    targets: TargetFacts | None = None
    weighted: bool = False
    crossed: bool = False


@dataclass(frozen=True)
class Facts:
    """Everything that is known about a model.

    Attributes:
        stats: of the layers' signals, in call order.
        earlier: the same for earlier windows of the training, in their order.
        first: the same for the very first step of the training.
        layers: facts of layers, by their paths.
        kernels: in the order of the layers.
        inputs: those that were measured.
        heads: the outputs, their losses and targets.
        broken: layers and other weights of theirs that hold NaN or infinity, and how
            many entries.
        biased: hidden layers whose biases are far from 0, and the root mean square
            of these.
        from_zero: layers whose main weight was (nearly) all zeros when training began.
        frozen: the name of a model that is to be trained but has no trainable weight.
        half: whether weights are float16 numbers.
        trained: whether the model has made training steps already.
        updates: whether `stats` would hold update ratios if weights had moved.
        at_start: the codes of the findings at the first step of a training; None if
            there is no training, or its first step is not known.
        losses: of the windows so far, the current one last.
        steps: how many training steps were made so far.
    """

    stats: tuple[LayerStats, ...] = ()
    earlier: tuple[tuple[LayerStats, ...], ...] = ()
    first: tuple[LayerStats, ...] = ()
    layers: Mapping[str, LayerFacts] = field(default_factory=dict)
    kernels: tuple[KernelFacts, ...] = ()
    inputs: tuple[InputFacts, ...] = ()
    heads: tuple[HeadFacts, ...] = ()
    broken: tuple[tuple[str, str, int], ...] = ()
    biased: tuple[tuple[str, float], ...] = ()
    from_zero: frozenset[str] = frozenset()
    frozen: str | None = None
    half: bool = False
    trained: bool = False
    updates: bool = False
    at_start: frozenset[str] | None = None
    losses: tuple[float, ...] = ()
    steps: int | None = None

    @property
    def learned(self) -> bool:
        """Whether the loss has fallen to half of what it was at first."""
        return len(self.losses) > 1 and self.losses[-1] < 0.5 * self.losses[0]

    def broke(self, code: str) -> bool:
        """Whether training caused a fault: it was not there at the first step."""
        return self.at_start is not None and code not in self.at_start

    def layer(self, key: str) -> LayerFacts | None:
        """Return the facts of the layer with this key, as in `LayerStats.layer`."""
        return self.layers.get(key.split("#")[0])

    @property
    def hidden(self) -> tuple[LayerStats, ...]:
        """The stats of the layers before the model's last kernels.

        If layers are not known, these are all before the last one with a weight.
        """
        if self.layers:
            layers = ((stats, self.layer(stats.layer)) for stats in self.stats)
            return tuple(s for s, layer in layers if layer is None or not layer.ends)
        last = max(
            (i for i, stats in enumerate(self.stats) if stats.weight is not None),
            default=len(self.stats),
        )
        return self.stats[:last]
