"""Taps in PyTorch's training step; the figures stay on the device all epoch."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from keras_initlab.taps import figures, running
from keras_initlab.taps.outputs import dtype_of, needs_sums, sums
from keras_initlab.taps.passes import Passes, huge
from keras_initlab.taps.patches import Patches
from keras_initlab.taps.recorder import Output, Recorder
from keras_initlab.taps.request import Request
from keras_initlab.taps.way_back import of_step
from keras_initlab.taps.weights import WeightTap, first_measured, loss_scale

# Elements that are summed by one of PyTorch's norms.
RUN = 1024

CONTROL_FLOW = (StopIteration,)


def why_not(model: Any) -> str | None:
    """Return why this model cannot be tapped, or None."""
    return None


class Step:
    """The training step of one model, with its layers' outputs measured."""

    def __init__(self, model: Any, request: Request, patches: Patches) -> None:
        self._request = request
        self._optimizer = model.optimizer
        compiled = bool(model.jit_compile)
        # What PyTorch's compiler cannot trace would break its graph at each layer.
        here = int if compiled else context
        thread = int if compiled else threading.get_ident
        self.recorder = Recorder(
            model, patches, here, is_dense, thread, wanted=request.wanted
        )
        self._weights = WeightTap(request, self.recorder, here)
        self._weights.attach(model.optimizer, patches, _keep)
        self._step = 0
        self._states: dict[running.Layout, torch.Tensor] = {}
        train_step = model.train_step

        @functools.wraps(train_step)
        def tapped(*args: Any, **kwargs: Any) -> Any:
            # A compiled step records always: a flag that comes and goes would be
            # two graphs to compile.
            if not compiled and not self._is_measured():
                self._step += 1
                return train_step(*args, **kwargs)
            gradients: dict[int, torch.Tensor] = {}
            scale = loss_scale(self._optimizer)
            exchange = _watch(gradients) if request.gradients else None
            with self.recorder.recording(exchange), self._weights.watching():
                logs = train_step(*args, **kwargs)
            self._update(gradients, scale)
            return logs

        if compiled:
            # Recording is plain Python; what PyTorch compiles is what it wraps.
            tapped = torch.compiler.disable(tapped, recursive=False)
        patches.set(model, "train_step", tapped)
        model.train_function = None
        model.make_train_function()
        self._train_function = model.train_function

    def run(self, *args: Any) -> Any:
        """Run what Keras made of the tapped step."""
        return self._train_function(*args)

    def read(self) -> list[tuple[running.Layout, np.ndarray]]:
        """Return layouts and states, of shape (slots, size)."""
        states = [(key, state.cpu().numpy()) for key, state in self._states.items()]
        if not _is_distributed():
            return states
        gathered: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, states)
        return [state for one in gathered for state in one]

    def reset(self) -> None:
        """Forget what was measured, and begin to count steps at 0."""
        self._step = 0
        self._states.clear()

    def close(self) -> None:
        """Nothing but the patches is on the model."""

    def _is_measured(self) -> bool:
        every = self._request.every
        return self._step % every == first_measured(self._optimizer, every)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _update(self, gradients: dict[int, torch.Tensor], scale: Any) -> None:
        outputs, updates = self.recorder.take(), self._weights.take()
        if outputs and self._is_measured():
            if _is_distributed():
                # Each process has the loss of its share; that of all is their mean, as
                # DistributedDataParallel has the weights' gradients.
                world = torch.distributed.get_world_size()
                gradients = {key: one / world for key, one in gradients.items()}
            found, alive = of_step(
                outputs,
                gradients,
                updates,
                scale,
                self._request,
                PASSES,
                self._across(outputs),
            )
            dtype = dtype_of(outputs)
            layout = running.layout_of(found, alive, dtype)
            state = self._states.get(layout)
            if state is None:
                size = (self._request.slots, layout.size)
                state = outputs[0].tensor.new_zeros(size, dtype=getattr(torch, dtype))
            self._states[layout] = running.updated(
                layout, state, found, alive, self._step, self._request.window
            )
        self._step += 1

    def _across(self, outputs: Sequence[Output]) -> Any:
        """Return what processes have to know of each other, and their number."""
        needed = _is_distributed() and needs_sums(outputs, self._request)
        if not needed:
            return None
        vector = sums(outputs, self._request, PASSES)
        torch.distributed.all_reduce(vector)
        return vector, torch.distributed.get_world_size()


def is_chief() -> bool:
    """Whether this process is the one that writes for all."""
    return not _is_distributed() or torch.distributed.get_rank() == 0


def _is_distributed() -> bool:
    distributed = torch.distributed
    return bool(distributed.is_available() and distributed.is_initialized())


def _watch(gradients: dict[int, torch.Tensor]) -> Callable[[Any], Any]:
    """Return an identity that keeps the gradient of each tensor it is given."""
    calls = itertools.count()

    def exchange(tensor: torch.Tensor) -> torch.Tensor:
        index = next(calls)
        if not tensor.requires_grad:
            return tensor
        # A tensor of its own: an identity layer returns that of the one before.
        tensor = tensor.view_as(tensor)
        tensor.register_hook(functools.partial(gradients.__setitem__, index))
        return tensor

    return exchange


def _keep(weights: list[Any], gradients: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return samples of weights, and the gradients as they are."""
    return [torch.clone(figures.sampled(one)) for one in weights], gradients


class _Passes(Passes):
    """On CPUs products and changes in place are several times as fast as the rest."""

    def mean_square(self, x: torch.Tensor, shift: Any = None) -> torch.Tensor:
        if shift is not None:
            return (x - shift).square_().flatten(1).mean(dim=1)
        count = len(x)
        if x[0].numel() % RUN or not x.is_contiguous():
            return torch.square(x).flatten(1).mean(dim=1)
        # Without a tensor of squares; in runs, as long norms lose digits.
        runs = torch.linalg.vector_norm(x.view(count, -1, RUN), dim=2)
        return runs.square_().mean(dim=1).div_(RUN)

    def row_norms(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.linalg.vector_norm(rows, dim=-1)

    def alive(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        ones = x.abs().mul_(huge(x)).clamp_(max=1)
        if axis < x.dim() - 1:
            return ones.mean(dim=tuple(i for i in range(1, x.dim()) if i != axis))
        return ones.reshape(len(x), -1, x.shape[-1]).mean(dim=1)

    def nonfinite(
        self, stacks: Sequence[torch.Tensor], variances: torch.Tensor
    ) -> torch.Tensor:
        # On other devices the look at the variances would wait for what is under way.
        if variances.device.type == "cpu" and bool(torch.isfinite(variances).all()):
            return torch.zeros_like(variances)
        counts = [(~torch.isfinite(one)).sum(dim=(1, 2)) for one in stacks]
        return torch.cat(counts).to(variances.dtype)


PASSES = _Passes()


def context() -> Any:
    """Return what identifies the trace under way."""
    # Not -1 while gradients are computed: a checkpointed layer runs again there. A
    # level is that of torch.func: within a vmap a tensor is not what it will be.
    level = torch._C._functorch.maybe_current_level()
    return int(torch._C._current_graph_task_id()), level


def is_dense(x: Any) -> bool:
    """Whether `x` is a plain tensor of this backend."""
    return isinstance(x, torch.Tensor) and x.layout == torch.strided
