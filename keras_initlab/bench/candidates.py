"""Candidates: ways to draw a model's weights, and their names."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import keras

from keras_initlab.calibration import calibrate
from keras_initlab.rewrite import SCHEMES, rewrite_initializers
from keras_initlab.schemes import Scheme, SchemeContext, Selection
from keras_initlab.words import nearest

Kind = Literal["as built", "scheme", "initializer", "calibrate", "function"]

AS_BUILT, CALIBRATE = "as built", "calibrate"


@dataclass(frozen=True)
class Candidate:
    """One way to draw a model's weights.

    Attributes:
        label: its name in tables and plots.
        kind: how `value` is applied.
        value: a scheme, an initializer, or a function of the model.
    """

    label: str
    kind: Kind
    value: Any = None

    def apply(self, model: Any, seed: int, x: Any) -> Any:
        """Draw the weights of a built, compiled model; return it, or its successor.

        `x` is a batch of its inputs.
        """
        if self.kind == "scheme":
            rewrite_initializers(model, scheme=self.value, seed=seed, redraw=True)
        elif self.kind == "initializer":
            scheme = _OneInitializer(self.value)
            rewrite_initializers(model, scheme=scheme, seed=seed, redraw=True)
        elif self.kind == "calibrate":
            calibrate(model, x, seed=seed)
        elif self.kind == "function":
            returned = self.value(model)
            if isinstance(returned, keras.Model):
                return returned
        return model


@dataclass(frozen=True)
class _OneInitializer:
    """The scheme that draws every kernel by one initializer."""

    initializer: Any

    def choose(self, model: keras.Model, context: SchemeContext) -> Selection:
        """Return a copy of the initializer, with a seed of its own, for each kernel."""
        return Selection(
            [
                context.choice(kernel, self._seeded(context.seeds.at(index)))
                for index, kernel in enumerate(context.kernels())
            ]
        )

    def _seeded(self, seed: int | None) -> Any:
        config = self.initializer.get_config()
        if "seed" in config:
            config = {**config, "seed": seed}
        return type(self.initializer).from_config(config)


def candidates_of(candidates: Any) -> list[Candidate]:
    """Return the candidates passed to `compare`, each with a unique label.

    Raises:
        TypeError: weights cannot be drawn by one of them.
        ValueError: there are none, a name is unknown, or two have the same label.
    """
    named: list[tuple[str | None, Any]]
    if isinstance(candidates, Mapping):
        named = [(str(label), value) for label, value in candidates.items()]
    elif isinstance(candidates, str) or not isinstance(candidates, Iterable):
        named = [(None, candidates)]
    else:
        named = [(None, value) for value in candidates]
    if not named:
        raise ValueError(
            "`candidates` must name at least one initialisation. Received: "
            f"{candidates!r}. Pass for example ['glorot_uniform', 'initlab>auto']."
        )
    resolved = [_candidate(label, value) for label, value in named]
    labels = [candidate.label for candidate in resolved]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ValueError(
            "Each candidate must have a label of its own. Received: two that are "
            f"called {twice!r}. Pass a dict from labels to candidates."
        )
    return resolved


def _candidate(label: str | None, candidate: Any) -> Candidate:
    kind, value, name = _resolved(candidate)
    return Candidate(label or name, kind, value)


def _resolved(candidate: Any) -> tuple[Kind, Any, str]:
    """Return the kind of a candidate, its value, and its name."""
    if candidate is None:
        return "as built", None, AS_BUILT
    if isinstance(candidate, str):
        return _of_name(candidate)
    if _is_initializer_class(candidate):
        candidate = candidate()
    if isinstance(candidate, keras.initializers.Initializer):
        return "initializer", candidate, _name_of(candidate)
    if isinstance(candidate, Scheme) and not isinstance(candidate, type):
        return "scheme", candidate, reprlib.repr(candidate)
    if callable(candidate):
        name = getattr(candidate, "__name__", type(candidate).__name__)
        return "function", candidate, name
    raise TypeError(
        "A candidate must be the name of an initializer or a scheme, 'calibrate', an "
        "initializer, a scheme, a function of the model, or None. Received: "
        f"{candidate!r} of type {type(candidate).__name__}. Pass for example "
        "'he_normal' or il.Variance()."
    )


def _of_name(name: str) -> tuple[Kind, Any, str]:
    # Schemes come first; no initializer of Keras or this package has such a name.
    if name.replace("_", " ").replace("-", " ") == AS_BUILT:
        return "as built", None, AS_BUILT
    if name == CALIBRATE:
        return "calibrate", None, name
    if name in SCHEMES:
        return "scheme", name, name
    try:
        initializer = keras.initializers.get(name)
    except (ValueError, TypeError):
        initializer = None
    if isinstance(initializer, type):
        initializer = initializer()
    if not isinstance(initializer, keras.initializers.Initializer):
        raise ValueError(
            "A candidate that is a string must name an initializer, a scheme "
            f"({', '.join(map(repr, SCHEMES))}), {CALIBRATE!r} or {AS_BUILT!r}. "
            f"Received: {name!r}. {_suggestion(name)}"
        )
    return "initializer", initializer, name


def _suggestion(name: str) -> str:
    names = [AS_BUILT, CALIBRATE, *SCHEMES, *_initializer_names()]
    close = nearest(name, names) or [n for n in names if n.endswith(f">{name.lower()}")]
    if close:
        return f"Did you mean {close[0]!r}?"
    return "Pass an initializer, as keras.initializers.HeNormal(), if it has no name."


def _initializer_names() -> list[str]:
    """Return the names of the initializers of Keras and of this package."""
    classes = filter(_is_initializer_class, vars(keras.initializers).values())
    of_keras = {_snake_case(kind.__name__) for kind in classes} - {"initializer"}
    registered = keras.saving.get_custom_objects()
    registered_names = {name for name in registered if name.startswith("initlab>")}
    return sorted(of_keras) + sorted(registered_names)


def _is_initializer_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, keras.initializers.Initializer)


def _snake_case(name: str) -> str:
    """Return the name of a class as Keras takes it in a string.

    >>> _snake_case("HeNormal")
    'he_normal'
    """
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def _name_of(initializer: Any) -> str:
    """Return an initializer as it would be typed, without unset arguments."""
    arguments = {
        key: value
        for key, value in initializer.get_config().items()
        if value is not None and key != "seed"
    }
    inside = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"{type(initializer).__name__}({inside})"
