"""The columns for each candidate, in text and on the page."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keras_initlab.bench.records import CandidateResult, Spread, extremes
from keras_initlab.stats import LayerStats

if TYPE_CHECKING:
    from keras_initlab.bench.comparison import Comparison

Cell = Callable[[CandidateResult], str | None]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        header: in one line or two.
        cells: a text for each candidate; None for a missing value.
        rank: columns of high rank are left out first.
        number: whether its cells are numbers, aligned to the right.
        long: whether its texts may need more room than a line has.
    """

    header: str
    cells: tuple[str | None, ...]
    rank: int
    number: bool = True
    long: bool = False

    @property
    def name(self) -> str:
        """The header in one line."""
        return self.header.replace("\n", ", ")


def columns_of(comparison: Comparison) -> list[Column]:
    """Return the columns that are not empty, candidates first."""
    results = comparison.results

    def column(
        header: str, cell: Cell, rank: int, number: bool = True, long: bool = False
    ) -> Column:
        return Column(header, tuple(map(cell, results)), rank, number, long)

    metric = comparison.metric
    columns = [column("candidate", lambda result: result.candidate, 0, False, True)]
    if len(comparison.learning_rates) > 1:
        columns.append(column("learning\nrate", _rate, 4))
    if metric != "loss":
        columns.append(column(f"final\nval_{metric}", _final_metric, 1))
    columns.append(column("final\nval_loss", _final_loss, 1 if metric == "loss" else 5))
    if comparison.target is not None:
        columns.append(column(f"epochs to\n{comparison.target:g}", _epochs, 2))
    columns += [
        column("diverged", _diverged, 3),
        column("first\nval_loss", lambda result: _spread(result.first_loss), 6),
        column("final\nloss", lambda result: _spread(result.train_loss), 9),
        column("variance\nat the start", _signal("start", "variance"), 8),
        column("variance\nat the end", _signal("end", "variance"), 11),
        column("gradient\nat the start", _signal("start", _GRADIENT), 10),
        column("gradient\nat the end", _signal("end", _GRADIENT), 12),
        column("seconds", lambda result: f"{result.seconds.mean:.2g}", 13),
        column("findings", _codes, 7, False, True),
    ]
    return [c for c in columns if any(cell is not None for cell in c.cells)]


_GRADIENT = "gradient_second_moment"


def _rate(result: CandidateResult) -> str | None:
    rate = result.learning_rate
    return None if rate is None else f"{rate:g}"


def _final_metric(result: CandidateResult) -> str | None:
    return _spread(result.final_metric)


def _final_loss(result: CandidateResult) -> str | None:
    return _spread(result.final_loss)


def _spread(spread: Spread) -> str | None:
    return str(spread) if spread.count else None


def _epochs(result: CandidateResult) -> str:
    reached = [epochs for epochs in result.epochs_to_target if epochs is not None]
    if not reached:
        return "never"
    if len(reached) == len(result.runs):
        return str(Spread.of(reached))
    return f"{statistics.fmean(reached):.3g} ({len(reached)} of {len(result.runs)})"


def _diverged(result: CandidateResult) -> str | None:
    return f"{result.diverged} of {len(result.runs)}" if result.diverged else None


def _signal(when: str, figure: str) -> Cell:
    """Return a cell with the range of a figure over depth."""

    def cell(result: CandidateResult) -> str | None:
        stats: Sequence[LayerStats] = getattr(result, when)
        ends = extremes(stats, figure)
        return None if ends is None else f"{ends[0]:.1e} to {ends[1]:.1e}"

    return cell


def _codes(result: CandidateResult) -> str | None:
    codes = dict.fromkeys(f.code for f in result.findings if f.severity != "info")
    return ", ".join(codes) or None
