"""Loads saved models, or says in one clear line why it cannot."""

from __future__ import annotations

import importlib
import re
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

import keras_initlab.initializers  # noqa: F401  (the names that a file may hold)
from keras_initlab.cli.errors import BadInput, brief

_SAVE = 'Save one with model.save("model.keras").'


def load(
    name: str,
    *,
    unsafe: bool = False,
    modules: Sequence[str] = (),
    compiled: bool = False,
) -> Any:
    """Return the model in a file.

    Args:
        name: the file.
        unsafe: load the code of Lambda layers, too.
        modules: imported first, for the classes that they register.
        compiled: with its optimizer and loss, which may need classes of their own.

    Raises:
        BadInput: the file holds no model that can be loaded.
    """
    path = Path(name)
    _check_file(path)
    for module in modules:
        _import(module)
    try:
        model = keras.saving.load_model(path, compile=compiled, safe_mode=not unsafe)
    except Exception as error:
        raise BadInput(_reason(path, error)) from error
    if not isinstance(model, keras.Model):
        kind = type(model).__name__
        raise BadInput(f"{path} holds no model but an object of class {kind}. {_SAVE}")
    return model


def _check_file(path: Path) -> None:
    """Raise if the file evidently holds no model."""
    if path.is_dir():
        raise BadInput(f"{path} is a folder, no .keras or .h5 file. {_SAVE}")
    if not path.exists():
        raise BadInput(f"{path} does not exist. Give the path of a saved model.")
    if path.name.endswith(".weights.h5"):
        raise BadInput(_weights_only(path))
    if path.suffix not in (".keras", ".h5", ".hdf5"):
        raise BadInput(
            f"{path} is no model: its name ends in none of .keras, .h5. {_SAVE}"
        )
    try:
        with path.open("rb") as file:
            file.read(1)
        if path.suffix == ".keras":
            _check_archive(path)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}.") from error


def _check_archive(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise BadInput(
            f"{path} is no model, or only the beginning of one: a .keras file is a ZIP "
            f"archive, and this is none. {_SAVE}"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            # Keras loads weights without looking at their checksum.
            damaged = archive.testzip()
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise BadInput(f"{path} is damaged: {brief(error)}.") from error
    except Exception as error:  # such as zlib.error, depending on the compression
        raise BadInput(f"{path} is damaged: {brief(error)}.") from error
    if damaged:
        raise BadInput(f"{path} is damaged: its {damaged} has a wrong checksum.")
    if "config.json" not in names:
        raise BadInput(f"{path} is no model: there is no config.json in it. {_SAVE}")


def _import(module: str) -> None:
    # An installed command does not search the current folder by itself.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        importlib.import_module(module)
    except Exception as error:
        kind = type(error).__name__
        raise BadInput(
            f"--import {module} fails with {kind}: {brief(error)}"
        ) from error


def _reason(path: Path, error: Exception) -> str:
    """Return why a model cannot be loaded, from Keras's error."""
    message = str(error)
    if "safe_mode" in message or "enable_unsafe_deserialization" in message:
        return (
            f"{path} holds code (a Lambda layer's function), which is not loaded: it "
            "could do anything on this computer. If you trust the file, pass --unsafe."
        )
    lost = re.findall(r"Could not locate (class|function) '([^']*)'", message)
    lost += re.findall(r"Unknown (\w+): '([^']*)'", message)
    if lost:
        kind, name = lost[-1]
        registered = re.findall(r"'registered_name': '([^']*)'", message)
        full_name = registered[-1] if registered else name
        alias = (
            f" (registered as {full_name!r})" if full_name.endswith(f">{name}") else ""
        )
        return (
            f"{path} needs the {kind} {name!r}{alias}, which is not known here. Pass "
            "--import MODULE, a module that defines it under "
            "@keras.saving.register_keras_serializable()."
        )
    if "No model config" in message:
        return _weights_only(path)
    if path.suffix != ".keras" and isinstance(error, OSError):
        return f"{path} is no HDF5 file, or damaged: {brief(error)}"
    return f"{path} cannot be loaded: {type(error).__name__}: {brief(error)}"


def _weights_only(path: Path) -> str:
    return (
        f"{path} holds weights and no model. Load it into its model with "
        'model.load_weights, and save that with model.save("model.keras").'
    )
