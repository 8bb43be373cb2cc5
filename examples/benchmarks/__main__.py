"""Every benchmark in one command: one page, one file of results.

Each script runs in a process of its own, one after the other, on the backend that it
is made for. What they print makes a page, FOLDER/benchmarks.md, headed by the machine,
the versions and the times; what they measured stands in FOLDER beside it. From that
come the figures that the README quotes: the full form writes them to
docs/benchmarks.json, for `--table` to print.

    python -m examples.benchmarks --quick | --full [--only NAME …] [--out FOLDER]
    python -m examples.benchmarks --table       the README's table, from docs/

The quick form takes a few minutes and says that all of it runs; its figures mean
nothing. The full one takes some hours on two cores. `depth`, `depth_averages`,
`convergence` and `monitor_overhead` go on from the results that docs/ holds of them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
DOCS = ROOT / "docs"
RESULTS = "benchmarks.json"
# Scripts and the backends that they run on; `""` for those that choose it themselves.
SCRIPTS = {
    "fans": ("torch",),
    "draws": ("tensorflow", "jax", "torch"),
    "propagation": ("torch",),
    "zoo": ("torch",),
    "architectures": ("",),
    "depth": ("",),
    "convergence": ("",),
    "depth_averages": ("",),
    "calibrate": ("torch",),
    "reset": ("tensorflow", "torch"),
    "diagnosis": ("torch",),
    "monitor_overhead": ("tensorflow", "jax", "torch"),
    "monitor_memory": ("tensorflow", "jax", "torch"),
    "monitor_twin": ("torch",),
}
# Those whose results stand in docs/.
GOING_ON = ("depth", "convergence", "depth_averages", "monitor_overhead")
PACKAGES = ("keras", "tensorflow", "jax", "torch", "numpy")


class Figure(NamedTuple):
    """A row of the README's table: what is compared, and where the numbers stand."""

    what: str
    script: str
    keras: Callable[[Any], str]
    initlab: Callable[[Any], str]


def percent(value: float) -> str:
    """Return a share in per cent."""
    return f"{100 * value:.1f} %"


def mean(cell: dict[str, Any]) -> str:
    """Return the mean accuracy of a cell of depth.json."""
    return percent(sum(cell["accuracy"]) / len(cell["accuracy"]))


def at_depth(depth: int, activation: str) -> Figure:
    """Return the figure of plain networks of one depth."""

    def of(start: str) -> Callable[[Any], str]:
        return lambda found: mean(
            found["cells"]["mlp"][f"{depth} | {activation} | {start}"]
        )

    what = f"plain network of {depth} {activation} layers on digits, test accuracy"
    return Figure(what, "depth", of("Keras's default"), of("isometric"))


def learning(name: str, score: str, target: str, **place: Any) -> Figure:
    """Return the figure of how soon a network of convergence.json learns with SGD."""
    here = {"optimizer": "SGD", "inputs": "standardised", "detail": "", **place}

    def of(start: str) -> Callable[[Any], str]:
        def read(found: Any) -> str:
            wanted = here | {"start": start}
            (row,) = (one for one in found["records"] if wanted.items() <= one.items())
            epochs = statistics.median(
                math.inf if one is None else one for one in row["to_first"]
            )
            reached = "never" if epochs == math.inf else f"{epochs:.0f}"
            return f"{reached}; {percent(statistics.mean(row['test']))}"

        return read

    what = f"{name} on digits, SGD: epochs to {target}; test {score}"
    return Figure(what, "convergence", of("default"), of("isometric"))


def dense(depth: int, activation: str) -> Figure:
    """Return the figure of plain Dense networks."""
    return learning(
        f"{depth} Dense {activation} layers",
        "accuracy",
        "93 %",
        kind="mlp",
        depth=depth,
        width=64,
        activation=activation,
    )


def kernel(name: str, key: str) -> Callable[[Any], str]:
    """Return how a second moment is read from fans.json."""

    def read(found: Any) -> str:
        (row,) = (one for one in found if one["kernel"] == name)
        return f"{row[key]:.2g}"

    return read


def siren(start: str) -> Callable[[Any], str]:
    """Return how an error is read from architectures.json."""

    def read(found: Any) -> str:
        (row,) = (one for one in found["siren"] if one["start"] == start)
        return f"{row['mean']:.2g}"

    return read


def step(every: str) -> Callable[[Any], str]:
    """Return how an overhead is read from monitor_overhead_tensorflow.json."""

    def read(found: Any) -> str:
        over = found["steps"]["MLP"]["over"][every]
        low, high = over["low"], over["high"]
        return f"{over['percent']:+.0f} % (quartiles {low:+.0f}, {high:+.0f})"

    return read


def planted(found: Any) -> str:
    """Return how many planted faults are named, and healthy networks with an alarm."""
    answers = [
        (one["codes"], one["answers"]["keras-initlab"]["verdict"]) for one in found
    ]
    faulty = [verdict for codes, verdict in answers if codes]
    healthy = [verdict for codes, verdict in answers if not codes]
    alarms = sum(verdict != "silent" for verdict in healthy)
    return f"{faulty.count('found')} of {len(faulty)}; {alarms} of {len(healthy)}"


def nothing(found: Any) -> str:
    """Say that there is nothing to compare with."""
    return "–"


FIGURES = (
    dense(3, "relu"),
    dense(8, "relu"),
    dense(16, "gelu"),
    learning(
        "8 relu convolutions, global average",
        "accuracy",
        "93 %",
        kind="cnn",
        depth=8,
        activation="relu",
        detail="average",
    ),
    learning(
        "4 + 4 gelu layers, autoencoder",
        "score",
        "80 % explained variance",
        kind="autoencoder",
        depth=4,
        activation="gelu",
    ),
    at_depth(50, "relu"),
    at_depth(200, "gelu"),
    Figure(
        "second moment after a 3×3 DepthwiseConv2D of 128 channels; 1 is right",
        "fans",
        kernel("DepthwiseConv2D", "keras truncated_normal"),
        kernel("DepthwiseConv2D", "initlab truncated_normal"),
    ),
    Figure(
        "SIREN on an image, mean square error",
        "architectures",
        siren("Keras's default"),
        siren("activation"),
    ),
    Figure(
        "a step with the monitor, every tenth measured, TensorFlow MLP",
        "monitor_overhead",
        nothing,
        step("every=10"),
    ),
    Figure(
        "faults named by their own code; alarms on healthy networks",
        "diagnosis",
        nothing,
        planted,
    ),
)


def read(script: str, folders: Sequence[Path]) -> Any:
    """Return what a script has measured, from the first folder that holds it."""
    suffix = "_tensorflow" if script == "monitor_overhead" else ""
    for folder in folders:
        path = folder / f"{script}{suffix}.json"
        if path.exists():
            return json.loads(path.read_text())
    return None


def figures(folder: Path, before: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return the README's figures; those not measured anew as they were before."""
    known = {one["what"]: one for one in before}
    rows = []
    for figure in FIGURES:
        found = read(
            figure.script, (folder, DOCS) if figure.script in GOING_ON else (folder,)
        )
        try:
            rows.append(
                {
                    "what": figure.what,
                    "keras": figure.keras(found),
                    "initlab": figure.initlab(found),
                    "script": f"{figure.script}.py",
                }
            )
        except (KeyError, TypeError, ValueError):
            # Not measured, or in part: --only, --quick.
            if figure.what in known:
                rows.append(known[figure.what])
    return rows


def table(rows: Sequence[dict[str, str]]) -> str:
    """Return the README's table."""
    lines = [
        "| | Keras | keras-initlab | script in `examples/benchmarks` |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {one['what']} | {one['keras']} | {one['initlab']} | `{one['script']}` |"
        for one in rows
    ]
    return "\n".join(lines)


def machine() -> dict[str, str]:
    """Return what the figures were measured on."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        **versions,
    }


def run(script: str, backend: str, quick: bool, folder: Path) -> dict[str, Any]:
    """Run a script; return what it printed and how long it took."""
    here = folder if quick or script not in GOING_ON else DOCS
    command = [sys.executable, str(HERE / f"{script}.py"), "--out", str(here)]
    command += ["--quick"] if quick else []
    chosen = {"KERAS_BACKEND": backend} if backend else {}
    environment = {
        key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"
    }
    start = time.perf_counter()
    done = subprocess.run(
        command,
        env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **chosen},
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "title": f"{script}.py" + (f", {backend}" if backend else ""),
        "seconds": round(time.perf_counter() - start),
        "failed": done.returncode != 0,
        "text": done.stdout if done.returncode == 0 else done.stdout + done.stderr,
    }


def page(about: dict[str, str], runs: Sequence[dict[str, Any]], rows: str) -> str:
    """Return all of it as a page of Markdown."""
    parts = [
        "# Benchmarks",
        ", ".join(f"{key} {value}" for key, value in about.items()),
    ]
    parts += ["Figures of the README:", rows]
    for one in runs:
        state = "failed" if one["failed"] else "done"
        parts += [f"## {one['title']}: {state} in {one['seconds']} s"]
        parts += [f"```text\n{one['text'].rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks; return 1 if one failed."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.benchmarks", description=__doc__.splitlines()[0]
    )
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--quick", action="store_true", help="say that all of it runs")
    form.add_argument("--full", action="store_true", help="measure; takes some hours")
    form.add_argument("--table", action="store_true", help="run nothing, print")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS))
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    arguments = parser.parse_args(argv)
    kept = json.loads((DOCS / RESULTS).read_text()) if (DOCS / RESULTS).exists() else {}
    before = kept.get("figures", [])
    if arguments.table:
        print(table(before))
        return 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    about, runs = machine(), []
    for script in arguments.only:
        for backend in SCRIPTS[script]:
            runs.append(run(script, backend, arguments.quick, arguments.out))
            last = runs[-1]
            print(f"{last['title']}: {last['seconds']} s", flush=True)
            rows = figures(arguments.out, [] if arguments.quick else before)
            text = page(about, runs, table(rows))
            (arguments.out / "benchmarks.md").write_text(text)
            if arguments.full:
                result = {"measured": about, "figures": rows}
                (DOCS / RESULTS).write_text(json.dumps(result, indent=1) + "\n")
    print(text)
    return int(any(one["failed"] for one in runs))


if __name__ == "__main__":
    raise SystemExit(main())
