"""Random draws of a given variance, the same on every backend.

Drawn by NumPy on the host, so that one seed gives one set of weights on TensorFlow,
JAX and PyTorch, in any process, on one device or many.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, get_args

import keras
import numpy as np
from numpy.typing import NDArray

from keras_initlab.model.construction import WeightPlace

Distribution = Literal["truncated_normal", "normal", "uniform"]
DISTRIBUTIONS: tuple[str, ...] = get_args(Distribution)

# Elements that one thread draws at a time: what fits a core's cache.
_PIECE = 2**18
# Standard deviation of N(0, 1) cut off at two sigma.
TRUNCATED_STD = 0.87962566103423978
# The largest numbers of the dtypes that NumPy does not draw in.
_LARGEST = {
    "float16": 65504.0,
    "bfloat16": 3.3895313892515355e38,
    "float8_e4m3fn": 448.0,
    "float8_e5m2": 57344.0,
}


def generator(seed: int | None, place: WeightPlace) -> np.random.Generator:
    """Return the generator for the weight at `place`.

    An int seed is folded with the place, so that one seed gives each weight a stream
    of its own. None draws a fresh seed from Python's `random`, as Keras does, so
    that `keras.utils.set_random_seed` makes it repeatable.
    """
    if seed is None:
        return np.random.Generator(np.random.SFC64(random.getrandbits(64)))
    digest = hashlib.blake2b(repr((seed, place)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.SFC64(int.from_bytes(digest, "little")))


def draw(
    shape: tuple[int, ...],
    variance: float,
    distribution: str,
    random_generator: np.random.Generator,
    dtype: str,
) -> Any:
    """Return a tensor of `dtype` with mean 0 and the given variance.

    Drawn in float32 (float64 for a float64 weight) and cast, so that float16 and
    bfloat16 weights get the rounded values of the same draw.
    """
    kind = wide(dtype)
    values = np.empty(shape, kind)
    flat = values.reshape(-1)
    fill = partial(_FILLS[distribution], scale=math.sqrt(variance))
    pieces = [flat[at : at + _PIECE] for at in range(0, flat.size, _PIECE)]
    if len(pieces) == 1:
        fill(flat, random_generator)
    else:
        # A stream for each piece, so that the threads' number changes nothing.
        streams = random_generator.spawn(len(pieces))
        with ThreadPoolExecutor(min(len(pieces), os.cpu_count() or 1)) as threads:
            deque(threads.map(fill, pieces, streams), maxlen=0)
    return to_tensor(values, dtype)


def wide(dtype: str) -> Any:
    """Return the NumPy type to draw in for weights of `dtype`: float32 or float64."""
    return np.float64 if dtype == "float64" else np.float32


def _uniform(
    values: NDArray[Any], random_generator: np.random.Generator, scale: float
) -> None:
    kind = values.dtype.type
    random_generator.random(out=values, dtype=kind)
    values -= kind(0.5)
    values *= kind(math.sqrt(12) * scale)


def _normal(
    values: NDArray[Any], random_generator: np.random.Generator, scale: float
) -> None:
    random_generator.standard_normal(out=values, dtype=values.dtype.type)
    values *= values.dtype.type(scale)


def _truncated_normal(
    values: NDArray[Any], random_generator: np.random.Generator, scale: float
) -> None:
    kind = values.dtype.type
    random_generator.standard_normal(out=values, dtype=kind)
    # 4.6 % lie outside: draw those again until none does.
    outside = np.flatnonzero(np.abs(values) > 2)
    while outside.size:
        again = random_generator.standard_normal(outside.size, dtype=kind)
        values[outside] = again
        outside = outside[np.abs(again) > 2]
    values *= kind(scale / TRUNCATED_STD)


_FILLS = {
    "uniform": _uniform,
    "normal": _normal,
    "truncated_normal": _truncated_normal,
}


def to_tensor(values: NDArray[Any], dtype: str) -> Any:
    """Return `values` as a backend tensor of `dtype`, cast after the transfer.

    Raises:
        ValueError: the dtype cannot hold them.
    """
    limit = _LARGEST.get(dtype, float(np.finfo(values.dtype).max))
    largest = float(max(values.max(), -values.min()))
    if not largest <= limit:
        raise ValueError(
            f"Weights must be finite: {dtype} holds numbers up to {limit:.5g}. "
            f"Received: weights of up to {largest:.5g} for dtype={dtype!r}. Use a "
            "smaller gain or value, or a wider dtype."
        )
    tensor = keras.ops.convert_to_tensor(values)
    return keras.ops.cast(tensor, dtype)
