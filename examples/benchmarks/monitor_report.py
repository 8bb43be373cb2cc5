"""The tables of docs/cost.md, from what monitor_overhead.py has measured.

    python examples/benchmarks/monitor_report.py [--out FOLDER]     prints Markdown

FOLDER holds monitor_overhead_tensorflow.json and so on; docs/ by default.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
# Columns, by what was compared.
MONITOR = {f"every={every}": f"every={every}" for every in (100, 10, 1)}
GRADIENTS = {f"{name}, gradients": name for name in MONITOR}
BESIDE = {
    "TensorBoard(histogram_freq=1)": "TensorBoard",
    "sub-model, every 10": "sub-model",
    "hooks, every 1": "hooks",
}
FIRST = ("measured", "measured, gradients", "both", "both, gradients")
PER_LAYER = ("plain_us", "every=1", "every=1, gradients")


def read(folder: Path) -> dict[str, Any]:
    """Return what was measured, by backend."""
    paths = {name: folder / f"monitor_overhead_{name}.json" for name in BACKENDS}
    return {
        name: json.loads(path.read_text())
        for name, path in paths.items()
        if path.exists()
    }


def tables(measured: dict[str, Any]) -> list[str]:
    """Return the tables: steps, with gradients, by other tools, first ones, layers."""
    first = [
        [f"{BACKENDS[backend]}, {workload}", *_ratios(over, FIRST)]
        for backend, parts in measured.items()
        for workload, over in parts.get("compile", {}).items()
        if backend != "torch"  # which compiles nothing
    ]
    layers = [
        [BACKENDS[backend], depth, *(f"{row[name]:.0f}" for name in PER_LAYER)]
        for backend, parts in measured.items()
        for depth, row in parts.get("layers", {}).items()
    ]
    return [
        *(_steps(measured, names) for names in (MONITOR, GRADIENTS, BESIDE)),
        _table(["", *FIRST], first),
        _table(["", "layers", "plain, µs", *PER_LAYER[1:]], layers),
    ]


def _steps(measured: dict[str, Any], columns: dict[str, str]) -> str:
    rows = [
        [
            f"{BACKENDS[backend]}, {workload}",
            f"{found['plain_ms']:.1f}",
            *(_percent(found["over"].get(name)) for name in ("plain again", *columns)),
        ]
        for backend, parts in measured.items()
        for workload, found in parts.get("steps", {}).items()
    ]
    return _table(["", "plain, ms", "plain again", *columns.values()], rows)


def _percent(over: dict[str, float] | None) -> str:
    """Return a median of per cent, with the greater way to a quartile."""
    if over is None:
        return "–"
    middle = over["percent"]
    apart = max(over["high"] - middle, middle - over["low"])
    return f"{middle:.0f} ± {apart:.0f}".replace("-0 ", "0 ").replace("-", "−")


def _ratios(over: dict[str, dict[str, float]], names: Sequence[str]) -> list[str]:
    return [f"{1 + over[name]['percent'] / 100:.1f}" for name in names]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["--:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DOCS, help="where the results are")
    print("\n\n".join(tables(read(parser.parse_args(argv).out))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
