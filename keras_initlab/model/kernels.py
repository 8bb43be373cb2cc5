"""The kernels of a model: every weight for which a rewrite may choose."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import keras

from keras_initlab.model.keras_internals import own_variables, sublayers
from keras_initlab.model.layers import Place, every_place
from keras_initlab.model.own_kernels import uses_of
from keras_initlab.model.own_weights import held_weights, is_own

# The attribute that holds the initializer, and the names its weight goes by.
_KERNELS = {
    "kernel_initializer": ("kernel",),
    "depthwise_initializer": ("depthwise_kernel", "kernel"),
    "pointwise_initializer": ("pointwise_kernel",),
}
_RECURRENT = {"recurrent_initializer": ("recurrent_kernel",)}
_ASKED = {*_KERNELS, *_RECURRENT}
# The name of a kernel in a layer that is not built, whose use is not known yet.
_UNBUILT = re.compile(r"w|W|weights?|.*kernel.*")


@dataclass(frozen=True, eq=False)
class Kernel:
    """One kernel: the layer that holds it, and the layers around that one.

    `path` names the layer inside the model, `parents` starts with the model.
    `variable` is None while the layer is not built, and for a built layer that keeps
    its kernel under another name (see `is_missing`). `attribute` is None if the layer
    keeps no initializer. `is_own` says that a user's own layer was found to multiply
    its input with the weight.
    """

    layer: Any
    parents: tuple[Any, ...]
    path: str
    attribute: str | None
    weight: str
    variable: Any
    is_own: bool = False

    @property
    def around(self) -> tuple[Any, ...]:
        """The layers around it inside the model, outermost first."""
        return self.parents[1:]

    @property
    def owners(self) -> tuple[Any, ...]:
        """The layers around it inside the model, outermost first, and its own."""
        return (*self.around, self.layer)

    @property
    def initializer(self) -> Any:
        """The initializer that the layer holds for it; None if it holds none."""
        return None if self.attribute is None else getattr(self.layer, self.attribute)

    @property
    def key(self) -> tuple[int, str]:
        """The kernel's identity: the id of its layer and the name of the weight."""
        return id(self.layer), self.weight

    @property
    def is_missing(self) -> bool:
        """Whether the layer is built but has no weight of this name."""
        return self.layer.built and self.variable is None


def kernels_of(
    model: Any, *, recurrent: bool = False, call_own: bool = True
) -> list[Kernel]:
    """Return the kernels of every layer of `model`, each once, in order.

    Args:
        model: any model.
        recurrent: whether to include the kernels by which cells read their own state.
        call_own: whether the user's own layers are called, on symbols or a few random
            numbers, to find the weights with which they multiply their input.
    """
    wanted = {**_KERNELS, **(_RECURRENT if recurrent else {})}
    kernels, seen = [], set[int]()
    for place in _places_of(model):
        for kernel in _kernels_at(place, wanted, call_own=call_own):
            # A layer that multiplies with another layer's kernel has none itself.
            tied = kernel.is_own and id(kernel.variable) in seen
            if not tied or kernel.variable is None:
                kernels.append(kernel)
                seen.add(id(kernel.variable))
    return kernels


def quantised_layers(model: Any) -> list[str]:
    """Return the paths of layers whose weights are whole numbers, with scales."""
    return [place.path for place in every_place(model) if is_quantised(place.layer)]


def is_quantised(layer: Any) -> bool:
    """Whether the weights that `layer` itself holds are whole numbers, with scales."""
    return any(
        variable.name.endswith(("kernel", "embeddings"))
        and not keras.backend.is_float_dtype(variable.dtype)
        for variable in own_variables(layer)
    )


def _places_of(model: Any) -> list[Place]:
    """Return the places of all layers, and of a model that holds weights itself."""
    places = list(every_place(model))
    if is_own(model) and own_variables(model):
        places.insert(0, Place(model, model.name, False, (model,)))
    return places


def _kernels_at(
    place: Place, wanted: dict[str, tuple[str, ...]], *, call_own: bool
) -> Iterator[Kernel]:
    layer, path, parents = place.layer, place.path, place.parents
    by_name = {variable.name: variable for variable in own_variables(layer)}
    uses = uses_of(layer) if call_own else {}
    own_kernels = {name for name, use in uses.items() if use.multiplies}
    bare = not sublayers(layer) and not any(name in vars(layer) for name in _KERNELS)
    if bare and "kernel" in by_name and "kernel" not in own_kernels:
        yield Kernel(layer, parents, path, None, "kernel", by_name["kernel"])
    for attribute, names in wanted.items():
        if attribute not in vars(layer):
            continue
        # Attention layers pass theirs on to the layers inside them.
        if _is_passed_on(layer) and not any(name in by_name for name in names):
            continue
        weight = next((name for name in names if name in by_name), names[0])
        if weight in by_name or not own_kernels:
            variable, seen = by_name.get(weight), weight in own_kernels
            yield Kernel(layer, parents, path, attribute, weight, variable, seen)
            own_kernels.discard(weight)
    if is_own(layer) and not layer.built:
        for attribute, weight in _kept_before_building(layer):
            yield Kernel(layer, parents, path, attribute, weight, None, True)
    for weight, variable in held_weights(layer).items() if own_kernels else ():
        if weight in own_kernels and weight != "recurrent_kernel":
            single = len(own_kernels) == 1
            stored = initializer_attribute(layer, weight, alone=single)
            yield Kernel(layer, parents, path, stored, weight, variable, True)


def _kept_before_building(layer: Any) -> list[tuple[str, str]]:
    """Return initializers that an unbuilt own layer keeps, and the kernels' names."""
    return [
        (attribute, weight)
        for attribute, value in vars(layer).items()
        if attribute.endswith("_initializer")
        and callable(value)
        and attribute not in _ASKED
        for weight in [attribute.removesuffix("_initializer").removeprefix("_")]
        if _UNBUILT.fullmatch(weight)
    ]


def initializer_attribute(layer: Any, weight: str, *, alone: bool) -> str | None:
    """Return the attribute in which an own layer keeps a weight's initializer.

    That is one with the weight's name, or `kernel_initializer` if the layer has only
    one kernel (`alone`).
    """
    names = [f"{weight}_initializer", f"_{weight}_initializer"]
    if alone:
        names += ["kernel_initializer", "initializer"]
    held = vars(layer)
    return next((n for n in names if callable(held.get(n))), None)


def unlisted_weights(
    model: Any, listed: Collection[tuple[int, str]]
) -> Iterator[tuple[str, str, str]]:
    """Yield the weights of several axes that are not `listed`: path, name and reason.

    Args:
        model: any model.
        listed: keys of kernels (see `Kernel.key`).
    """
    for place in _places_of(model):
        layer = place.layer
        uses = uses_of(layer)
        for name, variable in held_weights(layer).items():
            if len(variable.shape) < 2 or (id(layer), name) in listed:
                continue
            use = uses.get(name)
            reason = _reason(layer, name) if use is None else use.reason
            yield place.path, name, reason or "the kernel of another layer"
        unknown = is_own(layer) and not layer.built and not sublayers(layer)
        if unknown and all(key[0] != id(layer) for key in listed):
            yield place.path, "?", "not built, and keeps no kernel_initializer"


def _reason(layer: Any, name: str) -> str:
    """Return why a weight of a Keras layer is not a kernel to rewrite."""
    if "embeddings" in name:
        return "looked up, not multiplied"
    if name == "recurrent_kernel":
        return "reads the cell's own state; scheme='isometric' rewrites it"
    if "bias" in name:
        return "a bias"
    return "no kernel"


def _is_passed_on(layer: Any) -> bool:
    attention = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
    return isinstance(layer, attention) or bool(sublayers(layer))
