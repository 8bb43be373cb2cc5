"""Time of a draw: initlab's initializers against Keras's own, on the same shapes.

Ratios of medians, the two interleaved in one run (below 1: initlab is faster), and the
time that importing the package adds to importing Keras.

    python examples/benchmarks/draws.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_initlab as il
from keras_initlab.tables import render_table

init = keras.initializers
PAIRS: dict[str, tuple[Any, Any]] = {
    "truncated normal": (init.HeNormal(seed=1), il.HeNormal(seed=1)),
    "uniform": (init.GlorotUniform(seed=1), il.GlorotUniform(seed=1)),
    "orthogonal": (init.Orthogonal(seed=1), il.Orthogonal(seed=1)),
}
SHAPES = {
    "truncated normal": [(256, 256), (3, 3, 256, 256), (4096, 4096)],
    "uniform": [(256, 256), (3, 3, 256, 256), (4096, 4096)],
    "orthogonal": [(256, 256), (1024, 1024), (4096, 4096)],
}
QUICK = {name: [(256, 256)] for name in SHAPES}


def seconds(draw: Callable[[], Any]) -> float:
    """Return how long a draw takes, until its values are there."""
    begin = time.perf_counter()
    keras.ops.convert_to_numpy(draw())
    return time.perf_counter() - begin


def compare(
    theirs: Any, ours: Any, shape: tuple[int, ...], repeats: int
) -> dict[str, float]:
    """Return medians in seconds and their ratio, after one draw of each to warm up."""
    times: dict[str, list[float]] = {"keras": [], "initlab": []}
    draws = {"keras": lambda: theirs(shape), "initlab": lambda: ours(shape)}
    for draw in draws.values():
        draw()
    for repeat in range(repeats):
        order = list(draws) if repeat % 2 else list(draws)[::-1]
        for name in order:
            times[name].append(seconds(draws[name]))
    keras_median, initlab_median = map(statistics.median, times.values())
    spread = max(
        (np.percentile(all_, 75) - np.percentile(all_, 25)) / statistics.median(all_)
        for all_ in times.values()
    )
    return {
        "keras": keras_median,
        "initlab": initlab_median,
        "ratio": initlab_median / keras_median,
        "spread": float(spread),
    }


def orthogonality(initializer: Any, size: int) -> dict[str, float]:
    """Return the greatest entry and the greatest row sum of |QᵀQ - I|."""
    q = keras.ops.convert_to_numpy(initializer((size, size))).astype("float64")
    error = np.abs(q.T @ q - np.eye(size))
    return {"entry": float(error.max()), "row sum": float(error.sum(axis=1).max())}


def import_seconds(repeats: int) -> float:
    """Return the median of what `import keras_initlab` takes after `import keras`."""
    code = (
        "import time, keras; begin = time.perf_counter(); import keras_initlab; "
        "print(time.perf_counter() - begin)"
    )
    found = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        found.append(float(done.stdout.split()[-1]))
    return statistics.median(found)


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small shapes, 3 repeats")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    shapes = QUICK if arguments.quick else SHAPES
    records = []
    for name, (theirs, ours) in PAIRS.items():
        for shape in shapes[name]:
            large = np.prod(shape) > 2**21
            repeats = 3 if arguments.quick else (7 if large else 21)
            found = compare(theirs, ours, shape, repeats)
            records.append({"draw": name, "shape": list(shape), **found})
    columns = [("draw", "left"), ("shape", "left"), ("Keras, ms", "right")]
    columns += [(one, "right") for one in ("initlab, ms", "ratio", "spread (IQR)")]
    rows = [
        [
            one["draw"],
            "x".join(map(str, one["shape"])),
            f"{1e3 * one['keras']:.2f}",
            f"{1e3 * one['initlab']:.2f}",
            f"{one['ratio']:.2f}",
            f"{one['spread']:.0%}",
        ]
        for one in records
    ]
    title = f"Draws on {keras.backend.backend()}, medians"
    print(render_table(title, columns, rows))
    size = 256 if arguments.quick else 4096
    errors = orthogonality(il.Orthogonal(seed=1), size)
    print(f"\n|QᵀQ - I| at {size}: {errors}")
    added = import_seconds(1 if arguments.quick else 7)
    print(f"import keras_initlab after import keras: {1e3 * added:.0f} ms")
    result = {"draws": records, "orthogonality": errors, "import": added}
    (arguments.out / "draws.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
