"""How the options of schemes are checked and printed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from keras_initlab.words import did_you_mean

Residual = Literal["scaled", "zero", "keep"]
Criterion = Literal["forward", "balanced"]
SchemeName = Literal["activation", "variance", "isometric", "auto"]
RESIDUALS: tuple[str, ...] = get_args(Residual)
CRITERIA: tuple[str, ...] = get_args(Criterion)

# A number for all inputs, one for each, or a dict by the inputs' names.
InputMoment = float | Mapping[str, float] | Sequence[float]


class Options:
    """A scheme's options, printed as they would be typed, without defaults."""

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        values = [(field, getattr(self, field.name)) for field in fields]
        typed = [
            f"{field.name}={value!r}"
            for field, value in values
            if value != field.default
        ]
        return f"{type(self).__name__}({', '.join(typed)})"

    def _set(self, **checked: Any) -> None:
        """Set fields of a frozen dataclass, in its `__post_init__`."""
        for name, value in checked.items():
            object.__setattr__(self, name, value)


def check_second_moment(name: str, value: Any, meaning: str) -> float:
    """Return a second moment as a float, and refuse what cannot be one."""
    is_number = isinstance(value, int | float | np.integer | np.floating)
    if not is_number or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(
            f"`{name}` must be a finite number above 0, the second moment {meaning}. "
            f"Received: {name}={value!r}. Leave it out for the default."
        )
    return float(value)


def check_word(name: str, value: Any, words: tuple[str, ...]) -> None:
    """Refuse a value that is none of `words`, of which the first is the default."""
    if value not in words:
        raise ValueError(
            f"`{name}` must be {' or '.join(map(repr, words))}. "
            f"Received: {name}={value!r}.{did_you_mean(value, words)} Leave it out for "
            f"{words[0]!r}."
        )


def check_input_moment(name: str, value: Any, *, minimum: float = -math.inf) -> Any:
    """Return the inputs' means or variances as a float, a tuple or a dict of floats.

    Whether the names and the number of inputs are the model's is checked later.
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {key: _number(name, item, minimum) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_number(name, item, minimum) for item in value)
    return _number(name, value, minimum)


def _number(name: str, value: Any, minimum: float) -> float:
    is_number = isinstance(value, int | float | np.integer | np.floating)
    if not is_number or isinstance(value, bool):
        raise TypeError(
            f"`{name}` must be a number, or one for each input. Received: {value!r} of "
            f"type {type(value).__name__}. Give the moments of the data as the model's "
            "input gets it."
        )
    if not minimum <= value or not math.isfinite(value):
        expected = "finite" if minimum < 0 else "finite and not negative"
        raise ValueError(
            f"`{name}` must be {expected}. Received: {name}={value}. Give the moments "
            "of the data as the model's input gets it."
        )
    return float(value)
