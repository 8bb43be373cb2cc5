"""Runs in a file of JSON Lines: completed runs are kept, and not done again."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from keras_initlab.bench.records import Run
from keras_initlab.diagnosis import Finding
from keras_initlab.files import add_text
from keras_initlab.stats import LayerStats

__all__ = ["add", "fingerprint", "read", "strict"]

Setup = Mapping[str, Any]

# What must be equal for runs to be compared, and its name in errors.
_MEANING = {
    "epochs": "epochs",
    "batch_size": "batch size",
    "data": "training data",
    "weights": "model (the shapes of its weights)",
}


def read(path: str | Path, setup: Setup) -> list[Run]:
    """Return the runs in a file; none if there is no file.

    An incomplete last line is left out: that run is done again.

    Raises:
        ValueError: it holds runs of another comparison, or something else.
    """
    file = Path(path)
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    runs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            stored, run = row["setup"], _run_of(row["run"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # A line that another process could not finish.
            if _is_torn(line):
                continue
            raise ValueError(
                f"`out` must be a file that `compare` wrote, or a new one. Received: "
                f"{file}, whose line {number} holds something else."
            ) from error
        _check_setup(file, stored, setup)
        runs.append(run)
    return runs


def add(path: str | Path, run: Run, setup: Setup) -> None:
    """Add a run to a file.

    Raises:
        OSError: the file cannot be written.
    """
    row = {"setup": dict(setup), "run": asdict(run)}
    add_text(Path(path), json.dumps(strict(row), allow_nan=False) + "\n")


def fingerprint(value: Any) -> str:
    """Return a short digest of a value, by its repr."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def _is_torn(line: str) -> bool:
    """Whether a line is the beginning of one that `add` would write."""
    start = '{"setup": {'
    try:
        json.loads(line)
    except ValueError:
        return line.startswith(start) or start.startswith(line)
    return False


def _check_setup(file: Path, stored: Setup, setup: Setup) -> None:
    for name, value in setup.items():
        if stored.get(name) != value:
            values = f": {stored.get(name)!r}, not {value!r}"
            detail = values if isinstance(value, int) else ""
            raise ValueError(
                "`out` must hold runs of the same comparison. Received: "
                f"{file}, with another {_MEANING[name]}{detail}. Give another file."
            )


def _run_of(row: Mapping[str, Any]) -> Run:
    fields = dict(row)
    fields["history"] = {
        name: [float(value) for value in values]
        for name, values in fields["history"].items()
    }
    fields["initial"] = {name: float(v) for name, v in fields["initial"].items()}
    fields["seconds"] = float(fields["seconds"])
    for name in ("start", "end"):
        fields[name] = tuple(map(_stats_of, fields[name]))
    fields["findings"] = tuple(map(_finding_of, fields["findings"]))
    return Run(**fields)


def _stats_of(row: Mapping[str, Any]) -> LayerStats:
    texts = ("layer", "weight", "source")
    fields: dict[str, Any] = {
        name: float(value) if isinstance(value, str) and name not in texts else value
        for name, value in row.items()
    }
    if fields["shape"] is not None:
        fields["shape"] = tuple(fields["shape"])
    return LayerStats(**fields)


def _finding_of(row: Mapping[str, Any]) -> Finding:
    follows = tuple(map(_finding_of, row["consequences"]))
    return Finding(**{**row, "consequences": follows})


def strict(value: Any) -> Any:
    """Return a value as strict JSON allows it: NaN and infinities are strings."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
