"""`keras-initlab gains`: a table of activations."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import keras

from keras_initlab import activations
from keras_initlab.cli.errors import BadInput
from keras_initlab.cli.output import emit
from keras_initlab.initializers.auto import rule_for
from keras_initlab.tables import Justify, render_table

_HEADERS = ("E[φ]", "E[φ²]", "E[φ'²]", "g", "chi")


def run(arguments: argparse.Namespace) -> int:
    """Print the table; return 0."""
    try:
        table = _table(arguments.activation)
    except ValueError as error:
        raise BadInput(str(error)) from error
    emit(table)
    return 0


def _table(names: Sequence[str]) -> str:
    rows = []
    for name in names or _keras_names():
        resolved = activations.resolve(name)
        try:
            rule = rule_for(resolved)
        except ValueError:
            if names:
                raise
            rows.append([name, *["-"] * 5, "needs arguments"])
            continue
        numbers = ["-"] * 5
        if resolved.function is not None or resolved.name == "glu":
            moments = activations.moments(resolved)
            numbers = [
                f"{value:.4f}"
                for value in (
                    moments.mean,
                    moments.second_moment,
                    moments.derivative_second_moment,
                    activations.gain(resolved),
                    activations.chi(resolved),
                )
            ]
        fan = "(fan_in + fan_out)" if rule.mode == "fan_avg" else "fan_in"
        top = rule.gain**2 * (2 if rule.mode == "fan_avg" else 1)
        rows.append([name, *numbers, f"{rule.name}, {top:.4g} / {fan}"])
    title = "Gains for z ~ N(0, 1): g = 1/sqrt(E[φ²]), chi = g² E[φ'²]"
    columns: list[tuple[str, Justify]] = [("activation", "left")]
    columns += [(header, "right") for header in _HEADERS]
    return render_table(title, [*columns, ("initlab>auto", "left")], rows)


def _keras_names() -> list[str]:
    """Return the names of all activations in keras.activations."""
    utilities = {"get", "serialize", "deserialize"}
    return sorted(
        name
        for name, value in vars(keras.activations).items()
        if callable(value) and name not in utilities
    )
