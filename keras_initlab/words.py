"""The nearest of some words, for messages that refuse another."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def did_you_mean(value: Any, words: Iterable[str]) -> str:
    """Return a question that ends a message, with a space before it; "" for none.

    >>> did_you_mean("isometirc", ["activation", "variance", "isometric"])
    " Did you mean 'isometric'?"
    >>> did_you_mean("other", ["activation"]), did_you_mean(3, ["activation"])
    ('', '')
    """
    if not isinstance(value, str):
        return ""
    by_lower = {word.lower(): word for word in words}
    close = difflib.get_close_matches(value.lower(), by_lower, 1)
    return f" Did you mean {by_lower[close[0]]!r}?" if close else ""
