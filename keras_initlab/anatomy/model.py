"""A model's anatomy: which layers it has, and what each kernel's output meets."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras

from keras_initlab.anatomy.bypass import Bypassed, bypassed_in, holds
from keras_initlab.diagnosis import LayerFacts
from keras_initlab.model import graph, nonlinearity
from keras_initlab.model.keras_internals import own_variables
from keras_initlab.model.kernels import Kernel, kernels_of, quantised_layers
from keras_initlab.model.layers import (
    Place,
    every_place,
    is_closed,
    learns,
    main_weight,
    places,
)
from keras_initlab.model.preprocessing import read_as_given
from keras_initlab.model.roles import NORMALISING, Roles, roles_of
from keras_initlab.propagation.propagate import Forward, run_forward
from keras_initlab.stats import LayerStats

# Their inner kernels feed a softmax, or are averaged by one: their scale is a
# temperature, not a gain.
ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
RESCALING = (*NORMALISING, keras.layers.Normalization, keras.layers.Rescaling)
MAY_BEND = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.TimeDistributed,
    *nonlinearity.ACTIVATION_LAYERS,
    *(
        getattr(keras.layers, f"{kind}{rank}D{suffix}")
        for kind, ranks, suffix in (
            ("Conv", (1, 2, 3), ""),
            ("Conv", (1, 2, 3), "Transpose"),
            ("DepthwiseConv", (1, 2), ""),
            ("SeparableConv", (1, 2), ""),
        )
        for rank in ranks
    ),
)


# What a softmax goes through on its way to what it weighs.
_PASSING = ("Dropout", "Cast", "Reshape", "Transpose", "Identity", "GetItem", "Slice")
# What augmentation may do to mean and size, as a share of the size.
SAME_SCALE = 0.2


@dataclass(frozen=True)
class Readers:
    """What reads a layer's output, up to the next kernels.

    Attributes:
        kernels: those next kernels.
        whole: whether all layers before them keep units apart.
        normalised: whether a normalisation comes before each of them.
    """

    kernels: tuple[Kernel, ...]
    whole: bool
    normalised: bool


@dataclass(eq=False)
class Anatomy:
    """What a model is made of.

    Attributes:
        model: the model.
        kernels: all of them, those of recurrent states included.
        forward: the prediction from the weights' values; None where there is none.
        problem: why there is no prediction.
        of_data: whether the prediction starts from the inputs' own moments.
    """

    model: Any
    kernels: list[Kernel]
    forward: Forward | None
    problem: str | None = None
    of_data: bool = False
    _inside: dict[int, list[Kernel]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kernel in self.kernels:
            for owner in kernel.owners:
                self._inside.setdefault(id(owner), []).append(kernel)

    @cached_property
    def predicted(self) -> list[LayerStats]:
        """The stats of the prediction; empty where there is none."""
        return [] if self.forward is None else self.forward.stats

    @cached_property
    def flat(self) -> graph.Graph | None:
        """The graph of all calls, or None."""
        if self.forward is None:
            return graph.graph_of(self.model) if graph.has_graph(self.model) else None
        # A model that is run on a sample as a whole is one call, which tells nothing.
        flat_graph = self.forward.propagation.flat_graph
        opened = any(call.operation is not self.model for call in flat_graph.calls)
        return flat_graph if opened else None

    @cached_property
    def roles(self) -> Roles:
        """Which kernels end branches, and which are heads."""
        if self.flat is not None:
            return roles_of(self.flat, self.kernels)
        # Without a graph, all that is known is which kernel comes last.
        last = [k for k in self.kernels if k.weight != "recurrent_kernel"][-1:]
        return Roles(heads={(id(kernel.layer), kernel.weight) for kernel in last})

    @cached_property
    def layers(self) -> dict[str, LayerFacts]:
        """What each layer is, by its path."""
        ending, starting, rescaled = self._ending, self._starting, self._rescaled
        bypassed = self.bypassed.merged
        return {
            place.path: LayerFacts(
                kind=type(place.layer).__name__,
                bends=isinstance(place.layer, MAY_BEND)
                and nonlinearity.own_nonlinearity(place.layer) is not None,
                normalises=is_normalising(place.layer),
                rescaled=id(place.layer) in rescaled or self.is_hidden(place),
                ends=id(place.layer) in ending,
                starts=id(place.layer) in starting,
                bypassed=holds(bypassed, place),
            )
            for place in places(self.model)
        }

    @cached_property
    def _ending(self) -> set[int]:
        """Ids of the layers that hold a head, and of those after them."""
        heads = {layer for layer, _ in self.roles.heads}
        if self.flat is None:
            ids = [id(place.layer) for place in places(self.model)]
            first = next((i for i, layer in enumerate(ids) if layer in heads), None)
            return set() if first is None else set(ids[first:])
        if not heads:
            outputs = set(self.flat.outputs)
            return {
                id(call.operation)
                for call in self.flat.calls
                if not outputs.isdisjoint(call.outputs)
            }
        ending: set[int] = set()
        after: set[int] = set()
        for call in self.flat.calls:
            kernels = self._inside.get(id(call.operation), ())
            is_head = any(id(kernel.layer) in heads for kernel in kernels)
            if is_head or not after.isdisjoint(call.inputs):
                ending.add(id(call.operation))
                after.update(call.outputs)
        return ending

    @cached_property
    def _starting(self) -> set[int]:
        """Ids of the layers between the inputs and the first kernels."""
        if self.flat is None:
            layers = [place.layer for place in places(self.model)]
            first = next((i for i, layer in enumerate(layers) if _has_weight(layer)), 0)
            return {id(layer) for layer in layers[:first]}
        fresh = set(self.flat.inputs)
        starting = set()
        for call in self.flat.calls:
            if not set(call.inputs) <= fresh:
                continue
            embeds = isinstance(call.operation, keras.layers.Embedding)
            if id(call.operation) in self._inside and not embeds:
                continue
            starting.add(id(call.operation))
            fresh.update(call.outputs)
        return starting

    @cached_property
    def _rescaled(self) -> set[int]:
        """Ids of the layers whose output is only read through a normalisation."""
        if self.flat is None:
            return set()
        tensors: set[int] = set()
        by_layer: dict[int, bool] = {}
        outputs = set(self.flat.outputs)
        for call in self.flat.calls[::-1]:
            for tensor in call.outputs:
                readers = self.flat.consumers.get(tensor, ())
                if (
                    readers
                    and tensor not in outputs
                    and all(
                        is_normalising(reader.operation)
                        or (
                            id(reader.operation) not in self._inside
                            and tensors.issuperset(reader.outputs)
                        )
                        for reader in readers
                    )
                ):
                    tensors.add(tensor)
            so_far = by_layer.get(id(call.operation), True)
            by_layer[id(call.operation)] = so_far and tensors.issuperset(call.outputs)
        rescaled = {layer for layer, always in by_layer.items() if always}
        last = {id(call.operation): i for i, call in enumerate(self.flat.calls)}
        for place in places(self.model):
            # The output of a layer that holds others is that of the last one of them.
            if id(place.layer) not in last:
                parts = [id(part.layer) for part in every_place(place.layer)]
                called = [part for part in parts if part in last]
                if called and max(called, key=lambda part: last[part]) in rescaled:
                    rescaled.add(id(place.layer))
            elif id(place.layer) in rescaled:
                # For layers inside one that is not opened, it is known as a whole.
                rescaled.update(id(part.layer) for part in every_place(place.layer))
        return rescaled

    @cached_property
    def attending(self) -> frozenset[str]:
        """Paths of the layers of one's own within which attention is computed.

        A softmax whose result is multiplied with something, or Keras's own operation.
        """
        found = set()
        for call in () if self.flat is None else self.flat.calls:
            kind = type(call.operation).__name__
            if kind == "DotProductAttention" or (
                kind == "Softmax" and self._is_multiplied(call)
            ):
                found.add(call.path.rpartition("/")[0])
        return frozenset(found - {""})

    def _is_multiplied(self, call: graph.Call) -> bool:
        assert self.flat is not None
        pending = deque(call.outputs)
        while pending:
            for reader in self.flat.consumers.get(pending.popleft(), ()):
                kind = type(reader.operation).__name__
                if kind in ("Matmul", "Einsum", "Dot"):
                    return True
                if kind in _PASSING:
                    pending.extend(reader.outputs)
        return False

    @cached_property
    def bypassed(self) -> Bypassed:
        """Which layers are bypassed by a path without kernels."""
        return bypassed_in(self.flat, set(self._inside), self._masks)

    @cached_property
    def _called(self) -> set[int]:
        calls = () if self.flat is None else self.flat.calls
        return {id(call.operation) for call in calls}

    @cached_property
    def _masks(self) -> set[int]:
        """Whole numbers or bits among the inputs that no layer with weights reads."""
        symbols = getattr(self.model, "inputs", None) or []
        if self.flat is None or len(symbols) != len(self.flat.inputs):
            return set()
        return {
            tensor
            for tensor, symbol in zip(self.flat.inputs, symbols, strict=True)
            if not keras.backend.is_float_dtype(symbol.dtype)
            and not any(
                call.is_layer and learns(call.operation)
                for call in self.flat.consumers.get(tensor, ())
            )
        }

    def is_hidden(self, place: Place | Kernel) -> bool:
        """Whether a layer is inside a user's own layer that could not be opened.

        How the layers in it follow each other is not known then.
        """
        if self.flat is None or id(place.layer) in self._called:
            return False
        called = [layer for layer in place.around if id(layer) in self._called]
        return any(type(k).__module__.partition(".")[0] != "keras" for k in called)

    def scales_inputs(self, count: int) -> list[bool]:
        """Say of each input whether it is rescaled or looked up before any kernel."""
        kinds = (*RESCALING, keras.layers.Embedding)
        if self.flat is None or len(self.flat.inputs) != count:
            scaled = any(
                isinstance(place.layer, kinds) and id(place.layer) in self._starting
                for place in places(self.model)
            )
            return [scaled] * count
        answers = []
        unscaled = read_as_given(self.flat, self._keeps_scale)
        for tensor in self.flat.inputs:
            pending, scaled = deque([tensor]), tensor not in unscaled
            while pending and not scaled:
                for call in self.flat.consumers.get(pending.popleft(), ()):
                    scaled |= isinstance(call.operation, kinds)
                    if id(call.operation) in self._starting:
                        pending.extend(call.outputs)
            answers.append(scaled)
        return answers

    def _keeps_scale(self, call: graph.Call) -> bool:
        """Say whether a call is predicted not to change mean and size."""
        if self.forward is None or not self.of_data:
            return False
        signals = self.forward.propagation.signals
        tensors = (*call.inputs, *call.outputs)
        first, *later = (signals[tensor] for tensor in tensors if tensor in signals)
        size = math.sqrt(first.second)
        return len(later) == len(tensors) - 1 and all(
            abs(math.sqrt(signal.second) - size) <= SAME_SCALE * size
            and abs(signal.mean - first.mean) <= SAME_SCALE * size
            for signal in later
        )

    def readers(self, kernel: Kernel) -> Readers | None:
        """Return what reads the output of a kernel's layer; None if unknown."""
        owner = kernel.layer
        for parent in reversed(kernel.around):
            if nonlinearity.passes_output_on(parent, owner) or is_closed(parent):
                owner = parent
        if self.flat is None:
            return None
        pending = deque(
            (tensor, False)
            for call in self.flat.calls_of(owner)
            for tensor in call.outputs
        )
        if not pending:
            return None
        kernels: list[Kernel] = []
        whole, normalised, seen = True, True, set()
        while pending:
            tensor, behind = pending.popleft()
            if tensor in seen:
                continue
            seen.add(tensor)
            readers = self.flat.consumers.get(tensor, ())
            whole &= bool(readers)
            normalised &= bool(readers)
            for call in readers:
                inner = self._inside.get(id(call.operation), [])
                if inner:
                    kernels += inner
                    normalised &= behind
                    continue
                whole &= len(call.inputs) == 1 and _keeps_units(call.operation)
                after = behind or is_normalising(call.operation)
                pending.extend((output, after) for output in call.outputs)
        return Readers(tuple(kernels), whole, normalised and bool(seen))


def is_normalising(operation: Any) -> bool:
    """Say whether a layer normalises: one of Keras's, or by its name and weights."""
    if isinstance(operation, NORMALISING):
        return True
    named = "norm" in type(operation).__name__.lower()
    if not named or not isinstance(operation, keras.layers.Layer):
        return False
    return all(len(one.shape) < 2 for one in own_variables(operation)) and not [
        place for place in every_place(operation) if place.layer is not operation
    ]


def _has_weight(layer: Any) -> bool:
    return main_weight(layer) is not None


_KEEPS_UNITS = (
    *nonlinearity.ACTIVATION_LAYERS,
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Flatten,
)


def _keeps_units(operation: Any) -> bool:
    return isinstance(operation, _KEEPS_UNITS)


def anatomy_of(
    model: Any, *, mean: Any = None, variance: Any = None, predict: bool = True
) -> Anatomy:
    """Return a model's anatomy; with no prediction where none can be made.

    Args:
        model: a built Keras model; it is left as it is.
        mean, variance: of the inputs, as `propagate` takes them.
        predict: False leaves the prediction out, and calls none of the layers.
    """
    every = kernels_of(model, recurrent=True, call_own=predict)
    built = [kernel for kernel in every if kernel.variable is not None]
    # Whole numbers stand for weights by scales that are kept elsewhere.
    kernels = [k for k in built if keras.backend.is_float_dtype(k.variable.dtype)]
    if quantised := quantised_layers(model):
        return Anatomy(model, kernels, None, f"Weights are quantised: {quantised[0]}.")
    if not predict:
        return Anatomy(model, kernels, None)
    try:
        forward = run_forward(model, mean, variance, from_weights=True)
    except Exception as error:
        # The prediction is one source of facts among several: a layer that cannot be
        # run on symbols or on a sample must not suppress the others.
        return Anatomy(model, kernels, None, f"{type(error).__name__}: {error}")
    return Anatomy(model, kernels, forward, of_data=variance is not None)
