"""`keras-initlab compare`: a saved model under several initialisations."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from keras_initlab.bench import Comparison, compare
from keras_initlab.cli import batches, loading
from keras_initlab.cli.arguments import CANDIDATES
from keras_initlab.cli.errors import BadInput, brief
from keras_initlab.cli.output import (
    as_text,
    check_place,
    deliver,
    is_same_file,
    quiet,
)

_ENDINGS = {".html": "html", ".htm": "html", ".json": "json"}
_INTERRUPTED = 130


@dataclass(frozen=True)
class SavedModel:
    """Builds a compiled model of the architecture in a file, with weights of its own.

    A class, not a function in `run`, so that it can be sent to other processes.
    """

    path: str
    unsafe: bool
    modules: tuple[str, ...]
    loss: str | None
    optimizer: str
    metric: str | None

    def __call__(self) -> Any:
        """Return the model."""
        saved = loading.load(
            self.path,
            unsafe=self.unsafe,
            modules=self.modules,
            compiled=self.loss is None,
        )
        model = keras.models.clone_model(saved)
        if self.loss is not None:
            metrics = [self.metric] if self.metric else None
            model.compile(self.optimizer, self.loss, metrics=metrics)
            return model
        if getattr(saved, "optimizer", None) is None:
            raise BadInput(
                f"{self.path} holds no optimizer and no loss. Compile the model before "
                "it is saved, or pass --loss, as --loss mse."
            )
        model.compile_from_config(saved.get_compile_config())
        return model


def run(arguments: argparse.Namespace) -> int:
    """Print or write the comparison; return 130 after Ctrl-C, else 0."""
    output = Path(arguments.output) if arguments.output else None
    for path in (output, Path(arguments.runs) if arguments.runs else None):
        if path is not None:
            check_place(path)
            _check_apart(path, arguments)
    with quiet():
        comparison = _comparison(arguments)
    deliver(_formatted(comparison, arguments, output), output)
    return _INTERRUPTED if len(comparison.runs) < comparison.planned else 0


def _comparison(arguments: argparse.Namespace) -> Comparison:
    build = SavedModel(
        arguments.model,
        arguments.unsafe,
        tuple(arguments.modules),
        arguments.loss,
        arguments.optimizer,
        arguments.metric,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is about to be loaded again
            model = build()
        data = _data(arguments.data, model)
        held = _data(arguments.validation, model) if arguments.validation else None
        return _compared(build, data, held, arguments)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(
            f"{arguments.model} cannot be compared: {brief(error)}"
        ) from error


def _compared(
    build: SavedModel, data: tuple[Any, Any], held: Any, arguments: argparse.Namespace
) -> Comparison:
    with ExitStack() as stack:
        executor = None
        if arguments.jobs > 1:
            spawn = multiprocessing.get_context("spawn")
            executor = ProcessPoolExecutor(arguments.jobs, mp_context=spawn)
            stack.enter_context(executor)
        return compare(
            build,
            arguments.candidate or CANDIDATES,
            *data,
            held,
            epochs=arguments.epochs,
            seeds=arguments.seeds,
            learning_rates=arguments.learning_rate,
            metric=arguments.metric,
            target=arguments.target,
            executor=executor,
            out=arguments.runs,
            batch_size=arguments.batch_size,
        )


def _data(name: str, model: Any) -> tuple[Any, Any]:
    return batches.load(name, model), batches.load_targets(name, model)


def _formatted(
    comparison: Comparison, arguments: argparse.Namespace, output: Path | None
) -> str:
    form = arguments.format
    if form is None:
        form = _ENDINGS.get(output.suffix.lower(), "text") if output else "text"
    if form == "json":
        return json.dumps(comparison.to_dict(), indent=2, allow_nan=False)
    if form == "html":
        return comparison.html()
    return as_text(comparison, arguments.width, output)


def _check_apart(path: Path, arguments: argparse.Namespace) -> None:
    for source in (arguments.model, arguments.data, arguments.validation):
        if source and is_same_file(path, Path(source)):
            raise BadInput(f"{path} is one of the inputs. Give another file.")
