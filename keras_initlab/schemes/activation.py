"""Activation: each kernel by the nonlinearity that its output meets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from keras_initlab.model.kernels import Kernel
from keras_initlab.schemes.base import Choice, SchemeContext, Selection
from keras_initlab.schemes.kernels import auto_for, fans_of


@dataclass(frozen=True)
class Activation:
    """Draw each kernel for the nonlinearity behind it: `scheme="activation"`.

    The nonlinearity is the layer's own, else the next in the model's graph through
    normalisation, dropout, pooling, reshaping and adding. The kernel's initializer
    becomes `initlab>auto` for it. Subclassed models and layers of the user's own are
    followed through their `call`; where that does not run on symbols, layers go by
    their own activation, and by that of their neighbours inside a `Sequential`. The
    only scheme that takes `only_unbuilt`.

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
    """Return the choice of `initlab>auto` for the nonlinearity behind a kernel."""
    follows, fans = context.nonlinearity(kernel), fans_of(kernel)
    rule = follows.rule
    std, gain = None, rule.gain
    if fans is not None:
        std = math.sqrt(rule.variance(fans))
        gain = std * math.sqrt(fans.over(rule.mode)) if rule.spread else gain
    return context.choice(
        kernel, auto_for(follows, fans, seed), gain=gain, std=std, note=note
    )
