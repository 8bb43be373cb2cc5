"""Choose a model's kernel initializers anew, and set them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_initlab import activations, context, fans, nonlinearity
from keras_initlab.initializers import Auto, Scaled
from keras_initlab.initializers.auto import rule_for
from keras_initlab.initializers.base import activation_config
from keras_initlab.kernels import Kernel, kernels_of
from keras_initlab.plan import Plan, PlanRow
from keras_initlab.propagation import graph

SCHEMES = ("activation",)


def rewrite_initializers(
    model: keras.Model,
    scheme: str = "activation",
    seed: int | None = None,
    *,
    skip: str | keras.layers.Layer | Iterable[Any] | None = None,
    only_unbuilt: bool = False,
    dry_run: bool = False,
) -> Plan:
    """Give every kernel of `model` the initializer that fits what its output meets.

    For each kernel the nonlinearity that follows it is looked up: the layer's own,
    else the next in the model's graph through normalisation, dropout, pooling,
    reshaping and adding. The kernel's initializer becomes `initlab>auto` for it, and
    the weights of a built layer are drawn again; other weights, biases among them,
    stay as they are. The choice is in the layers' config: clones and loaded models
    draw by the same rule.

    A subclassed model has no graph to look into: its layers go by their own
    activation, and by that of their neighbours inside a `Sequential`.

    Args:
        model: any Keras model, built unless `only_unbuilt`.
        scheme: "activation", see `initlab>auto` for its rule.
        seed: an int gives every kernel its own repeatable draw; None draws afresh.
        skip: layers to leave alone: a layer, its name or path ("encoder/dense"), or
            several of these. A name stands for every layer inside that one as well.
        only_unbuilt: leave built layers, which may hold loaded weights, alone.
        dry_run: plan only, and change nothing.

    Returns:
        A `Plan` with a row for each kernel; print it. Frozen kernels
        (`trainable=False`, or under LoRA) are left alone, as are quantised ones: see
        the notes. A compiled model's optimizer keeps its state: compile again before
        training anew.

    Raises:
        TypeError: `model` is not a Keras model, or `seed` no int.
        ValueError: an unknown scheme, a name in `skip` that no layer has, a model
            that is not built. The model is then as it was.

    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(64),
    ...     keras.layers.BatchNormalization(), keras.layers.ReLU(),
    ...     keras.layers.Dense(10, activation="softmax")])
    >>> plan = rewrite_initializers(model, seed=0)
    >>> [(row.nonlinearity, row.fan_in, round(row.gain, 3)) for row in plan]
    [('relu', 20.0, 1.414), ('softmax', 64.0, 1.0)]

    Source: He et al. 2015; Glorot & Bengio 2010; see `initlab>auto`.
    """
    _check(model, scheme, only_unbuilt)
    seeds = _Seeds(seed)
    kernels = kernels_of(model)
    skipped = _skipped_layers(model, kernels, skip)
    finder = _Finder()
    choices = [
        _choose(kernel, finder, seeds.at(index), skipped, only_unbuilt)
        for index, kernel in enumerate(kernels)
    ]
    if not dry_run:
        _apply(choices, seeds)
    rows = [choice.row for choice in choices]
    return Plan(rows, model=model.name, applied=not dry_run)


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


class _Seeds:
    """One int seed for each kernel, told apart by its number in the model."""

    def __init__(self, seed: Any) -> None:
        self._seed = Auto(seed=seed).seed  # checks the type

    def at(self, index: int) -> int | None:
        if self._seed is None:
            return None
        entropy = [self._seed % 2**64, index]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])


@dataclass(frozen=True)
class _Choice:
    kernel: Kernel
    row: PlanRow


def _skipped_layers(model: Any, kernels: list[Kernel], skip: Any) -> set[int]:
    """Return the ids of the layers that `skip` names."""
    single = isinstance(skip, str) or not isinstance(skip, Iterable)
    named = [skip] if single and skip is not None else list(skip or ())
    found: set[int] = set()
    for one in named:
        matches = {
            id(layer)
            for kernel in kernels
            for depth, layer in enumerate((*kernel.parents[1:], kernel.layer))
            if layer is one
            or one in (layer.name, "/".join(kernel.path.split("/")[: depth + 1]))
        }
        if not matches:
            known = ", ".join(repr(kernel.path) for kernel in kernels)
            raise ValueError(
                "`skip` must name layers of the model that hold a kernel. "
                f"Received: {one!r}. Layers with a kernel: {known or 'none'}"
            )
        found |= matches
    return found


# Layers of which it is known what their inner kernels meet: nothing that bends.
_KNOWN_INSIDE = (
    keras.Sequential,
    keras.layers.MultiHeadAttention,
    keras.layers.GroupQueryAttention,
)


class _Finder:
    """Finds the nonlinearity that follows a kernel."""

    def __init__(self) -> None:
        self._graphs: dict[int, graph.Graph] = {}

    def following(self, kernel: Kernel) -> graph.Following:
        if kernel.weight == "depthwise_kernel":
            return graph.Following(None, "feeds the pointwise kernel")
        own = nonlinearity.own_nonlinearity(kernel.layer)
        if own is not None:
            return graph.Following(own)
        called, around = kernel.layer, list(kernel.parents)
        while nonlinearity.passes_output_on(around[-1], called):
            called = around.pop()
        for model in around:
            if graph.has_graph(model):
                calls = self._graph(model).calls_of(called)
                if calls:
                    outputs = tuple(one for call in calls for one in call.outputs)
                    return graph.following_nonlinearity(self._graph(model), outputs)
        ahead = context.nonlinearity_ahead(
            context.Construction(kernel.layer, kernel.weight, kernel.parents)
        )
        holder = around[-1]
        if ahead is None and not isinstance(holder, _KNOWN_INSIDE):
            return graph.Following(None, f"what follows inside {holder.name} is unseen")
        return graph.Following(ahead)

    def _graph(self, model: Any) -> graph.Graph:
        if id(model) not in self._graphs:
            self._graphs[id(model)] = graph.graph_of(model)
        return self._graphs[id(model)]


def _left_alone(kernel: Kernel, skipped: set[int], only_unbuilt: bool) -> str | None:
    """Return why a kernel is not to be touched, None if it is."""
    chain = (*kernel.parents[1:], kernel.layer)
    if any(id(layer) in skipped for layer in chain):
        return "named in skip"
    if only_unbuilt and kernel.layer.built:
        return "built already"
    if getattr(kernel.layer, "lora_enabled", False):
        return "frozen (LoRA)"
    if not kernel.layer.trainable or not getattr(kernel.variable, "trainable", True):
        return "frozen"
    if kernel.attribute is None:
        return "its layer has no kernel_initializer"
    if kernel.is_missing:
        return f"no weight called {kernel.weight!r}"
    if kernel.variable is not None and not keras.backend.is_float_dtype(
        kernel.variable.dtype
    ):
        return f"quantised ({kernel.variable.dtype})"
    return None


def _choose(
    kernel: Kernel,
    finder: _Finder,
    seed: int | None,
    skipped: set[int],
    only_unbuilt: bool,
) -> _Choice:
    following = finder.following(kernel)
    notes = [following.note]
    try:
        resolved = activations.resolve(following.nonlinearity)
        rule = rule_for(resolved)
    except (TypeError, ValueError):
        name = graph.readable(following.nonlinearity)
        notes.append(f"{name} has no known gain: taken for linear")
        resolved = activations.resolve(None)
        rule = rule_for(resolved)
    fan = None
    if kernel.variable is not None:
        shape = tuple(kernel.variable.shape)
        fan = fans.kernel_fans(shape, kernel.layer, kernel.weight)
    alone = _left_alone(kernel, skipped, only_unbuilt)
    after = kernel.initializer
    if alone is None:
        after = _initializer(
            "linear" if resolved.family == "linear" else following.nonlinearity,
            resolved,
            seed,
        )
        if not kernel.layer.built:
            notes.append("drawn when the layer is built")
    else:
        notes.insert(0, alone)
    row = PlanRow(
        layer=kernel.path,
        weight=kernel.weight,
        nonlinearity=resolved.name,
        fan_in=None if fan is None else fan.fan_in,
        fan_out=None if fan is None else fan.fan_out,
        gain=rule.gain if alone is None else None,
        std=(
            rule.gain / math.sqrt(fan.over(rule.mode))
            if alone is None and fan is not None
            else None
        ),
        before=kernel.initializer,
        after=after,
        note="; ".join(note for note in notes if note),
    )
    return _Choice(kernel, row)


def _initializer(identifier: Any, resolved: Any, seed: int | None) -> Any:
    """Return the initializer for a nonlinearity, in a form that can be saved."""
    try:
        return Auto(activation=activation_config(identifier), seed=seed)
    except (TypeError, ValueError):
        # A function that Keras cannot name in a file: its gain can be.
        rule = rule_for(resolved)
    return Scaled(gain=rule.gain, mode=rule.mode, seed=seed)


def _apply(choices: list[_Choice], seeds: _Seeds) -> None:
    changed = [choice for choice in choices if choice.row.changed]
    for index, choice in enumerate(changed):
        kernel, after = choice.kernel, choice.row.after
        if kernel.variable is not None:
            construction = context.Construction(
                kernel.layer, kernel.weight, kernel.parents, (index,)
            )
            with context.constructing(construction):
                value = after(kernel.variable.shape, kernel.variable.dtype)
            kernel.variable.assign(value)
        if kernel.attribute is not None:  # always so where a row has changed
            setattr(kernel.layer, kernel.attribute, after)
    _pass_on(choices, seeds)


def _pass_on(choices: list[_Choice], seeds: _Seeds) -> None:
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
        for attribute in ("kernel_initializer", "_kernel_initializer"):
            if attribute in vars(parent) and all(inside):
                seed = seeds.at(len(choices) + number)
                setattr(parent, attribute, Auto(seed=seed))
