"""Where a model keeps its kernels: every weight that a rewrite may choose for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from keras_initlab.model.keras_internals import own_variables, sublayers
from keras_initlab.model.layers import Place, every_place

# The attribute that holds the initializer, and the names its weight goes by.
_KERNELS = {
    "kernel_initializer": ("kernel",),
    "depthwise_initializer": ("depthwise_kernel", "kernel"),
    "pointwise_initializer": ("pointwise_kernel",),
}
_RECURRENT = {"recurrent_initializer": ("recurrent_kernel",)}


@dataclass(frozen=True, eq=False)
class Kernel:
    """One kernel: the layer that holds it, and the layers around that one.

    `path` names the layer inside the model, `parents` starts with the model.
    `variable` is None while the layer is not built; a built layer that keeps its
    kernel under another name has none either (see `is_missing`). `attribute` is None
    where the layer keeps no initializer.
    """

    layer: Any
    parents: tuple[Any, ...]
    path: str
    attribute: str | None
    weight: str
    variable: Any

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


def kernels_of(model: Any, *, recurrent: bool = False) -> list[Kernel]:
    """Return the kernels of every layer of `model`, each once, in order.

    Those that cells read their own state with are counted in if `recurrent`.
    """
    wanted = {**_KERNELS, **(_RECURRENT if recurrent else {})}
    return [
        kernel for place in every_place(model) for kernel in _kernels_at(place, wanted)
    ]


def quantised_layers(model: Any) -> list[str]:
    """Return the paths of layers whose weights are whole numbers, with scales."""
    return [
        place.path
        for place in every_place(model)
        if any(
            not keras.backend.is_float_dtype(variable.dtype)
            and variable.name.endswith(("kernel", "embeddings"))
            for variable in own_variables(place.layer)
        )
    ]


def _kernels_at(place: Place, wanted: dict[str, tuple[str, ...]]) -> Iterator[Kernel]:
    layer, path, parents = place.layer, place.path, place.parents
    by_name = {variable.name: variable for variable in own_variables(layer)}
    bare = not sublayers(layer) and not any(name in vars(layer) for name in _KERNELS)
    if bare and "kernel" in by_name:
        yield Kernel(layer, parents, path, None, "kernel", by_name["kernel"])
    for attribute, names in wanted.items():
        if attribute not in vars(layer):
            continue
        # Attention layers pass theirs on to the layers inside them.
        if _is_passed_on(layer) and not any(name in by_name for name in names):
            continue
        weight = next((name for name in names if name in by_name), names[0])
        yield Kernel(layer, parents, path, attribute, weight, by_name.get(weight))


def _is_passed_on(layer: Any) -> bool:
    attention = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
    return isinstance(layer, attention) or bool(sublayers(layer))
