"""Replaces attributes of instances for a while, and leaves no trace."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_ABSENT = object()

# From an attribute to its replacement.
Wrap = Callable[[Any], Any]


class Patches:
    """Replacements for attributes of instances, in effect while `applied`.

    They are written to the instance's `__dict__`: Keras, TensorFlow and PyTorch track
    values that are set by plain assignment, and would save or name them.
    """

    def __init__(self) -> None:
        self._patches: list[_Patch] = []
        self._users = 0
        # Replicas of a step run in threads that take turns within it.
        self._lock = threading.Lock()

    def add(self, owner: Any, name: str, wrap: Wrap) -> None:
        """Replace the attribute `name` of `owner` by `wrap` of it."""
        patch = _Patch(owner, name, wrap)
        with self._lock:
            self._patches.append(patch)
            if self._users:
                patch.apply()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Apply all patches; the last user to leave removes them."""
        with self._lock:
            if not self._users:
                for patch in self._patches:
                    patch.apply()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    for patch in reversed(self._patches):
                        patch.remove()


class _Patch:
    def __init__(self, owner: Any, name: str, wrap: Wrap) -> None:
        self._owner, self._name, self._wrap = owner, name, wrap
        self._before: Any = _ABSENT
        # The replacement for the method of the class, made once.
        self._replacement: Any = None

    def apply(self) -> None:
        attributes = self._owner.__dict__
        self._before = attributes.get(self._name, _ABSENT)
        if self._before is not _ABSENT:
            attributes[self._name] = self._wrap(self._before)
            return
        if self._replacement is None:
            self._replacement = self._wrap(getattr(self._owner, self._name))
        attributes[self._name] = self._replacement

    def remove(self) -> None:
        if self._before is _ABSENT:
            self._owner.__dict__.pop(self._name, None)
        else:
            self._owner.__dict__[self._name] = self._before
            self._before = _ABSENT
