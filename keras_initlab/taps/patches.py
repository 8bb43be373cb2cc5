"""Attributes put on instances for a while, and taken off again without a trace."""

from __future__ import annotations

import weakref
from typing import Any

_ABSENT = object()


class Patches:
    """Instance attributes that stand in for others until `undo`.

    They are written to the instance's `__dict__`: Keras, TensorFlow and PyTorch track
    what is set by plain assignment, and would save or name it.
    """

    def __init__(self) -> None:
        self._undo: list[tuple[weakref.ref[Any], str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Put `value` on `owner` under `name`, remembering what was there."""
        before = owner.__dict__.get(name, _ABSENT)
        # Weak: a patch must not keep a finished fit's objects alive.
        self._undo.append((weakref.ref(owner), name, before))
        owner.__dict__[name] = value

    def undo(self) -> None:
        """Restore everything, the last patch first."""
        while self._undo:
            reference, name, before = self._undo.pop()
            owner = reference()
            if owner is None:
                continue
            if before is _ABSENT:
                owner.__dict__.pop(name, None)
            else:
                owner.__dict__[name] = before
