"""Keras's `ops` for PyTorch without what they look at first, which costs as much.

For tensors of one dtype on one device, as the figures are. What is not here is Keras's.
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
abs = torch.abs  # Its name is that of `keras.ops`.


def _own(dtype: Any) -> Any:
    """Return PyTorch's dtype by its name; None, and its own, as they are."""
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def cast(x: Any, dtype: Any) -> Any:
    """Return `x` as a tensor of a dtype, PyTorch's own or one by its name."""
    if isinstance(x, torch.Tensor):
        dtype = _own(dtype)
        return x if x.dtype is dtype else x.to(dtype)
    return ops.cast(x, dtype)


def convert_to_tensor(x: Any, dtype: Any = None) -> Any:
    """Return `x` as a dense tensor, an array on the device in use."""
    if isinstance(x, torch.Tensor) and x.layout == torch.strided and dtype is None:
        return x
    if isinstance(x, np.ndarray):
        return torch.as_tensor(x, dtype=_own(dtype), device=torch_device())
    return ops.convert_to_tensor(x, dtype)


def take(x: torch.Tensor, indices: Any, axis: int | None = None) -> torch.Tensor:
    """Return the elements at `indices`, an array: of a vector, or along an axis."""
    if isinstance(indices, np.ndarray):
        return x.index_select(axis or 0, torch.as_tensor(indices, device=x.device))
    return ops.take(x, indices, axis=axis)


def where(condition: Any, x: torch.Tensor, other: Any) -> torch.Tensor:
    """Return the one or the other, element by element."""
    if not isinstance(condition, torch.Tensor):
        condition = torch.as_tensor(condition, device=x.device)
    return torch.where(condition, x, other)


def mean(x: torch.Tensor, axis: Any = None) -> torch.Tensor:
    """Return the mean over all axes, or some."""
    return x.mean() if axis is None else x.mean(dim=axis)


def sum(x: torch.Tensor, axis: Any = None) -> torch.Tensor:
    """Return the sum over all axes, or one."""
    return x.sum() if axis is None else x.sum(dim=axis)


def minimum(x: torch.Tensor, other: Any) -> torch.Tensor:
    """Return the lesser of both."""
    if isinstance(other, torch.Tensor):
        return torch.minimum(x, other)
    return x.clamp(max=other)


def maximum(x: torch.Tensor, other: Any) -> torch.Tensor:
    """Return the greater of both."""
    if isinstance(other, torch.Tensor):
        return torch.maximum(x, other)
    return x.clamp(min=other)
