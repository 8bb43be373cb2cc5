"""`initlab>sparse`: few inputs for each unit, so that units stay different."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from keras_initlab.initializers import base, draws
from keras_initlab.model.construction import Construction


@keras.saving.register_keras_serializable(package=base.PACKAGE, name="sparse")
class Sparse(base.LayerInitializer):
    """Draw a kernel in which each output reads only some of its inputs.

    In each column ⌈sparsity · rows⌉ weights, at random, are zero (at least one is
    left), and the others are normal with the variance that makes up for them, so that
    an output's second moment is gain² times an input's.

    Args:
        sparsity: the share of zeros, in [0, 1).
        gain: a positive number, or an activation whose gain 1 / √E[φ(z)²] is meant.
        seed: an int gives each weight of a model its own repeatable draw; None draws
            afresh at each build.

    Raises:
        ValueError: a sparsity outside [0, 1), a gain that is not positive and finite,
            an unknown activation, or a weight that is a vector.
        TypeError: a seed that is not an int, a gain or sparsity of another type.

    >>> w = Sparse(sparsity=0.75, seed=0)((8, 5))
    >>> keras.ops.convert_to_numpy(w != 0).sum(axis=0).tolist()
    [2, 2, 2, 2, 2]

    Source: Martens 2010, "Deep learning via Hessian-free optimization", section 5,
    there with 15 inputs a unit.
    """

    def __init__(
        self, sparsity: float = 0.9, gain: Any = 1.0, seed: int | None = None
    ) -> None:
        self.sparsity = _checked_sparsity(sparsity)
        self._gain = base.checked_gain(gain)
        self.gain = gain
        self.seed = base.checked_seed(seed)

    def values(
        self,
        shape: tuple[int, ...],
        dtype: str,
        construction: Construction | None,
    ) -> Any:
        """Return the drawn tensor."""
        base.checked_matrix("sparse", shape)
        layout = base.layout_of(shape, construction)
        count, rows, columns = layout.stack(shape)
        wide = draws.wide(dtype)
        generator = base.generator(self.seed, construction)
        zeros = min(math.ceil(self.sparsity * rows), rows - 1)
        values = generator.standard_normal((count, rows, columns), dtype=wide)
        if zeros:
            order = generator.random((count, rows, columns), dtype=np.float32)
            chosen = np.argpartition(order, zeros - 1, axis=1)[:, :zeros]
            np.put_along_axis(values, chosen, wide(0), axis=1)
        left = (rows - zeros) / rows
        fan_in = layout.fans(shape).fan_in
        values *= wide(self._gain / math.sqrt(fan_in * left))
        return draws.to_tensor(layout.unstack(values, shape), dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as they were given."""
        return {
            "sparsity": self.sparsity,
            "gain": base.gain_config(self.gain),
            "seed": self.seed,
        }


def _checked_sparsity(sparsity: Any) -> float:
    expected = "`sparsity`, the share of zeros, must be a number in [0, 1)."
    number = base.as_number(sparsity)
    if number is None:
        raise TypeError(f"{expected} Received: sparsity={sparsity!r}. Try 0.9.")
    if not 0 <= number < 1:
        raise ValueError(f"{expected} Received: sparsity={sparsity!r}. Try 0.9.")
    return number
