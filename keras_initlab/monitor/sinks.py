"""Sinks: where a VarianceMonitor's records go at the end of each epoch.

A sink is any callable that takes a list of flat dicts, one per window and layer:

    VarianceMonitor(sinks=[JSONLines("run.jsonl"), TensorBoard("logs/run"), print])

It may also have `open()`, called when `fit` begins; `samples(epoch, outputs,
gradients)`, called after the records with sampled values by layer where the monitor
was made with `histograms=True`; and `close()`, called when `fit` ends, however it ends.

Weights & Biases, MLflow and the like need no sink of their own. They are reached
through Keras's logs, with the monitor before their callback:

    from wandb.integration.keras import WandbMetricsLogger
    model.fit(..., callbacks=[VarianceMonitor(log="layers"), WandbMetricsLogger()])

    from mlflow.keras import MlflowCallback
    model.fit(..., callbacks=[VarianceMonitor(log="layers"), MlflowCallback()])

or, for any statistic of the records, by a sink of one line:

    lambda rows: wandb.log({f"variance/{r['layer']}": r["variance"] for r in rows})
    lambda rows: [mlflow.log_metric("variance/" + r["layer"].replace("#", ":"),
                                    r["variance"], step=r["epoch"]) for r in rows]

Where an epoch has several windows, that for W&B keeps the last. MLflow takes no `#` in
a name, which marks the calls of a shared layer; in Keras's logs it is a colon.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from keras_initlab.files import add_text, appended, replacing

__all__ = ["CSV", "JSONLines", "Sink", "TensorBoard"]

# What a spreadsheet's formula may begin with.
_FORMULA = (*"=+-@\t\r\n＝＋－＠",)

Sink = Callable[[list[dict[str, Any]]], object]

# Tells apart the event files that one process begins in the same second.
_COUNT = itertools.count()


class _TextFile:
    """A file that is begun, or gone on with, when `fit` begins.

    It is opened anew for each epoch and written in one go: nothing waits in a buffer
    when the process is killed, and a sink can be pickled at any time.
    """

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path = _local("path", path, "the file to write")
        self.append = _flag("append", append, "whether to go on with an earlier file")

    def open(self) -> None:
        """Begin the file, or go on with it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.open("ab" if self.append else "wb").close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, append={self.append})"

    def _add(self, text: str) -> None:
        add_text(self.path, text)


class JSONLines(_TextFile):
    """A sink that writes one JSON object a line.

    NaN and infinities have no place in JSON: they become null. What is not known is
    left out, so that the two can be told apart.

    Args:
        path: the file to write; its folders are made.
        append: whether to go on with an earlier file, as where training is resumed.
            False empties it when `fit` begins.

    Raises:
        TypeError: `path` is not a path, or `append` not a bool.
        ValueError: `path` is an address, such as gs://….

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "run.jsonl")
    >>> JSONLines(path)([{"epoch": 0, "layer": "a", "variance": float("nan")}])
    >>> path.read_text()
    '{"epoch": 0, "layer": "a", "variance": null}\\n'
    """

    def __call__(self, records: list[dict[str, Any]]) -> None:
        """Add the records."""
        if records:
            plain = ({k: _finite(v) for k, v in row.items()} for row in records)
            self._add("".join(json.dumps(row, allow_nan=False) + "\n" for row in plain))


class CSV(_TextFile):
    """A sink that writes a table: a header and one row a record.

    What is not known is left empty; NaN and infinities are written nan, inf and -inf.
    A name that a spreadsheet would take for a formula, one that begins with =, +, -, @,
    a tab or the like, is written with an apostrophe in front.
    Where later records have further columns, the file is replaced by one that has them
    at the right; other programs see either the old file or the new one.

    Args:
        path: the file to write; its folders are made.
        append: whether to go on with an earlier file, as where training is resumed.
            False empties it when `fit` begins.

    Raises:
        TypeError: `path` is not a path, or `append` not a bool.
        ValueError: `path` is an address, such as gs://….

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "run.csv")
    >>> sink = CSV(path)
    >>> sink([{"epoch": 0, "mean": 0.5}])
    >>> sink([{"epoch": 1, "mean": 0.25, "variance": 1.0}])
    >>> path.read_text().split()
    ['epoch,mean,variance', '0,0.5,', '1,0.25,1.0']
    """

    def __call__(self, records: list[dict[str, Any]]) -> None:
        """Add the records, and columns where they have new ones."""
        if not records:
            return
        header = self._header()
        plain = [{_plain(k): _plain(v) for k, v in row.items()} for row in records]
        columns = [*dict.fromkeys(itertools.chain(header, *plain))]
        rows = _table([row.get(name) for name in columns] for row in plain)
        if not header:
            self._add(_table([columns]) + rows)
        elif len(columns) == len(header):
            self._add(rows)
        else:
            self._replace(columns, rows)

    def _header(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return next(csv.reader(file), [])

    def _replace(self, columns: list[str], rows: str) -> None:
        with (
            replacing(self.path) as path,
            self.path.open(newline="", encoding="utf-8") as old,
            path.open("w", newline="", encoding="utf-8") as new,
        ):
            earlier = csv.reader(old)
            next(earlier)
            new.write(_table([columns]))
            for row in earlier:
                new.write(_table([row + [""] * (len(columns) - len(row))]))
            new.write(rows)


class TensorBoard:
    """A sink that writes for TensorBoard: scalars and, on request, histograms.

    Scalars have the tag `statistic/layer`, so that TensorBoard shows the layers of one
    statistic side by side; histograms `outputs/layer` and `gradients/layer`, of the
    values that are finite. The step is the epoch. Where an epoch has several windows it
    is the number of the window, counted on from epoch to epoch; histograms stand at
    the epoch's last window.

    Only the package `tensorboard` is needed, not TensorFlow. Each `fit` writes a new
    event file, so give each its own folder, as for Keras's `TensorBoard` (which itself
    writes to `train` and `validation` in its folder: the two can share it).

    Args:
        log_dir: the folder to write to; it is made.
        histograms: whether to write histograms. The monitor samples values for them
            where it is made with `histograms=True` too.

    Raises:
        ImportError: the package `tensorboard` is missing.
        TypeError: `log_dir` is not a path, or `histograms` not a bool.
        ValueError: `log_dir` is an address, such as gs://….
    """

    def __init__(
        self, log_dir: str | os.PathLike[str], histograms: bool = False
    ) -> None:
        self.log_dir = _local("log_dir", log_dir, "the folder to write to")
        self.histograms = _flag("histograms", histograms, "whether to write histograms")
        self._file: Path | None = None
        self._next: int | None = None
        _event()  # a missing package shows here, not after the first epoch

    def open(self) -> None:
        """Begin a new event file, and count windows anew."""
        self._file, self._next = self._begin(), None

    def __call__(self, records: list[dict[str, Any]]) -> None:
        """Add the records' numbers."""
        epochs: dict[int, dict[int, list[dict[str, Any]]]] = {}
        for row in records:
            windows = epochs.setdefault(int(row["epoch"]), {})
            windows.setdefault(int(row.get("step", 0)), []).append(row)
        for epoch, windows in epochs.items():
            first = self._first(epoch, len(windows))
            self._next = first + len(windows)
            self._add(
                _event(first + number, scalars=windows[step])
                for number, step in enumerate(sorted(windows))
            )

    def samples(
        self,
        epoch: int,
        outputs: Mapping[str, np.ndarray],
        gradients: Mapping[str, np.ndarray],
    ) -> None:
        """Add histograms of the layers' outputs and of the gradients there."""
        if not self.histograms:
            return
        values = {
            f"{kind}/{layer}": sample
            for kind, layers in (("outputs", outputs), ("gradients", gradients))
            for layer, sample in layers.items()
        }
        step = epoch if self._next is None else self._next - 1
        self._add([_event(step, histograms=values)])

    def __repr__(self) -> str:
        return f"TensorBoard({str(self.log_dir)!r}, histograms={self.histograms})"

    def _first(self, epoch: int, windows: int) -> int:
        """Return the step of an epoch's first window."""
        if self._next is None:
            # Where training is resumed, the epochs before had as many, most likely.
            return epoch * windows
        # Never back, also after an epoch that was left early and had fewer windows.
        return max(self._next, epoch)

    def _begin(self) -> Path:
        name = f"{int(time.time()):010}.{socket.gethostname()}.{os.getpid()}"
        file = self.log_dir / f"events.out.tfevents.{name}.{next(_COUNT):03}"
        _write(file, _framed([_event(file_version="brain.Event:2")]))
        return file

    def _add(self, events: Iterable[Any]) -> None:
        if self._file is None:
            self._file = self._begin()
        _write(self._file, _framed(events))


def _event(
    step: int = 0,
    scalars: Iterable[Mapping[str, Any]] = (),
    histograms: Mapping[str, np.ndarray] | None = None,
    file_version: str | None = None,
) -> Any:
    """Return one of TensorBoard's events, made of the package's own messages."""
    try:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.plugins.histogram import summary_v2
    except ImportError as error:
        raise ImportError(
            "The sink TensorBoard needs the package tensorboard. Install it with: "
            'pip install "keras-initlab[tensorboard]"'
        ) from error
    event = event_pb2.Event(wall_time=time.time(), step=step, file_version=file_version)
    for row in scalars:
        for name, value in row.items():
            if name not in ("epoch", "step") and _is_number(value):
                tag = f"{name}/{row['layer']}"
                event.summary.value.add(tag=tag, simple_value=float(value))
    for tag, sample in (histograms or {}).items():
        values = np.asarray(sample, dtype="float64")
        values = values[np.isfinite(values)]
        if values.size:
            event.summary.MergeFrom(summary_v2.histogram_pb(tag, values))
    return event


def _framed(events: Iterable[Any]) -> bytes:
    """Return events as they stand in a file, with their lengths and checksums."""
    # Not the package's EventFileWriter: that one imports TensorFlow where there is one,
    # which is slow and, beside another backend, takes the GPU's memory.
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event.SerializeToString())
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    """Add all of an epoch or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    appended(path, data)


def _table(rows: Iterable[list[Any]]) -> str:
    lines: list[str] = []
    # That a row ends in "\r\n" has the writer quote both where a name holds them.
    ended = SimpleNamespace(write=lambda line: lines.append(line[:-2] + "\n"))
    csv.writer(ended).writerows(rows)
    return "".join(lines)


def _plain(value: Any) -> Any:
    """Return what a spreadsheet takes for text in place of what is text."""
    # As OWASP's "CSV Injection" has it; full-width signs count in Japanese settings.
    formula = isinstance(value, str) and value.startswith(_FORMULA)
    return f"'{value}" if formula else value


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _finite(value: Any) -> Any:
    """Return what JSON can hold in place of `value`."""
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def _local(name: str, path: Any, meaning: str) -> Path:
    expected = f"`{name}` must be a string or a path: {meaning}, on this machine."
    advice = 'Give one such as "runs/first".'
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"{expected} Received: {name}={path!r} of type {type(path).__name__}. "
            f"{advice}"
        )
    if not str(path) or "://" in str(path):
        raise ValueError(f"{expected} Received: {name}={path!r}. {advice}")
    return Path(path)


def _flag(name: str, value: Any, meaning: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(
            f"`{name}`, {meaning}, must be True or False. Received: {name}={value!r} "
            f"of type {type(value).__name__}."
        )
    return value
