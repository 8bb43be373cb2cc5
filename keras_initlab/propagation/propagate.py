"""propagate: every layer's moments, forward and backward, without data."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_initlab.model import graph
from keras_initlab.model.containers import check_is_model, is_container, parts_of
from keras_initlab.model.keras_internals import own_variables
from keras_initlab.model.kernels import quantised_layers
from keras_initlab.model.layers import is_closed
from keras_initlab.model.own_weights import held_weights
from keras_initlab.model.preprocessing import Output, masks_of, standardised
from keras_initlab.propagation.algebra.gradients import gradients
from keras_initlab.propagation.given import Given, Stand
from keras_initlab.propagation.index import Key, ModelIndex, index_of
from keras_initlab.propagation.record import Record, stats_keys
from keras_initlab.propagation.signal import Gradient, Signal
from keras_initlab.propagation.walk import Propagation
from keras_initlab.propagation.weights.book import Designer
from keras_initlab.stats import LayerStats, Stats, possible

Moment = float | Mapping[str, float] | Sequence[float]


def propagate(
    model: keras.Model,
    mean: Moment | None = None,
    variance: Moment | None = None,
    training: bool = True,
    *,
    from_weights: bool = False,
) -> list[LayerStats]:
    """Predict the signal at every layer, and the gradient there, without data.

    The moments of the inputs are followed through the model's graph: nested models,
    shared layers, bare `keras.ops`, several inputs and outputs. Weights count as drawn
    by their layers' initializers, on average over draws; layers are assumed not to be
    narrow. Going backward, each output starts with a gradient of second moment 1 for
    each input; gradients of several paths are assumed to be independent.

    Without `mean` and `variance`, the signal is assumed to be standardised where the
    first layers with weights read it: whatever comes before them (Rescaling, `x / 255`,
    augmentation) is there to standardise inputs of any scale. With `mean` or
    `variance`, these preprocessing layers are followed like any others. All elements of
    an input are assumed to be independent, neighbouring ones too. Inputs of an
    `Embedding` are tokens, all equally likely; masks (inputs of dtype bool, and those
    of whole numbers that are named so) leave nothing out. A subclassed model or layer
    that holds other layers is traced by running its `call` on symbolic tensors; if that
    needs numbers for unknown sizes, 64 is used. A layer without a rule is run on a
    Gaussian sample with the predicted moments; only its figures have
    `source="measured"`. In a model without a `call`, trained by its `train_step` (VAEs,
    GANs), each model that it holds is followed separately.

    Args:
        model: a built model.
        mean, variance: of the inputs: a number for all, a sequence, or a dict by the
            inputs' names; 0 and 1 if only the other is given.
        training: whether dropout is active and batch normalisation uses the statistics
            of the batch.
        from_weights: use the moments of the weights' current values instead.

    Returns:
        A `LayerStats` for each call of a layer, in the order of the calls: shape,
        mean, variance, second_moment, batch_variance, input_cosine,
        gradient_second_moment at the output, weight and weight_gradient_second_moment
        (of the layer's kernel, for one input; for a shared kernel, the sum over all
        calls, which are assumed to be independent). What no rule predicts is None.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: a model that is not built or whose input shapes are unknown,
            moments that are not finite, a negative variance, a rule that fails (the
            message names the layer). The model is never changed.

    >>> model = keras.Sequential([keras.Input((100,)),
    ...     keras.layers.Dense(100, "relu", kernel_initializer="he_normal"),
    ...     keras.layers.Dense(100, "relu", kernel_initializer="he_normal")])
    >>> [round(stats.second_moment, 6) for stats in propagate(model)]
    [1.0, 1.0]

    Source: Poole et al. 2016; Schoenholz et al. 2017; Bingham & Miikkulainen 2023
    for the idea of following an arbitrary graph.
    """
    if is_container(model) and not all(
        moment is None or isinstance(moment, int | float) for moment in (mean, variance)
    ):
        raise ValueError(
            "`mean` and `variance` must be numbers for a model without a call: each "
            f"model in it is followed for itself. Received: mean={mean!r}, "
            f"variance={variance!r} with {model.name!r}. Predict a single one of them."
        )
    return Stats(
        replace(stats, layer=part.outside(stats.layer))
        for part in parts_of(model)
        for stats in run_forward(
            part.model, mean, variance, training, from_weights=from_weights
        ).stats
    )


class Forward:
    """A finished prediction: its records, its stats, its assumptions."""

    def __init__(
        self, propagation: Propagation, outputs: list[Signal], masks: Sequence[str] = ()
    ) -> None:
        """Hold what a walk has found; `masks` are the inputs taken for masks."""
        self.propagation = propagation
        self.outputs = outputs
        self._masks = masks

    @property
    def measured(self) -> list[LayerStats]:
        """The layers that were measured on a sample, because they have no rule."""
        return [stat for stat in self.stats if stat.source == "measured"]

    @property
    def assumptions(self) -> list[str]:
        """What was assumed about composite layers, or why they were not opened."""
        sentences = [
            f"{path} is measured as a whole: {reason}"
            for path, reason in self.propagation.refusals.items()
        ]
        if self._masks:
            sentences.append(f"nothing is masked: {', '.join(self._masks)}")
        assumed = self.propagation.assumed
        for size in dict.fromkeys(assumed.values()):
            sized = [path for path in assumed if assumed[path] == size]
            more = f" and {len(sized) - 3} more" if len(sized) > 3 else ""
            sentences.append(
                f"sizes that the model leaves open are taken for {size}, as the calls "
                f"of these layers need them: {', '.join(sized[:3])}{more}"
            )
        return sentences

    @property
    def stats(self) -> list[LayerStats]:
        """A `LayerStats` for each layer call, with the gradients."""
        at_signals = gradients(self.outputs, Gradient(1.0))
        records = self.propagation.records
        weights = [_weight_of(record, at_signals) for record in records]
        totals = _totals(weights)
        return [
            possible(_stats(record, key, at_signals, weight, totals))
            for record, key, weight in zip(
                records, stats_keys(records), weights, strict=True
            )
        ]


def run_forward(
    model: Any,
    mean: Moment | None = None,
    variance: Moment | None = None,
    training: bool = True,
    *,
    from_weights: bool = False,
    redrawn: Collection[Key] = (),
    designer: Designer | None = None,
    input_scale: float = 1.0,
    index: ModelIndex | None = None,
    given: Given | None = None,
) -> Forward:
    """Check the arguments and run the prediction; see `propagate`.

    With `from_weights` those in `redrawn` count as their initializers draw them.
    `input_scale` multiplies the inputs' second moments; `index` is what an earlier
    prediction of the model has read of it; `given` is what a batch says of the inputs.
    """
    shapes = input_shapes(model)
    standardise = mean is None and variance is None
    if from_weights:
        _check_not_quantised(model)
    by_input = any(isinstance(x, Sequence | Mapping) for x in (mean, variance))
    masks = {} if by_input or given is not None else masks_of(model)
    inputs = _independent_inputs(shapes, mean, variance, input_scale, masks)
    if given is not None:
        inputs = given.signals([shape for _, shape in shapes], input_scale)
    index = index or index_of(model)

    def standard(signal: Signal) -> Signal:
        return Signal.independent(signal.shape, 0.0, input_scale)

    def forward(designer: Designer | None, standing: Mapping[Output, Stand]) -> Forward:
        propagation = Propagation(
            model,
            bool(training),
            from_values=from_weights,
            redrawn=redrawn,
            designer=designer,
            standing=standing,
            index=index,
        )
        with np.errstate(all="ignore"):
            return Forward(propagation, propagation.run(inputs), list(masks.values()))

    if given is not None:
        return forward(designer, given.stands(input_scale))
    if not standardise:
        return forward(designer, {})
    if index.standard is None:
        # Composite layers have to be opened to see where weights come first.
        plain = forward(None, {})
        index.standard = standardised(plain.propagation.flat_graph, masks)
        if designer is None and not index.standard:
            return plain
    return forward(designer, dict.fromkeys(index.standard, standard))


def _check_not_quantised(model: Any) -> None:
    quantised = quantised_layers(model)
    if quantised:
        raise ValueError(
            "`from_weights` needs weights that are floating-point numbers. Received: "
            f"{model.name!r}, with quantised weights in {quantised[0]!r}. Measure it "
            "on a batch, or predict before `quantize`."
        )


def _independent_inputs(
    shapes: list[tuple[str, Any]],
    mean: Moment | None,
    variance: Moment | None,
    scale: float,
    masks: Collection[int],
) -> list[Signal]:
    """Return inputs of these moments, `scale` times as large in the square.

    Those at the places of `masks` are 1 throughout: they leave nothing out.
    """
    mean = 0.0 if mean is None else mean
    variance = 1.0 if variance is None else variance
    means = _per_input("mean", mean, shapes, minimum=-math.inf)
    variances = _per_input("variance", variance, shapes, minimum=0.0)
    return [
        Signal.independent(shape, 1.0, 0.0)
        if place in masks
        else Signal.independent(shape, math.sqrt(scale) * m, scale * v)
        for place, ((_, shape), m, v) in enumerate(
            zip(shapes, means, variances, strict=True)
        )
    ]


def input_shapes(model: Any) -> list[tuple[str, tuple[int | None, ...]]]:
    """Return the name and shape of each of the model's inputs."""
    check_is_model(model)
    if not model.built:
        raise ValueError(
            "`model` must be built, so that its layers have shapes. Received: "
            f"{type(model).__name__} {model.name!r}, not built. Call it on a batch, or "
            "model.build(input_shape), first."
        )
    if graph.has_graph(model):
        return [(symbol.name, tuple(symbol.shape)) for symbol in model.inputs]
    shapes = graph.built_shapes(model)
    if not shapes:
        raise ValueError(
            "The shapes of the model's inputs must be known. Received: "
            f"{type(model).__name__} {model.name!r}, which was built without any. Call "
            "model.build(input_shape) with the shape of a batch."
        )
    return shapes


def _per_input(
    name: str, value: Any, shapes: list[tuple[str, Any]], minimum: float
) -> list[float]:
    """Return a checked number for each input."""
    names = [number for number, _ in shapes]
    if isinstance(value, Mapping):
        unknown = sorted(set(value) - set(names))
        if unknown or set(names) - set(value):
            raise ValueError(
                f"`{name}` as a dict must have a number for each of the model's "
                f"inputs, {', '.join(map(repr, names))}. Received: {dict(value)!r}."
            )
        values = [value[number] for number in names]
    elif isinstance(value, Sequence) and not isinstance(value, str):
        values = list(value)
        if len(values) != len(names):
            raise ValueError(
                f"`{name}` as a sequence must have one number for each of the model's "
                f"{len(names)} inputs. Received: {value!r}."
            )
    else:
        values = [value] * len(names)
    for number in values:
        if isinstance(number, bool) or not isinstance(number, int | float | np.number):
            raise TypeError(
                f"`{name}` must be a number, or one for each input. Received: "
                f"{number!r} of type {type(number).__name__}."
            )
        if not math.isfinite(number) or number < minimum:
            expected = "finite" if minimum else "finite and not negative"
            raise ValueError(
                f"`{name}` must be {expected}. Received: {name}={number}. Give the "
                "moments of the data as the model's input gets it."
            )
    return [float(number) for number in values]


class _Weight(NamedTuple):
    """A layer's kernel, and what one call adds to its gradient.

    Attributes:
        name: of the kernel within its layer.
        variable: the kernel.
        call: the serial of the signal that the call makes; None where no rule tells.
        gradient: second moment of the call's share, None where none comes back.
    """

    name: str
    variable: Any
    call: int | None = None
    gradient: float | None = None


def _stats(
    record: Record,
    key: str,
    at_signals: dict[int, Gradient],
    weight: _Weight | None,
    totals: dict[int, float | None],
) -> LayerStats:
    signal = record.signal
    assert signal is not None
    gradient = at_signals.get(signal.serial)
    return LayerStats(
        key,
        weight=None if weight is None else weight.name,
        shape=signal.shape,
        mean=signal.mean,
        variance=signal.variance,
        second_moment=signal.second,
        batch_variance=signal.batch_variance,
        input_cosine=signal.cosine,
        gradient_second_moment=None if gradient is None else gradient.second,
        weight_gradient_second_moment=(
            None if weight is None else totals[id(weight.variable)]
        ),
        source="measured" if record.measured else "predicted",
    )


def _totals(weights: Sequence[_Weight | None]) -> dict[int, float | None]:
    """Return the second moment of each kernel's gradient, by the kernel's id.

    It is the sum over all calls, whose gradients are assumed to be independent; None if
    no rule predicts one of them, or no gradient reaches any.
    """
    shares: dict[int, dict[int | None, float | None]] = {}
    for weight in weights:
        if weight is not None:
            # A layer, and the one around it, may both be known by one kernel.
            calls = shares.setdefault(id(weight.variable), {})
            calls[weight.call] = weight.gradient
    totals: dict[int, float | None] = {}
    for variable, calls in shares.items():
        present = [share for share in calls.values() if share is not None]
        totals[variable] = sum(present) if present and None not in calls else None
    return totals


_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel", "embeddings")


def _weight_of(record: Record, at_signals: dict[int, Gradient]) -> _Weight | None:
    """Return the layer's kernel, and the gradient that this call adds to it."""
    closed = is_closed(record.layer)
    held = record.layer.weights if closed else own_variables(record.layer)
    held = [variable for variable in held if variable.trainable]
    if not held:
        return None
    main = next((v for name in _KERNELS for v in held if v.name == name), held[0])
    names = {id(v): name for name, v in held_weights(record.layer).items()}
    name = names.get(id(main), main.name)
    pending, seen = [record.signal], set()
    while pending:
        signal = pending.pop()
        if signal is None or signal.serial in seen:
            continue
        seen.add(signal.serial)
        for layer, weight, rule in signal.edges.weights:
            if held_weights(layer).get(weight) is main:
                gradient = at_signals.get(signal.serial)
                share = None if gradient is None else rule(gradient)
                return _Weight(name, main, signal.serial, share)
        if len(seen) < 12 and (closed or not signal.edges.weights):
            pending.extend(parent for parent, _ in signal.edges.parents)
    return _Weight(name, main)
