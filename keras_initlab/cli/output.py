"""What the commands print and write, and what they keep from being printed."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from keras_initlab.cli.errors import BadInput
from keras_initlab.files import replacing
from keras_initlab.tables import printable


def emit(text: str) -> None:
    """Print a result, also where the output has no code for some of its letters."""
    try:
        print(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        print(text.encode(encoding, "backslashreplace").decode(encoding))


def write(text: str, path: Path) -> None:
    """Write a result to a file, whole or not at all."""
    try:
        # Half a surrogate pair, in a name, has no code in UTF-8; JSON reads \ud800.
        data = (text + "\n").encode("utf-8", "backslashreplace")
        with replacing(path) as fresh:
            fresh.write_bytes(data)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}.") from error


def check_place(path: Path) -> None:
    """Raise where no file can be written to `path`: before the work, not after."""
    if path.is_dir():
        raise BadInput(f"{path} is a folder. Give a file's name in -o.")
    if not path.absolute().parent.is_dir():
        raise BadInput(f"{path} cannot be written: there is no folder {path.parent}.")


def is_same_file(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one file that is there."""
    return one.exists() and other.exists() and one.samefile(other)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep others' prints from the output, and tell of each warning once.

    Where the work fails, its error says what is wrong, and no warning does.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        with contextlib.redirect_stdout(sys.stderr):
            yield
    messages = dict.fromkeys(
        " ".join(str(one.message).split())
        for one in caught
        if not issubclass(one.category, DeprecationWarning | PendingDeprecationWarning)
    )
    for message in messages:
        print(f"keras-initlab: warning: {printable(message)}", file=sys.stderr)


def colorful() -> bool:
    """Return whether the output goes to a terminal that shows colours."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and sys.stdout.isatty()


def line_width() -> int | None:
    """Return the characters of the terminal's line; None where there is no terminal."""
    if not sys.stdout.isatty():
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):
        return None
