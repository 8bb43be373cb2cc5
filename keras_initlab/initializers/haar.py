"""Random orthogonal matrices, uniformly distributed (Haar), drawn fast.

A Haar matrix is a product of random Householder reflections, one per column (Stewart
1980). So no matrix needs to be factorised: the reflections are drawn and multiplied in
blocks as I − V T Vᵀ (Schreiber & Van Loan 1989), nearly all of it matrix products. A QR
of a Gaussian matrix gives the same distribution in at least twice the work, most of it
bound by memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Wide enough for fast matrix products, and narrow enough for the triangle in a block's
# corner and its small inverse to cost little. Measured at 512 to 4096 columns.
_BLOCK = 256
# A stack of matrices with at most so many columns is factorised at once.
_SMALL = 32


def haar_stack(
    count: int,
    rows: int,
    columns: int,
    generator: np.random.Generator,
    wide: Any = np.float32,
) -> NDArray[Any]:
    """Return `count` independent matrices of shape (rows, columns).

    The columns of each are orthonormal, or its rows if there are fewer of them.
    """
    tall, narrow = max(rows, columns), min(rows, columns)
    if narrow == 1:
        gaussian = generator.standard_normal((count, tall, 1), dtype=np.float64)
        matrices = gaussian / np.linalg.norm(gaussian, axis=1, keepdims=True)
    elif narrow <= _SMALL:
        gaussian = generator.standard_normal((count, tall, narrow), dtype=np.float64)
        q, r = np.linalg.qr(gaussian)
        # The signs of LAPACK's QR are not random; those of r's diagonal make q Haar
        # (Mezzadri 2007, section 5).
        matrices = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    else:
        matrices = np.stack([haar(tall, narrow, generator, wide) for _ in range(count)])
    matrices = matrices.astype(wide, copy=False)
    return matrices if rows >= columns else np.swapaxes(matrices, 1, 2)


def haar(
    rows: int, columns: int, generator: np.random.Generator, wide: Any = np.float32
) -> NDArray[Any]:
    """Return a matrix of shape (rows, columns), columns <= rows, QᵀQ = I.

    Source: Stewart 1980, "The efficient generation of random orthogonal matrices",
    section 3; Schreiber & Van Loan 1989, section 2.
    """
    matrix = np.zeros((rows, columns), wide)
    np.fill_diagonal(matrix, 1)
    for start in reversed(range(0, columns, _BLOCK)):
        width = min(_BLOCK, columns - start)
        vectors = generator.standard_normal((rows - start, width), dtype=wide)
        corner = vectors[:width]
        corner[np.triu_indices(width, 1)] = 0
        diagonal = np.diagonal(corner).astype(np.float64)
        squared = np.einsum("ij,ij->j", vectors, vectors, dtype=np.float64)
        sign = np.where(diagonal < 0, -1.0, 1.0)
        # The reflection that takes the vector to the first axis, with the sign that
        # avoids cancellation.
        reflected = diagonal + sign * np.sqrt(squared)
        np.fill_diagonal(corner, reflected)
        vectors /= np.sqrt(squared - diagonal**2 + reflected**2).astype(wide)
        # In float64: T has to fit the vectors as they are rounded.
        precise = vectors.astype(np.float64)
        products = precise.T @ precise
        # H1 H2 ... = I - V T Vᵀ; T⁻¹ is the upper triangle of VᵀV, its diagonal halved.
        triangle = np.triu(products, 1) + np.diag(np.diagonal(products) / 2)
        mixing = np.linalg.inv(triangle).astype(wide)
        block = matrix[start:, start:]
        block -= vectors @ (mixing @ (vectors.T @ block))
        block[:, :width] *= -sign.astype(wide)
    return matrix
