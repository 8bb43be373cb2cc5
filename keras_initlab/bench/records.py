"""Run, Spread and CandidateResult: the records of a comparison, without Keras."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_initlab.diagnosis import Finding
from keras_initlab.stats import LayerStats


@dataclass(frozen=True)
class Spread:
    """The mean over seeds, and the sample's standard deviation.

    `spread` is None for a single value, `mean` is NaN for none.

    >>> print(Spread.of([0.9, 0.94]))
    0.920 ± 0.028
    >>> print(Spread.of([3, 4]), "and", Spread.of([2e-5, 3e-5]))
    3.50 ± 0.71 and 2.5e-05 ± 7.1e-06
    """

    mean: float
    spread: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of some values."""
        numbers = [float(value) for value in values]
        if not numbers:
            return cls(math.nan, None, 0)
        deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
        return cls(statistics.fmean(numbers), deviation, len(numbers))

    def __str__(self) -> str:
        size = max(abs(self.mean), self.spread or 0.0)
        if self.spread is None or not math.isfinite(size):
            return f"{self.mean:.3g}"
        if size and not 1e-2 <= size < 1e4:
            return f"{self.mean:.2g} ± {self.spread:.2g}"
        if not self.spread:
            return f"{self.mean:.3g} ± 0"
        # Two digits of the spread, as far as the third place.
        places = min(3, max(0, 1 - math.floor(math.log10(self.spread))))
        return f"{self.mean:.{places}f} ± {self.spread:.{places}f}"


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        candidate: its label.
        seed: of the weights' draw and of the order of the data.
        learning_rate: None for that of the model as it was built.
        initial: loss and metrics on the validation data before the first step.
        history: by the names of `fit`'s logs, a value for each epoch that was run.
        directions: of each metric, whether it is to be "min" or "max".
        seconds: the duration of training.
        error: the error of `fit` after the loss was no longer finite; None without one.
        start, end: the signal at every layer before and after training, for the first
            seed only.
        findings: of `diagnose` before training, for the first seed only.
    """

    candidate: str
    seed: int
    learning_rate: float | None
    initial: dict[str, float]
    history: dict[str, list[float]]
    directions: dict[str, str] = field(default_factory=dict)
    seconds: float = math.nan
    error: str | None = None
    start: tuple[LayerStats, ...] = ()
    end: tuple[LayerStats, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def diverged(self) -> bool:
        """Whether a loss is no longer finite at the end."""
        names = [name for name in ("loss", "val_loss") if name in self.history]
        losses = [self.final(name) for name in names]
        return self.error is not None or not all(map(math.isfinite, losses))

    def final(self, name: str) -> float:
        """Return a log's value after the last epoch; NaN if there was none."""
        values = self.history.get(name)
        return values[-1] if values else math.nan

    def epochs_to(self, name: str, target: float, direction: str) -> int | None:
        """Return after how many epochs a log reached the target; None if never."""
        for epoch, value in enumerate(self.history.get(name, ()), start=1):
            if value >= target if direction == "max" else value <= target:
                return epoch
        return None


@dataclass(frozen=True)
class CandidateResult:
    """The results of one candidate, over the seeds, with its best learning rate.

    Attributes:
        candidate: its label.
        learning_rate: the one that did best on the validation data; None for that of
            the model as it was built.
        runs: with this learning rate, one for each seed.
        metric: the name of the metric, and in `direction` whether it is to be "min" or
            "max".
        target: see `compare`.
    """

    candidate: str
    learning_rate: float | None
    runs: tuple[Run, ...]
    metric: str
    direction: str
    target: float | None = None

    @property
    def sound(self) -> tuple[Run, ...]:
        """The runs that did not diverge."""
        return tuple(run for run in self.runs if not run.diverged)

    @property
    def diverged(self) -> int:
        """How many runs diverged."""
        return len(self.runs) - len(self.sound)

    @property
    def final_metric(self) -> Spread:
        """Of the metric on the validation data, of the runs that did not diverge."""
        return Spread.of(run.final(f"val_{self.metric}") for run in self.sound)

    @property
    def final_loss(self) -> Spread:
        """Of the loss on the validation data, of the runs that did not diverge."""
        return Spread.of(run.final("val_loss") for run in self.sound)

    @property
    def train_loss(self) -> Spread:
        """Of the training loss, of the runs that did not diverge."""
        return Spread.of(run.final("loss") for run in self.sound)

    @property
    def first_loss(self) -> Spread:
        """Of the loss on the validation data before the first step."""
        return Spread.of(run.initial.get("loss", math.nan) for run in self.runs)

    @property
    def epochs_to_target(self) -> tuple[int | None, ...]:
        """Of each run, the epochs to the target; None where it was not reached."""
        if self.target is None:
            return ()
        name = f"val_{self.metric}"
        return tuple(
            run.epochs_to(name, self.target, self.direction) for run in self.runs
        )

    @property
    def seconds(self) -> Spread:
        """The duration of a run."""
        return Spread.of(run.seconds for run in self.runs)

    @property
    def start(self) -> tuple[LayerStats, ...]:
        """The signal at every layer before training, of the first seed."""
        return next((run.start for run in self.runs if run.start), ())

    @property
    def end(self) -> tuple[LayerStats, ...]:
        """The signal at every layer after training, of the first seed."""
        return next((run.end for run in self.runs if run.end), ())

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What `diagnose` said before training, of the first seed."""
        return next((run.findings for run in self.runs if run.start), ())

    @property
    def record(self) -> dict[str, Any]:
        """A flat dict: a row of a data frame."""
        reached = [epochs for epochs in self.epochs_to_target if epochs is not None]
        return {
            "candidate": self.candidate,
            "learning_rate": self.learning_rate,
            "seeds": len(self.runs),
            "diverged": self.diverged,
            **_columns("final_" + self.metric, self.final_metric),
            **_columns("final_loss", self.final_loss),
            **_columns("final_train_loss", self.train_loss),
            **_columns("first_loss", self.first_loss),
            "target": self.target,
            "reached_target": len(reached) if self.target is not None else None,
            **_columns("epochs_to_target", Spread.of(reached)),
            **_over_depth("start", self.start),
            **_over_depth("end", self.end),
            "seconds": self.seconds.mean,
            "findings": ", ".join(dict.fromkeys(f.code for f in self.findings)) or None,
        }


def extremes(stats: Sequence[LayerStats], name: str) -> tuple[float, float] | None:
    """Return the smallest and the largest of a figure over depth; None if unknown."""
    values = [getattr(layer, name) for layer in stats]
    present = [value for value in values if value is not None]
    return (min(present), max(present)) if present else None


def _columns(name: str, spread: Spread) -> dict[str, float | None]:
    mean = spread.mean if spread.count else None
    return {name: mean, f"{name}_spread": spread.spread}


def _over_depth(when: str, stats: Sequence[LayerStats]) -> dict[str, float | None]:
    record: dict[str, float | None] = {}
    for name, figure in (
        ("variance", "variance"),
        ("gradient", "gradient_second_moment"),
    ):
        low, high = extremes(stats, figure) or (None, None)
        record |= {f"{when}_{name}_min": low, f"{when}_{name}_max": high}
    return record
