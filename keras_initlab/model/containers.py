"""Models that hold other models and have no call of their own: VAEs, GANs.

They are trained by their own `train_step`, which cannot be followed without running it.
The models that they hold are walked one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_initlab.model.graph import has_graph
from keras_initlab.model.layers import children, every_place


@dataclass(frozen=True, eq=False)
class Part:
    """A model that can be called, and where a container holds it.

    Attributes:
        model: the model.
        path: its path in the container; "" where there is no container.
        paths: its layers' paths in the container, by their paths inside the model.
    """

    model: Any
    path: str = ""
    paths: dict[str, str] = field(default_factory=dict)

    def outside(self, key: str) -> str:
        """Return the path, or key of a call, in the container of one in the model."""
        path, mark, call = key.partition("#")
        return f"{self.paths.get(path, path)}{mark}{call}"


def is_container(model: Any) -> bool:
    """Whether a model has neither a graph nor a `call` of its own."""
    return (
        isinstance(model, keras.Model)
        and not has_graph(model)
        and type(model).call is keras.Model.call
    )


def parts_of(model: Any) -> list[Part]:
    """Return the models that a container holds; for any other model, the model itself.

    Models inside other models are left out: they are walked with those.
    """
    if not is_container(model):
        return [Part(model)]
    held = list(_models_in(model))
    inside = {id(place.layer) for part in held for place in every_place(part)}
    paths = {id(place.layer): place.path for place in every_place(model)}
    return [
        Part(
            part,
            paths[id(part)],
            {place.path: paths[id(place.layer)] for place in every_place(part)},
        )
        for part in held
        if id(part) not in inside
    ]


def check_has_call(model: Any, advice: str) -> None:
    """Raise if `model` is not a model with a `call`; `what` ends the message.

    Raises:
        TypeError: it is not a Keras model.
        ValueError: it has no `call`; the message names the models that it holds.
    """
    check_is_model(model)
    if not is_container(model):
        return
    names = ", ".join(repr(part.path) for part in parts_of(model)) or "none"
    raise ValueError(
        f"`model` must have a `call` for a batch to go through. Received: "
        f"{type(model).__name__} {model.name!r}, which has a `train_step` at most, and "
        f"holds these models: {names}. {advice}"
    )


def _models_in(owner: Any) -> Iterator[Any]:
    for child in children(owner):
        if is_container(child):
            yield from _models_in(child)
        elif isinstance(child, keras.Model):
            yield child


def check_is_model(model: Any) -> None:
    """Raise a TypeError if `model` is not a Keras model."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`model` must be a Keras model (Sequential, functional or subclassed). "
            f"Received: {model!r} of type {type(model).__name__}. "
            "Wrap a layer as keras.Sequential([keras.Input(shape), layer])."
        )
