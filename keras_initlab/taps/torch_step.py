"""Taps in PyTorch's training step; the rows stay on the device all epoch."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

from keras_initlab.taps import running
from keras_initlab.taps.patches import Patches
from keras_initlab.taps.recorder import Output, Recorder

CONTROL_FLOW = (StopIteration,)


def why_not(model: Any) -> str | None:
    """Return why this model cannot be tapped, or None."""
    return None


class Step:
    """The training step of one model, with its layers' outputs measured."""

    def __init__(self, model: Any, every: int, patches: Patches) -> None:
        self._every = every
        compiled = bool(model.jit_compile)
        self.recorder = (
            # What PyTorch's compiler cannot trace would break its graph at each layer.
            Recorder(model, patches, int, is_dense, thread=int)
            if compiled
            else Recorder(model, patches, context, is_dense)
        )
        self._step = 0
        self._states: dict[tuple[str, ...], torch.Tensor] = {}
        train_step = model.train_step

        @functools.wraps(train_step)
        def tapped(*args: Any, **kwargs: Any) -> Any:
            # A compiled step records always: a flag that comes and goes would be
            # two graphs to compile.
            if not compiled and self._step % self._every:
                self._step += 1
                return train_step(*args, **kwargs)
            with self.recorder.recording():
                logs = train_step(*args, **kwargs)
            self._update(self.recorder.take())
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

    def read(self) -> list[tuple[tuple[str, ...], np.ndarray]]:
        """Return keys and rows (count, mean, variance)."""
        return [(keys, rows.cpu().numpy()) for keys, rows in self._states.items()]

    def reset(self) -> None:
        """Forget what was measured, and begin to count steps at 0."""
        self._step = 0
        self._states.clear()

    def close(self) -> None:
        """Nothing but the patches is on the model."""

    def _update(self, outputs: list[Output]) -> None:
        if outputs and self._step % self._every == 0:
            tensors = [output.tensor.detach() for output in outputs]
            keys = tuple(output.key for output in outputs)
            with torch.no_grad():
                rows = running.batch_rows(tensors, running.working_dtype(tensors))
                if keys in self._states:
                    rows = running.merge(self._states[keys], rows)
            self._states[keys] = rows
        self._step += 1


def context() -> Any:
    """Return what identifies the trace under way."""
    # Not -1 while gradients are computed: a checkpointed layer runs again there. A
    # level is that of torch.func: within a vmap a tensor is not what it will be.
    level = torch._C._functorch.maybe_current_level()
    return int(torch._C._current_graph_task_id()), level


def is_dense(x: Any) -> bool:
    """Whether `x` is a plain tensor of this backend."""
    return isinstance(x, torch.Tensor) and x.layout == torch.strided
