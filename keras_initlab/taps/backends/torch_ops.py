"""Keras's `ops` for PyTorch without their checks, which cost as much as the work.

They are for tensors of one dtype on one device, as the figures are. All other
operations are Keras's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from keras import ops
from keras.ops import *  # noqa: F403

from keras_initlab.model.keras_internals import torch_device

reshape = torch.reshape
square = torch.square
rsqrt = torch.rsqrt
sqrt = torch.sqrt
matmul = torch.matmul
isfinite = torch.isfinite
isnan = torch.isnan
logical_and = torch.logical_and
logical_or = torch.logical_or
ones_like = torch.ones_like
zeros_like = torch.zeros_like
stack = torch.stack
concatenate = torch.cat
abs = torch.abs  # The name in `keras.ops`.


def _torch_dtype(dtype: Any) -> Any:
    """Return the dtype of a name; None and PyTorch's dtypes are left unchanged."""
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def cast(x: Any, dtype: Any) -> Any:
    """Return `x` as a tensor of a dtype, one of PyTorch's or a name."""
    if isinstance(x, torch.Tensor):
        dtype = _torch_dtype(dtype)
        return x if x.dtype is dtype else x.to(dtype)
    return ops.cast(x, dtype)


def convert_to_tensor(x: Any, dtype: Any = None) -> Any:
    """Return `x` as a dense tensor; an array goes to the current device."""
    if isinstance(x, torch.Tensor) and x.layout == torch.strided and dtype is None:
        return x
    if isinstance(x, np.ndarray):
        return torch.as_tensor(x, dtype=_torch_dtype(dtype), device=torch_device())
    return ops.convert_to_tensor(x, dtype)


def take(x: torch.Tensor, indices: Any, axis: int | None = None) -> torch.Tensor:
    """Return the elements of a vector at `indices`, or those along an axis."""
    if isinstance(indices, np.ndarray):
        return x.index_select(axis or 0, torch.as_tensor(indices, device=x.device))
    return ops.take(x, indices, axis=axis)


def where(condition: Any, x: torch.Tensor, y: Any) -> torch.Tensor:
    """Return `x` where the condition holds and `y` elsewhere."""
    if not isinstance(condition, torch.Tensor):
        condition = torch.as_tensor(condition, device=x.device)
    return torch.where(condition, x, y)


def mean(x: torch.Tensor, axis: Any = None) -> torch.Tensor:
    """Return the mean over all axes or the given ones."""
    return x.mean() if axis is None else x.mean(dim=axis)


def sum(x: torch.Tensor, axis: Any = None) -> torch.Tensor:
    """Return the sum over all axes or the given ones."""
    return x.sum() if axis is None else x.sum(dim=axis)


def minimum(x: torch.Tensor, y: Any) -> torch.Tensor:
    """Return the smaller of `x` and `y`, element by element."""
    if isinstance(y, torch.Tensor):
        return torch.minimum(x, y)
    return x.clamp(max=y)


def maximum(x: torch.Tensor, y: Any) -> torch.Tensor:
    """Return the larger of `x` and `y`, element by element."""
    if isinstance(y, torch.Tensor):
        return torch.maximum(x, y)
    return x.clamp(min=y)
