"""diagnose and inspect: what is wrong with a model, and everything known about it."""

from __future__ import annotations

import datetime
import math
import platform
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from keras_initlab import diagnosis
from keras_initlab._version import __version__
from keras_initlab.anatomy import (
    Anatomy,
    anatomy_of,
    biased_layers,
    broken_weights,
    frozen_model,
    head_facts,
    input_facts,
    kernel_facts,
    zero_layers,
)
from keras_initlab.diagnosis import (
    Facts,
    Finding,
    InputFacts,
    KernelFacts,
    worst_first,
)
from keras_initlab.diagnosis.checks.inputs import is_constant
from keras_initlab.measurement import measure
from keras_initlab.model.batch import batch_of, check_keys, size_of, values_of
from keras_initlab.model.containers import (
    Part,
    check_has_call,
    is_container,
    parts_of,
)
from keras_initlab.model.keras_internals import optimizer_steps, unbuilt_on_failure
from keras_initlab.report import Findings, InspectedLayer, Inspection, Origin
from keras_initlab.schemes.kernels import fans_of
from keras_initlab.stats import LayerStats

__all__ = ["diagnose", "inspect"]

# How many inputs it takes to call a unit dead: by chance, one of 256 is 0 for eight.
SURE = 8


def diagnose(model_or_stats: Any, x: Any = None, y: Any = None) -> list[Finding]:
    """Say what is wrong with a network, where, what shows it, and what to do.

    Each rule uses the facts that are known, and reports nothing where they are not.
    For a model alone, these are its weights, its initializers and the prediction of
    `propagate` from its current weights. With a batch, the signals are measured by
    `measure` instead of predicted, and the data are checked too. Signals are compared
    along the network, not with fixed sizes: the comparison starts anew after each
    normalisation, and a residual branch is not taken for the stream it is added to. For
    a model without a `call`, trained by its `train_step` (VAEs, GANs), each model that
    it holds is diagnosed separately.

    The codes: `input-scale`, `target-scale` (data); `head-loss-mismatch`,
    `saturated-head` (outputs of a compiled model); `symmetric-units`,
    `constant-kernel`, `shared-draw`, `large-biases` (weights); `initializer-mismatch`,
    `wrong-fans` (initializers); `vanishing-signal`, `exploding-signal`,
    `collapsed-inputs`, `dead-units`, `saturated-units`, `nonfinite` (signals);
    `no-gradient`, `vanishing-gradient`, `exploding-gradient` (gradients);
    `update-too-large`, `update-too-small` (of a monitor's stats).

    What follows from a cause is not listed as a finding of its own, but among the
    `consequences` of the cause.

    Args:
        model_or_stats: a built `keras.Model`, compiled or not, which is left as it is;
            or a list of `LayerStats` in call order, such as `measure` and `propagate`
            return and `VarianceMonitor.stats` holds.
        x: a batch as `model(x)` takes it, of shape (batch, ...); or what `fit` takes,
            of which the first batch is used, with its targets: see `measure`.
        y: the targets of that batch, as `fit` takes them; for a compiled model, they
            are checked against the outputs' activations and losses.

    Returns:
        A list of `Finding`, errors first: `code`, `severity` ("error", "warning" or
        "info"), `layer`, `evidence`, `remedy`, `consequences`. Empty if nothing is
        found.

    Raises:
        TypeError: neither a model nor stats, or `x` or `y` given with stats.
        ValueError: a model that is not built, with no `x` to build it; `x` for a model
            without a call; an `x` without a batch.

    >>> model = keras.Sequential([keras.Input((64,))])
    >>> for _ in range(3):
    ...     model.add(keras.layers.Dense(64, "tanh", kernel_initializer="zeros"))
    >>> model.add(keras.layers.Dense(10, "softmax"))
    >>> [finding.code for finding in diagnose(model) if finding.severity == "error"]
    ['constant-kernel']
    """
    if not isinstance(model_or_stats, keras.Model):
        data = y if x is None else x
        return Findings(diagnosis.findings_of(_facts_of_stats(model_or_stats, data)))
    x, targets = _batch_of(model_or_stats, x)
    y = targets if y is None else batch_of(y)[0]
    findings = [
        _outside(part, finding)
        for part in parts_of(model_or_stats)
        for finding in _findings(part.model, x, y)
    ]
    # Stable: of one severity, in the order of the models.
    return Findings(worst_first(findings))


def _outside(part: Part, finding: Finding) -> Finding:
    """Return a finding with the layers' paths in the container."""
    follows = tuple(_outside(part, follow) for follow in finding.consequences)
    return replace(finding, layer=part.outside(finding.layer), consequences=follows)


def _findings(model: Any, x: Any, y: Any) -> list[Finding]:
    _build(model, x)
    anatomy = _anatomy(model, x)
    if x is None and anatomy.problem is not None:
        warnings.warn(
            f"Of the signal in {model.name!r} nothing is known. {anatomy.problem} Pass "
            "a batch: il.diagnose(model, x).",
            stacklevel=3,
        )
    return diagnosis.findings_of(_facts(anatomy, kernel_facts(anatomy), x, y)[0])


def measured_findings(
    model: Any, x: Any, y: Any
) -> tuple[list[Finding], list[LayerStats]]:
    """Return what `diagnose` finds in a built model, and what it has measured."""
    anatomy = _anatomy(model, x)
    facts, measured = _facts(anatomy, kernel_facts(anatomy), x, y)
    return diagnosis.findings_of(facts), measured


def inspect(model: Any, x: Any = None) -> Inspection:
    """Return everything known about a model, layer by layer, and what is wrong with it.

    Args:
        model: a built `keras.Model`; it is left as it is.
        x: a batch as `model(x)` takes it, or what `fit` takes, of which the first batch
            is used; None leaves out whatever needs data.

    Returns:
        An `Inspection`: `print` it, show it in a notebook, or call its `html()`,
        `markdown()`, `json()` or `plot()`. For each call of a layer: class, kernel
        shape, fans, nonlinearity, initializer, and the signal and gradient at its
        output as predicted from the weights' values (with inputs of mean 0 and variance
        1, or those of `x`) and, with `x`, as measured. See `diagnose` for the findings.

    Raises:
        TypeError: `model` is not a `keras.Model`.
        ValueError: `model` is not built, and there is no `x` to build it; or `x` is
            given and `model` has no `call`.

    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)])
    >>> inspect(model).layers[0].kernel_shape
    (64, 10)
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a keras.Model. Received: {model!r} of type "
            f"{type(model).__name__}. For a list of LayerStats, use il.diagnose(stats)."
        )
    x, y = _batch_of(model, x)
    parts = parts_of(model)
    inspections = [_inspected(part.model, x, y) for part in parts]
    about: dict[str, Any] = {"parameters": _parameters(model), "origin": _origin()}
    if not is_container(model):
        return replace(inspections[0], **about)
    names = ", ".join(part.path for part in parts) or "none"
    notes = [
        f"{model.name} has no call: each model in it is looked at for itself: {names}."
    ]
    for inspection in inspections:
        notes += [note for note in inspection.notes if note not in notes]
    findings = [
        _outside(part, finding)
        for part, inspection in zip(parts, inspections, strict=True)
        for finding in inspection.findings
    ]
    return Inspection(
        model.name,
        tuple(
            _moved(layer, part)
            for part, inspection in zip(parts, inspections, strict=True)
            for layer in inspection.layers
        ),
        tuple(worst_first(findings)),
        notes=tuple(notes),
        **about,
    )


def _parameters(model: Any) -> int:
    return sum(math.prod(weight.shape) for weight in model.weights)


def _origin() -> Origin:
    """Return when and with what an inspection is made: here and now."""
    backend = keras.backend.backend()
    library = sys.modules.get(backend)
    versions = {
        "keras-initlab": __version__,
        "keras": keras.__version__,
        backend: getattr(library, "__version__", ""),
        "python": platform.python_version(),
    }
    now = datetime.datetime.now(datetime.UTC)
    return Origin(
        now.isoformat(timespec="minutes"),
        backend,
        {name: version for name, version in versions.items() if version},
    )


def _moved(layer: InspectedLayer, part: Part) -> InspectedLayer:
    """Return the record of a layer under its path in the container."""
    key, predicted = part.outside(layer.layer), layer.predicted
    if predicted is not None:
        predicted = replace(predicted, layer=key)
    return replace(layer, layer=key, predicted=predicted)


def _inspected(model: Any, x: Any, y: Any) -> Inspection:
    _build(model, x)
    anatomy = _anatomy(model, x)
    kernels = kernel_facts(anatomy)
    facts, measured = _facts(anatomy, kernels, x, y)
    return Inspection(
        model.name,
        tuple(_layers(anatomy, kernels, measured)),
        tuple(diagnosis.findings_of(facts)),
        data=None if x is None else _described(x),
        notes=tuple(_notes(anatomy, facts)),
    )


def _batch_of(model: Any, x: Any) -> tuple[Any, Any]:
    """Return a batch for a model and its targets; None for what is not given."""
    if x is None:
        return None, None
    check_has_call(model, "Pass one of these with its batch, or leave `x` out.")
    inputs, targets = batch_of(x)
    check_keys(model, inputs)
    return inputs, targets


def _build(model: Any, x: Any) -> None:
    if model.built:
        return
    if x is None:
        raise ValueError(
            f"The model {model.name!r} is not built, so it has no weights to look at. "
            "Call it on a batch, give it a keras.Input, or pass a batch: "
            "il.diagnose(model, x)."
        )
    with unbuilt_on_failure(model):
        model(keras.tree.map_structure(keras.ops.convert_to_tensor, x))


def _anatomy(model: Any, x: Any) -> Anatomy:
    if x is None:
        return anatomy_of(model)
    moments = [_moments(leaf) for leaf in _leaves(x)]
    if not all(moments):
        return anatomy_of(model)
    means: Any
    variances: Any
    means, variances = zip(*moments, strict=True)
    if isinstance(x, dict) and len(x) == len(moments):
        # Its arrays come in the order of their names.
        means = dict(zip(sorted(x), means, strict=True))
        variances = dict(zip(sorted(x), variances, strict=True))
    anatomy = anatomy_of(model, mean=means, variance=variances)
    return anatomy_of(model) if anatomy.forward is None else anatomy


def _moments(leaf: Any) -> tuple[float, float] | None:
    """Return mean and variance of finite values; None for tokens, booleans, text."""
    values = values_of(leaf)
    if not np.issubdtype(values.dtype, np.floating):
        return None
    finite = values[np.isfinite(values)].astype("float64")
    return (float(finite.mean()), float(finite.var())) if finite.size else (0.0, 1.0)


def _leaves(x: Any) -> list[Any]:
    leaves: list[Any] = keras.tree.flatten(x)
    return leaves


def _facts(
    anatomy: Anatomy, kernels: tuple[KernelFacts, ...], x: Any, y: Any = None
) -> tuple[Facts, list[LayerStats]]:
    inputs = () if x is None else input_facts(anatomy, x)
    broken = broken_weights(anatomy)
    # What is predicted from NaN is nonsense.
    is_broken = broken or any(kernel.nonfinite for kernel in kernels)
    measured: list[LayerStats] = []
    stats: list[LayerStats] = []
    if x is not None:
        measured = measure(anatomy.model, x)
        stats = _telling(measured, inputs, x)
    elif not is_broken:
        stats = anatomy.predicted
    facts = Facts(
        stats=tuple(stats),
        layers=anatomy.layers,
        kernels=kernels,
        inputs=inputs,
        heads=head_facts(anatomy, y),
        broken=broken,
        biased=biased_layers(anatomy),
        from_zero=zero_layers(anatomy.model),
        frozen=None if y is None else frozen_model(anatomy.model),
        trained=_is_trained(anatomy.model),
    )
    return facts, measured


def _is_trained(model: Any) -> bool:
    optimizer = getattr(model, "optimizer", None)
    return optimizer is not None and optimizer_steps(optimizer) > 0


def _telling(
    measured: list[LayerStats], inputs: Sequence[InputFacts], x: Any
) -> list[LayerStats]:
    """Return the stats that a batch is large enough to tell."""
    if is_constant(inputs):
        # Whatever the model, all inputs look alike, and inputs of 0 give no gradients.
        return [layer for layer in measured if layer.nonfinite]
    if size_of(x) >= SURE:
        return measured
    # A unit that is 0 for half of all inputs is 0 for a single one by chance.
    return [replace(layer, dead_fraction=None) for layer in measured]


def _facts_of_stats(stats: Any, x: Any) -> Facts:
    if isinstance(stats, LayerStats):
        stats = [stats]
    are_stats = isinstance(stats, Sequence) and all(
        isinstance(row, LayerStats) for row in stats
    )
    if not are_stats:
        raise TypeError(
            "Expected a keras.Model or a list of LayerStats, as il.measure and "
            f"il.propagate return and monitor.stats holds. Received: {stats!r} of type "
            f"{type(stats).__name__}."
        )
    if x is not None:
        raise TypeError(
            "`x` goes with a model, not with stats: they are of a batch already. "
            "Call il.diagnose(stats), or il.diagnose(model, x)."
        )
    return Facts(stats=tuple(stats))


def _layers(
    anatomy: Anatomy,
    kernels: tuple[KernelFacts, ...],
    measured: Sequence[LayerStats],
) -> list[InspectedLayer]:
    by_prediction = {stats.layer: stats for stats in anatomy.predicted}
    by_measurement = {stats.layer: stats for stats in measured}
    keys = [*by_measurement] or [*by_prediction] or [*anatomy.layers]
    facts = {(kernel.layer, kernel.weight): kernel for kernel in kernels}
    # A layer's first kernel: the depthwise one of a separable convolution.
    held = {kernel.path: kernel for kernel in anatomy.kernels[::-1]}
    layers = []
    for key in keys:
        path = key.split("#")[0]
        layer, kernel = anatomy.layers.get(path), held.get(path)
        of_kernel: dict[str, Any] = {}
        fans = None if kernel is None else fans_of(kernel)
        if kernel is not None and fans is not None:
            about = facts.get((path, kernel.weight))
            of_kernel = {
                "weight": kernel.weight,
                "kernel_shape": tuple(int(size) for size in kernel.variable.shape),
                "fan_in": fans.fan_in,
                "fan_out": fans.fan_out,
                "nonlinearity": None if about is None else about.nonlinearity,
                "initializer": None if about is None else about.initializer,
            }
        layers.append(
            InspectedLayer(
                key,
                "" if layer is None else layer.kind,
                predicted=by_prediction.get(key),
                measured=by_measurement.get(key),
                **of_kernel,
            )
        )
    return layers


def _described(x: Any) -> str:
    shapes = [str(tuple(getattr(leaf, "shape", ()))) for leaf in _leaves(x)]
    return f"x of shape {', '.join(shapes)}"


def _notes(anatomy: Anatomy, facts: Facts) -> list[str]:
    notes = []
    if anatomy.problem is not None:
        notes.append(f"Nothing is predicted. {anatomy.problem}")
    else:
        notes.append(
            "Predictions follow the moments of the weights' values, taken for "
            "independent; gradients start from 1 at the outputs."
        )
    if anatomy.forward is not None:
        notes.extend(f"{sentence}." for sentence in anatomy.forward.assumptions)
    if not facts.inputs:
        notes.append("No data were given: pass a batch to measure on it.")
    return notes
