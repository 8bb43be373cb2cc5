"""`initlab>identity`: the signal passed on as it is, no randomness at all."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_initlab.initializers import base, draws
from keras_initlab.model.construction import Construction


@keras.saving.register_keras_serializable(package=base.PACKAGE, name="identity")
class Identity(base.LayerInitializer):
    """Set a kernel to the identity, a part of it, or a Hadamard matrix when widening.

    Square: the identity. Fewer outputs than inputs: the first of them, a partial
    identity. More outputs than inputs: c · I H I with H a Hadamard matrix of size
    2^m, m = ⌈log2(outputs)⌉, and c = 2^(−(m−1)/2), which spreads the inputs over all
    outputs, so that no two of these start alike where a partial identity would leave
    outputs dead. A convolution has it at its centre, gates and groups have one each.

    Args:
        gain: a positive number, or an activation whose gain 1 / √E[φ(z)²] is meant.

    Raises:
        ValueError: a gain that is not positive and finite, an unknown activation, or
            a weight that is a vector.
        TypeError: a gain that is none of the above.

    >>> keras.ops.convert_to_numpy(Identity()((3, 2))).tolist()
    [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    >>> keras.ops.convert_to_numpy(Identity()((1, 2))).tolist()
    [[1.0, 1.0]]

    Source: Zhao, Schäfer & Anandkumar 2022, "ZerO initialization", algorithm 1.
    """

    seed = None

    def __init__(self, gain: Any = 1.0) -> None:
        self._gain = base.checked_gain(gain)
        self.gain = gain

    def values(
        self,
        shape: tuple[int, ...],
        dtype: str,
        construction: Construction | None,
    ) -> Any:
        """Return the tensor; the same each time."""
        base.checked_matrix("identity", shape)
        layout = base.layout_of(shape, construction)
        count, rows, columns = layout.stack(shape, with_field=False)
        matrix = self._gain * widened_identity(rows, columns)
        matrices = np.broadcast_to(matrix, (count, rows, columns))
        kernel = base.at_centre(matrices.astype(draws.wide(dtype)), layout, shape)
        return draws.to_tensor(kernel, dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as they were given."""
        return {"gain": base.gain_config(self.gain)}


def widened_identity(rows: int, columns: int) -> NDArray[np.float64]:
    """Return ZerO's matrix from `rows` inputs to `columns` outputs."""
    if columns <= rows:
        return np.eye(rows, columns)
    hadamard: NDArray[Any] = np.ones((1, 1))
    while len(hadamard) < columns:  # Sylvester's doubling
        hadamard = np.kron([[1.0, 1.0], [1.0, -1.0]], hadamard)
    return np.asarray(hadamard[:rows, :columns] * math.sqrt(2.0 / len(hadamard)))
