"""Which layers of a model are tapped, and under which names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import keras

# What runs its inner layers in loops or under vmap: their outputs are no tensors of
# the training step, so only the outer layer is tapped.
LOOPS = (keras.layers.RNN, keras.layers.TimeDistributed)

# The weights that a layer is known by; of another layer, its first trainable weight.
MAIN_WEIGHTS = ("kernel", "depthwise_kernel", "pointwise_kernel", "embeddings")


class Place(NamedTuple):
    """A layer and where it stands."""

    layer: Any
    path: str
    measured: bool


def places(model: Any) -> Iterator[Place]:
    """Yield the layers inside `model`, each once, in the order of definition.

    Nested models are walked through; they are `measured` only where they hold no
    layers of their own. Composite layers come before their parts.
    """
    yield from _inside(model, "", _Names(), {id(model)})


def inside(place: Place, taken: Iterable[Place]) -> Iterator[Place]:
    """Yield the layers inside `place` that are not in `taken`: made by its `build`."""
    known = list(taken)
    names = _Names(other.path for other in known)
    seen = {id(other.layer) for other in known}
    yield from _inside(place.layer, place.path, names, seen)


def _inside(owner: Any, prefix: str, names: _Names, seen: set[int]) -> Iterator[Place]:
    for layer in children(owner):
        if id(layer) in seen or isinstance(layer, keras.layers.InputLayer):
            continue
        seen.add(id(layer))
        path = names.free(f"{prefix}/{layer.name}" if prefix else layer.name)
        measured = not (isinstance(layer, keras.Model) and children(layer))
        yield Place(layer, path, measured or rematerialized(layer))
        if not is_closed(layer):
            yield from _inside(layer, path, names, seen)


def children(layer: Any) -> list[Any]:
    """Return the layers that `layer` holds directly."""
    found: list[Any] = layer._flatten_layers(include_self=False, recursive=False)
    return found


def rematerialized(layer: Any) -> bool:
    """Whether what `layer` computes is thrown away and computed again for gradients."""
    return getattr(layer, "_remat_mode", None) is not None


def is_closed(layer: Any) -> bool:
    """Whether the layers inside `layer` are not tapped."""
    return isinstance(layer, LOOPS) or rematerialized(layer)


def main_weight(layer: Any) -> Any:
    """Return the weight that `layer` is known by, or None where it holds none.

    That of an RNN is its cell's.
    """
    variables = layer.weights
    if not is_closed(layer):
        variables = [*layer._trainable_variables, *layer._non_trainable_variables]
    named = [v for name in MAIN_WEIGHTS for v in variables if v.name == name]
    return next(iter(named or [v for v in variables if v.trainable]), None)


class _Names:
    """Names that are in use; Keras does not keep siblings in a subclass apart."""

    def __init__(self, used: Iterable[str] = ()) -> None:
        self._used = set(used)

    def free(self, name: str) -> str:
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
    calls, done, names = Counter(paths), Counter[str](), _Names()
    keys = []
    for path in paths:
        keys.append(names.free(f"{path}#{done[path]}" if calls[path] > 1 else path))
        done[path] += 1
    return keys
