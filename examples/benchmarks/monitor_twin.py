"""A plain PyTorch loop, watched by tools that know no Keras.

wandb.watch, delve and torchinstruments, where they are installed, on a twin of the MLP
that `monitor_overhead.py` times.

    python examples/benchmarks/monitor_twin.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import datetime
import functools
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

SIZES = (784, 512, 512, 512, 512)


def seconds_of(steps: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of so many steps, in each round, by what watches them."""
    epochs = {name: _epoch(watch, steps) for name, watch in _watches().items()}
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(rounds + 1):
        for name, epoch in epochs.items():
            seconds[name].append(epoch())
    return {name: each[1:] for name, each in seconds.items()}


def _watches() -> dict[str, Callable[[Any], Any]]:
    """Return what is to be done to a model before it is trained, by name."""
    found: dict[str, Callable[[Any], Any]] = {"plain": lambda model: None}
    try:
        import wandb
    except ImportError:
        print("wandb is not installed: wandb.watch is left out")
    else:
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_SILENT", "true")
        wandb.init(dir=tempfile.mkdtemp())
        found["wandb.watch(log='all', log_freq=10)"] = lambda model: wandb.watch(
            model, log="all", log_freq=10
        )
    try:
        import delve
    except ImportError:
        print("delve is not installed: it is left out")
    else:
        found["delve, every step"] = lambda model: delve.SaturationTracker(
            tempfile.mkdtemp(), save_to="csv", modules=model, device="cpu"
        )
    try:
        import torchinstruments
    except ImportError:
        print("torchinstruments is not installed: it is left out")
    else:
        for seconds in (0.15, 60):
            # 0.15 s are about ten steps.
            interval = datetime.timedelta(seconds=seconds)
            found[f"torchinstruments, every {seconds} s"] = functools.partial(
                torchinstruments.inject_observer,
                interval=interval,
                output_dir=tempfile.mkdtemp(),
            )
    return found


def _epoch(watch: Callable[[Any], Any], steps: int) -> Callable[[], float]:
    """Return what trains a new model for an epoch, and returns the seconds it took."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((128, SIZES[0]), generator=generator)
    y = torch.randint(0, 10, (128,), generator=generator)
    parts: list[Any] = []
    for inputs, outputs in itertools.pairwise(SIZES):
        parts += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    model = torch.nn.Sequential(*parts, torch.nn.Linear(SIZES[-1], 10))
    watch(model)
    optimizer = torch.optim.Adam(model.parameters())

    def epoch() -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        return time.perf_counter() - begin

    return epoch


def main(argv: Sequence[str] | None = None) -> int:
    """Time the loops and print what watching adds to a step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps")
    parser.add_argument("--out", type=Path, help="a folder for monitor_twin.json")
    arguments = parser.parse_args(argv)
    steps, rounds = (5, 2) if arguments.quick else (50, 15)
    seconds = seconds_of(steps, rounds)
    plain = np.array(seconds.pop("plain"))
    print(f"a plain step: {1e3 * np.median(plain) / steps:.2f} ms")
    for name, each in seconds.items():
        low, middle, high = np.quantile(100 * (each / plain - 1), [0.25, 0.5, 0.75])
        print(f"{name}: {middle:+.1f} % (quartiles {low:+.1f} {high:+.1f})")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        found = {"steps": steps, "plain": plain.tolist(), **seconds}
        (arguments.out / "monitor_twin.json").write_text(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
