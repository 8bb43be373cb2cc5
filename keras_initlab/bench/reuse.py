"""One compiled model for all runs of a comparison that only differ in their values.

Compiling the training step often takes longer than a run, and on TensorFlow and JAX
each new model compiles its own. Runs whose candidates only draw weights reuse the model
of the first run, which receives the values of all their variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["forget", "reusable"]

# The model of the current comparison in this process, by its token.
_compiled: dict[str, Any] = {}


def reusable(token: str, model: Any) -> Any:
    """Return the model to train in place of `model`: itself, or one that equals it.

    Args:
        token: of the comparison; a new token starts anew.
        model: built and compiled, with the values to start from.
    """
    compiled = _compiled.get(token)
    if compiled is None:
        _compiled.clear()
        _compiled[token] = model
        return model
    pairs = _pairs(compiled.variables, model.variables)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    slots = _pairs(compiled.optimizer.variables, model.optimizer.variables)
    trainable = [variable.trainable for variable in compiled.variables]
    if (
        pairs is None
        or slots is None
        or trainable != [variable.trainable for variable in model.variables]
    ):
        return model
    for target, source in (*pairs, *slots):
        target.assign(source)
    return compiled


def forget() -> None:
    """Release the model of this process."""
    _compiled.clear()


def _pairs(
    targets: Sequence[Any], sources: Sequence[Any]
) -> list[tuple[Any, Any]] | None:
    """Return pairs of variables; None if shapes or dtypes differ."""
    kinds = [
        [(tuple(variable.shape), variable.dtype) for variable in variables]
        for variables in (targets, sources)
    ]
    return list(zip(targets, sources, strict=True)) if kinds[0] == kinds[1] else None
