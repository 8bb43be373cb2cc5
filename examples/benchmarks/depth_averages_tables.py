"""The tables of depth_averages.py, in Markdown, from its results file.

Run as a script it prints them.

    python examples/benchmarks/depth_averages_tables.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import depth_report as report
import numpy as np
from convergence_tables import half_width

DOCS = Path(__file__).resolve().parents[2] / "docs"
FILE, PART = "depth_averages.json", "averages"
AIM, SEEDS = 97.0, 5  # per cent, in the mean over so many seeds


def table(results: report.Results) -> str:
    """Return a Markdown table of the test accuracies in %, start beside start."""
    cells = results.of(PART)
    starts = report.ordered(names[2] for names in cells)
    lines = [["layers", "activation", *starts], ["---"] * (len(starts) + 2)]
    for depth, activation in dict.fromkeys(names[:2] for names in cells):
        row = [cells.get((depth, activation, start)) for start in starts]
        lines.append([depth, activation, *map(brief, row)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def brief(cell: dict[str, Any] | None) -> str:
    """Return the test accuracies of a cell in %, and the rate.

    From three seeds on: the mean with its 95 % interval (Student's t over seeds), the
    least and the most. Of two: both, in their order.
    """
    if cell is None:
        return ""
    values = 100 * np.array(cell["accuracy"])
    if len(values) < 3:
        text = ", ".join(f"{one:.1f}" for one in values)
    else:
        middle = f"{values.mean():.1f} ± {half_width(values):.1f}"
        text = f"{middle} ({values.min():.1f}–{values.max():.1f})"
    return f"{text} at {cell['rate']:g}"


def reach(results: report.Results) -> str:
    """Return in words, by depth, what reaches the aim, and what is ahead."""
    cells = results.of(PART)
    lines = []
    for depth in report.ordered(names[0] for names in cells):
        means = {
            activation: round(100 * float(np.mean(cell["accuracy"])), 6)
            for (at, activation, start), cell in cells.items()
            if (at, start) == (depth, "isometric")
        }
        below = [f"{name} {mean:.1f}" for name, mean in means.items() if mean < AIM]
        few = [
            name
            for name in means
            if len(cells[depth, name, "isometric"]["accuracy"]) < SEEDS
        ]
        ahead = list(filter(None, (rival(cells, depth, name) for name in means)))
        lines.append(
            f"- {depth} layers: {len(means) - len(below)} of {len(means)} activations "
            f"reach {AIM:g} %"
            + (f"; below: {', '.join(below)}" if below else "")
            + (f"; of fewer than {SEEDS} seeds: {', '.join(few)}" if few else "")
            + (f"; another start is ahead: {', '.join(ahead)}" if ahead else "")
            + "."
        )
    return "\n".join(lines)


def rival(cells: dict[tuple[str, ...], Any], depth: str, activation: str) -> str | None:
    """Return by how much the best other start is ahead of isometric, if any is.

    The difference seed by seed, in points: its mean with its 95 % interval.
    """
    ours = np.array(cells[depth, activation, "isometric"]["accuracy"])
    others = {
        start: np.array(cell["accuracy"])
        for (at, name, start), cell in cells.items()
        if (at, name) == (depth, activation) and start != "isometric"
    }
    if not others:
        return None
    best = max(others, key=lambda start: float(others[start].mean()))
    shared = min(len(ours), len(others[best]))
    ahead = 100 * (others[best][:shared] - ours[:shared])
    if ahead.mean() <= 0:
        return None
    return f"{activation}, {best} by {ahead.mean():.1f} ± {half_width(ahead):.1f}"


def main() -> int:
    """Print the tables."""
    results = report.Results(DOCS, FILE)
    print(table(results), reach(results), sep="\n\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
