"""The layers of a model: one walk, and one rule for their paths.

A path consists of the names of the layers from below the model down to the layer, with
`/` between them. In a subclass, Keras allows siblings with equal names: the second one
is then `name~2`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import keras

from keras_initlab.model.keras_internals import (
    all_layers,
    is_rematerialized,
    own_variables,
    sublayers,
    variables_made_trainable,
)

# Layers that run their inner layers in loops or under vmap: outputs of these are not
# tensors of the training step, so only the outer layer is measured.
LOOPS = (keras.layers.RNN, keras.layers.TimeDistributed)

# The names of main weights; any other layer's is its first trainable weight.
MAIN_WEIGHTS = ("kernel", "depthwise_kernel", "pointwise_kernel", "embeddings")


class Place(NamedTuple):
    """A layer and its place in a model.

    Attributes:
        layer: the layer.
        path: its path inside the model, without the model's own name.
        measured: whether its output is measured.
        parents: the layers around it, outermost first: the model is the first.
        enclosed: whether one of the parents is closed (see `is_closed`).
    """

    layer: Any
    path: str
    measured: bool
    parents: tuple[Any, ...] = ()
    enclosed: bool = False

    @property
    def around(self) -> tuple[Any, ...]:
        """The layers around it inside the model, outermost first."""
        return self.parents[1:]

    @property
    def owners(self) -> tuple[Any, ...]:
        """The layers around it inside the model, outermost first, and itself."""
        return (*self.around, self.layer)


def places(model: Any) -> Iterator[Place]:
    """Yield the layers inside `model`, each once, in the order of definition.

    Nested models are walked through; they are `measured` only where they hold no
    layers of their own. Composite layers come before their parts. Layers inside
    closed ones are left out.
    """
    yield from _below(Place(model, "", False), Names(), {id(model)})


def every_place(model: Any) -> Iterator[Place]:
    """Yield the `places` of `model`, followed by those inside closed layers.

    A layer that is held both inside a closed layer and outside counts as outside.
    """
    names, seen = Names(), {id(model)}
    for place in list(_below(Place(model, "", False), names, seen)):
        yield place
        if is_closed(place.layer):
            yield from _below(place, names, seen, enclosed=True)


def inside(place: Place, taken: Iterable[Place]) -> Iterator[Place]:
    """Yield the layers inside `place` that are not in `taken`: `build` made them."""
    before = list(taken)
    names = Names(sibling.path for sibling in before)
    seen = {id(sibling.layer) for sibling in before}
    yield from _below(place, names, seen)


def _below(
    owner: Place, names: Names, seen: set[int], *, enclosed: bool = False
) -> Iterator[Place]:
    for layer in children(owner.layer):
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        path = names.free(f"{owner.path}/{layer.name}" if owner.path else layer.name)
        measured = not enclosed and _has_own_output(layer)
        place = Place(layer, path, measured, (*owner.parents, owner.layer), enclosed)
        yield place
        if enclosed or not is_closed(layer):
            yield from _below(place, names, seen, enclosed=enclosed)


def _has_own_output(layer: Any) -> bool:
    """Whether the output of `layer` is not just that of the last layer inside it."""
    nested = isinstance(layer, keras.Model) and bool(sublayers(layer))
    return not nested or rematerialized(layer)


def children(layer: Any) -> list[Any]:
    """Return the layers that `layer` holds directly, in order, without input layers."""
    return [
        child
        for child in sublayers(layer)
        if not isinstance(child, keras.layers.InputLayer)
    ]


def rematerialized(layer: Any) -> bool:
    """Whether the outputs of `layer` are computed again for the gradients."""
    return is_rematerialized(layer)


def is_weightless(operation: Any) -> bool:
    """Whether a layer or operation has no weights other than moments of data."""
    if isinstance(operation, keras.layers.Normalization):
        return True
    return not getattr(operation, "weights", ())


def is_closed(layer: Any) -> bool:
    """Whether the layers inside `layer` are not measured."""
    return isinstance(layer, LOOPS) or rematerialized(layer)


def main_weight(layer: Any) -> Any:
    """Return the main weight of `layer`, or None if it has no weights.

    For an RNN this is its cell's.
    """
    variables = layer.weights if is_closed(layer) else own_variables(layer)
    named = [v for name in MAIN_WEIGHTS for v in variables if v.name == name]
    return next(iter(named or [v for v in variables if v.trainable]), None)


def learns(layer: Any) -> bool:
    """Say whether a layer has weights for training, frozen or quantised ones included.

    >>> learns(keras.layers.Normalization()), learns(keras.layers.Rescaling(2.0))
    (False, False)
    """
    return any(
        variables_made_trainable(held)
        or any(name.endswith("kernel_initializer") for name in vars(held))
        for held in all_layers(layer)
    )


class Names:
    """Paths and keys that are in use; makes further ones unique."""

    def __init__(self, used: Iterable[str] = ()) -> None:
        self._used = set(used)

    def free(self, name: str) -> str:
        """Return `name`, with `~2` or more behind it if it is in use; it then is."""
        candidate, copy = name, 2
        while candidate in self._used:
            candidate, copy = f"{name}~{copy}", copy + 1
        self._used.add(candidate)
        return candidate


def call_keys(paths: Sequence[str]) -> list[str]:
    """Return a key for each call: the path, with `#0`, `#1` where there are several.

    >>> call_keys(["dense", "relu", "dense"])
    ['dense#0', 'relu', 'dense#1']
    """
    calls, done, names = Counter(paths), Counter[str](), Names()
    keys = []
    for path in paths:
        keys.append(names.free(f"{path}#{done[path]}" if calls[path] > 1 else path))
        done[path] += 1
    return keys
