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

_HEADERS = ("E[φ]", "E[φ²]", "E[φ'²]", "g", "chi", "Q'")
_TITLE = (
    "Gains for z ~ N(0, 1): g = 1/sqrt(E[φ²]), chi = g² E[φ'²], "
    "Q' = g² dE[φ(√q z)²]/dq at q = 1"
)
_SOURCES = {
    "He": "He et al. 2015",
    "Glorot": "Glorot & Bengio 2010",
    "LeCun": "LeCun et al. 1998; Klambauer et al. 2017",
    "Sitzmann": "Sitzmann et al. 2020",
    "exact": "Poole et al. 2016",
}


def run(arguments: argparse.Namespace) -> int:
    """Print the table; return 0."""
    try:
        rows = _rows(arguments.activation)
    except ValueError as error:
        raise BadInput(str(error)) from error
    if arguments.format == "markdown":
        emit(_markdown(rows))
        return 0
    columns: list[tuple[str, Justify]] = [("activation", "left")]
    columns += [(header, "right") for header in _HEADERS]
    columns += [("initlab>auto", "left")]
    emit(render_table(_TITLE, columns, [row[:-1] for row in rows]))
    return 0


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    headers = ["activation", *_HEADERS, "initlab>auto", "source"]
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rows(names: Sequence[str]) -> list[list[str]]:
    rows = []
    for name in names or _keras_names():
        resolved = activations.resolve(name)
        try:
            rule = rule_for(resolved)
        except ValueError:
            if names:
                raise
            rows.append([name, *["-"] * len(_HEADERS), "needs arguments", "-"])
            continue
        numbers = ["-"] * len(_HEADERS)
        if resolved.function is not None or resolved.name == "glu":
            moments = activations.moments(resolved)
            numbers = [
                f"{round(value, 4) + 0.0:.4f}"  # not -0.0000
                for value in (
                    moments.mean,
                    moments.second_moment,
                    moments.derivative_second_moment,
                    activations.gain(resolved),
                    activations.chi(resolved),
                    _growth(resolved),
                )
            ]
        fan = "(fan_in + fan_out)" if rule.mode == "fan_avg" else "fan_in"
        top = rule.gain**2 * (2 if rule.mode == "fan_avg" else 1)
        variance = f"{rule.name}, {top:.4g} / {fan}"
        rows.append([name, *numbers, variance, _SOURCES[rule.name]])
    return rows


def _growth(activation: activations.Activation) -> float:
    """Return Q', by which a small error of the second moment grows in one layer."""
    step = 1e-3
    above, below = (
        activations.moments(activation, variance=1 + side).second_moment
        for side in (step, -step)
    )
    return activations.gain(activation) ** 2 * (above - below) / (2 * step)


def _keras_names() -> list[str]:
    """Return the names of all activations in keras.activations."""
    utilities = {"get", "serialize", "deserialize"}
    return sorted(
        name
        for name, value in vars(keras.activations).items()
        if callable(value) and name not in utilities
    )
