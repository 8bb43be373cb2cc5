"""The command's arguments, and their help."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from keras_initlab._version import __version__
from keras_initlab.diagnosis import SEVERITIES
from keras_initlab.report.text import NARROWEST

_EXAMPLES = """\
examples:
  keras-initlab inspect model.keras                  layers, signals, findings
  keras-initlab rewrite model.keras -o better.keras  initializers that fit
  keras-initlab compare model.keras --data train.npz  which initialisation is best
  keras-initlab gains                                the gain of every activation
"""
_INSPECT = """\
examples:
  keras-initlab inspect model.keras
  keras-initlab inspect model.keras --data batch.npz -o report.html
  keras-initlab inspect model.keras --format json | jq .findings
  keras-initlab inspect model.keras --format markdown      to paste into an issue
  keras-initlab inspect model.keras --fail-on warning      for CI
  keras-initlab inspect model.keras --import my_package.layers

batch.npz is written by numpy.savez("batch.npz", x=x), or by
numpy.savez("batch.npz", left=..., right=...) for a model with inputs of these names.

exit codes: 0 done, 1 a finding that --fail-on names, 2 bad input
"""
_REWRITE = """\
examples:
  keras-initlab rewrite model.keras --dry-run
  keras-initlab rewrite model.keras -o better.keras --scheme variance --seed 0
  keras-initlab rewrite model.keras -o better.keras --skip head --skip encoder/dense
  keras-initlab rewrite model.keras -o better.keras --data batch.npz

The weights of rewritten kernels are drawn anew: do this before training, not after.
OUT holds no optimizer and no loss: call compile() on the model before fit().

exit codes: 0 done, 2 bad input
"""
_COMPARE = """\
examples:
  keras-initlab compare model.keras --data train.npz
  keras-initlab compare model.keras --data train.npz --target 0.95 --seeds 5
  keras-initlab compare model.keras --data train.npz --candidate he_normal \\
      --candidate isometric --learning-rate 0.01 --learning-rate 0.1
  keras-initlab compare model.keras --data train.npz --jobs 4 --runs runs.jsonl \\
      -o report.html

train.npz is written by numpy.savez("train.npz", x=x, y=y), or with arrays named as the
model's inputs, and as its outputs. A fifth is held out unless --validation is given.

The weights in MODEL are not used: each run draws its own. Compile the model before it
is saved, or name a --loss.

exit codes: 0 done, 2 bad input, 130 interrupted: what is done is printed
"""
_GAINS = """\
examples:
  keras-initlab gains              the gain of every Keras activation
  keras-initlab gains gelu tanh    of these two
"""
SCHEMES = ("activation", "variance", "isometric", "auto")
CANDIDATES = ("as-built", *SCHEMES, "calibrate")


def parser() -> argparse.ArgumentParser:
    """Return the parser; `run` of its result is the command's function."""
    top = argparse.ArgumentParser(
        prog="keras-initlab",
        description="Weight initialisation for Keras 3 that fits the layer.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=__version__)
    top.set_defaults(traceback=False)
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    _add_inspect(commands)
    _add_rewrite(commands)
    _add_compare(commands)
    _add_gains(commands)
    return top


def _add_inspect(commands: Any) -> None:
    command = _command(
        commands,
        "inspect",
        "show a saved model's layers and signals, and what is wrong with it",
        "Show a saved model's layers, fans, initializers and signals, predicted and, "
        "with --data, measured; say what is wrong and what to do.",
        _INSPECT,
        _inspect,
    )
    _add_model(command)
    command.add_argument(
        "--data",
        metavar="FILE",
        help="measure on a batch too: an .npz that holds one array, or `x`, or arrays "
        "named as the model's inputs; or an .npy. Some 32 to 512 inputs will do",
    )
    _add_output(command, "text", "json", "html", "markdown")
    command.add_argument(
        "--fail-on",
        choices=(*SEVERITIES, "never"),
        default="never",
        help="exit with 1 if a finding is at least as severe (default: never)",
    )


def _add_rewrite(commands: Any) -> None:
    command = _command(
        commands,
        "rewrite",
        "choose a saved model's kernel initializers anew",
        "Give every kernel of a saved model an initializer that fits its place in the "
        "network, draw its weights again, print what was done, and save the model.",
        _REWRITE,
        _rewrite,
    )
    _add_model(command)
    command.add_argument(
        "-o", "--output", metavar="OUT", help="where to save the model, a .keras file"
    )
    command.add_argument(
        "--scheme",
        choices=SCHEMES,
        default="auto",
        help="what has served networks of the kind best (default), by the activation "
        "that follows, by the signal's variance through the whole graph, or with "
        "mirrored units for plain networks",
    )
    command.add_argument(
        "--data",
        metavar="FILE",
        help="take the moments of the inputs from a batch: an .npz or .npy, as for "
        "inspect",
    )
    command.add_argument(
        "--seed", type=int, metavar="N", help="draw the same weights each time"
    )
    command.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="LAYER",
        help="a layer to leave alone, by name or path; may be repeated",
    )
    command.add_argument(
        "--only-defaults",
        action=argparse.BooleanOptionalAction,
        help="leave alone every kernel that was given another initializer than its "
        "layer's default; with --no-, rewrite also what is left alone otherwise: "
        "initializers that neither Keras nor keras-initlab ships, and small heads",
    )
    command.add_argument(
        "--redraw",
        action="store_true",
        help="draw the weights of a trained model anew without a warning",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="print the plan and save nothing"
    )
    command.add_argument(
        "--force", action="store_true", help="replace OUT if it exists"
    )


def _add_compare(commands: Any) -> None:
    command = _command(
        commands,
        "compare",
        "train a saved model under several initialisations",
        "Train a saved model's architecture under several initialisations, for the "
        "same epochs on the same data, and say which did best.",
        _COMPARE,
        _compare,
    )
    _add_model(command)
    command.add_argument(
        "--data", metavar="FILE", required=True, help="an .npz of inputs and targets"
    )
    command.add_argument(
        "--validation", metavar="FILE", help="an .npz of the same kind to judge by"
    )
    command.add_argument(
        "--candidate",
        action="append",
        metavar="NAME",
        help="an initializer such as he_normal, a scheme, calibrate, or as-built; may "
        f"be repeated (default: {', '.join(CANDIDATES)})",
    )
    for name, default, text in (
        ("--epochs", 10, "of each run"),
        ("--seeds", 3, "how many seeds"),
        ("--batch-size", 32, "inputs of a step"),
        ("--jobs", 1, "processes that train side by side"),
    ):
        command.add_argument(
            name,
            type=_count,
            default=default,
            metavar="N",
            help=f"{text} (default: {default})",
        )
    command.add_argument(
        "--learning-rate",
        action="append",
        type=float,
        metavar="R",
        help="one to try for each candidate; may be repeated (default: the model's)",
    )
    command.add_argument(
        "--metric", help="what to compare (default: the model's first)"
    )
    command.add_argument(
        "--target", type=float, metavar="V", help="count the epochs to this value of it"
    )
    command.add_argument("--loss", help="compile with this loss, a name of Keras's")
    command.add_argument(
        "--optimizer", default="adam", help="to go with --loss (default: adam)"
    )
    command.add_argument(
        "--runs",
        metavar="FILE",
        help="keep each run in FILE, and do not do again those that are in it",
    )
    _add_output(command, "text", "json", "html")


def _add_gains(commands: Any) -> None:
    command = _command(
        commands,
        "gains",
        "print the gains of activations",
        "Print E[φ], E[φ²], E[φ'²], gain, chi and Q' of Keras activations: Q' is how "
        "much an error of the signal's second moment grows in one layer.",
        _GAINS,
        _gains,
    )
    command.add_argument(
        "activation", nargs="*", help="a Keras activation's name; all if none is given"
    )
    command.add_argument(
        "--format",
        choices=("text", "markdown"),
        default="text",
        help="what to print (default: text); markdown names the sources too",
    )


def _command(
    commands: Any, name: str, summary: str, description: str, epilog: str, run: Any
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        # As wide as argparse's own help; the examples keep their line breaks.
        description=textwrap.fill(description, 78),
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _add_output(command: argparse.ArgumentParser, *formats: str) -> None:
    command.add_argument(
        "--format",
        choices=formats,
        help="what to print (default: by the ending of FILE in -o, else text)",
    )
    command.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write to FILE, in place of what is there",
    )
    command.add_argument(
        "--width",
        type=_width,
        metavar="N",
        help="characters of a line of text (default: the terminal's, else as many as "
        "the table needs)",
    )


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="a .keras or .h5 file")
    command.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="import a module first, which registers the model's own layers; looked "
        "for in the current folder too; may be repeated",
    )
    command.add_argument(
        "--unsafe",
        action="store_true",
        help="load and run code that the file holds, such as the function of a Lambda "
        "layer (safe_mode=False): it can do on this computer whatever you can do. Only "
        "for files from people whom you trust",
    )
    command.add_argument(
        "--traceback", action="store_true", help="show where an error comes from"
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text!r}")
    return int(text)


def _width(text: str) -> int:
    try:
        width = int(text)
    except ValueError:
        width = 0
    if width < NARROWEST:
        raise argparse.ArgumentTypeError(
            f"must be a whole number, {NARROWEST} or more, not {text!r}"
        )
    return width


# A command is imported when it runs, so that help need not wait for it.


def _inspect(arguments: argparse.Namespace) -> int:
    from keras_initlab.cli.inspecting import run

    return run(arguments)


def _rewrite(arguments: argparse.Namespace) -> int:
    from keras_initlab.cli.rewriting import run

    return run(arguments)


def _compare(arguments: argparse.Namespace) -> int:
    from keras_initlab.cli.comparing import run

    return run(arguments)


def _gains(arguments: argparse.Namespace) -> int:
    from keras_initlab.cli.gains import run

    return run(arguments)
