"""`keras-initlab rewrite`: gives a saved model other initializers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from keras_initlab.cli import batches, loading
from keras_initlab.cli.errors import BadInput, brief
from keras_initlab.cli.output import check_place, emit, is_same_file, quiet
from keras_initlab.files import replacing
from keras_initlab.rewrite import rewrite_initializers


def run(arguments: argparse.Namespace) -> int:
    """Print the plan, and save the model unless it is a dry run; return 0."""
    output = _output(arguments)
    with quiet():
        model = loading.load(
            arguments.model, unsafe=arguments.unsafe, modules=arguments.modules
        )
        x = batches.load(arguments.data, model) if arguments.data else None
        try:
            plan = rewrite_initializers(
                model,
                scheme=arguments.scheme,
                seed=arguments.seed,
                x=x,
                skip=arguments.skip or None,
                only_defaults=arguments.only_defaults,
                redraw=arguments.redraw,
                dry_run=arguments.dry_run,
            )
        except Exception as error:
            message = f"{arguments.model} cannot be rewritten: {brief(error)}"
            raise BadInput(message) from error
        if output is not None:
            _save(model, output)
    emit(str(plan))
    if output is not None:
        emit(f"saved: {output}")
    return 0


def _output(arguments: argparse.Namespace) -> Path | None:
    """Return where to save; None for a dry run."""
    if arguments.dry_run:
        return None
    if arguments.output is None:
        raise BadInput("rewrite needs -o OUT.keras, or --dry-run to save nothing.")
    output = Path(arguments.output)
    check_place(output)
    if output.suffix != ".keras":
        raise BadInput(f"-o {output} must end in .keras, the format that is saved.")
    if output.exists() and not arguments.force:
        model = Path(arguments.model)
        problem = "is the model itself" if is_same_file(output, model) else "exists"
        raise BadInput(f"{output} {problem}. Pass --force to replace it.")
    return output


def _save(model: Any, output: Path) -> None:
    try:
        with replacing(output) as fresh:
            model.save(fresh)
    except OSError as error:
        reason = error.strerror or brief(error)
        raise BadInput(f"{output} cannot be written: {reason}.") from error
    except Exception as error:
        raise BadInput(f"{output} cannot be saved: {brief(error)}") from error
