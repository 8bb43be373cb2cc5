"""Which candidates differ by more than the seeds do, in sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from keras_initlab.bench.noise import LEVEL, welch_p_value
from keras_initlab.bench.records import CandidateResult, Run, Spread

if TYPE_CHECKING:
    from keras_initlab.bench.comparison import Comparison

# With fewer seeds, Student's t-test has little power.
FEW = 5

Value = Callable[[Run], float]


def sentences(comparison: Comparison) -> tuple[str, ...]:
    """Return the verdict; see `Comparison.verdict`."""
    results = comparison.results
    best = comparison[comparison.best]
    name = f"val_{comparison.metric}"
    parts = []
    missing = comparison.planned - len(comparison.runs)
    if missing:
        parts.append(
            f"Interrupted: {missing} of {comparison.planned} runs are missing."
        )
    parts += [_diverged(result) for result in results if result.diverged]
    if not best.sound:
        return (*parts, "No candidate has a run that did not diverge.")
    parts.append(
        f"After {_count(comparison.epochs, 'epoch')}, {name} is best with "
        f"{best.candidate} ({best.final_metric})"
        + _compared(best, results, lambda run: run.final(name))
    )
    if comparison.target is not None:
        parts.append(_speed(comparison))
    if len(results) > 1 and len(comparison.seeds) < FEW:
        parts.append(_seeds(comparison))
    return tuple(parts)


def _seeds(comparison: Comparison) -> str:
    """Return a sentence on how much a few seeds can tell."""
    if len(comparison.seeds) == 1:
        return f"One seed does not tell a difference from noise: pass seeds={FEW}."
    return (
        f"With {len(comparison.seeds)} seeds only large differences can be told from "
        f"noise: seeds={FEW} or more tell smaller ones."
    )


def _speed(comparison: Comparison) -> str:
    """Return the sentence on epochs to the target."""
    target = comparison.target
    assert target is not None
    aim, name = f"{comparison.metric} {target:g}", f"val_{comparison.metric}"
    reached = {
        result.candidate: [e for e in result.epochs_to_target if e is not None]
        for result in comparison.results
    }
    reaching = [result for result in comparison.results if reached[result.candidate]]
    always = [r for r in reaching if len(reached[r.candidate]) == len(r.runs)]
    if not reaching:
        return f"No candidate reaches {aim}."
    if not always:
        return f"No candidate reaches {aim} with every seed."

    def epochs(run: Run) -> float:
        needed = run.epochs_to(name, target, comparison.direction)
        # Never within the budget: at least one epoch more than it.
        return comparison.epochs + 1 if needed is None else needed

    first = min(always, key=lambda result: Spread.of(reached[result.candidate]).mean)
    never = [r.candidate for r in comparison.results if r not in reaching]
    return (
        f"{first.candidate} is first to reach {aim}, after "
        f"{Spread.of(reached[first.candidate])} epochs"
        + _compared(first, reaching, epochs, diverged=True)
        + (f" Never: {_joined(never)}." if never else "")
    )


def _compared(
    first: CandidateResult,
    results: Sequence[CandidateResult],
    value: Value,
    diverged: bool = False,
) -> str:
    """Return the end of a sentence: which candidates do not differ from the first."""
    rivals = [r for r in results if r is not first and (diverged or r.sound)]
    if not rivals:
        return "."
    values = _values(first, value, diverged)
    pairs = [(values, _values(rival, value, diverged)) for rival in rivals]
    if max(min(len(a), len(b)) for a, b in pairs) < 2:
        return "."
    alike = [
        rival.candidate
        for rival, (a, b) in zip(rivals, pairs, strict=True)
        if welch_p_value(a, b) >= LEVEL
    ]
    if not alike:
        return ", by more than the noise between seeds."
    if len(alike) == len(rivals):
        return "; no other differs from it by more than the noise between seeds."
    verb = "does" if len(alike) == 1 else "do"
    return (
        f"; {_joined(alike)} {verb} not differ from it by more than the noise between "
        "seeds."
    )


def _values(result: CandidateResult, value: Value, diverged: bool) -> list[float]:
    return [value(run) for run in (result.runs if diverged else result.sound)]


def _diverged(result: CandidateResult) -> str:
    return (
        f"{result.candidate} diverged in {result.diverged} of "
        f"{_count(len(result.runs), 'run')}."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _joined(names: Sequence[str]) -> str:
    *front, last = names
    return f"{', '.join(front)} and {last}" if front else last
