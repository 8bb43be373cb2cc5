"""The command `keras-initlab`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import keras

from keras_initlab import activations
from keras_initlab._version import __version__
from keras_initlab.initializers.auto import rule_for
from keras_initlab.tables import render_table

_EXAMPLES = """\
examples:
  keras-initlab gains              the gain of every Keras activation
  keras-initlab gains gelu tanh    of these two
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code (0 done, 2 bad input).

    >>> main(["gains", "relu"])
    Gains for z ~ N(0, 1): g = 1/sqrt(E[φ²]), chi = g² E[φ'²]
     activation     E[φ]    E[φ²]   E[φ'²]        g      chi   initlab>auto
    ──────────────────────────────────────────────────────────────────────────
     relu         0.3989   0.5000   0.5000   1.4142   1.0000   He, 2 / fan_in
    0
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 0
    try:
        print(_gains(arguments.activation))
    except ValueError as error:
        print(f"keras-initlab: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-initlab",
        description="Weight initialisation for Keras 3 that fits the layer.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    gains = commands.add_parser(
        "gains",
        help="print the gains of activations",
        description="Print E[φ], E[φ²], E[φ'²], gain and chi of Keras activations.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    gains.add_argument(
        "activation", nargs="*", help="a Keras activation's name; all if none is given"
    )
    return parser


def _gains(names: Sequence[str]) -> str:
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
            found = activations.moments(resolved)
            numbers = [
                f"{value:.4f}"
                for value in (
                    found.mean,
                    found.second_moment,
                    found.derivative_second_moment,
                    activations.gain(resolved),
                    activations.chi(resolved),
                )
            ]
        fan = "(fan_in + fan_out)" if rule.mode == "fan_avg" else "fan_in"
        top = rule.gain**2 * (2 if rule.mode == "fan_avg" else 1)
        rows.append([name, *numbers, f"{rule.name}, {top:.4g} / {fan}"])
    title = "Gains for z ~ N(0, 1): g = 1/sqrt(E[φ²]), chi = g² E[φ'²]"
    headers = ("E[φ]", "E[φ²]", "E[φ'²]", "g", "chi")
    columns = [("activation", "left"), *((h, "right") for h in headers)]
    return render_table(title, [*columns, ("initlab>auto", "left")], rows)  # type: ignore[list-item]


def _keras_names() -> list[str]:
    """Return every name in keras.activations."""
    other = {"get", "serialize", "deserialize"}
    return sorted(
        name
        for name, value in vars(keras.activations).items()
        if callable(value) and name not in other
    )
