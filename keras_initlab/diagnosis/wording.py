"""How findings express numbers and remedies."""

from __future__ import annotations

from collections.abc import Sequence

from keras_initlab import numerals


def rewrite(scheme: str) -> str:
    """Return the remedy that chooses new initial weights.

    >>> rewrite("isometric")
    'Call il.rewrite_initializers(model, scheme="isometric") before training.'
    """
    return f'Call il.rewrite_initializers(model, scheme="{scheme}") before training.'


def number(value: float) -> str:
    """Return a number as people read it.

    >>> number(1234567.0), number(0.25), number(1e-9)
    ('1.2·10⁶', '0.25', '10⁻⁹')
    """
    return numerals.number(value, 2) if value else "0"


def percent(share: float) -> str:
    """Return a share.

    >>> percent(0.756)
    '76 %'
    """
    return f"{100 * share:.0f} %"


def and_others(layers: Sequence[str]) -> str:
    """Return how many more there are than the first, "" for none.

    >>> and_others(["a", "b", "c"])
    ' (and 2 more layers)'
    """
    count = len(layers) - 1
    return f" (and {count} more layer{'s' * (count > 1)})" if count > 0 else ""
