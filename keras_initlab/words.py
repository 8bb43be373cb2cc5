"""Words in messages: the nearest of some, and lists that are cut short."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


def nearest(
    word: str, words: Iterable[str], most: int = 1, cutoff: float = 0.6
) -> list[str]:
    """Return those of `words` that are nearest to `word`, best first; case is ignored.

    >>> nearest("Dens_1", ["dense", "dense_1", "relu"], most=2)
    ['dense_1', 'dense']
    """
    by_lower = {choice.lower(): choice for choice in words}
    close = difflib.get_close_matches(word.lower(), by_lower, most, cutoff)
    return [by_lower[lower] for lower in close]


def did_you_mean(value: Any, words: Iterable[str]) -> str:
    """Return a question that ends a message, with a space before it; "" for none.

    >>> did_you_mean("isometirc", ["activation", "variance", "isometric"])
    " Did you mean 'isometric'?"
    >>> did_you_mean("other", ["activation"]), did_you_mean(3, ["activation"])
    ('', '')
    """
    if not isinstance(value, str):
        return ""
    close = nearest(value, words)
    return f" Did you mean {close[0]!r}?" if close else ""


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return names in a row, the first of them if there are many.

    >>> listed(["a", "b", "c", "d"], most=2)
    'a, b and 2 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def by_reason(lead: str, names: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each reason, from pairs of a reason and a name.

    >>> by_reason("left alone", [("frozen", "a"), ("skipped", "b"), ("frozen", "c")])
    ['left alone: a, c (frozen)', 'left alone: b (skipped)']
    """
    groups: dict[str, list[str]] = {}
    for reason, name in names:
        groups.setdefault(reason, []).append(name)
    return [f"{lead}: {listed(group)} ({reason})" for reason, group in groups.items()]
