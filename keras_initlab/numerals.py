"""Numbers as people write them."""

from __future__ import annotations

import re

_EXPONENT = re.compile(r"(-?)(\d(?:\.\d+)?)e([+-]\d+)")
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Larger numbers are written as a power of ten.
_DIGITS = 6


def number(value: float, digits: int = 3) -> str:
    """Return a number to so many significant digits.

    >>> number(0.12345), number(12345), number(1e-55), number(-2.5e9, 2)
    ('0.123', '12,300', '10⁻⁵⁵', '-2.5·10⁹')
    >>> number(float("nan")), number(0.0)
    ('nan', '0')
    """
    return _EXPONENT.sub(_power, format(value, f".{digits}g"))


def _power(match: re.Match[str]) -> str:
    sign, mantissa, exponent = match[1], match[2], int(match[3])
    if 0 < exponent < _DIGITS:
        return f"{float(match[0]):,.0f}"
    power = f"10{str(exponent).translate(_RAISED)}"
    return f"{sign}{power}" if mantissa == "1" else f"{sign}{mantissa}·{power}"
