"""Where a model keeps its kernels: every weight that a rewrite may choose for."""

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
# What a kernel is called in a layer that is not built, where its use does not show yet.
_UNBUILT = re.compile(r"w|W|weights?|.*kernel.*")


@dataclass(frozen=True, eq=False)
class Kernel:
    """One kernel: the layer that holds it, and the layers around that one.

    `path` names the layer inside the model, `parents` starts with the model.
    `variable` is None while the layer is not built; a built layer that keeps its
    kernel under another name has none either (see `is_missing`). `attribute` is None
    where the layer keeps no initializer. `is_own` says that a layer of the user's own
    was seen to multiply its input with the weight.
    """

    layer: Any
    parents: tuple[Any, ...]
    path: str
    attribute: str | None
    weight: str
    variable: Any
    is_own: bool = False

    @property
    def initializer(self) -> Any:
        """The initializer that the layer holds for it; None if it holds none."""
        return None if self.attribute is None else getattr(self.layer, self.attribute)

    @property
    def key(self) -> tuple[int, str]:
        """What tells the kernel from every other: its layer's id and the weight."""
        return id(self.layer), self.weight

    @property
    def is_missing(self) -> bool:
        """Whether the layer is built and yet no weight of the name is in it."""
        return self.layer.built and self.variable is None


def kernels_of(
    model: Any, *, recurrent: bool = False, call_own: bool = True
) -> list[Kernel]:
    """Return the kernels of every layer of `model`, each once, in order.

    Args:
        model: any model.
        recurrent: whether those that cells read their own state with are counted in.
        call_own: whether layers of the user's own are called, on symbols or a few
            random numbers, to find what they multiply their input with.
    """
    wanted = {**_KERNELS, **(_RECURRENT if recurrent else {})}
    kernels, seen = [], set[int]()
    for place in _places_of(model):
        for kernel in _kernels_at(place, wanted, call_own=call_own):
            # A layer that multiplies with the kernel of another has none of its own.
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
    own = {name for name, use in uses.items() if use.multiplies}
    bare = not sublayers(layer) and not any(name in vars(layer) for name in _KERNELS)
    if bare and "kernel" in by_name and "kernel" not in own:
        yield Kernel(layer, parents, path, None, "kernel", by_name["kernel"])
    for attribute, names in wanted.items():
        if attribute not in vars(layer):
            continue
        # Attention layers pass theirs on to the layers inside them.
        if _is_passed_on(layer) and not any(name in by_name for name in names):
            continue
        weight = next((name for name in names if name in by_name), names[0])
        if weight in by_name or not own:
            variable, seen = by_name.get(weight), weight in own
            yield Kernel(layer, parents, path, attribute, weight, variable, seen)
            own.discard(weight)
    if is_own(layer) and not layer.built:
        for attribute, weight in _kept_before_building(layer):
            yield Kernel(layer, parents, path, attribute, weight, None, True)
    for weight, variable in held_weights(layer).items() if own else ():
        if weight in own and weight != "recurrent_kernel":
            kept = initializer_attribute(layer, weight, alone=len(own) == 1)
            yield Kernel(layer, parents, path, kept, weight, variable, True)


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

    That is one of the weight's name, or of a layer that has but one kernel (`alone`)
    its `kernel_initializer`.
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
    """Return why a weight of a layer of Keras is no kernel to rewrite."""
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
