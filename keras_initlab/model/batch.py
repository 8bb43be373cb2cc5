"""A batch as a model takes it, from whatever `fit` takes."""

from __future__ import annotations

import contextlib
import reprlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_initlab.model.graph import has_graph
from keras_initlab.words import did_you_mean


def inputs_of(data: Any) -> Any:
    """Return one batch of inputs, as `model(x)` takes them; see `batch_of`.

    Raises:
        ValueError: there is no batch in it.
    """
    return batch_of(data)[0]


def batch_of(data: Any) -> tuple[Any, Any]:
    """Return one batch of inputs, as `model(x)` takes them, and its targets if any.

    For a `tf.data.Dataset`, a `keras.utils.PyDataset`, a PyTorch `DataLoader` or a
    generator it is the first batch, without its sample weights; a generator has then
    advanced by one batch. Data frames, series and SciPy's sparse matrices are converted
    as by `fit`. Arrays, tensors, and lists, tuples and dicts of these are returned
    unchanged, with None for targets: a tuple `(x, y)` of arrays is not split.

    Raises:
        ValueError: there is no batch in it.
    """
    if isinstance(data, list | tuple):
        kind = type(data)
        parts = [_array_of(part) for part in data]
        whole = parts if kind is list else tuple(parts) if kind is tuple else data
        return whole, None
    if isinstance(data, dict):
        return {name: _array_of(part) for name, part in data.items()}, None
    if not draws_batches(data):
        return _array_of(data), None
    try:
        with _torch_generator_kept():
            batch = _first(data)
    except (StopIteration, IndexError):
        raise ValueError(
            "`x` must hold at least one batch. Received: an empty "
            f"{type(data).__name__}. Pass one that yields a batch, or an array."
        ) from None
    if isinstance(batch, list) and _is_loader(data):
        batch = tuple(batch)
    targets = None
    if isinstance(batch, tuple):
        targets = batch[1] if len(batch) > 1 else None
        batch = batch[0]
    inputs = keras.tree.map_structure(_own_tensor, batch)
    if targets is None:
        return inputs, None
    return inputs, keras.tree.map_structure(_own_tensor, targets)


def check_keys(model: Any, x: Any) -> None:
    """Refuse a dict of inputs that lacks one of a functional model's.

    Raises:
        ValueError: a key is missing.
    """
    if not isinstance(x, Mapping) or not has_graph(model):
        return
    inputs = model.inputs if isinstance(model, keras.Sequential) else model.input
    mapped = isinstance(inputs, Mapping)
    names = [*inputs] if mapped else [tensor.name for tensor in model.inputs]
    missing = [name for name in names if name not in x]
    if missing:
        unused = [key for key in x if key not in names]
        raise ValueError(
            f"A dict of inputs for {model.name!r} must have the keys "
            f"{', '.join(map(repr, names))}. Received: one with "
            f"{', '.join(map(repr, x)) or 'none'}, without {missing[0]!r}."
            f"{did_you_mean(missing[0], unused).replace('Did you mean', 'Is it')} "
            f"Pass an array under each key."
        )


def values_of(leaf: Any) -> np.ndarray[Any, Any]:
    """Return an input as a NumPy array; a ragged one is flattened."""
    if hasattr(leaf, "flat_values"):  # tf.RaggedTensor
        leaf = leaf.flat_values
    elif keras.backend.backend() == "torch" and getattr(leaf, "is_sparse", False):
        leaf = leaf.to_dense()
    if isinstance(leaf, np.ndarray | list | tuple | float | int):
        return np.asarray(leaf)
    return np.asarray(keras.ops.convert_to_numpy(leaf))


def size_of(x: Any) -> int:
    """Return how many inputs a batch holds; 1 if that is unknown."""
    leaves = keras.tree.flatten(x)
    lengths = [leaf.shape[0] for leaf in leaves if len(getattr(leaf, "shape", ()))]
    return min((int(length) for length in lengths if length is not None), default=1)


def draws_batches(data: Any) -> bool:
    """Whether data yield batches, and are not a batch themselves."""
    if hasattr(data, "shape") or isinstance(data, str | bytes | Mapping):
        return False
    kinds = (keras.utils.PyDataset, Iterator)
    return isinstance(data, kinds) or _is_dataset(data) or _is_loader(data)


def _is_dataset(data: Any) -> bool:
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        return False
    kinds = (tensorflow.data.Dataset, tensorflow.distribute.DistributedDataset)
    return isinstance(data, kinds)


def _is_loader(data: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(data, torch.utils.data.DataLoader)


def _first(data: Any) -> Any:
    if isinstance(data, keras.utils.PyDataset):
        return data[0]
    return next(iter(data))


@contextlib.contextmanager
def _torch_generator_kept() -> Iterator[None]:
    """Restore PyTorch's generator, from which a DataLoader draws when it starts."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        yield


def _array_of(leaf: Any) -> Any:
    """Return what `fit` makes of a data frame, a series or a sparse matrix."""
    module = type(leaf).__module__.partition(".")[0]
    if module == "pandas":
        values = leaf.to_numpy()
        return values[:, None] if values.ndim == 1 else values
    if module == "scipy" and hasattr(leaf, "tocoo"):
        return _sparse_tensor(leaf.tocoo())
    return leaf


def _sparse_tensor(matrix: Any) -> Any:
    """Return a SciPy matrix as the backend's sparse tensor; PyTorch gets all of it."""
    name = keras.backend.backend()
    if name == "torch":
        return matrix.toarray()
    indices = np.stack([matrix.row, matrix.col], axis=1)
    if name == "tensorflow":
        tensorflow = sys.modules["tensorflow"]
        tensor = tensorflow.SparseTensor(indices, matrix.data, matrix.shape)
        return tensorflow.sparse.reorder(tensor)
    from importlib import import_module

    sparse = import_module("jax.experimental.sparse")
    return sparse.BCOO((matrix.data, indices), shape=matrix.shape)


def _own_tensor(leaf: Any) -> Any:
    """Return another backend's tensor as NumPy: tf.data yields TensorFlow's."""
    module = type(leaf).__module__.partition(".")[0]
    if keras.ops.is_tensor(leaf) or module not in ("tensorflow", "torch"):
        return _array_of(leaf)
    if module == "torch":
        return leaf.detach().cpu().numpy()
    if hasattr(leaf, "to_tensor"):  # ragged
        leaf = leaf.to_tensor()
    elif hasattr(leaf, "dense_shape"):
        leaf = sys.modules["tensorflow"].sparse.to_dense(leaf)
    return leaf.numpy()


def batch_size(x: Any) -> int:
    """Return how many inputs a batch holds, given as a model is called with it.

    Raises:
        TypeError: no array is in it.
        ValueError: it is empty.
    """
    leaves = [leaf for leaf in keras.tree.flatten(x) if hasattr(leaf, "shape")]
    if not leaves or any(keras.utils.is_keras_tensor(leaf) for leaf in leaves):
        raise TypeError(
            "`x` must be a batch of data as the model takes it: an array, a tensor, or "
            f"a list, tuple or dict of these. Received: {reprlib.repr(x)} of type "
            f"{type(x).__name__}. Turn lists of numbers into NumPy arrays."
        )
    shapes = [tuple(leaf.shape) for leaf in leaves]
    if any(0 in shape for shape in shapes):
        raise ValueError(
            "`x` must hold at least one input. Received: an empty batch, of shape "
            f"{', '.join(map(str, shapes))}. Pass a batch of 32 inputs or more."
        )
    return next((int(shape[0]) for shape in shapes if shape), 1)
