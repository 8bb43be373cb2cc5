"""BadInput, which ends the command with one line and exit code 2."""

from __future__ import annotations

import re

from keras_initlab.tables import printable

# Keras's errors hold whole configs.
_LONGEST = 300
# They hold terminal colours, too.
_BOLD = re.compile("\x1b\\[[0-9;]*m")


class BadInput(Exception):
    """The user's input cannot be used; the message says why, in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.split())))


def brief(error: BaseException) -> str:
    """Return the beginning of an error's message in one line.

    >>> brief(ValueError("\\033[1mone\\n\\ntwo\\033[0m"))
    'one two'
    """
    message = " ".join(_BOLD.sub("", str(error)).split()) or type(error).__name__
    return message if len(message) <= _LONGEST else message[: _LONGEST - 1] + "…"
