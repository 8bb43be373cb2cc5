"""Activation: each kernel by the nonlinearity that its output meets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras

from keras_initlab.initializers import Scaled
from keras_initlab.model.kernels import Kernel
from keras_initlab.schemes.base import Choice, SchemeContext, Selection
from keras_initlab.schemes.kernels import auto_for, fans_of

# Kernels that read what another kernel of their layer has made.
_BEHIND = ("pointwise_kernel", "recurrent_kernel")


@dataclass(frozen=True)
class Activation:
    """Draw each kernel for the nonlinearity after it: `scheme="activation"`.

    The nonlinearity is the layer's own, or else the next one in the model's graph after
    normalisation, dropout, pooling, reshaping and additions. The kernel's initializer
    becomes `initlab>auto` for it. Subclassed models and your own layers are traced
    through their `call`; if that does not run on symbolic tensors, the layer's own
    activation is used, or that of the layers after it inside a `Sequential`. It is the
    only scheme that supports `only_unbuilt`. With a batch, kernels that read it are
    scaled by its second moment, as if it were standardised.

    >>> Activation()
    Activation()

    Source: He et al. 2015; Glorot & Bengio 2010; see `initlab>auto`.
    """

    def choose(self, model: Any, context: SchemeContext) -> Selection:
        """Return `initlab>auto` for each kernel; see `schemes.base.Scheme`."""
        return Selection(
            [
                auto_choice(context, kernel, context.seeds.at(index))
                for index, kernel in enumerate(context.kernels())
            ]
        )


def auto_choice(
    context: SchemeContext, kernel: Kernel, seed: int | None, note: str = ""
) -> Choice:
    """Return the choice of `initlab>auto` for the nonlinearity after a kernel."""
    follows, fans = context.nonlinearity(kernel), fans_of(kernel)
    rule = follows.rule
    read = None if rule.spread else _second_moment_read(context, kernel)
    if read is not None:
        return _scaled_choice(context, kernel, seed, read, note)
    std, gain = None, rule.gain
    if fans is not None:
        std = math.sqrt(rule.variance(fans))
        gain = std * math.sqrt(fans.over(rule.mode)) if rule.spread else gain
    return context.choice(
        kernel, auto_for(follows, fans, seed), gain=gain, std=std, note=note
    )


def _scaled_choice(
    context: SchemeContext, kernel: Kernel, seed: int | None, read: float, note: str
) -> Choice:
    """Return the choice for a kernel that reads inputs of a second moment."""
    rule, fans = context.nonlinearity(kernel).rule, fans_of(kernel)
    gain = rule.gain / math.sqrt(read)
    reason = f"reads the batch, E x² {read:.4g}"
    return context.choice(
        kernel,
        Scaled(gain=gain, mode=rule.mode, seed=seed),
        gain=gain,
        std=None if fans is None else gain / math.sqrt(fans.over(rule.mode)),
        note=f"{note}; {reason}" if note else reason,
    )


def _second_moment_read(context: SchemeContext, kernel: Kernel) -> float | None:
    """Return E[x²] of a kernel's input on the batch; None if it does not read it."""
    if context.given is None or kernel.weight in _BEHIND:
        return None
    read = context.given.read.get(id(kernel.layer))
    for outer in kernel.around:
        if isinstance(outer, keras.layers.Wrapper | keras.layers.RNN):
            read = read or context.given.read.get(id(outer))
    return None if read is None else read.second
