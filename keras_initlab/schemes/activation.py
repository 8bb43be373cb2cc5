"""scheme="activation": each kernel by the nonlinearity that its output meets."""

from __future__ import annotations

import math

from keras_initlab.model.kernels import Kernel
from keras_initlab.plan import PlanRow
from keras_initlab.schemes.choice import (
    Choice,
    Finder,
    auto_for,
    fans_of,
    followed,
    left_alone,
)


def choose(
    kernel: Kernel,
    finder: Finder,
    seed: int | None,
    skipped: set[int],
    only_unbuilt: bool = False,
) -> Choice:
    """Return `initlab>auto` for what follows the kernel."""
    follows = followed(kernel, finder)
    rule = follows.rule
    fan = fans_of(kernel)
    alone = left_alone(kernel, skipped, only_unbuilt)
    after = kernel.initializer if alone else auto_for(follows, seed)
    notes = [alone, follows.note]
    if alone is None and not kernel.layer.built:
        notes.append("drawn when the layer is built")
    row = PlanRow(
        layer=kernel.path,
        weight=kernel.weight,
        nonlinearity=follows.resolved.name,
        fan_in=None if fan is None else fan.fan_in,
        fan_out=None if fan is None else fan.fan_out,
        gain=rule.gain if alone is None else None,
        std=(
            rule.gain / math.sqrt(fan.over(rule.mode))
            if alone is None and fan is not None
            else None
        ),
        before=kernel.initializer,
        after=after,
        note="; ".join(note for note in notes if note),
    )
    return Choice(kernel, row)
