"""`initlab>orthogonal` and `initlab>delta_orthogonal`: kernels that keep distances."""

from __future__ import annotations

import math
from typing import Any

import keras

from keras_initlab.initializers import base, draws
from keras_initlab.initializers.haar import haar_stack
from keras_initlab.model.construction import Construction


class _Orthogonal(base.LayerInitializer):
    """What both share: a gain and a seed."""

    def __init__(self, gain: Any = 1.0, seed: int | None = None) -> None:
        self._gain = base.checked_gain(gain)
        self.gain = gain
        self.seed = base.checked_seed(seed)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as they were given."""
        return {"gain": base.gain_config(self.gain), "seed": self.seed}


@keras.saving.register_keras_serializable(package=base.PACKAGE, name="orthogonal")
class Orthogonal(_Orthogonal):
    """Draw a kernel whose matrix is orthogonal, uniform over all such (Haar).

    The matrix has a row for each input that an output sums over and a column for each
    output. Each gate of a recurrent cell, each group of a convolution and each channel
    of a depthwise one is a matrix of its own. With at least as many rows as columns
    the columns have length `gain`; with fewer the rows do, times √(columns / rows), so
    that an output's second moment is gain² times an input's either way.

    Args:
        gain: a positive number, or an activation whose gain 1 / √E[φ(z)²] is meant.
        seed: an int gives each weight of a model its own repeatable draw; None draws
            afresh at each build.

    Raises:
        ValueError: a gain that is not positive and finite, an unknown activation, or
            a weight that is a vector.
        TypeError: a seed that is not an int, a gain that is none of the above.

    >>> import numpy as np
    >>> w = keras.ops.convert_to_numpy(Orthogonal(seed=0)((6, 4)))
    >>> bool(np.allclose(w.T @ w, np.eye(4), atol=1e-6))
    True

    Source: Saxe et al. 2014, section 3; for the distribution see `haar`.
    """

    def values(
        self,
        shape: tuple[int, ...],
        dtype: str,
        construction: Construction | None,
    ) -> Any:
        """Return the drawn tensor."""
        base.checked_matrix("orthogonal", shape)
        layout = base.layout_of(shape, construction)
        count, rows, columns = layout.stack(shape)
        wide = draws.wide(dtype)
        generator = base.generator(self.seed, construction)
        matrices = haar_stack(count, rows, columns, generator, wide)
        # Mean square of an entry: 1 / the longer side. It shall be gain² / fan_in.
        scale = self._gain * math.sqrt(max(rows, columns) / layout.fans(shape).fan_in)
        matrices = matrices * wide(scale)
        return draws.to_tensor(layout.unstack(matrices, shape), dtype)


@keras.saving.register_keras_serializable(package=base.PACKAGE, name="delta_orthogonal")
class DeltaOrthogonal(_Orthogonal):
    """Draw a convolution that is an orthogonal matrix at its centre and zero around it.

    It keeps the length of every position's vector of channels, times `gain`, at any
    depth. Needs an odd kernel and at least as many outputs as inputs; with more of
    them the rows are scaled by √(outputs / inputs), as in `initlab>orthogonal`.

    Args:
        gain: a positive number, or an activation whose gain 1 / √E[φ(z)²] is meant.
        seed: an int gives each weight of a model its own repeatable draw; None draws
            afresh at each build.

    Raises:
        ValueError: a kernel with an even size or with more inputs than outputs, a
            weight that is no convolution's kernel; or as in `initlab>orthogonal`.
        TypeError: as in `initlab>orthogonal`.

    >>> import numpy as np
    >>> w = keras.ops.convert_to_numpy(DeltaOrthogonal(seed=0)((3, 3, 4, 4)))
    >>> bool(np.allclose(w[1, 1] @ w[1, 1].T, np.eye(4), atol=1e-6))
    True
    >>> int((w != 0).sum())
    16

    Source: Xiao et al. 2018, section 4 and algorithm 1.
    """

    def values(
        self,
        shape: tuple[int, ...],
        dtype: str,
        construction: Construction | None,
    ) -> Any:
        """Return the drawn tensor."""
        layout = base.layout_of(shape, construction)
        field = tuple(shape[axis] for axis in layout.field)
        count, rows, columns = layout.stack(shape, with_field=False)
        if not field or any(size % 2 == 0 for size in field) or rows > columns:
            raise ValueError(
                "initlab>delta_orthogonal needs a convolution's kernel with odd sizes "
                "and at least as many outputs as inputs. Received: "
                f"shape={shape}, a field of {field} from {rows} to {columns} channels. "
                "Use initlab>orthogonal for this layer."
            )
        wide = draws.wide(dtype)
        generator = base.generator(self.seed, construction)
        matrices = haar_stack(count, rows, columns, generator, wide)
        matrices = matrices * wide(self._gain * math.sqrt(columns / rows))
        kernel = base.at_centre(matrices, layout, shape)
        return draws.to_tensor(kernel, dtype)
