"""The command `keras-initlab`."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence

from keras_initlab.cli.arguments import parser
from keras_initlab.cli.errors import BadInput
from keras_initlab.cli.output import no_native_logs

__all__ = ["main"]

# Exit codes of a command ended by a signal: 128 plus the signal's number.
_INTERRUPTED, _BROKEN_PIPE = 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code: 0 done, 1 `inspect` has a finding that `--fail-on` names, 2 bad
        input, 130 interrupted, 141 the output's reader is gone.

    >>> main(["gains", "relu"])  # doctest: +ELLIPSIS
    Gains for z ~ N(0, 1): g = 1/sqrt(E[φ²]), chi = g² E[φ'²], ...
     activation     E[φ]    E[φ²]   E[φ'²]        g      chi       Q'   initlab>auto
    ───...
     relu         0.3989   0.5000   0.5000   1.4142   1.0000   1.0000   He, 2 / fan_in
    0
    """
    top = parser()
    arguments = top.parse_args(argv)
    try:
        if arguments.command is None:
            top.print_help()
            code = 0
        else:
            # Who asks for a traceback may want what TensorFlow says, too.
            shown = arguments.traceback
            with contextlib.nullcontext() if shown else no_native_logs():
                code = arguments.run(arguments)
        sys.stdout.flush()
    except BadInput as error:
        if arguments.traceback:
            traceback.print_exc()
        print(f"keras-initlab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return _BROKEN_PIPE
    return int(code)


def _discard_output() -> None:
    """Let Python flush the rest of the output on exit without another error."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
