"""A comparison as figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keras_initlab import plots

if TYPE_CHECKING:
    from keras_initlab.bench.comparison import Comparison

KINDS = ("curves", "depth")


def draw(comparison: Comparison, kind: str, figure: Any) -> Any:
    """Return the figure; see `Comparison.plot`."""
    if kind not in KINDS:
        raise ValueError(
            f"`kind` must be one of {', '.join(map(repr, KINDS))}. Received: "
            f"kind={kind!r}."
        )
    if kind == "depth":
        signals = {r.candidate: (r.start, r.end) for r in comparison.results}
        return plots.compared_depth(signals, figure)
    names = dict.fromkeys(["val_loss", f"val_{comparison.metric}"])
    panels = {name: _curves(comparison, name) for name in names}
    aim = (
        {}
        if comparison.target is None
        else {f"val_{comparison.metric}": comparison.target}
    )
    return plots.compared_curves(panels, aim, figure)


def _curves(comparison: Comparison, name: str) -> dict[str, list[list[float]]]:
    """Return each run's values by epoch, that before the first step at the front."""
    short = name.removeprefix("val_")
    return {
        result.candidate: [
            [run.initial.get(short, float("nan")), *run.history.get(name, [])]
            for run in result.runs
        ]
        for result in comparison.results
    }
