"""A batch from a file, checked against the inputs of a model."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_initlab.cli.errors import BadInput, brief

Arrays = dict[str, np.ndarray[Any, Any]]


def load(name: str, model: Any) -> Any:
    """Return what `model` can be called with, from an .npz or .npy file.

    Raises:
        BadInput: the file cannot be read, or does not fit the model's inputs.
    """
    path = Path(name)
    arrays = _read(path)
    inputs = _inputs(model)
    if isinstance(inputs, keras.KerasTensor):
        array = _single(path, arrays, inputs.name)
        _check(path, array, inputs)
        return array
    if isinstance(inputs, Mapping):
        batch = {key: _named(path, arrays, key, list(inputs)) for key in inputs}
        for key, tensor in inputs.items():
            _check(path, batch[key], tensor)
        _check_lengths(path, batch)
        return batch
    if isinstance(inputs, list | tuple) and all(
        isinstance(tensor, keras.KerasTensor) for tensor in inputs
    ):
        names = [tensor.name for tensor in inputs]
        batch = {name: _named(path, arrays, name, names) for name in names}
        for tensor in inputs:
            _check(path, batch[tensor.name], tensor)
        _check_lengths(path, batch)
        return [batch[name] for name in names]
    return _unchecked(path, arrays)


def load_targets(name: str, model: Any) -> Any:
    """Return the targets in an .npz file: `y`, or an array for each output by its name.

    Raises:
        BadInput: there are none.
    """
    path = Path(name)
    arrays = _read(path)
    if "y" in arrays:
        return arrays["y"]
    outputs = list(getattr(model, "output_names", None) or [])
    if len(outputs) > 1 and all(output in arrays for output in outputs):
        return {output: arrays[output] for output in outputs}
    raise BadInput(
        f"--data {path} must hold targets, named 'y' or as the model's outputs"
        f"{': ' if outputs else ''}{', '.join(map(repr, outputs))}. Received: "
        f'{_names(arrays)}. Write one with numpy.savez("train.npz", x=x, y=y).'
    )


def _inputs(model: Any) -> Any:
    """Return the tensors that a model takes, as nested as it takes them."""
    for name in ("input", "inputs"):  # a Sequential has the second alone
        # Neither a subclassed model has them, nor one that is not built.
        inputs = getattr(model, name, None)
        if inputs is not None:
            single = isinstance(inputs, list | tuple) and len(inputs) == 1
            return inputs[0] if single else inputs
    return None


def describe(batch: Any) -> str:
    """Return the shapes of a batch.

    >>> describe({"a": np.ones((2, 3)), "b": np.ones(2)})
    'a (2, 3), b (2,)'
    """
    if isinstance(batch, Mapping):
        return ", ".join(f"{key} {array.shape}" for key, array in batch.items())
    if isinstance(batch, list | tuple):
        return ", ".join(str(array.shape) for array in batch)
    return str(batch.shape)


def _read(path: Path) -> Arrays:
    if path.is_dir() or not path.exists():
        fault = "is a folder" if path.is_dir() else "does not exist"
        raise BadInput(f"--data {path} {fault}. Give an .npz or .npy file.")
    try:
        # Never pickles: they run code.
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        if "Object arrays" in str(error):
            raise BadInput(
                f"--data {path} holds Python objects, which are not loaded: they can "
                "run code. Save arrays of numbers with numpy.savez."
            ) from error
        raise BadInput(
            f"--data {path} is no .npz or .npy file, or damaged. Write one with "
            'numpy.savez("batch.npz", x=x).'
        ) from error
    except Exception as error:  # zlib.error and others, of a damaged archive
        raise BadInput(f"--data {path} is damaged: {brief(error)}.") from error


def _unchecked(path: Path, arrays: Arrays) -> Any:
    """Return a batch for a model whose inputs are not known."""
    if len(arrays) > 1 and "x" not in arrays:
        return arrays
    return _single(path, arrays, "x")


def _single(path: Path, arrays: Arrays, name: str) -> np.ndarray[Any, Any]:
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    for wanted in (name, "x"):
        if wanted in arrays:
            return arrays[wanted]
    raise BadInput(
        f"--data {path} must hold one array, or one named 'x' or {name!r}. Received: "
        f"{_names(arrays)}."
    )


def _named(
    path: Path, arrays: Arrays, name: str, names: list[str]
) -> np.ndarray[Any, Any]:
    if name not in arrays:
        raise BadInput(
            f"--data {path} must be an .npz with an array for each input of the model: "
            f"{', '.join(map(repr, names))}. Received: {_names(arrays)}."
        )
    return arrays[name]


def _names(arrays: Arrays) -> str:
    return ", ".join(map(repr, arrays)) or "no array"


def _check(path: Path, array: np.ndarray[Any, Any], tensor: Any) -> None:
    """Raise where an array is none of the shape and kind that an input takes."""
    held = f"an array of shape {array.shape} and dtype {array.dtype}"
    takes = f"the model's input {tensor.name!r} takes {tuple(tensor.shape)}"
    if array.ndim == 0 or not len(array):
        raise BadInput(f"--data {path} has no inputs: it holds {held}, and {takes}.")
    if not _fits(array.shape, tensor.shape):
        single = _fits((1, *array.shape), tensor.shape)
        hint = " For a single input, write x[None]." if single else ""
        raise BadInput(f"--data {path} does not fit: it holds {held}; {takes}.{hint}")
    if (array.dtype.kind not in "biuf") != (tensor.dtype == "string"):
        raise BadInput(
            f"--data {path} does not fit: it holds {held}; {takes} of dtype "
            f"{tensor.dtype}."
        )


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    # As Keras does: a last axis of length 1 may be missing, or too many.
    if len(shape) == len(wanted) + 1 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == len(wanted) - 1 and wanted[-1] == 1:
        wanted = wanted[:-1]
    return len(shape) == len(wanted) and all(
        b is None or a == b for a, b in zip(shape, wanted, strict=True)
    )


def _check_lengths(path: Path, batch: Arrays) -> None:
    lengths = {name: len(array) for name, array in batch.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{count} of {name!r}" for name, count in lengths.items())
        raise BadInput(
            f"--data {path} must hold as many of each input. Received: {counts}."
        )
