"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["add_text", "appended", "replacing", "write_text"]


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to, which takes the place of `path` when the block ends.

    Where the block fails, on a full disk or by Ctrl-C, `path` is as before; other
    programs see either the old file or the new one. A link stays a link, and a file
    that is replaced keeps its mode. What is no plain file (a pipe, /dev/stdout), and a
    file in a folder that takes no new ones, is written in place.

    Raises:
        OSError: the file cannot be written.

    >>> file = Path(tempfile.mkdtemp(), "report.html")
    >>> with replacing(file) as fresh:
    ...     _ = fresh.write_text("half a page")
    ...     print(file.exists())
    False
    >>> file.read_text()
    'half a page'
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not os.access(target, os.W_OK):
        # Who made it read-only does not want it replaced either.
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    folder = None if _is_special(target) else _folder_beside(target)
    if folder is None:
        yield target
        return
    with folder as name:
        fresh = Path(name, target.name)
        yield fresh
        if target.exists():
            shutil.copymode(target, fresh)
        os.replace(fresh, target)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file of UTF-8 with Unix line ends, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8", newline="\n")


def appended(path: Path, data: bytes) -> None:
    """Add to a file in one go, or leave it as it is where that fails.

    A process that is killed, or whose disk is full, leaves all of `data` or nothing.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("ab", buffering=0) as file:
        length = os.fstat(file.fileno()).st_size
        remaining = memoryview(data)
        try:
            while remaining:
                remaining = remaining[file.write(remaining) :]
        except BaseException:
            with contextlib.suppress(OSError):  # A pipe keeps what it was given.
                file.truncate(length)
            raise


def add_text(path: Path, text: str) -> None:
    """Add whole lines to a file, all or none; its folders are made.

    A line that an earlier process could not finish is ended first, so that it does not
    swallow these.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    appended(path, ("" if _is_whole(path) else "\n").encode() + text.encode())


def _is_whole(path: Path) -> bool:
    """Whether a file ends with the end of a line, or there is nothing in it."""
    if not path.exists() or not path.stat().st_size:
        return True
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _is_special(target: Path) -> bool:
    return target.exists() and not target.is_file()


def _folder_beside(target: Path) -> tempfile.TemporaryDirectory[str] | None:
    """Return a folder on the target's own disk; None where there can be none.

    A folder, not a file: what is made in it has the mode of any new file.
    """
    try:
        return tempfile.TemporaryDirectory(dir=target.parent, prefix=".initlab-")
    except (PermissionError, FileNotFoundError, NotADirectoryError):
        # Writing in place succeeds, or names the file in its error.
        return None
