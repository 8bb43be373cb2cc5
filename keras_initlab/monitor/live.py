"""A monitor's figures while `fit` runs: a picture in a notebook, text elsewhere."""

from __future__ import annotations

import importlib.util
import io
import math
import sys
from typing import TYPE_CHECKING, Any

from keras_initlab.tables import printable

if TYPE_CHECKING:
    from keras_initlab.monitor.callback import VarianceMonitor

# Layers are shown by bars of these heights, at most so many of them.
_BARS, _WIDTH = "▁▂▃▄▅▆▇█", 40
# The lowest bar stands for at least so many decades below the highest.
_DECADES = 2.0


class Live:
    """Shows a monitor after each epoch.

    Not at its end, when Keras's progress bar has not written its last line, but when
    the next one begins or `fit` ends.
    """

    def __init__(self) -> None:
        self.is_due = False
        self._display: Any = None

    def begin(self) -> None:
        """Begin anew: another `fit` has a picture of its own."""
        self.is_due, self._display = False, None

    def show(self, monitor: VarianceMonitor) -> None:
        """Show what is due."""
        if not self.is_due:
            return
        self.is_due = False
        if not (_in_notebook() and importlib.util.find_spec("matplotlib")):
            print(line(monitor), flush=True)
            return
        picture = {"image/png": _png(monitor), "text/plain": line(monitor)}
        if self._display is None:
            display = sys.modules["IPython"].display.display
            self._display = display(picture, raw=True, display_id=True)
        else:
            self._display.update(picture, raw=True)


def line(monitor: VarianceMonitor) -> str:
    """Return the last window in a line: the variance over depth, with its range."""
    variances = {
        stats.layer: stats.variance
        for stats in monitor.stats
        if stats.variance is not None and math.isfinite(stats.variance)
    }
    start = f"epoch {monitor.epochs[-1]}: variance by depth"
    lost = sum(bool(stats.nonfinite) for stats in monitor.stats)
    notes = [f"{lost} not finite"] if lost else []
    if variances:
        least, most = (
            min(variances, key=variances.__getitem__),
            max(variances, key=variances.__getitem__),
        )
        notes.insert(
            0,
            f"{variances[least]:.2g} ({printable(least)}) to "
            f"{variances[most]:.2g} ({printable(most)})",
        )
    return f"{start} {_bars([*variances.values()])} {', '.join(notes)}"


def _bars(variances: list[float]) -> str:
    """Return bars as high as the logarithms, of every nth layer where there are many.

    >>> _bars([1.0, 0.1, 0.01, 0.0])
    '█▅▁ '
    """
    step = -(-len(variances) // _WIDTH) or 1
    logs = [math.log10(v) if v > 0 else None for v in variances[::step]]
    present = [value for value in logs if value is not None]
    if not present:
        return " " * len(logs)
    top = max(present)
    span = max(_DECADES, top - min(present))
    last = len(_BARS) - 1
    return "".join(
        " " if value is None else _BARS[round(last * (1 - (top - value) / span))]
        for value in logs
    )


def _png(monitor: VarianceMonitor) -> bytes:
    file = io.BytesIO()
    monitor.plot().savefig(file, format="png", bbox_inches="tight")
    return file.getvalue()


def _in_notebook() -> bool:
    """Whether the code runs in a notebook's kernel (Jupyter, VS Code, Colab)."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None
