"""Choose a model's kernel initializers anew, and set them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_initlab.initializers import Auto
from keras_initlab.model.construction import Construction, constructing
from keras_initlab.model.keras_internals import PASSED_ON_INITIALIZER
from keras_initlab.model.kernels import kernels_of
from keras_initlab.plan import Plan
from keras_initlab.schemes import activation, isometric
from keras_initlab.schemes import variance as variance_scheme
from keras_initlab.schemes.choice import Choice, Finder, Seeds, skipped_layers
from keras_initlab.schemes.predicted import CRITERIA, RESIDUALS, Options

SCHEMES = ("activation", "variance", "isometric")


def rewrite_initializers(
    model: keras.Model,
    scheme: str = "activation",
    seed: int | None = None,
    *,
    skip: str | keras.layers.Layer | Iterable[Any] | None = None,
    only_unbuilt: bool = False,
    dry_run: bool = False,
    target: float = 1.0,
    residual: str = "scaled",
    criterion: str = "forward",
    mean: Any = None,
    variance: Any = None,
    q: float | None = None,
) -> Plan:
    """Give every kernel of `model` an initializer that fits its place in the network.

    With `scheme="activation"` the nonlinearity that follows each kernel is looked up:
    the layer's own, else the next in the model's graph through normalisation,
    dropout, pooling, reshaping and adding. The kernel's initializer becomes
    `initlab>auto` for it. A subclassed model has no graph to look into: its layers go
    by their own activation, and by that of their neighbours inside a `Sequential`.

    With `scheme="variance"` the signal is followed through the whole graph (see
    `propagate`), and each kernel is scaled so that its output, before the layer's own
    activation, has the second moment `target`, given what reaches it: `initlab>scaled`
    with that gain. Kernels that end a residual branch get a smaller one, so that
    depth does not add variance; heads one that keeps a softmax's first loss near
    log(classes). Subclassed models are opened, see `propagate`.

    With `scheme="isometric"` units come in pairs that mirror each other wherever the
    graph lets a kernel read them as pairs: `initlab>mirrored`. At first the network
    then computes with the odd part of its activations, which is linear for ReLU, GELU,
    SiLU and softplus and nearly so for others at a small second moment `q` of
    pre-activations: signals and gradients keep their lengths and angles at any depth.
    For plain networks, without normalisation or skips. Kernels that cannot come in
    pairs (odd widths, shared layers, recurrent, depthwise and attention kernels) are
    orthogonal and scaled as by "variance"; the plan says which, and why.

    The weights of built layers are drawn again; other weights, biases among them, stay
    as they are. The choice is in the layers' config: clones and loaded models draw by
    the same rule.

    Args:
        model: any Keras model, built unless `only_unbuilt`.
        scheme: "activation", "variance" or "isometric".
        seed: an int gives every kernel its own repeatable draw; None draws afresh.
        skip: layers to leave alone: a layer, its name or path ("encoder/dense"), or
            several of these. A name stands for every layer inside that one as well.
        only_unbuilt: leave built layers, which may hold loaded weights, alone; for
            the scheme "activation".
        dry_run: plan only, and change nothing.
        target: for "variance": the second moment of kernels' outputs.
        residual: for "variance" and "isometric": "scaled" gives the last kernel of each
            of the n residual branches on a stream the target `target / n`, "zero" makes
            it 0, "keep" treats it as any kernel.
        criterion: for "variance": "forward", or "balanced" for the harmonic mean with
            the variance that would keep the gradient's second moment, as Glorot did.
        mean, variance: for "variance" and "isometric": of the inputs, as in
            `propagate`. Left out, inputs (what is behind Normalization and Rescaling,
            if these come first) have mean 0 and variance 1.
        q: for "isometric": the second moment of pre-activations. Left out, 0.05 for
            ReLU, GELU, SiLU and softplus, 0.2 for the sigmoid, 0.0125 for tanh, and
            less for very deep networks of those that bend: see
            `schemes.isometric.default_q`.

    Returns:
        A `Plan` with a row for each kernel; print it. Frozen kernels
        (`trainable=False`, or under LoRA) are left alone, as are quantised ones: see
        the notes. A compiled model's optimizer keeps its state: compile again before
        training anew.

    Raises:
        TypeError: `model` is not a Keras model, or `seed` no int.
        ValueError: an unknown scheme or option, a name in `skip` that no layer has, a
            model that is not built, a layer whose signal cannot be predicted. The
            model is then as it was.

    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(64),
    ...     keras.layers.BatchNormalization(), keras.layers.ReLU(),
    ...     keras.layers.Dense(10, activation="softmax")])
    >>> plan = rewrite_initializers(model, seed=0)
    >>> [(row.nonlinearity, row.fan_in, round(row.gain, 3)) for row in plan]
    [('relu', 20.0, 1.414), ('softmax', 64.0, 1.0)]
    >>> plan = rewrite_initializers(model, scheme="variance", seed=0)
    >>> [round(row.gain, 3) for row in plan]
    [1.0, 0.447]

    Source: He et al. 2015; Glorot & Bengio 2010; Bingham & Miikkulainen 2023 for
    following a graph; Zhang et al. 2019 for residual branches; Balduzzi et al. 2017 for
    mirrored units; see `initlab>auto` and `initlab>mirrored`.
    """
    _check(model, scheme, only_unbuilt)
    given = {
        "target": target,
        "residual": residual,
        "criterion": criterion,
        "mean": mean,
        "variance": variance,
        "q": q,
    }
    options = _options(scheme, only_unbuilt, given)
    seeds = Seeds(seed)
    kernels = kernels_of(model)
    skipped = skipped_layers(model, kernels, skip)
    finder = Finder()
    assumptions: tuple[str, ...] = ()
    if scheme in _PREDICTING:
        choose = _PREDICTING[scheme]
        chosen = choose(model, seeds, skipped, finder, options)
        choices, assumptions = chosen.choices, chosen.assumptions
    else:
        choices = [
            activation.choose(kernel, finder, seeds.at(index), skipped, only_unbuilt)
            for index, kernel in enumerate(kernels)
        ]
    if not dry_run:
        _apply(choices, seeds)
    rows = [choice.row for choice in choices]
    return Plan(rows, model=model.name, applied=not dry_run, assumptions=assumptions)


_PREDICTING = {"variance": variance_scheme.choose, "isometric": isometric.choose}
# Which options belong to which schemes, and what they are if left out.
_OPTIONS: dict[str, tuple[tuple[str, ...], Any]] = {
    "target": (("variance",), 1.0),
    "residual": (("variance", "isometric"), "scaled"),
    "criterion": (("variance",), "forward"),
    "mean": (("variance", "isometric"), None),
    "variance": (("variance", "isometric"), None),
    "q": (("isometric",), None),
}


def _options(scheme: str, only_unbuilt: bool, given: dict[str, Any]) -> Options:
    """Return the checked options of a scheme that predicts."""
    for name, (schemes, default) in _OPTIONS.items():
        if scheme not in schemes and given[name] != default:
            wanted = " or ".join(f"scheme={one!r}" for one in schemes)
            raise ValueError(
                f"`{name}` belongs to {wanted}. Received: {name}={given[name]!r} with "
                f"scheme={scheme!r}. Leave it out, or pass {wanted}."
            )
    if scheme not in _PREDICTING:
        return Options()
    if only_unbuilt:
        raise ValueError(
            "`only_unbuilt` belongs to scheme='activation': a signal can be followed "
            f"through built layers alone. Received: scheme={scheme!r}. Build the "
            "model, and name the layers to leave alone in `skip`."
        )
    for name, meaning in (
        ("target", "of kernels' outputs"),
        ("q", "of pre-activations"),
    ):
        _check_second_moment(name, given[name], meaning)
    residual, criterion = given["residual"], given["criterion"]
    for name, value, known in (
        ("residual", residual, RESIDUALS),
        ("criterion", criterion, CRITERIA),
    ):
        if value not in known:
            raise ValueError(
                f"`{name}` must be {' or '.join(map(repr, known))}. "
                f"Received: {name}={value!r}. Leave it out for {known[0]!r}."
            )
    return Options(**{**given, "target": float(given["target"])})


def _check_second_moment(name: str, value: Any, meaning: str) -> None:
    default = _OPTIONS[name][1]
    if value is default:
        return
    number = isinstance(value, int | float | np.number)
    if not number or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(
            f"`{name}` must be a finite number above 0, the second moment {meaning}. "
            f"Received: {name}={value!r}. Leave it out for the default."
        )


def _check(model: Any, scheme: Any, only_unbuilt: bool) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`model` must be a Keras model (Sequential, functional or subclassed). "
            f"Received: {model!r} of type {type(model).__name__}. "
            "Wrap a layer as keras.Sequential([keras.Input(shape), layer])."
        )
    if scheme not in SCHEMES:
        raise ValueError(
            f"`scheme` must be {' or '.join(map(repr, SCHEMES))}. "
            f"Received: scheme={scheme!r}. Leave it out for the default."
        )
    if only_unbuilt:
        return
    # Keras marks a subclassed model as built by `build` without making a weight.
    hollow = not model.weights and any(not k.layer.built for k in kernels_of(model))
    if not model.built or hollow:
        how = (
            "Call model.build(input_shape) or the model on a batch"
            if isinstance(model, keras.Sequential)
            else "Call the model on a batch"
        )
        raise ValueError(
            "`model` must be built, so that its kernels have shapes. Received: "
            f"{type(model).__name__} {model.name!r}, not built. {how} first, or pass "
            "only_unbuilt=True to set initializers that draw when it is built."
        )


def _apply(choices: list[Choice], seeds: Seeds) -> None:
    changed = [choice for choice in choices if choice.row.changed]
    for index, choice in enumerate(changed):
        kernel, after = choice.kernel, choice.row.after
        if kernel.variable is not None:
            construction = Construction(
                kernel.layer, kernel.weight, kernel.parents, (index,)
            )
            with constructing(construction):
                value = after(kernel.variable.shape, kernel.variable.dtype)
            kernel.variable.assign(value)
        if kernel.attribute is not None:  # always so where a row has changed
            setattr(kernel.layer, kernel.attribute, after)
    _pass_on(choices, seeds)


def _pass_on(choices: list[Choice], seeds: Seeds) -> None:
    """Set the initializer of layers that hand theirs to the layers inside them.

    An attention layer's config holds one initializer, from which a clone makes its
    inner layers. Where all of these were rewritten it becomes an `Auto` that looks
    at each of them: the same rule.
    """
    parents = {id(p): p for choice in choices for p in choice.kernel.parents[1:]}
    for number, parent in enumerate(parents.values()):
        inside = [
            choice.row.changed
            for choice in choices
            if any(parent is one for one in choice.kernel.parents)
        ]
        for attribute in ("kernel_initializer", PASSED_ON_INITIALIZER):
            if attribute in vars(parent) and all(inside):
                seed = seeds.at(len(choices) + number)
                setattr(parent, attribute, Auto(seed=seed))
