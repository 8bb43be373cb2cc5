"""What schemes need to know about a kernel: its nonlinearity, its fans, its seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_initlab import activations
from keras_initlab.initializers import Auto, Scaled
from keras_initlab.initializers.auto import Rule, rule_for
from keras_initlab.initializers.base import activation_config
from keras_initlab.model import fans, graph, nonlinearity
from keras_initlab.model.construction import Construction, nonlinearity_ahead
from keras_initlab.model.following import Following, following_nonlinearity, readable
from keras_initlab.model.kernels import Kernel
from keras_initlab.model.layers import is_closed
from keras_initlab.model.own_kernels import graph_inside, uses_of
from keras_initlab.propagation.weights import current_moments


class Seeds:
    """One int seed for each kernel, from its number in the model."""

    def __init__(self, seed: Any, first: int = 0) -> None:
        self._seed = Auto(seed=seed).seed  # checks the type
        self._first = first

    def after(self, count: int) -> Seeds:
        """Return the seeds of the kernels behind the first `count`."""
        return Seeds(self._seed, self._first + count)

    def at(self, index: int) -> int | None:
        """Return the seed of the kernel with this number."""
        if self._seed is None:
            return None
        entropy = [self._seed % 2**64, self._first + index]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def skipped_layers(model: Any, kernels: list[Kernel], skip: Any) -> set[int]:
    """Return the ids of the layers that `skip` names."""
    single = isinstance(skip, str) or not isinstance(skip, Iterable)
    layers = [skip] if single and skip is not None else list(skip or ())
    skipped: set[int] = set()
    for entry in layers:
        matches = {
            id(layer)
            for kernel in kernels
            for depth, layer in enumerate(kernel.owners)
            if layer is entry
            or entry in (layer.name, "/".join(kernel.path.split("/")[: depth + 1]))
        }
        if not matches:
            paths = ", ".join(repr(kernel.path) for kernel in kernels)
            raise ValueError(
                "`skip` must name layers of the model that hold a kernel. "
                f"Received: {entry!r}. Layers with a kernel: {paths or 'none'}"
            )
        skipped |= matches
    return skipped


# Layers whose inner kernels meet no nonlinearity unless Sequential shows one.
_LINEAR_INSIDE = (
    keras.Sequential,
    keras.layers.MultiHeadAttention,
    keras.layers.GroupQueryAttention,
)


class Finder:
    """Finds the nonlinearity that follows a kernel."""

    def __init__(self) -> None:
        self._graphs: dict[int, graph.Graph | None] = {}

    def following(self, kernel: Kernel) -> Following:
        """Return the nonlinearity after a kernel, and how sure that is."""
        if kernel.weight == "depthwise_kernel":
            return Following(None, "feeds the pointwise kernel")
        called, around = kernel.layer, list(kernel.parents)
        if kernel.is_own:
            following = self._inside_own(kernel)
            is_model = called is around[0]
            if following is not None and (is_model or not following.reaches_end):
                return following
        activation = nonlinearity.own_nonlinearity(kernel.layer)
        if activation is not None:
            return Following(activation)
        while around:
            while nonlinearity.passes_output_on(around[-1], called):
                called = around.pop()
            for model in around:
                if graph.has_graph(model):
                    walked = self.graph_of(model)
                    following = None if walked is None else self._behind(walked, called)
                    if following is not None:
                        return following
            inner = graph_inside(around[-1])
            following = None if inner is None else self._behind(inner, called)
            if following is None:
                break
            if not following.reaches_end or len(around) == 1:
                return following
            called = around.pop()
        ahead = nonlinearity_ahead(Construction(called, kernel.weight, tuple(around)))
        holder = around[-1]
        if ahead is None and not isinstance(holder, _LINEAR_INSIDE):
            return Following(None, f"what follows inside {holder.name} is unseen")
        return Following(ahead)

    def _behind(self, walked: graph.Graph, layer: Any) -> Following | None:
        """Return what a layer's calls in a graph meet; None if it has none there."""
        calls = walked.calls_of(layer)
        if not calls:
            return None
        outputs = tuple(tensor for call in calls for tensor in call.outputs)
        return following_nonlinearity(walked, outputs)

    def _inside_own(self, kernel: Kernel) -> Following | None:
        """Return what a kernel's products meet inside its own layer, as far as seen."""
        walked = graph_inside(kernel.layer)
        use = uses_of(kernel.layer).get(kernel.weight)
        if walked is None or use is None or not use.products:
            return None
        return following_nonlinearity(walked, use.products)

    def reads_inputs(self, kernel: Kernel) -> bool:
        """Return whether no weights stand between the model's inputs and a kernel."""
        return all(
            held is not None
            and all(held.after_weights.isdisjoint(call.inputs) for call in calls)
            for held, calls, _ in self._views(kernel)
        )

    def _views(
        self, kernel: Kernel
    ) -> Iterator[tuple[graph.Graph | None, list[graph.Call], Any]]:
        """Yield the graphs that a kernel is called in, from the inside out.

        Each comes with the calls of the kernel's layer, or of the layer that holds it
        there, and the layer whose graph it is. A graph of None means that a holder
        cannot be opened.
        """
        called, around = kernel.layer, list(kernel.parents)
        while around:
            if nonlinearity.passes_output_on(around[-1], called):
                called = around.pop()
                continue
            for index, holder in enumerate(around):
                shows = graph.has_graph(holder) or index == len(around) - 1
                held = self.graph_of(holder) if shows else None
                calls = [] if held is None else held.calls_of(called)
                if calls:
                    break
            yield held if calls else None, calls, holder
            if not calls:
                return
            called, around = holder, around[:index]

    def graph_of(self, holder: Any) -> graph.Graph | None:
        """Return the graph of a layer or model, opened if need be; None if unseen."""
        if id(holder) not in self._graphs:
            shown = graph.graph_of if graph.has_graph(holder) else _opened
            self._graphs[id(holder)] = shown(holder)
        return self._graphs[id(holder)]


def _opened(holder: Any) -> graph.Graph | None:
    """Return the graph of a composite layer or subclassed model; None if unseen."""
    if isinstance(holder, _LINEAR_INSIDE) or is_closed(holder):
        return None
    shapes = graph.built_shapes(holder)
    if not shapes:
        return None
    symbols = [keras.KerasTensor(shape) for _, shape in shapes]
    try:
        arguments = graph.built_arguments(holder, symbols)
        return graph.opened(holder, arguments, training=False)
    except graph.NoGraph:
        return None


def left_alone(kernel: Kernel, skipped: set[int], only_unbuilt: bool) -> str | None:
    """Return why a kernel is left alone, None if it may be changed."""
    if any(id(layer) in skipped for layer in kernel.owners):
        return "named in skip"
    if only_unbuilt and kernel.layer.built:
        return "built already"
    if getattr(kernel.layer, "lora_enabled", False):
        return "frozen (LoRA)"
    if not kernel.layer.trainable or not getattr(kernel.variable, "trainable", True):
        return "frozen"
    if kernel.attribute is None and not kernel.is_own:
        return "its layer has no kernel_initializer"
    if kernel.attribute is None and current_moments(kernel.variable).variance == 0:
        return "all its entries are alike: its layer means them to be"
    if kernel.is_missing:
        return f"no weight called {kernel.weight!r}"
    if kernel.variable is not None and not keras.backend.is_float_dtype(
        kernel.variable.dtype
    ):
        return f"quantised ({kernel.variable.dtype})"
    return None


@dataclass(frozen=True)
class Followed:
    """The nonlinearity that a kernel's output meets: given, resolved, and its rule."""

    identifier: Any
    resolved: activations.Activation
    rule: Rule
    note: str


def followed(kernel: Kernel, finder: Finder) -> Followed:
    """Return the nonlinearity after a kernel; linear if it has no gain."""
    following = finder.following(kernel)
    notes = [following.note] if following.note else []
    identifier = following.nonlinearity
    try:
        resolved = activations.resolve(identifier)
        rule = rule_for(resolved)
        if resolved.family == "periodic":
            first = finder.reads_inputs(kernel)
            rule = rule_for(resolved, reads_inputs=first)
            notes.append(f"Sitzmann et al. 2020{', reads the inputs' * first}")
    except (TypeError, ValueError):
        name = readable(identifier)
        notes.append(f"{name} has no known gain: taken for linear")
        resolved = activations.resolve(None)
        rule = rule_for(resolved)
    if resolved.family == "linear":
        identifier = "linear"
    return Followed(identifier, resolved, rule, "; ".join(notes))


def sine_variance(kernel: Kernel, follows: Followed) -> float | None:
    """Return Var(w) of a kernel before a sine, None before anything else.

    It depends on the frequency alone, whatever the input: another scale would be
    another network.
    """
    kernel_fans = fans_of(kernel)
    if follows.resolved.family != "periodic" or kernel_fans is None:
        return None
    return follows.rule.variance(kernel_fans)


def fans_of(kernel: Kernel) -> fans.Fans | None:
    """Return the kernel's fans, None while its layer is not built."""
    if kernel.variable is None:
        return None
    shape = tuple(kernel.variable.shape)
    return fans.kernel_fans(shape, kernel.layer, kernel.weight)


def layout_of(kernel: Kernel) -> fans.KernelLayout:
    """Return how a built kernel acts."""
    shape = tuple(kernel.variable.shape)
    return fans.kernel_layout(kernel.layer, kernel.weight, shape)


def auto_for(follows: Followed, kernel_fans: fans.Fans | None, seed: int | None) -> Any:
    """Return the initializer for a nonlinearity, in a form that can be saved."""
    if follows.rule.spread and kernel_fans is not None:
        # When the layer is drawn anew, it may not be known to come first.
        gain = math.sqrt(follows.rule.variance(kernel_fans) * kernel_fans.fan_in)
        return Scaled(gain=gain, mode="fan_in", seed=seed)
    try:
        return Auto(activation=activation_config(follows.identifier), seed=seed)
    except (TypeError, ValueError):
        # A function that Keras cannot name in a file: its gain can be.
        rule = follows.rule
    return Scaled(gain=rule.gain, mode=rule.mode, seed=seed)


def has_field(kernel: Kernel) -> bool:
    """Say whether a kernel slides over positions, with more than one tap."""
    shape = tuple(kernel.variable.shape)
    return bool(math.prod(shape[axis] for axis in layout_of(kernel).field) > 1)
