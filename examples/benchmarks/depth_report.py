"""What depth.py and depth_convolutions.py find: kept in a file, as tables, as a plot.

Results are written after every cell, and cells that a file holds already are not
trained again, so that a run that was cut off goes on where it stopped.

Run as a script it prints the tables of a results file and draws its plot.

    python examples/benchmarks/depth_report.py [--markdown] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_initlab.tables import render_table

FILE = "depth.json"
PLOT = "depth.png"
PACKAGES = ("keras", "jax", "numpy", "scikit-learn", "torch", "tensorflow")
# What the isometric start is to reach, on the test set.
MLP_AIMS = {"50": 0.96, "200": 0.95}
DEEP_AIM = 0.95
CNN_AIM = 0.97
EPOCHS = 20  # with fewer, as in the quick form, nothing is said of the aims
RATIO_AIM = (0.8, 1.25)


class Results:
    """Cells by part and name, in memory and, with a folder, in a file."""

    def __init__(self, folder: Path | None, file: str = FILE) -> None:
        self.path = None if folder is None else folder / file
        self.content: dict[str, Any] = {"protocol": {}, "versions": {}, "cells": {}}
        if self.path is not None and self.path.exists():
            self.content = json.loads(self.path.read_text())

    def begin(self, part: str, protocol: dict[str, Any]) -> None:
        """Note how a part is run; leave if the file holds it run in another way."""
        protocol = json.loads(json.dumps(protocol))
        before = self.content["protocol"].get(part, protocol)
        if before != protocol:
            raise SystemExit(
                f"{self.path} holds {part!r} of another protocol: {before}. Now: "
                f"{protocol}. Pass another folder as --out, or remove the file."
            )
        self.content["protocol"][part] = protocol
        self.content["versions"] = versions()

    def cell(
        self, part: str, names: Sequence[Any], compute: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """Return a cell, computed and saved unless it is there."""
        cells = self.content["cells"].setdefault(part, {})
        name = " | ".join(map(str, names))
        if name not in cells:
            begin = time.perf_counter()
            found = compute()
            cells[name] = {**found, "seconds": time.perf_counter() - begin}
            self.save()
            print(f"{part}: {name}: {brief(cells[name])}", flush=True)
        return cells[name]

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.content, indent=1) + "\n")
        partial.replace(self.path)

    def aimed(self, part: str) -> bool:
        """Say whether a part was run in the form that the aims are for."""
        return bool(self.content["protocol"].get(part, {}).get("epochs", 0) >= EPOCHS)

    def of(self, part: str) -> dict[tuple[str, ...], dict[str, Any]]:
        """Return the cells of a part by their names, in the protocol's order."""
        cells = self.content["cells"].get(part, {})
        protocol = self.content["protocol"].get(part, {})
        place = {
            str(value): index
            for key in ("depths", "activations", "starts")
            for index, value in enumerate(protocol.get(key, ()))
        }
        named = {tuple(name.split(" | ")): found for name, found in cells.items()}
        order = sorted(named, key=lambda names: [place.get(one, 0) for one in names])
        return {names: named[names] for names in order}


def versions() -> dict[str, str]:
    """Return the versions that a run depends on."""
    found = {"python": platform.python_version(), "cores": str(os.cpu_count())}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND", "")
    return found


def brief(found: dict[str, Any]) -> str:
    """Return a cell in a few words, for a line while it runs."""
    if "accuracy" not in found:
        return f"{found['seconds']:.1f} s"
    return f"{percent(found)} at {found['rate']:g}, {found['seconds']:.1f} s"


def percent(found: dict[str, Any] | None) -> str:
    """Return mean and standard deviation over seeds, in per cent."""
    if found is None:
        return "–"
    values = 100 * np.array(found["accuracy"])
    spread = f" ±{values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{spread}"


def ordered(values: Iterable[str]) -> list[str]:
    """Return the values without repeats, in the order in which they come."""
    return list(dict.fromkeys(values))


def print_grid(title: str, cells: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Print accuracies with a row for each first name, a column for each second."""
    rows, columns = (ordered(name[at] for name in cells) for at in (0, 1))
    table = [
        [row, *(percent(cells.get((row, column))) for column in columns)]
        for row in rows
    ]
    headers: list[tuple[str, Any]] = [("", "left")]
    headers += [(column, "right") for column in columns]
    print(render_table(title, headers, table), end="\n\n")


def against_aim(what: str, aim: float, cells: dict[str, dict[str, Any]]) -> None:
    """Print which cells reach an aim in the mean over seeds, and which do not."""
    means = {name: float(np.mean(one["accuracy"])) for name, one in cells.items()}
    below = [f"{name} {100 * m:.1f}" for name, m in means.items() if m < aim]
    lost = f"; below: {', '.join(below)}" if below else ""
    reach = len(means) - len(below)
    print(f"{what}: {reach} of {len(means)} reach {100 * aim:g} %{lost}\n")


def print_grids(
    results: Results, part: str, title: str, told: str = "", aims: Any = None
) -> None:
    """Print a table for each first name of a part, and how isometric does by its aim.

    `title`, and `told`, which names an aim, have that name in place of {}.
    """
    cells = results.of(part)
    for first in ordered(name[0] for name in cells):
        grid = {
            (activation, column): found
            for (at, activation, column), found in cells.items()
            if at == first
        }
        print_grid(title.format(first), grid)
        isometric = {a: one for (a, start), one in grid.items() if start == "isometric"}
        aim = (aims or {}).get(first)
        if aim and isometric and results.aimed(part):
            against_aim(told.format(first), aim, isometric)


def print_mlp(results: Results) -> None:
    """Print the table of each depth of the plain network."""
    title = "Dense, {} layers: test accuracy, %"
    print_grids(results, "mlp", title, "isometric, {} layers", MLP_AIMS)


def markdown(results: Results) -> str:
    """Return the README's table: Keras's default, the best other start, isometric."""
    cells = results.of("mlp")
    depths = ordered(name[0] for name in cells)
    kinds = ("Keras's default", "best other", "isometric")
    heads = ["", *(f"{kind}, {depth} layers" for depth in depths for kind in kinds)]
    lines = [heads, ["---"] * len(heads)]
    for activation in ordered(name[1] for name in cells):
        row = [activation]
        for depth in depths:
            means = {
                start: 100 * float(np.mean(found["accuracy"]))
                for (at, one, start), found in cells.items()
                if (at, one) == (depth, activation)
            }
            default, ours = (means.pop(kind, np.nan) for kind in kinds[::2])
            best = max(means, key=means.__getitem__, default=None)
            other = "–" if best is None else f"{means[best]:.1f} ({best})"
            row += [f"{default:.1f}", other, f"**{ours:.1f}**"]
        lines.append(row)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def print_deep(results: Results) -> None:
    """Print signals and gradients at depth 1,000, training, and the time to rewrite."""
    cells = results.of("deep")
    columns: list[tuple[str, Any]] = [
        ("activation, start", "left"),
        ("signal, first / last", "right"),
        ("gradient, first / last", "right"),
    ]
    rows, trained = [], {}
    for (depth, activation), found in cells.items():
        for start, one in found["moments"].items():
            figures = [f"{one[key]:.3g}" for key in ("signal", "gradient")]
            rows.append([f"{depth} × {activation}, {start}", *figures])
        trained[f"{depth} × {activation}"] = found
        print(
            f"{depth} layers of {activation}: Keras builds them in "
            f"{found['build_s']:.1f} s, rewriting takes {found['rewrite_s']:.1f} s; "
            f"isometric trains to {percent(found)} % at {found['rate']:g}"
        )
    print(render_table("Before training", columns, rows), end="\n\n")
    low, high = RATIO_AIM
    for (depth, activation), found in cells.items():
        one = found["moments"]["isometric"]
        inside = all(low <= one[key] <= high for key in ("signal", "gradient"))
        where = "within" if inside else "NOT within"
        print(f"{depth} × {activation}: ratios {where} [{low}, {high}]")
    if results.aimed("deep"):
        against_aim("isometric, that deep", DEEP_AIM, trained)


def print_cnn(results: Results) -> None:
    """Print the table of the plain convolutional network."""
    cells = results.of("cnn")
    print_grid("Convolutions before a Flatten: test accuracy, %", cells)
    isometric = {a: one for (a, start), one in cells.items() if start == "isometric"}
    if isometric and results.aimed("cnn"):
        against_aim("isometric, convolutions", CNN_AIM, isometric)


def print_resnet(results: Results) -> None:
    """Print the small residual network's accuracies, and what differs from Keras's."""
    cells = {start: found for (start,), found in results.of("resnet").items()}
    grid = {(start, "test accuracy, %"): found for start, found in cells.items()}
    print_grid("Small ResNet with BatchNormalization", grid)
    base = cells.get("Keras's default")
    for start, found in cells.items():
        if base is None or found is base:
            continue
        ours, theirs = (np.array(one["accuracy"]) for one in (found, base))
        if len(ours) < 2:
            continue
        noise = np.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / len(ours))
        print(
            f"{start} − Keras's default: {100 * (ours.mean() - theirs.mean()):+.2f} "
            f"points, standard error {100 * noise:.2f}"
        )
    print()


def print_q(results: Results) -> None:
    """Print validation accuracies by q, which is what q was chosen by."""
    print_grids(results, "q", "Dense, {} layers, by q: VALIDATION accuracy, %")


PRINTERS: dict[str, Callable[[Results], None]] = {
    "mlp": print_mlp,
    "deep": print_deep,
    "cnn": print_cnn,
    "resnet": print_resnet,
    "q": print_q,
}


def print_all(results: Results) -> None:
    """Print every part that there are results of, and how they were found."""
    for part, printer in PRINTERS.items():
        cells = results.of(part)
        if not cells:
            continue
        printer(results)
        seconds = sum(found["seconds"] for found in cells.values())
        protocol = results.content["protocol"].get(part, {})
        told = ", ".join(f"{key} {value}" for key, value in protocol.items())
        print(f"{part}: {len(cells)} cells in {seconds:.0f} s; {told}\n")
    found = results.content["versions"]
    print(", ".join(f"{name} {version}" for name, version in found.items()))


def draw(results: Results, path: Path) -> bool:
    """Draw accuracies by depth, start and activation; False without any."""
    from matplotlib.figure import Figure

    panels: dict[str, dict[tuple[str, str], float]] = {}
    for (depth, activation, start), found in results.of("mlp").items():
        panel = panels.setdefault(f"Dense, {depth} layers", {})
        panel[start, activation] = float(np.mean(found["accuracy"]))
    depth = results.content["protocol"].get("cnn", {}).get("layers")
    for (activation, start), found in results.of("cnn").items():
        panel = panels.setdefault(f"{depth} convolutions before a Flatten", {})
        panel[start, activation] = float(np.mean(found["accuracy"]))
    if not panels:
        return False
    sizes = [len(ordered(start for start, _ in cells)) for cells in panels.values()]
    figure = Figure(figsize=(11, 0.42 * sum(sizes) + 1.15 * len(panels) + 0.4))
    axes = figure.subplots(
        len(panels), squeeze=False, gridspec_kw={"height_ratios": sizes}
    )[:, 0]
    image = None
    for axis, (title, cells) in zip(axes, panels.items(), strict=True):
        starts, activations = (ordered(name[at] for name in cells) for at in (0, 1))
        values = np.array(
            [[100 * cells.get((s, a), np.nan) for a in activations] for s in starts]
        )
        image = axis.imshow(values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_xticks(range(len(activations)), activations, fontsize=9)
        axis.set_yticks(range(len(starts)), starts, fontsize=9)
        axis.tick_params(length=0)
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "black" if value > 60 else "white"
                text = f"{value:.1f}"
                options = {"ha": "center", "va": "center", "fontsize": 9}
                axis.text(column, row, text, color=colour, **options)
    figure.tight_layout(rect=(0, 0, 0.92, 1))
    assert image is not None
    bar = figure.colorbar(image, cax=figure.add_axes((0.935, 0.1, 0.015, 0.8)))
    bar.set_label("test accuracy on the digits, %")
    figure.savefig(path, dpi=130)
    return True


def main(argv: list[str] | None = None) -> int:
    """Print the tables of a results file, and draw its plot beside it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the same: it is quick")
    parser.add_argument("--out", type=Path, default=Path("out"), help="its folder")
    parser.add_argument("--markdown", action="store_true", help="the README's table")
    arguments = parser.parse_args(argv)
    results = Results(arguments.out)
    if not results.content["cells"]:
        print(f"No {FILE} in {arguments.out}: depth.py --out {arguments.out} makes it.")
        return 0
    if arguments.markdown:
        print(markdown(results))
        return 0
    print_all(results)
    if draw(results, arguments.out / PLOT):
        print(arguments.out / PLOT)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
