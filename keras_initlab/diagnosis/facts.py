"""Facts: all that a diagnosis may go by. What is not known is None or left out."""

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
        rescaled: whether all that reads its output normalises it first: how large it
            is then makes no difference, and its gradient is inversely as large.
        ends: whether it is the last layer with a kernel on the way to an output of
            the model, or after that.
        starts: whether no kernel comes before it.
        bypassed: whether what it makes is added to, or multiplies, what a path without
            kernels carries around it: a residual branch, a gate.
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
        nonlinearity: what its output meets, by name.
        units: how many outputs it tells apart.
        constant: the value of all its entries, if they have one.
        nonfinite: how many entries are NaN or infinite.
        twins: units that read just what another unit reads, biases included.
        read_alike: of these, those that all following kernels read as they read the
            other: they have the same gradient, and stay twins.
        digest: the same for kernels of the same values, of those that were drawn.
        scale: E[w²] by its initializer over what fits its nonlinearity: 1 within the
            range of the usual rules, or that times as large or small.
        by_wrong_fans: E[w²] by its initializer's fans over that by the layer's fans.
        normalised: whether a normalisation follows before the next kernel.
        branch_end: whether what it makes is added to a residual stream.
        bypassed: whether a path without kernels leads around it, joined to it later.
        spared: whether the network can do without what it makes as long as it is 0.
        guarded: whether its scale matters less for another reason, such as attention
            or gates.
        head: whether it makes an output of the model.
        isometric: whether it was drawn so that all of the signal is carried on.
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
    """What is known of the values of one input.

    Attributes:
        name: of the input.
        mean, deviation: over all finite values.
        spread: the largest deviation of a feature over the median of those that are
            not constant.
        largest: the feature with that deviation.
        nonfinite: how many values are NaN or infinite.
        missing: how many features are so for every input.
        scaled: whether the model scales it itself, before the first kernel.
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
    """What is known of the targets of one output.

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
    """What is known of one output of a model.

    Attributes:
        layer: the last one on the way to the output.
        units: size of the output's last axis.
        activation: the last one, by name.
        before: the one before it with no kernel between, by name.
        loss: of this output, by Keras's name; None of one's own, or not compiled.
        from_logits: whether the loss applies an activation of its own.
        targets: if they are known.
        weighted: whether the losses of several outputs were given weights.
        crossed: whether the loss, one's own, holds each target against the predictions
            for all inputs: targets of (batch,) and outputs of (batch, 1) broadcast.
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
    """All that is known of a model.

    Attributes:
        stats: of the layers' signals, in call order.
        earlier: the same of earlier windows of the training, the first one first.
        first: the same of the training's very first step.
        layers: what layers are, by their paths.
        kernels: in the order of the layers.
        inputs: those that were measured.
        heads: the outputs, their losses and targets.
        broken: layers and other weights of theirs that hold NaN or infinity, and how
            many entries.
        biased: hidden layers whose biases are far from 0, and the root mean square
            of these.
        from_zero: layers whose main weight was all zeros, or next to that, when
            training began.
        frozen: a model that is trained and has no weight that training may change, by
            name.
        half: whether weights are float16 numbers.
        trained: whether the model has made steps already.
        updates: whether `stats` would hold update ratios if weights had moved.
        at_start: of a training, the codes that were found at its first step; None
            where there is no training, or its first step is not known.
        losses: of the windows so far, the present one last.
        steps: how many there were so far.
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
        """Whether a fault was not there at the first step: training brought it."""
        return self.at_start is not None and code not in self.at_start

    def layer(self, key: str) -> LayerFacts | None:
        """Return what the layer of a `LayerStats.layer` is."""
        return self.layers.get(key.split("#")[0])

    @property
    def hidden(self) -> tuple[LayerStats, ...]:
        """The stats of what comes before the model's last kernels.

        Where layers are not known, all up to the last one with a weight.
        """
        if self.layers:
            known = ((one, self.layer(one.layer)) for one in self.stats)
            return tuple(one for one, what in known if what is None or not what.ends)
        last = max(
            (i for i, one in enumerate(self.stats) if one.weight is not None),
            default=len(self.stats),
        )
        return self.stats[:last]
