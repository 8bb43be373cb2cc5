"""`keras-initlab inspect`: the report of a saved model."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from keras_initlab.cli import batches, loading
from keras_initlab.cli.errors import BadInput, brief
from keras_initlab.cli.output import (
    as_text,
    check_place,
    deliver,
    is_same_file,
    quiet,
)
from keras_initlab.diagnosis import SEVERITIES

if TYPE_CHECKING:
    from keras_initlab.report import Inspection

_ENDINGS = {
    ".html": "html",
    ".htm": "html",
    ".json": "json",
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
    ".log": "text",
    "": "text",
}


def run(arguments: argparse.Namespace) -> int:
    """Print or write the report; return 1 if `--fail-on` is met, else 0."""
    output = Path(arguments.output) if arguments.output else None
    if output is not None:
        check_place(output)
        _check_apart(output, arguments.model)
        _check_ending(output, arguments.format)
    with quiet():
        inspection = _inspection(arguments)
    deliver(_formatted(inspection, arguments, output), output)
    return int(_fails(inspection, arguments.fail_on))


def _inspection(arguments: argparse.Namespace) -> Inspection:
    from keras_initlab.inspection import inspect

    model = loading.load(
        arguments.model, unsafe=arguments.unsafe, modules=arguments.modules
    )
    x = batches.load(arguments.data, model) if arguments.data else None
    try:
        return replace(inspect(model, x), file=arguments.model)
    except Exception as error:
        on = f" on a batch of {batches.describe(x)}" if x is not None else ""
        raise BadInput(
            f"{arguments.model} cannot be inspected{on}: {brief(error)}"
        ) from error


def _formatted(
    inspection: Inspection, arguments: argparse.Namespace, output: Path | None
) -> str:
    form = arguments.format
    if form is None:
        form = _ENDINGS[output.suffix.lower()] if output else "text"
    if form == "json":
        return inspection.json()
    if form == "html":
        return inspection.html()
    if form == "markdown":
        return inspection.markdown()
    return as_text(inspection, arguments.width, output)


def _fails(inspection: Inspection, level: str) -> bool:
    if level == "never":
        return False
    counted = SEVERITIES[: SEVERITIES.index(level) + 1]
    return any(finding.severity in counted for finding in inspection.findings)


def _check_ending(output: Path, form: str | None) -> None:
    """Refuse a name that says one thing and a report that is another."""
    ending = output.suffix.lower()
    implied = _ENDINGS.get(ending)
    if form is None and implied is None:
        raise BadInput(
            f"{output} would hold no {ending} file. End FILE in one of "
            f"{', '.join(filter(None, _ENDINGS))}, or say in --format what to write."
        )
    if form is not None and implied not in (None, "text", form):
        raise BadInput(
            f"{output} would hold {form}, not {implied}. Let --format and the ending "
            "of FILE agree, or leave one out."
        )


def _check_apart(output: Path, model: str) -> None:
    if is_same_file(output, Path(model)):
        raise BadInput(f"{output} is the model itself. Give another file in -o.")
