"""Comparison: the results of the candidates, and how they are shown."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from keras_initlab.bench import html, picture, text, verdict
from keras_initlab.bench.records import CandidateResult, Run
from keras_initlab.bench.store import strict
from keras_initlab.files import write_text
from keras_initlab.report.text import NARROWEST

# Increased whenever readers of the old form of `to_dict` would misread the new one.
SCHEMA = 1
# Names that tell the direction of a metric if Keras does not know it.
_UP = ("acc", "auc", "f1", "precision", "recall", "iou", "r2", "score")
_DOWN = ("loss", "error", "mse", "mae", "rmse", "perplexity")


@dataclass(frozen=True)
class Comparison:
    """The results of several initialisations for one model.

    `print` it, show it in a notebook, `plot()` it, or convert it: `text`, `html`,
    `save_html`, `to_dict`, `records`, `run_records`. `comparison["he_normal"]` is the
    `CandidateResult` of one candidate.

    Attributes:
        runs: every run, in the order of the candidates, their learning rates, the
            seeds.
        metric: which is compared, as Keras names it.
        direction: "max" where more is better, else "min".
        target: the value of the metric that epochs are counted to; None if none.
        epochs: of each run.
        planned: how many runs were asked for; more than there are after Ctrl-C.
    """

    runs: tuple[Run, ...]
    metric: str
    direction: str
    target: float | None
    epochs: int
    planned: int

    @classmethod
    def of(
        cls,
        runs: Iterable[Run],
        metric: str | None = None,
        direction: str | None = None,
        target: float | None = None,
        *,
        epochs: int,
        planned: int,
    ) -> Comparison:
        """Return the comparison of some runs.

        Raises:
            ValueError: the metric is not one of the model's, or it is not known
                whether more is better.
        """
        completed = _with_starts(runs)
        name = metric or _first_metric(completed)
        _check_metric(name, completed)
        where = direction or _direction(name, completed)
        return cls(completed, name, where, target, epochs, planned)

    @cached_property
    def results(self) -> tuple[CandidateResult, ...]:
        """The result of each candidate with its best learning rate, in their order."""
        labels = dict.fromkeys(run.candidate for run in self.runs)
        return tuple(self._result(label) for label in labels)

    def __getitem__(self, candidate: str) -> CandidateResult:
        for result in self.results:
            if result.candidate == candidate:
                return result
        raise KeyError(
            f"No candidate is called {candidate!r}. There are: "
            f"{', '.join(repr(result.candidate) for result in self.results)}."
        )

    @property
    def best(self) -> str:
        """The label of the candidate that did best.

        It has the fewest diverged runs, and among those the best mean of the metric on
        the validation data after the last epoch. `verdict` says whether others differ
        from it by more than seeds do.
        """
        return min(self.results, key=self._rank).candidate

    @property
    def verdict(self) -> tuple[str, ...]:
        """Sentences: which candidate is best, and which do not differ from it."""
        return verdict.sentences(self)

    @property
    def learning_rates(self) -> tuple[float | None, ...]:
        """Those that were tried."""
        return tuple(dict.fromkeys(run.learning_rate for run in self.runs))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those that were used."""
        return tuple(dict.fromkeys(run.seed for run in self.runs))

    @property
    def records(self) -> list[dict[str, Any]]:
        """A flat dict for each candidate: rows of a data frame."""
        return [
            {**row.record, "best": row.candidate == self.best} for row in self.results
        ]

    @property
    def run_records(self) -> list[dict[str, Any]]:
        """A flat dict for each run and epoch; epoch 0 is before the first step.

        `chosen` marks the learning rate that its candidate is judged by.
        """
        chosen = {result.candidate: result.learning_rate for result in self.results}
        return [
            {
                "candidate": run.candidate,
                "seed": run.seed,
                "learning_rate": run.learning_rate,
                "chosen": chosen[run.candidate] == run.learning_rate,
                "epoch": epoch,
                **logs,
            }
            for run in self.runs
            for epoch, logs in enumerate(_logs(run))
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as strict JSON allows; NaN and infinities are strings."""
        record: dict[str, Any] = strict(
            {
                "schema": SCHEMA,
                "metric": self.metric,
                "direction": self.direction,
                "target": self.target,
                "epochs": self.epochs,
                "best": self.best,
                "verdict": self.verdict,
                "candidates": self.records,
                "runs": self.run_records,
            }
        )
        return record

    def plot(self, kind: str = "curves", figure: Any = None) -> Any:
        """Return a matplotlib figure.

        Args:
            kind: "curves", loss and metric on the validation data by epoch, the mean
                over the seeds in a band from the lowest to the highest; "depth",
                variance and gradient of every layer before and after training, of the
                first seed.
            figure: a matplotlib Figure or SubFigure to draw on; None makes a new one.

        Raises:
            ImportError: matplotlib is missing.
            ValueError: an unknown kind.
        """
        return picture.draw(self, kind, figure)

    def text(self, width: int | None = None, color: bool = False) -> str:
        """Return the table, the verdict and the findings as text.

        Args:
            width: characters in a line, 30 or more: the least important columns that
                do not fit are left out, and named. None for as many as it needs.
            color: use terminal colours.

        Raises:
            ValueError: `width` is not an int, or too small.
        """
        return text.as_text(self, width, color)

    def html(self) -> str:
        """Return a self-contained page of HTML, with plots if matplotlib is there."""
        return html.as_page(self)

    def save_html(self, path: str | Path) -> None:
        """Write `html` to a file, in place of what is there, whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        write_text(path, self.html())

    def __str__(self) -> str:
        columns = shutil.get_terminal_size((0, 0)).columns
        return self.text(max(columns, NARROWEST) if columns else None)

    def __repr__(self) -> str:
        return (
            f"<Comparison of {len(self.results)} candidates, {len(self.runs)} runs; "
            f"best: {self.best!r}; print it>"
        )

    def _repr_html_(self) -> str:
        return html.as_fragment(self)

    def _result(self, label: str) -> CandidateResult:
        runs = [run for run in self.runs if run.candidate == label]
        by_rate = [
            CandidateResult(
                label,
                rate,
                tuple(run for run in runs if run.learning_rate == rate),
                self.metric,
                self.direction,
                self.target,
            )
            for rate in dict.fromkeys(run.learning_rate for run in runs)
        ]
        return min(by_rate, key=self._rank)

    def _rank(self, result: CandidateResult) -> tuple[float, ...]:
        """Return what sorts results, the best first."""
        score = result.final_metric.mean
        if math.isnan(score):
            score = math.inf
        elif self.direction == "max":
            score = -score
        loss = result.final_loss.mean
        return (
            -len(result.runs),  # after Ctrl-C: first of all those that were finished
            result.diverged,
            score,
            math.inf if math.isnan(loss) else loss,
        )


def _with_starts(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Return the runs; those with equal first weights share what was measured."""
    every = tuple(runs)
    looked = {(run.candidate, run.seed): run for run in every if run.start}
    return tuple(
        replace(run, start=same.start, findings=same.findings)
        if (same := looked.get((run.candidate, run.seed))) is not None
        else run
        for run in every
    )


def _first_metric(runs: Sequence[Run]) -> str:
    names = _metrics(runs)
    return next((name for name in names if name != "loss"), "loss")


def _metrics(runs: Sequence[Run]) -> list[str]:
    """Return the metrics that both the training and the validation data have."""
    names = dict.fromkeys(name for run in runs for name in run.history)
    return [name for name in names if f"val_{name}" in names]


def _check_metric(name: str, runs: Sequence[Run]) -> None:
    names = _metrics(runs)
    if names and name not in names:
        raise ValueError(
            "`metric` must be one of the model's. Received: "
            f"metric={name!r}. There are: {', '.join(map(repr, names))}."
        )


def _direction(name: str, runs: Sequence[Run]) -> str:
    for run in runs:
        if name in run.directions:
            return run.directions[name]
    for direction, parts in (("min", _DOWN), ("max", _UP)):
        if any(part in name.lower() for part in parts):
            return direction
    raise ValueError(
        "It must be known whether more of `metric` is better. Received: "
        f"metric={name!r}, of which Keras does not say it. Pass metric=({name!r}, "
        "'max') or 'min'."
    )


def _logs(run: Run) -> list[dict[str, float]]:
    """Return a run's logs by epoch, starting with those before the first step."""
    names = list(run.history)
    epochs = max((len(values) for values in run.history.values()), default=0)
    later = [
        {name: run.history[name][i] for name in names if i < len(run.history[name])}
        for i in range(epochs)
    ]
    before = {f"val_{name}": value for name, value in run.initial.items()}
    return [before, *later]
