"""Random orthogonal matrices, uniform over all of them (Haar), fast.

A Haar matrix is a product of random Householder reflections, one a column (Stewart
1980). So nothing needs to be factorised: the reflections are drawn, and multiplied out
in blocks as I − V T Vᵀ (Schreiber & Van Loan 1989), which is nearly all matrix
products. A QR of a Gaussian matrix gives the same distribution in twice the work or
more, most of it memory-bound.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Wide enough for fast matrix products, narrow enough that the triangle in a block's
# corner and its small inverse cost little. Measured at 512 to 4096 columns.
_BLOCK = 256
# Below this a stack of small matrices is factorised at once.
_SMALL = 32


def haar_stack(
    count: int,
    rows: int,
    columns: int,
    generator: np.random.Generator,
    wide: Any = np.float32,
) -> NDArray[Any]:
    """Return `count` independent matrices of shape (rows, columns).

    The columns of each are orthonormal, or the rows where there are fewer of these.
    """
    tall, narrow = max(rows, columns), min(rows, columns)
    if narrow == 1:
        drawn = generator.standard_normal((count, tall, 1), dtype=np.float64)
        made = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    elif narrow <= _SMALL:
        drawn = generator.standard_normal((count, tall, narrow), dtype=np.float64)
        q, r = np.linalg.qr(drawn)
        # LAPACK's signs are not random; those of a Gaussian's diagonal are (Mezzadri
        # 2007, section 5).
        made = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    else:
        made = np.stack([haar(tall, narrow, generator, wide) for _ in range(count)])
    made = made.astype(wide, copy=False)
    return made if rows >= columns else np.swapaxes(made, 1, 2)


def haar(
    rows: int, columns: int, generator: np.random.Generator, wide: Any = np.float32
) -> NDArray[Any]:
    """Return a matrix of shape (rows, columns), columns <= rows, QᵀQ = I.

    Source: Stewart 1980, "The efficient generation of random orthogonal matrices",
    section 3; Schreiber & Van Loan 1989, section 2.
    """
    made = np.zeros((rows, columns), wide)
    np.fill_diagonal(made, 1)
    for start in reversed(range(0, columns, _BLOCK)):
        width = min(_BLOCK, columns - start)
        vectors = generator.standard_normal((rows - start, width), dtype=wide)
        corner = vectors[:width]
        corner[np.triu_indices(width, 1)] = 0
        diagonal = np.diagonal(corner).astype(np.float64)
        squared = np.einsum("ij,ij->j", vectors, vectors, dtype=np.float64)
        sign = np.where(diagonal < 0, -1.0, 1.0)
        # The reflection that takes the vector to the first axis: away from zero, so
        # that nothing cancels.
        reflected = diagonal + sign * np.sqrt(squared)
        np.fill_diagonal(corner, reflected)
        vectors /= np.sqrt(squared - diagonal**2 + reflected**2).astype(wide)
        # In float64: T undoes the vectors' rounding only as well as it knows them.
        precise = vectors.astype(np.float64)
        products = precise.T @ precise
        # H1 H2 ... = I - V T Vᵀ; T⁻¹ is the upper triangle of VᵀV, its diagonal halved.
        triangle = np.triu(products, 1) + np.diag(np.diagonal(products) / 2)
        mixing = np.linalg.inv(triangle).astype(wide)
        rest = made[start:, start:]
        rest -= vectors @ (mixing @ (vectors.T @ rest))
        rest[:, :width] *= -sign.astype(wide)
    return made
