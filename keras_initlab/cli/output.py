"""Printing and writing results, and keeping other output away from them."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from keras_initlab.cli.errors import BadInput
from keras_initlab.files import replacing
from keras_initlab.tables import printable


def emit(text: str) -> None:
    """Print a result, even if the output's encoding lacks some of its characters."""
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


def deliver(text: str, output: Path | None) -> None:
    """Print a result, or write it to a file if there is one."""
    if output is None:
        emit(text)
    else:
        write(text, output)


def as_text(report: Any, width: int | None, output: Path | None) -> str:
    """Return a report's text; printed in a terminal, it is as wide as that."""
    from keras_initlab.report.text import NARROWEST

    if width is None and output is None:
        terminal = line_width()
        width = max(terminal, NARROWEST) if terminal else None
    return str(report.text(width, color=output is None and colorful()))


def check_place(path: Path) -> None:
    """Raise if no file can be written to `path`: before the work, not after it."""
    if path.is_dir():
        raise BadInput(f"{path} is a folder. Give a file's name in -o.")
    if not path.absolute().parent.is_dir():
        raise BadInput(f"{path} cannot be written: there is no folder {path.parent}.")


def is_same_file(left: Path, right: Path) -> bool:
    """Return whether two paths lead to the same existing file."""
    return left.exists() and right.exists() and left.samefile(right)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send other code's prints to stderr, and print each warning there once.

    If the work fails, no warnings are printed: the error says what is wrong.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        with contextlib.redirect_stdout(sys.stderr):
            yield
    messages = dict.fromkeys(
        " ".join(str(warning.message).split())
        for warning in caught
        if not issubclass(
            warning.category, DeprecationWarning | PendingDeprecationWarning
        )
    )
    for message in messages:
        print(f"keras-initlab: warning: {printable(message)}", file=sys.stderr)


@contextlib.contextmanager
def no_native_logs() -> Iterator[None]:
    """Drop what code that is not Python's writes to the standard error.

    TensorFlow logs eight lines while it is imported, whatever its settings. What Python
    writes to `sys.stderr` still arrives.
    """
    try:
        descriptor = os.dup(2)
    except OSError:  # closed, so that nothing arrives anyway
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    stderr = sys.stderr
    try:
        if _writes_to(stderr, 2):
            stderr.flush()
            # Never closed: handlers of loggers made meanwhile may hold on to it.
            copy, encoding = os.dup(descriptor), stderr.encoding
            sys.stderr = open(copy, "w", 1, encoding, "backslashreplace")  # noqa: SIM115
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr = stderr
        os.dup2(descriptor, 2)
        os.close(descriptor)
        os.close(nowhere)


def _writes_to(stream: TextIO | None, descriptor: int) -> bool:
    try:
        return stream is not None and stream.fileno() == descriptor
    except (OSError, ValueError):  # a test's, which is no file
        return False


def colorful() -> bool:
    """Return whether the output goes to a terminal that shows colours."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and sys.stdout.isatty()


def line_width() -> int | None:
    """Return the width of the terminal in characters; None if there is none."""
    if not sys.stdout.isatty():
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):
        return None
