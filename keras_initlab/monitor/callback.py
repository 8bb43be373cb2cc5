"""VarianceMonitor: how signals travel through the layers, epoch by epoch."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict
from typing import Any

import keras
import numpy as np

from keras_initlab import taps
from keras_initlab.stats import LayerStats
from keras_initlab.tables import render_table

# Columns of epochs in the printed table, before the middle ones are left out.
SHOWN_EPOCHS = 8


class VarianceMonitor(keras.callbacks.Callback):  # type: ignore[misc]
    """Measure mean and variance of every layer's output while the model is trained.

    Measured on the real batches inside the compiled training step, over all elements
    of an output (batch and units), at steps 0, `every`, 2·`every`… of each epoch.
    The model is as before after `fit`, also where `fit` is left by an exception.

    Adds `variance_min` and `variance_max`, over the layers, to the epoch's logs; put
    the monitor before callbacks that are to see them, such as `CSVLogger`.

    Args:
        every: measure every so many steps, a positive int. 1 measures each step.

    Attributes:
        history: variances by layer, one per epoch; NaN where a layer was not called.
            A layer called more than once in a step has keys `dense#0`, `dense#1`.
        stats: the `LayerStats` of the last epoch, in call order.
        records: one flat dict per epoch and layer, for `pandas.DataFrame(records)`.
        epochs: the epochs' numbers, counted from 0 as Keras's `History` does.

    Raises:
        TypeError: `every` is not an int.
        ValueError: `every` is less than 1; or, when `fit` begins, the model is already
            watched by another monitor.

    >>> import numpy as np, keras
    >>> x = np.random.default_rng(0).normal(size=(64, 8))
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="a")])
    >>> model.compile(loss="mse")
    >>> monitor = VarianceMonitor(every=2)
    >>> _ = model.fit(x, x[:, :4], epochs=3, verbose=0, callbacks=[monitor])
    >>> len(monitor.history["a"]), monitor.stats[0].shape
    (3, (None, 4))
    """

    def __init__(self, every: int = 10) -> None:
        super().__init__()
        self.every = _positive_int(every)
        self.history: dict[str, list[float]] = {}
        self.stats: list[LayerStats] = []
        self.records: list[dict[str, Any]] = []
        self.epochs: list[int] = []
        self._tap: taps.Tap | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begin anew, as Keras's `History` does."""
        self._detach()
        self._forget()
        self._tap = taps.attach(self.model, taps.Request(self.every))
        if self._tap.unsupported:
            warnings.warn(
                f"VarianceMonitor measures nothing in this fit: "
                f"{self._tap.unsupported}.",
                stacklevel=2,
            )
            self._detach()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin a new window."""
        if self._tap is not None:
            self._tap.reset()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep the epoch's figures and add the summary to `logs`."""
        if self._tap is None:
            return
        rows = [row for window in self._tap.read() for row in window.rows]
        if not rows and not self.epochs:
            self._warn_of_nothing()
        self.stats = [
            LayerStats(row.key, shape=row.shape, source="monitored", **row.statistics)
            for row in rows
        ]
        self.records += [_record(epoch, stats) for stats in self.stats]
        variances = {row.key: row.statistics["variance"] for row in rows}
        self._extend_history(epoch, variances)
        if logs is not None and self.stats:
            # NumPy's, unlike Python's, let a NaN through.
            logs["variance_min"] = float(np.min([*variances.values()]))
            logs["variance_max"] = float(np.max([*variances.values()]))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leave the model as it was."""
        self._detach()

    def plot(self, figure: Any = None, decades: float | None = None) -> Any:
        """Return a matplotlib figure: log10 of the variance by layer and epoch.

        Args:
            figure: a matplotlib Figure or SubFigure to draw on; None makes a new one,
                as tall as the layers need.
            decades: how far the colours reach from a variance of 1, up and down, in
                powers of ten; None goes by the data. Give one to compare figures.

        Raises:
            ImportError: matplotlib is missing.
            ValueError: nothing has been measured yet.
        """
        from keras_initlab.plots import variance_heatmap

        if not self.history:
            raise ValueError(
                "There is nothing to plot: no epoch has been monitored. Call "
                "`model.fit(..., callbacks=[monitor])` first."
            )
        return variance_heatmap(self.history, self.epochs, figure, decades)

    def __str__(self) -> str:
        if not self.history:
            return (
                f"VarianceMonitor(every={self.every}): no epoch has been monitored. "
                "Call `model.fit(..., callbacks=[monitor])` first."
            )
        shown = _ends(len(self.epochs), SHOWN_EPOCHS)
        header = ["…" if i is None else f"epoch {self.epochs[i]}" for i in shown]
        return render_table(
            f"Output variance (every={self.every})",
            [("layer", "left"), *((name, "right") for name in header)],
            [
                [key, *("…" if i is None else f"{values[i]:.3g}" for i in shown)]
                for key, values in self.history.items()
            ],
        )

    def _forget(self) -> None:
        self.history, self.stats, self.records, self.epochs = {}, [], [], []

    def _detach(self) -> None:
        if self._tap is not None:
            self._tap.detach()
            self._tap = None

    def _extend_history(self, epoch: int, variances: dict[str, float]) -> None:
        for key in variances:
            self.history.setdefault(key, [math.nan] * len(self.epochs))
        for key, values in self.history.items():
            values.append(variances.get(key, math.nan))
        self.epochs.append(epoch)

    def _warn_of_nothing(self) -> None:
        warnings.warn(
            "VarianceMonitor has measured nothing in this epoch. A model with a "
            "`train_step` of its own is measured only where it calls its layers there "
            "(on JAX: through `self.compute_loss_and_updates`, passing on the "
            "metrics_variables that this returns).",
            stacklevel=2,
        )


def _record(epoch: int, stats: LayerStats) -> dict[str, Any]:
    known = {
        name: value
        for name, value in asdict(stats).items()
        if value is not None and name not in ("shape", "source")
    }
    return {"epoch": epoch, **known}


def _ends(count: int, limit: int) -> list[int | None]:
    """Return indices up to `count`, with None for those left out in the middle."""
    if count <= limit:
        return list(range(count))
    half = limit // 2
    return [*range(half), None, *range(count - half, count)]


def _positive_int(every: Any) -> int:
    expected = "`every` must be a positive int: measure every so many training steps."
    advice = "Use every=10, or every=1 to measure each step."
    if isinstance(every, bool) or not isinstance(every, (int, np.integer)):
        raise TypeError(f"{expected} Received: every={every!r}. {advice}")
    if every < 1:
        raise ValueError(f"{expected} Received: every={every!r}. {advice}")
    return int(every)
