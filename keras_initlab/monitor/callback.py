"""VarianceMonitor: how signals travel through the layers, epoch by epoch."""

from __future__ import annotations

import datetime
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from typing import Any, Literal

import keras
import numpy as np

from keras_initlab import diagnosis, taps
from keras_initlab.model import nonlinearity
from keras_initlab.model.layers import main_weight, places
from keras_initlab.monitor import options, table
from keras_initlab.monitor.data import data_of_fit
from keras_initlab.monitor.judge import Judge
from keras_initlab.monitor.live import Live
from keras_initlab.report import Findings
from keras_initlab.stats import LayerStats, Stats, possible

_FIELDS = {field.name for field in fields(LayerStats)}


class VarianceMonitor(keras.callbacks.Callback):  # type: ignore[misc]
    """Measure the signal at every layer's output while the model is trained.

    It measures the real batches inside a compiled training step, at steps 0, `every`,
    2·`every`… of each epoch (if gradients are accumulated, starting from the first step
    that updates the weights). All other steps are Keras's own, as without the monitor.
    After `fit` the model is as before, even if `fit` ended with an exception.

    If Keras executes several steps at once (`steps_per_execution=k`) and one of them is
    due, the last of them is measured.

    Figures are those of `LayerStats`, each over everything measured in a window:

    - mean, variance and second moment over all elements (batch and units);
    - batch variance (over the batch, averaged over units), input cosine (over all
      pairs of inputs of a batch whose outputs are not 0), fractions of zeros and of
      saturated elements: the mean over the batches measured;
    - the dead fraction: the share of units (features or channels) that were 0 for every
      input;
    - nonfinite: how many elements were NaN or infinite. If there are any, the other
      figures are NaN;
    - with `gradients=True` also E[(dL/dx)²] at the output x and E[(dL/dw)²] of the
      layer's main weight, for the loss L that Keras minimises, without its loss scale
      and before clipping; and the update ratio ‖Δw‖/‖w‖, which is estimated from an
      evenly spread sample for kernels of more than 16,384 entries. Steps that are
      skipped by loss scaling, because their gradients are not finite, do not count.

    `variance_min` and `variance_max`, over the layers, are added to the epoch's logs;
    put the monitor before callbacks that should see them, such as `CSVLogger`.

    Args:
        every: the number of steps from one measurement to the next; 1 measures every
            step. Or a `datetime.timedelta`: the first step of `fit`, and the first one
            after each such span, so that the cost does not depend on how fast steps
            are; epochs without a measurement have no entry.
        gradients: measure gradients and updates too.
        statistics: what to measure: names of fields of `LayerStats`, and your own
            functions, which take a layer's output and return a scalar tensor; each is
            recorded under its name. None is everything that needs no gradients. Mean
            and variance are always measured.
        layers: which layers: a name or path, a compiled regular expression for paths,
            a layer class, a function of the layer, or a list of these. None is all.
        window: "epoch", or the number of steps that make one entry in the history.
        histograms: keep 1,024 values of each output (and gradient) of the window's
            last batch, for `plot("histograms")` and TensorBoard.
        log: "summary"; "layers" adds `variance/<layer>` for each layer (and
            `gradient/<layer>`); "none" adds nothing.
        sinks: functions that take the epoch's records, a list of dicts; see
            `keras_initlab.monitor.sinks`.
        on_finding: what to do when the rules of `diagnose` find a fault: "warn"; "stop"
            training, or "raise" a `FindingError`, if it is an error, and warn if it is
            a warning; "ignore"; or a function to call with the `Finding`. Each fault is
            reported once per `fit`, and kept in `findings`. Findings of severity "info"
            are kept there and not reported.
        live: show the variance while `fit` runs: in a notebook a figure, redrawn after
            each epoch, elsewhere a line of text for each.

    Attributes:
        every, window: as given; `window` is None if it is the epoch.
        history: variances by layer, one per window; NaN where a layer was not called.
            A layer called more than once in a step has keys `dense#0`, `dense#1`.
        stats: the `LayerStats` of the last window, in call order.
        records: a flat dict for each window and layer, for `pandas.DataFrame(records)`.
        epochs: the windows' epochs, counted from 0 as Keras's `History` does.
        steps: the windows' first steps, within their epochs.
        findings: what went wrong, a `Finding` with the `epoch` it began in for each.
        samples, gradient_samples: by layer, with `histograms=True`.

    Raises:
        TypeError, ValueError: an argument is not as above; or, when `fit` begins,
            `layers` selects no layer, another monitor already watches the model, or
            this monitor watches a `fit` around this one.

    >>> import numpy as np, keras
    >>> x = np.random.default_rng(0).normal(size=(64, 8))
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="a")])
    >>> model.compile(loss="mse")
    >>> monitor = VarianceMonitor(every=2)
    >>> _ = model.fit(x, x[:, :4], epochs=3, verbose=0, callbacks=[monitor])
    >>> len(monitor.history["a"]), monitor.stats[0].shape
    (3, (None, 4))
    """

    def __init__(
        self,
        every: int | datetime.timedelta = 10,
        *,
        gradients: bool = False,
        statistics: Sequence[str | Callable[[Any], Any]] | None = None,
        layers: Any = None,
        window: int | Literal["epoch"] = "epoch",
        histograms: bool = False,
        log: options.Log = "summary",
        sinks: Sequence[Callable[[list[dict[str, Any]]], Any]] = (),
        on_finding: options.OnFinding | Callable[[diagnosis.Finding], Any] = "warn",
        live: bool = False,
    ) -> None:
        super().__init__()
        self.every = options.every_of(every)
        names, custom = options.statistics_of(statistics, bool(gradients))
        self._log = options.one_of("log", log, options.LOGS)
        self._sinks = options.sinks_of(sinks)
        self._on_finding = options.finding_handler(on_finding)
        self._layers = layers
        self._live = Live() if live else None
        self.window = options.window_of(window)
        self._schedule = taps.Schedule(self.every, self.window)
        self._request = taps.Request(
            statistics=names,
            custom=custom,
            samples=bool(histograms),
            wanted=options.selector(layers),
            bounds=nonlinearity.bounds,
            weight=main_weight,
        )
        self._tap: taps.Tap | None = None
        self._judge: Judge | None = None
        # The epoch under way.
        self._epoch: int | None = None
        self.stats: list[LayerStats] = Stats()
        self._forget()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begin anew, as Keras's `History` does."""
        if self._tap is not None and self._tap.is_around_another():
            raise ValueError(
                "A VarianceMonitor can watch one fit at a time. Received: the same one "
                "in the `callbacks` of a fit within the fit that it watches. Give the "
                "inner one a monitor of its own."
            )
        tap = taps.attach(
            self.model,
            self._request,
            self._schedule,
            self._on_release,
        )
        self._detach()
        self._tap = tap
        self._forget()
        if self._live is not None:
            self._live.begin()
        self._look_for_layers()
        if self._tap.is_chief:
            self._tell_sinks("open")
        self._judge = Judge(
            self.model,
            "update_ratio" in self._request.statistics,
            data_of_fit(self.model),
        )
        if self._tap.unsupported:
            warnings.warn(
                f"VarianceMonitor measures nothing in this fit: "
                f"{self._tap.unsupported}.",
                stacklevel=2,
            )
            self._detach()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin a new window."""
        if self._live is not None:
            self._live.show(self)
        if self._tap is not None:
            self._epoch = epoch
            self._tap.begin_epoch()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep the epoch's figures, add to `logs`, and hand them to the sinks."""
        if self._tap is None:
            return
        self._epoch = None
        windows = self._tap.read()
        first = [] if self.epochs else self._tap.first()
        if not windows and isinstance(self.every, datetime.timedelta):
            # The time was not yet up.
            return
        if not any(window.rows for window in windows) and not self.epochs:
            self._warn_of_nothing()
        windows = windows or [taps.Window(0, [])]
        new: list[dict[str, Any]] = []
        for window in windows:
            step = window.number * (self.window or 0)
            self.stats = Stats(_stats_of(row) for row in window.rows)
            new += [
                _record(epoch, step, stats, row)
                for stats, row in zip(self.stats, window.rows, strict=True)
            ]
            self._extend_history(epoch, step)
        self.records += new
        self._keep_samples(windows[-1].rows)
        # The loss by itself: `logs` are about to hold figures of ours as well.
        loss = None if logs is None else logs.get("loss")
        self._add_to(logs)
        if new and self._tap.is_chief:
            for sink in self._sinks:
                sink(new)
            if self.samples:
                self._tell_sinks("samples", epoch, self.samples, self.gradient_samples)
        if self._live is not None:
            self._live.is_due = bool(new) and self._tap.is_chief
        if self.stats:
            self._tell(epoch, self._judged([_stats_of(row) for row in first], loss))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leave the model as it was."""
        self._detach()
        if self._live is not None:
            self._live.show(self)

    def plot(
        self,
        kind: options.PlotKind = "variance",
        figure: Any = None,
        **settings: Any,
    ) -> Any:
        """Return a matplotlib figure.

        Args:
            kind: "variance", log10 of the variance by layer and epoch; "depth",
                variance and gradient over depth in the last window, beside what
                `propagate` predicts for the model as it was when `fit` began;
                "histograms" of outputs and gradients by layer (needs
                `histograms=True`); "updates", update ratios by epoch (needs
                `gradients=True`).
            figure: a matplotlib Figure or SubFigure to draw on; None makes a new one,
                as tall as the layers need.
            settings: of "variance": `decades`, how far the colours reach from a
                variance of 1, up and down, in powers of ten (give one to compare
                figures), and `relative`: True, the default without `decades`, makes
                the variance of the first layer white, False a variance of 1; of
                "depth": `predicted`, a list of `LayerStats`.

        Raises:
            ImportError: matplotlib is missing.
            ValueError: nothing has been measured yet, or not what the kind needs.
        """
        from keras_initlab.monitor import plotting

        options.one_of("kind", kind, options.PLOTS)
        if not self.history:
            raise ValueError(
                "There is nothing to plot: no epoch has been monitored. Call "
                "`model.fit(..., callbacks=[monitor])` first."
            )
        return plotting.draw(self, kind, figure, **settings)

    def __str__(self) -> str:
        return table.as_text(self)

    def __repr__(self) -> str:
        return (
            f"<VarianceMonitor(every={self.every}): {len(self.epochs)} windows of "
            f"{len(self.history)} layers; print it>"
        )

    def _repr_html_(self) -> str:
        return table.as_html(self)

    def _forget(self) -> None:
        self.history: dict[str, list[float]] = {}
        self.stats = Stats()
        self.records: list[dict[str, Any]] = []
        self.epochs: list[int] = []
        self.steps: list[int] = []
        self.findings = Findings()
        self.samples: dict[str, np.ndarray] = {}
        self.gradient_samples: dict[str, np.ndarray] = {}

    def _detach(self) -> None:
        if self._tap is None:
            return
        try:
            self._tap.detach()
        finally:
            self._tap = None

    def _tell_sinks(self, name: str, *args: Any) -> None:
        for sink in self._sinks:
            method = getattr(sink, name, None)
            if callable(method):
                method(*args)

    def _on_release(self) -> None:
        try:
            # Where `fit` fails, what was measured up to then may say why.
            if isinstance(sys.exc_info()[1], Exception):
                self._tell_of_the_rest()
        finally:
            self._tell_sinks("close")

    def _tell_of_the_rest(self) -> None:
        tap, epoch, self._epoch = self._tap, self._epoch, None
        if tap is None or epoch is None:
            return
        try:
            windows = tap.read()
            first = [] if self.epochs else [_stats_of(row) for row in tap.first()]
            if windows and windows[-1].rows:
                self.stats = Stats(_stats_of(row) for row in windows[-1].rows)
            elif self.epochs:
                return
            # Where the very first step fails, there are model and data to go by.
            findings = self._judged(first, None)
            if all(finding.severity == "info" for finding in findings):
                findings += self._judged_now()
        except Exception:
            # The failure may be the device's: then there is nothing to be read. And
            # no fault of ours may take the place of the user's.
            return
        self._tell(epoch, findings, failed=True)

    def _look_for_layers(self) -> None:
        if self._layers is None or not self.model.built:
            return
        measured = [place for place in places(self.model) if place.measured]
        if not any(self._request.wanted(place.layer, place.path) for place in measured):
            names = ", ".join(place.path for place in measured[:20])
            raise ValueError(
                "`layers` must choose at least one layer of the model. Received: "
                f"layers={self._layers!r}, which chooses none of: {names}"
                f"{', …' if len(measured) > 20 else ''}."
            )

    def _extend_history(self, epoch: int, step: int) -> None:
        variances: dict[str, Any] = {row.layer: row.variance for row in self.stats}
        for key in variances:
            self.history.setdefault(key, [math.nan] * len(self.epochs))
        for key, values in self.history.items():
            values.append(variances.get(key, math.nan))
        self.epochs.append(epoch)
        self.steps.append(step)

    def _keep_samples(self, rows: list[taps.Row]) -> None:
        self.samples = {r.key: r.sample for r in rows if r.sample is not None}
        self.gradient_samples = {
            r.key: r.gradient_sample for r in rows if r.gradient_sample is not None
        }

    def _add_to(self, logs: dict[str, Any] | None) -> None:
        if logs is None or not self.stats or self._log == "none":
            return
        for name, field in (
            ("variance", "variance"),
            ("gradient", "gradient_second_moment"),
        ):
            pairs = [(stats.layer, getattr(stats, field)) for stats in self.stats]
            values = {layer: value for layer, value in pairs if value is not None}
            if not values:
                continue
            # NumPy's, unlike Python's, let a NaN through.
            logs[f"{name}_min"] = float(np.min([*values.values()]))
            logs[f"{name}_max"] = float(np.max([*values.values()]))
            if self._log == "layers":
                logs |= {f"{name}/{_for_logs(k)}": v for k, v in values.items()}

    def _judged(
        self, first: Sequence[LayerStats], loss: float | None
    ) -> list[diagnosis.Finding]:
        if self._judge is None:
            return []
        return self._judge.findings(self.stats, first, loss)

    def _judged_now(self) -> list[diagnosis.Finding]:
        """Judge by what the model makes of its data now."""
        if self._judge is None:
            return []
        return self._judge.findings(self._judge.measured(), (), None)

    def _tell(
        self, epoch: int, findings: Sequence[diagnosis.Finding], failed: bool = False
    ) -> None:
        for finding in findings:
            finding = replace(finding, epoch=epoch)
            self.findings.append(finding)
            # What is only worth knowing is there to be read.
            if finding.severity != "info":
                self._act_on(epoch, finding, failed)

    def _act_on(self, epoch: int, finding: diagnosis.Finding, failed: bool) -> None:
        if callable(self._on_finding):
            self._on_finding(finding)
            return
        if self._on_finding == "ignore":
            return
        fails = finding.severity == "error"
        if fails and self._on_finding == "raise" and not failed:
            raise FindingError(f"Epoch {epoch}: {finding}")
        warnings.warn(f"Epoch {epoch}: {finding}", stacklevel=2)
        if fails and self._on_finding == "stop":
            self.model.stop_training = True

    def _warn_of_nothing(self) -> None:
        warnings.warn(
            "VarianceMonitor has measured nothing in this epoch. A model with a "
            "`train_step` of its own is measured only where it calls its layers there "
            "(on JAX: through `self.compute_loss_and_updates`, and not in a loop of "
            "JAX's).",
            stacklevel=2,
        )


class FindingError(RuntimeError):
    """Raised by a monitor with `on_finding="raise"`."""


def _stats_of(row: taps.Row) -> LayerStats:
    figures: dict[str, Any] = {
        name: value for name, value in row.statistics.items() if name in _FIELDS
    }
    if "nonfinite" in figures:
        figures["nonfinite"] = round(figures["nonfinite"])
    stats = LayerStats(
        row.key, weight=row.weight, shape=row.shape, source="monitored", **figures
    )
    return possible(stats)


def _record(epoch: int, step: int, stats: LayerStats, row: taps.Row) -> dict[str, Any]:
    figures = {
        name: value
        for name, value in asdict(stats).items()
        if value is not None and name not in ("shape", "source")
    }
    more = {k: v for k, v in row.statistics.items() if k not in _FIELDS}
    return {"epoch": epoch, "step": step, **figures, **more}


def _for_logs(layer: str) -> str:
    # A dot would break ModelCheckpoint's format strings, and MLflow takes no `#`.
    return layer.replace(".", "_").replace("#", ":")
