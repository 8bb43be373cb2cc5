"""What watching costs in memory.

The peak of a process that trains, of each workload of `monitor_overhead.py`, in steps
that are not measured and in those that are; and the memory of a process over 100,000
measured steps of a tiny model. On Linux alone.

    KERAS_BACKEND=jax python examples/benchmarks/monitor_memory.py [--quick]
        [--parts PART …] [--workloads NAME …] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from monitor_overhead import BACKEND, WORKLOADS, compiled, data_of, mlp

import keras_initlab as il
from keras_initlab.tables import render_table

STATUS = Path("/proc/self/status")

# Whose peak is taken: "none" measures the first step of `fit` alone, before the peak is
# forgotten.
MEMORY: dict[str, Callable[[], Any] | None] = {
    "plain": None,
    "plain again": None,
    "none": lambda: il.VarianceMonitor(datetime.timedelta(hours=1), gradients=True),
    "every=1": lambda: il.VarianceMonitor(1),
    "every=1, gradients": lambda: il.VarianceMonitor(1, gradients=True),
}
QUICK = ("plain", "every=1, gradients")


def run_memory(quick: bool, names: Sequence[str]) -> dict[str, Any]:
    """Take the peak memory of processes that train."""
    found: dict[str, Any] = {}
    for name in names[: 1 if quick else None]:
        for variant in QUICK if quick else MEMORY:
            command = [sys.executable, __file__, "--of", name, variant]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.setdefault(name, {})[variant] = int(done.stdout.split()[-1])
    rows = [
        [f"{name}, {variant}", f"{kib / 1024:.0f}", f"{kib / one['plain']:.3f}"]
        for name, one in found.items()
        for variant, kib in one.items()
    ]
    columns: list[tuple[str, Any]] = [
        ("", "left"),
        ("peak, MiB", "right"),
        ("of plain", "right"),
    ]
    print(render_table(f"Memory on {BACKEND}", columns, rows), end="\n\n")
    return found


def print_peak(name: str, variant: str) -> None:
    """Train, and print the process's peak memory in KiB, that of compiling left out."""
    peak = Path("/proc/self/clear_refs")

    class FromNowOn(keras.callbacks.Callback):  # type: ignore[misc]
        """Forget the peak when the second epoch begins."""

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1 and peak.exists():
                # What compiling has used, and the allocator still holds.
                ctypes.CDLL(None).malloc_trim(0)
                peak.write_text("5")

    workload = WORKLOADS[name]
    x, y = data_of(workload, 10)
    make = MEMORY[variant]
    own = [] if make is None else [make()]
    compiled(workload).fit(
        x,
        y,
        batch_size=workload.batch,
        verbose=0,
        callbacks=[*own, FromNowOn()],
        epochs=3,
    )
    status = STATUS.read_text()
    print(next(line.split()[1] for line in status.splitlines() if "VmHWM" in line))


def run_long(quick: bool, _: Sequence[str]) -> dict[str, Any]:
    """Take the memory of a process over many measured steps of a tiny model."""
    found: dict[str, Any] = {}

    class Look(keras.callbacks.Callback):  # type: ignore[misc]
        """Take the resident memory every so many steps."""

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            """Look, ten times."""
            if (batch + 1) % (steps // 10) == 0:
                line = next(x for x in STATUS.read_text().splitlines() if "VmRSS" in x)
                found[f"{batch + 1:,} steps"] = int(line.split()[1])

    steps = 100 if quick else 100_000
    model = mlp(1, 4, 4)
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = np.zeros((steps, 4), "float32")
    monitor = il.VarianceMonitor(1, gradients=True, on_finding="ignore")
    model.fit(x, np.zeros(steps), batch_size=1, verbose=0, callbacks=[monitor, Look()])
    columns: list[tuple[str, Any]] = [("measured", "right"), ("resident, MiB", "right")]
    rows = [[name, f"{kib / 1024:.1f}"] for name, kib in found.items()]
    print(render_table(f"Memory on {BACKEND}", columns, rows), end="\n\n")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one workload, few steps")
    parts = {"peak": run_memory, "long": run_long}
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument(
        "--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS)
    )
    parser.add_argument("--out", type=Path, help="a folder for monitor_memory.json")
    parser.add_argument("--of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if not STATUS.exists():
        print("Memory is measured on Linux alone.")
        return 0
    if arguments.of:
        print_peak(*arguments.of)
        return 0
    found = {
        part: parts[part](arguments.quick, arguments.workloads)
        for part in arguments.parts
    }
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / f"monitor_memory_{BACKEND}.json"
        path.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
