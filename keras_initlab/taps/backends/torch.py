"""Taps in PyTorch's training step."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from keras_initlab.model.keras_internals import all_layers
from keras_initlab.taps.backends.base import Backend, Passes, WithGradient, huge
from keras_initlab.taps.patches import Patches
from keras_initlab.taps.recorder import Output
from keras_initlab.taps.step import TappedStep
from keras_initlab.taps.weights import loss_scale, optimizers_of, skipped

# Elements that one norm of PyTorch's sums up.
RUN = 1024


class _Passes(Passes):
    """On CPUs norms and operations in place are several times as fast as others."""

    def mean_square(self, x: torch.Tensor, shift: Any = None) -> torch.Tensor:
        if shift is not None:
            return (x - shift).square_().flatten(1).mean(dim=1)
        count = len(x)
        if x[0].numel() % RUN or not x.is_contiguous():
            return torch.square(x).flatten(1).mean(dim=1)
        # This needs no tensor of squares. In runs, as long norms lose digits.
        runs = torch.linalg.vector_norm(x.view(count, -1, RUN), dim=2)
        return runs.square_().mean(dim=1).div_(RUN)

    def row_norms(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.linalg.vector_norm(rows, dim=-1)

    def alive(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        nonzero = x.abs().mul_(huge(x)).clamp_(max=1)
        if axis < x.dim() - 1:
            return nonzero.mean(dim=tuple(i for i in range(1, x.dim()) if i != axis))
        return nonzero.reshape(len(x), -1, x.shape[-1]).mean(dim=1)

    def nonfinite(
        self, stacks: Sequence[torch.Tensor], variances: torch.Tensor
    ) -> torch.Tensor:
        # On other devices, to read the variances would wait for the running kernels.
        if variances.device.type == "cpu" and bool(torch.isfinite(variances).all()):
            return torch.zeros_like(variances)
        counts = [(~torch.isfinite(stack)).sum(dim=(1, 2)) for stack in stacks]
        return torch.cat(counts).to(variances.dtype)


class Torch(Backend):
    """The training step returns the figures beside the logs."""

    control_flow = (StopIteration,)
    passes = _Passes()

    def why_not(self, model: Any) -> str | None:
        """Any model can be tapped."""
        return None

    def is_chief(self) -> bool:
        """Whether this is rank 0, or the only process."""
        return self.replicas() == 1 or torch.distributed.get_rank() == 0

    def tap(self, step: TappedStep, model: Any, patches: Patches) -> None:
        """Let `train_step` return logs and figures."""
        optimizer, compiled = model.optimizer, bool(model.jit_compile)
        if compiled:
            step.recorder.ignore_threads_and_traces()
            step.weights.ignore_traces()
        for held in optimizers_of(model):
            step.weights.attach(held, _keep)

        def wrap(train_step: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(train_step)
            def tapped(*args: Any, **kwargs: Any) -> Any:
                gradients: dict[int, torch.Tensor] = {}
                scale = loss_scale(optimizer)
                versions: list[int] = []
                watch = _watch(
                    gradients if step.request.gradients else None,
                    None if compiled else versions,
                )
                with step.tapping(watch):
                    logs = train_step(*args, **kwargs)
                outputs, updates = step.take()
                indices = (
                    _untouched(outputs, versions) if versions else range(len(outputs))
                )
                # Each process has the loss of its share of the batch. The whole loss is
                # their mean, as for DistributedDataParallel's gradients of weights.
                shares = {
                    place: gradients[index] / self.replicas()
                    for place, index in enumerate(indices)
                    if index in gradients
                }
                outputs = [outputs[index] for index in indices]
                left_out = skipped(scale, loss_scale(optimizer))
                with torch.no_grad():
                    figures = step.figures(outputs, updates, shares, scale, left_out)
                return logs, figures

            # Recording is plain Python; PyTorch compiles the steps within it.
            return (
                torch.compiler.disable(tapped, recursive=False) if compiled else tapped
            )

        patches.add(model, "train_step", wrap)

    def replicas(self) -> int:
        """Return the number of processes that train together."""
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return 1
        return int(distributed.get_world_size())

    def sum_over_replicas(self, vector: torch.Tensor) -> torch.Tensor:
        """Reduce the vector within the step."""
        torch.distributed.all_reduce(vector)
        return vector

    def gather(self, vector: torch.Tensor) -> torch.Tensor:
        """Gather the vectors within the step."""
        if self.replicas() == 1:
            return vector[None]
        rows = [torch.empty_like(vector) for _ in range(self.replicas())]
        torch.distributed.all_gather(rows, vector)
        return torch.stack(rows)

    def trace(self) -> Hashable:
        """Return the current backward pass and level of torch.func."""
        # The pass is not -1 while gradients are computed, where a checkpointed layer
        # runs again. The level reveals a vmap, within which tensors lack an axis.
        level = torch._C._functorch.maybe_current_level()
        return int(torch._C._current_graph_task_id()), level

    def is_tensor(self, x: Any) -> bool:
        """Whether it is a dense torch.Tensor."""
        return isinstance(x, torch.Tensor) and x.layout == torch.strided

    def dense(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sparse gradient of an embedding as a dense one."""
        return x.to_dense() if x.layout != torch.strided else x

    @contextmanager
    def isolated(self, model: Any, gradients: bool) -> Iterator[None]:
        """Restore the random generator, and the state of wrapped PyTorch modules.

        Unseeded dropout draws from the generator. A module's state is its mode and its
        buffers, such as moving statistics.
        """
        modules = {
            id(module): module
            for layer in all_layers(model)
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
                    for buffer, saved in buffers:
                        buffer.copy_(saved)

    def differentiate(
        self,
        forward: Callable[..., list[Any]],
        x: Any,
        variables: Sequence[Any],
        weights: Sequence[Any],
        cotangents: Callable[[list[Any]], list[Any]] | None,
    ) -> tuple[list[WithGradient], list[Any | None]]:
        """See `Backend.differentiate`."""
        taken: list[torch.Tensor] = []

        def tap(tensor: torch.Tensor) -> torch.Tensor:
            if torch.is_grad_enabled():
                # A new tensor: an identity layer returns that of the layer before.
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


def _watch(
    gradients: dict[int, torch.Tensor] | None, versions: list[int] | None
) -> Callable[[Any], Any]:
    """Return an identity that records the gradient of each tensor it is given.

    And the tensor's version: how often it had been changed in place by then.
    """
    calls = itertools.count()

    def exchange(tensor: torch.Tensor) -> torch.Tensor:
        index = next(calls)
        if gradients is not None and tensor.requires_grad:
            # A new tensor: an identity layer returns that of the layer before.
            tensor = tensor.view_as(tensor)
            tensor.register_hook(functools.partial(gradients.__setitem__, index))
        if versions is not None:
            versions.append(tensor._version)
        return tensor

    return exchange


def _untouched(outputs: Sequence[Output], versions: Sequence[int]) -> list[int]:
    """Return the indices of outputs that no later layer has changed in place."""
    pairs = zip(outputs, versions, strict=True)
    indices = [i for i, (out, v) in enumerate(pairs) if out.tensor._version == v]
    if len(indices) < len(outputs):
        changed = {*range(len(outputs))} - {*indices}
        warnings.warn(
            "VarianceMonitor does not measure outputs that the layer behind changes in "
            f"place: {', '.join(outputs[i].key for i in sorted(changed))}. Use an "
            "operation that returns a new tensor.",
            stacklevel=2,
        )
    return indices


def _keep(samples: list[Any], grads: list[Any]) -> tuple[list[Any], list[Any]]:
    """Copy the samples: they may be views of the weights."""
    return [sample.clone() for sample in samples], grads


BACKEND = Torch()
