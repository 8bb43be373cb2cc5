"""A pass and its gradients on PyTorch: autograd, back to the recorded tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def isolated(model: Any, gradients: bool) -> Iterator[None]:
    """Keep what Keras's stateless scope does not keep.

    That is the generator that unseeded dropout draws from, and what wrapped PyTorch
    modules hold: their mode and their buffers, such as moving statistics.
    """
    modules = {
        id(module): module
        for layer in model._flatten_layers()
        for module in layer.modules()
    }.values()
    modes = [(module, module.training) for module in modules]
    buffers = [
        (buffer, buffer.clone())
        for module in modules
        for buffer in module.buffers(recurse=False)
    ]
    used = torch.cuda.is_available() and torch.cuda.is_initialized()
    devices = list(range(torch.cuda.device_count())) if used else []
    with torch.random.fork_rng(devices), torch.set_grad_enabled(gradients):
        try:
            yield
        finally:
            for module, mode in modes:
                module.__dict__["training"] = mode
            with torch.no_grad():
                for buffer, kept in buffers:
                    buffer.copy_(kept)


def differentiate(
    forward: Callable[..., list[Any]],
    x: Any,
    variables: Sequence[Any],
    weights: Sequence[Any],
    cotangents: Callable[[list[Any]], list[Any]] | None,
) -> tuple[list[tuple[Any, Any | None]], list[Any | None]]:
    """As `once` asks for it: run `forward` with a tap, and go back."""
    taken: list[torch.Tensor] = []

    def tap(tensor: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            # A tensor of its own: an identity layer returns that of the one before.
            leaf = not tensor.requires_grad
            tensor = tensor.detach() if leaf else tensor.view_as(tensor)
            tensor.requires_grad_()
        taken.append(tensor)
        return tensor

    outputs = forward(x, tap, ())
    sources = [*taken, *(weight.value for weight in weights)]
    gradients: Sequence[torch.Tensor | None] = [None] * len(sources)
    if cotangents is not None:
        pairs = [
            (output, cotangent)
            for output, cotangent in zip(outputs, cotangents(outputs), strict=True)
            if output.requires_grad
        ]
        if pairs and sources:
            gradients = torch.autograd.grad(
                [output for output, _ in pairs],
                sources,
                [cotangent for _, cotangent in pairs],
                allow_unused=True,
            )
    count = len(taken)
    return list(zip(taken, gradients[:count], strict=True)), [*gradients[count:]]
