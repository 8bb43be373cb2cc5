"""Which initializer each weight of a built layer was drawn by.

Keras's variables do not keep their initializers, and a layer may pass any initializer
to `add_weight`. So `build` is run again on a copy of the layer, whose `add_weight`
returns the existing weights and notes their initializers; nothing is drawn, and the
layer is not changed.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import keras

from keras_initlab.model import keras_internals
from keras_initlab.model.keras_internals import own_variables, variables_made_trainable
from keras_initlab.model.kernels import initializer_attribute
from keras_initlab.model.own_weights import MADE_UP_NAME, held_weights

# What `add_weight` calls with a shape and a dtype.
Draw: TypeAlias = Callable[..., Any]
# The attribute of a copy that holds its notes.
_NOTES = "initlab_notes"
# From an initializer and its key within the layer, to one with another seed.
Reseed: TypeAlias = Callable[[Any, str], Any]


@dataclass(frozen=True, eq=False)
class SetValue:
    """Takes the place of an initializer if a layer sets the first value itself."""

    value: Any
    __name__: str = "set by the layer"

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        """Return the value, whatever the shape."""
        return keras.ops.convert_to_tensor(self.value, dtype=dtype)


def origins_of(layer: Any, reseed: Reseed) -> dict[int, Draw]:
    """Return the initializers of a layer's own weights, by the variables' ids.

    Unknown ones are left out: those of weights that are made neither by `add_weight` in
    `build`, nor in an `__init__` that can be repeated from the layer's config.

    Args:
        layer: a built layer or model.
        reseed: gives an initializer of another seed. It is called for those that the
            layer's attributes hold, and for each that `add_weight` is given.
    """
    weights = own_variables(layer)
    if not weights:
        return {}
    state = (
        *weights,
        *(v for v in vars(layer).values() if isinstance(v, _INITIALIZER)),
        *(draw for _, draw in _choices.get(layer, {}).values()),
    )
    cached = _origins.get(layer)
    if cached is None or not _same(cached[0], state):
        cached = _origins[layer] = (state, _search(layer, _as_it_is))
    origins = cached[1]
    if all(_is_held(draw, state) for draw in origins.values()):
        return {
            key: reseed(draw, str(number))
            for number, (key, draw) in enumerate(origins.items())
        }
    # Some draw by copies of what the layer holds, whose seeds do not show.
    return _search(layer, reseed)


def _is_held(draw: Draw, state: tuple[Any, ...]) -> bool:
    """Whether an initializer is one that the layer holds, or has no seed at all."""
    seedless = keras.initializers.Zeros | keras.initializers.Ones
    return isinstance(draw, seedless) or any(draw is held for held in state)


def _search(layer: Any, reseed: Reseed) -> dict[int, Draw]:
    """Return the initializers of a layer's weights, from every source."""
    origins: dict[int, Draw] = {}
    weights = own_variables(layer)
    for find in (_by_choice, _by_building, _by_attribute, _by_constructing):
        if all(id(variable) in origins for variable in weights):
            break
        for key, draw in find(layer, reseed).items():
            origins.setdefault(key, draw)
    return origins


_INITIALIZER = keras.initializers.Initializer
# By layer, what the origins depend on, and the origins: for the next reset in a loop.
_origins: WeakKeyDictionary[Any, tuple[tuple[Any, ...], dict[int, Draw]]]
_origins = WeakKeyDictionary()


def _as_it_is(initializer: Any, key: str) -> Any:
    return initializer


def _same(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    return len(first) == len(second) and all(map(operator.is_, first, second))


_choices: WeakKeyDictionary[Any, dict[str, tuple[str | None, Draw]]]
_choices = WeakKeyDictionary()


def remember(layer: Any, weight: str, attribute: str | None, draw: Draw) -> None:
    """Keep what a rewrite chose for a weight of a layer that may not keep it itself.

    Args:
        layer, weight: the weight.
        attribute: where the layer was given it; what is set there later goes before.
        draw: the initializer.
    """
    _choices.setdefault(layer, {})[weight] = (attribute, draw)


def _by_choice(layer: Any, reseed: Reseed) -> dict[int, Draw]:
    """Return the initializers that a rewrite chose for a user's own layer."""
    if layer not in _choices:
        return {}
    weights = held_weights(layer)
    return {
        id(weights[weight]): reseed(draw, weight)
        for weight, (attribute, draw) in _choices[layer].items()
        if weight in weights
        and (attribute is None or getattr(layer, attribute, None) is draw)
    }


@dataclass(eq=False)
class _Notes:
    """What `add_weight` was called with, beside the weights that it had made then."""

    layer: Any
    reseed: Reseed
    origins: dict[int, Draw] = field(default_factory=dict)

    def note(
        self,
        *args: Any,
        shape: Any = None,
        initializer: Any = None,
        dtype: Any = None,
        trainable: bool = True,
        name: str | None = None,
        **_: Any,
    ) -> Any:
        """Return the weight that a call of `add_weight` made; None if none fits."""
        shape, initializer, dtype = (
            *args,
            *(shape, initializer, dtype)[len(args) :],
        )
        variable = self._match(tuple(shape or ()), trainable, name)
        if variable is not None:
            if initializer is None:
                kind = keras.backend.standardize_dtype(dtype or variable.dtype)
                initializer = "glorot_uniform" if "float" in kind else "zeros"
            draw = keras.initializers.get(initializer)
            key = f"{name}#{len(self.origins)}"
            draw = self.reseed(draw, key) if callable(draw) else SetValue(draw)
            self.origins[id(variable)] = draw
        return variable

    def _match(self, shape: tuple[int, ...], trainable: bool, name: str | None) -> Any:
        switched = variables_made_trainable(self.layer)
        ids = {id(variable) for variable in switched}
        for variable in own_variables(self.layer):
            named = (
                MADE_UP_NAME.fullmatch(variable.name)
                if name is None
                else variable.name == name
            )
            if (
                named
                and id(variable) not in self.origins
                and (id(variable) in ids) == bool(trainable)
                and tuple(variable.shape) == shape  # last: slow under TensorFlow
            ):
                return variable
        return None


def _by_building(layer: Any, reseed: Reseed) -> dict[int, Draw]:
    """Run `build` on a copy, and return what it would draw its weights by."""
    notes = _Notes(layer, reseed)
    copied = _copied(layer, notes)
    shapes = keras_internals.build_shapes(layer)
    with (
        _inner_layers_stay_built(layer),
        keras.StatelessScope() as scope,
        contextlib.suppress(Exception),  # what was noted before a failure holds
    ):
        copied.build(**shapes)
    weights = own_variables(layer)
    for variable in weights:
        value = scope.get_current_value(variable)
        if value is not None:  # assigned behind `add_weight`
            notes.origins[id(variable)] = SetValue(value)
    if len(notes.origins) < len(weights):
        notes.origins |= _first_values(layer, copied, notes.origins)
    return notes.origins


def _copied(layer: Any, notes: _Notes) -> Any:
    """Return a copy that notes calls of `add_weight`, and whose state is its own."""
    kind: Any = type(layer)
    copied: Any = object.__new__(_noting(kind))
    held = vars(copied)
    for name, value in vars(layer).items():
        if isinstance(value, keras.initializers.Initializer):
            held[name] = notes.reseed(value, name)
        elif isinstance(value, list):
            held[name] = list(value)
        elif isinstance(value, dict):
            held[name] = dict(value)
        else:
            held[name] = value
    held[_NOTES] = notes
    held["build"] = partial(kind.build, copied)
    if "built" in held:
        held["built"] = False
    return copied


@functools.lru_cache(maxsize=128)
def _noting(kind: type) -> Any:
    """Return a subclass that notes calls of `add_weight`, and tracks nothing."""
    return type(
        kind.__name__,
        (kind,),
        {
            "__module__": kind.__module__,
            "__setattr__": object.__setattr__,
            "__delattr__": object.__delattr__,
            "add_weight": lambda self, *args, **kwargs: vars(self)[_NOTES].note(
                *args, **kwargs
            ),
        },
    )


@contextlib.contextmanager
def _inner_layers_stay_built(layer: Any) -> Iterator[None]:
    """Let calls of `build` of the layers inside do nothing, in this block."""
    inner = [held for held in keras_internals.sublayers(layer) if held.built]
    before = [vars(held).get("build") for held in inner]
    for held in inner:
        vars(held)["build"] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        for held, build in zip(inner, before, strict=True):
            if build is None:
                del vars(held)["build"]
            else:
                vars(held)["build"] = build


def _first_values(
    layer: Any, again: Any, origins: dict[int, Draw]
) -> dict[int, SetValue]:
    """Return the values that attributes' variables have in a layer made again.

    Of variables that were made by `keras.Variable` itself.
    """
    values: dict[int, SetValue] = {}
    for name, variable in vars(layer).items():
        new = vars(again).get(name)
        if (
            isinstance(variable, keras.Variable)
            and isinstance(new, keras.Variable)
            and new is not variable
            and id(variable) not in origins
            and (new.shape, new.dtype) == (variable.shape, variable.dtype)
        ):
            values[id(variable)] = SetValue(new.value)
    return values


def _by_attribute(layer: Any, reseed: Reseed) -> dict[int, Draw]:
    """Return the initializers in attributes that are named after weights."""
    origins: dict[int, Draw] = {}
    for weight, variable in held_weights(layer).items():
        attribute = initializer_attribute(layer, weight, alone=False)
        if attribute is not None:
            origins[id(variable)] = reseed(getattr(layer, attribute), attribute)
    return origins


def _by_constructing(layer: Any, reseed: Reseed) -> dict[int, Draw]:
    """Run `__init__` again by the layer's config, and note what weights it makes."""
    notes = _Notes(layer, reseed)
    kind = type(layer)

    def add_weight(self: Any, *args: Any, **kwargs: Any) -> Any:
        notes.note(*args, **kwargs)
        return kind.add_weight(self, *args, **kwargs)

    noting = {"add_weight": add_weight, "__module__": kind.__module__}
    noting_kind: Any = type(kind.__name__, (kind,), noting)
    try:
        again = noting_kind.from_config(layer.get_config())
    except Exception:  # a config that does not say all
        return notes.origins
    return notes.origins | _first_values(layer, again, notes.origins)


def recurrent_states(layer: Any) -> list[Any]:
    """Return the variables in which a stateful recurrent layer keeps its states."""
    states = layer.states if isinstance(layer, keras.layers.RNN) else None
    return keras.tree.flatten(states) if states else []
