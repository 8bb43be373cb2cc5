"""Seeds of a reset: one int gives every weight a repeatable draw of its own."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import random
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_initlab.model.keras_internals import global_seed_generator


class SeedFolding:
    """An int seed for each weight, told apart by its place in the model."""

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        # Python's generator, as Keras draws by: set_random_seed makes it repeatable.
        self._fresh = random.getrandbits(64) if seed is None else 0

    def at(self, place: tuple[Any, ...], own_seed: Any) -> Any:
        """Return the seed at a place, for what has the seed `own_seed` by itself."""
        if self._seed is None and own_seed is not None:
            return own_seed
        entropy = (self._seed, self._fresh, place)
        digest = hashlib.blake2b(repr(entropy).encode(), digest_size=4).digest()
        return int.from_bytes(digest, "little") % 2**31

    def reseeded(self, initializer: Any, place: tuple[Any, ...]) -> Any:
        """Return an initializer with another seed, and those that it holds."""
        if not isinstance(initializer, keras.initializers.Initializer):
            return initializer
        held = vars(initializer)
        inner = {
            name: self.reseeded(value, (*place, name))
            for name, value in held.items()
            if isinstance(value, keras.initializers.Initializer)
        }
        if "seed" not in held and not inner:
            return initializer
        copied = copy.copy(initializer)
        vars(copied).update(inner)
        if "seed" in held:
            own_seed = _seed_of(initializer) if self._seed is None else None
            copied.seed = self.at(place, own_seed)
        return copied

    @contextlib.contextmanager
    def repeatable(self, place: tuple[Any, ...], *, unless: bool) -> Iterator[None]:
        """Let global generators start from the seed at `place`, in this block.

        Those of Python, NumPy and Keras; they go on from where they were behind it.
        With `unless` nothing is done.
        """
        if unless or self._seed is None:
            yield
            return
        seed = self.at(place, None)
        python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        state = global_seed_generator().state
        keras_state = keras.ops.convert_to_numpy(state)
        state.assign(np.array([seed, 0], dtype=state.dtype))
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            state.assign(keras_state)


def _seed_of(initializer: Any) -> Any:
    """Return the seed that an initializer was given; None if it made one up."""
    try:
        return initializer.get_config()["seed"]
    except (KeyError, NotImplementedError, TypeError):
        return initializer.seed
