"""Training data in an order that depends only on the seed, on every backend."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_initlab.model.batch import batch_of, draws_batches, size_of

# Share of the training data that is held out where no validation data are given.
HELD_OUT = 0.2
# Inputs on which signals are measured.
SAMPLE = 256
# Inputs of a batch of validation data, at least.
VALIDATION_BATCH = 256


class Data(NamedTuple):
    """Training and validation data; `y` is None if `x` yields batches."""

    x: Any
    y: Any
    validation: Any


class Shuffled(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of arrays, in an order that depends on seed and epoch.

    Keras's own shuffling uses generators from which a model's layers draw as well, so
    that one more dropout layer would change the order of the data.
    """

    def __init__(self, x: Any, y: Any, batch_size: int, seed: int) -> None:
        super().__init__()
        self._data = (x,) if y is None else (x, y)
        self._size, self._batch_size = size_of(x), batch_size
        self._generator = np.random.default_rng([seed, 1])
        self._order = self._generator.permutation(self._size)

    def __len__(self) -> int:
        return -(-self._size // self._batch_size)

    def __getitem__(self, index: int) -> Any:
        first = index * self._batch_size
        rows = self._order[first : first + self._batch_size]
        return keras.tree.map_structure(lambda array: array[rows], self._data)

    def on_epoch_end(self) -> None:
        """Draw the next epoch's order."""
        self._order = self._generator.permutation(self._size)


def data_of(x: Any, y: Any, validation_data: Any) -> Data:
    """Return the data, as arrays unless they yield batches.

    Raises:
        ValueError: `x` can be iterated only once, or there is nothing to hold out.
    """
    if draws_batches(x):
        _check_batches(x, y, validation_data)
        return Data(x, None, validation_data)
    x, y = _arrays(x), None if y is None else _arrays(y)
    _check_lengths(x, y)
    if validation_data is None:
        return _split(x, y)
    if isinstance(validation_data, tuple | list):
        validation_data = tuple(_arrays(part) for part in validation_data)
    return Data(x, y, validation_data)


def training_data(data: Data, batch_size: int, seed: int) -> Any:
    """Return the argument `x` for `fit`."""
    if draws_batches(data.x):
        return data.x
    return Shuffled(data.x, data.y, batch_size, seed)


def sample_of(data: Data) -> tuple[Any, Any]:
    """Return inputs to measure on, and their targets: the same for every run."""
    if draws_batches(data.x):
        return batch_of(data.x)
    size = size_of(data.x)
    rows = np.random.default_rng(0).permutation(size)[:SAMPLE]
    return _rows(data.x, rows), _rows(data.y, rows)


def digest(data: Data) -> str:
    """Return a digest of the data; "" for data that yield batches."""
    if draws_batches(data.x):
        return ""
    total = hashlib.sha256()
    for leaf in keras.tree.flatten((data.x, data.y)):
        if leaf is not None:
            total.update(f"{leaf.dtype}{leaf.shape}".encode())
            total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()[:16]


def _arrays(values: Any) -> Any:
    """Return arrays, data frames or tensors, nested as given, as NumPy's arrays."""
    if isinstance(values, list | tuple) and not any(
        hasattr(v, "shape") or isinstance(v, dict | list | tuple) for v in values
    ):
        return np.asarray(values)  # a list of numbers
    return keras.tree.map_structure(_array, batch_of(values)[0])


def _array(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return leaf
    return np.asarray(keras.ops.convert_to_numpy(leaf))


def _rows(values: Any, rows: Any) -> Any:
    if values is None:
        return None
    return keras.tree.map_structure(lambda array: array[rows], values)


def _split(x: Any, y: Any) -> Data:
    size = size_of(x)
    held = round(HELD_OUT * size)
    if not 0 < held < size:
        raise ValueError(
            "Without `validation_data` a fifth of `x` is held out. Received: "
            f"{size} inputs, too few. Pass validation_data=(x_val, y_val)."
        )
    order = np.random.default_rng(0).permutation(size)
    train, validation = order[held:], order[:held]
    held_out = (
        (_rows(x, validation),)
        if y is None
        else (_rows(x, validation), _rows(y, validation))
    )
    return Data(_rows(x, train), _rows(y, train), held_out)


def _check_batches(x: Any, y: Any, validation_data: Any) -> None:
    if hasattr(x, "__next__"):
        raise ValueError(
            "`x` must give the same data to every run. Received: a "
            f"{type(x).__name__}, which can be drawn from once. Pass arrays, a "
            "tf.data.Dataset, a PyDataset or a DataLoader."
        )
    if y is not None:
        raise ValueError(
            f"`y` must be None where `x` yields batches with their targets. Received: "
            f"`y` with a {type(x).__name__}. Leave `y` out."
        )
    if validation_data is None:
        raise ValueError(
            "`validation_data` must be given where `x` yields batches: nothing can be "
            f"held out of a {type(x).__name__}. Pass what `fit` takes."
        )


def _check_lengths(x: Any, y: Any) -> None:
    lengths = {len(leaf) for leaf in keras.tree.flatten((x, y)) if leaf is not None}
    if len(lengths) > 1:
        raise ValueError(
            "`x` and `y` must hold as many inputs as targets. Received: lengths "
            f"{', '.join(map(str, sorted(lengths)))}."
        )
