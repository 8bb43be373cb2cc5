"""What a monitor may be asked for, and where its figures go."""

import csv
import json
import re

import keras
import numpy as np
import pytest

import keras_initlab as il
from keras_initlab.monitor import CSV, JSONLines
from keras_initlab.taps.request import FORWARD

from .models import data, fit, frozen, mlp, nested_and_shared


@pytest.mark.torch
@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"window": 0}, ValueError, "positive int"),
        ({"window": "day"}, ValueError, '"epoch" or a positive int'),
        ({"window": 1.5}, TypeError, "positive int"),
        ({"log": "all"}, ValueError, '"none", "summary", "layers"'),
        ({"log": None}, TypeError, '"none", "summary", "layers"'),
        ({"statistics": ["varaince"]}, ValueError, "Did you mean 'variance'"),
        ({"statistics": [3]}, TypeError, "names and functions"),
        ({"statistics": 3}, TypeError, "list of names"),
        ({"statistics": [lambda x: x]}, ValueError, "under a name of its own"),
        ({"layers": 3}, TypeError, "which layers to measure"),
        ({"on_finding": "shout"}, ValueError, '"ignore", "warn", "stop", "raise"'),
        ({"sinks": "run.csv"}, TypeError, "JSONLines"),
        ({"sinks": [3]}, TypeError, "JSONLines"),
    ],
)
def test_what_is_refused(settings, error, message):
    with pytest.raises(error, match=re.escape(message)):
        il.VarianceMonitor(**settings)


def test_all_that_takes_no_gradients_is_measured_unless_less_is_asked_for():
    every, one = il.VarianceMonitor(1), il.VarianceMonitor(1, statistics="variance")
    for monitor in (every, one):
        fit(frozen(mlp()), *data(32), [monitor])
    known = {name for name in FORWARD if getattr(every.stats[0], name) is not None}
    assert known == {*FORWARD} - {"saturated_fraction"}
    known = {name for name in FORWARD if getattr(one.stats[0], name) is not None}
    assert known == {"mean", "variance", "second_moment"}


@pytest.mark.torch
def test_logs_by_layer():
    monitor = il.VarianceMonitor(1, log="layers", gradients=True)
    model = frozen(nested_and_shared())
    history = fit(model, *data(32), [monitor], epochs=2).history
    assert {"variance/shared:0", "variance/shared:1", "gradient/out"} <= set(history)
    assert not any("#" in key or "." in key for key in history)
    assert history["variance/out"] == monitor.history["out"]
    assert history["gradient_max"] == [
        max(
            record["gradient_second_moment"]
            for record in monitor.records
            if record["epoch"] == epoch
        )
        for epoch in range(2)
    ]


@pytest.mark.torch
def test_no_logs():
    history = fit(frozen(mlp()), *data(32), [il.VarianceMonitor(1, log="none")])
    assert set(history.history) == {"loss"}


@pytest.mark.torch
def test_other_callbacks_see_the_logs(tmp_path):
    callbacks = [
        il.VarianceMonitor(1, log="layers"),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.EarlyStopping("variance_max", mode="max"),
        keras.callbacks.ModelCheckpoint(tmp_path / "{variance_max:.6f}.keras"),
    ]
    fit(frozen(mlp()), *data(32), callbacks, epochs=3)
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert len(rows) == 2  # the weights are frozen: the first did not get better
    greatest = callbacks[0].history
    greatest = max(values[0] for values in greatest.values())
    assert float(rows[0]["variance_max"]) == pytest.approx(greatest)
    assert (tmp_path / f"{greatest:.6f}.keras").exists()


@pytest.mark.torch
def test_sinks_are_opened_fed_and_closed(tmp_path):
    class Sink:
        def __init__(self):
            self.told = []

        def open(self):
            self.told.append("open")

        def __call__(self, records):
            self.told.append(len(records))

        def samples(self, epoch, outputs, gradients):
            self.told.append((epoch, *outputs))

        def close(self):
            self.told.append("close")

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise RuntimeError("stop here")

    sink, lines = Sink(), JSONLines(tmp_path / "run.jsonl")
    table = CSV(tmp_path / "run.csv")
    monitor = il.VarianceMonitor(1, sinks=[sink, lines, table], histograms=True)
    model = frozen(mlp())
    fit(model, *data(32), [monitor])
    names = ("hidden", "norm", "out")
    assert sink.told == ["open", 3, (0, *names), "close"]
    written = [json.loads(one) for one in (tmp_path / "run.jsonl").open()]
    assert written == monitor.records
    assert [row["layer"] for row in csv.DictReader((tmp_path / "run.csv").open())] == [
        *names
    ]
    sink.told.clear()
    with pytest.raises(RuntimeError, match="stop here"):
        fit(model, *data(32), [monitor, Stop()], epochs=3)
    assert sink.told[0] == "open"
    assert sink.told[-1] == "close"
    assert sink.told.count("close") == 1


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["variance", "depth", "histograms", "updates"])
@pytest.mark.parametrize("window", ["epoch", 2])
def test_plots(kind, window):
    model = mlp()
    model.compile("sgd", "mse")
    monitor = il.VarianceMonitor(1, gradients=True, histograms=True, window=window)
    fit(model, *data(64), [monitor], epochs=2)
    figure = monitor.plot(kind)
    text = " ".join(axes.get_title("left") for axes in figure.axes)
    assert text.strip()
    figure.canvas.draw()


@pytest.mark.torch
def test_plots_say_what_they_need():
    monitor = il.VarianceMonitor(1)
    fit(frozen(mlp()), *data(32), [monitor])
    with pytest.raises(ValueError, match="histograms=True"):
        monitor.plot("histograms")
    with pytest.raises(ValueError, match="gradients=True"):
        monitor.plot("updates")
    with pytest.raises(ValueError, match='"variance", "depth"'):
        monitor.plot("pie")
    assert np.isfinite(monitor.stats[0].variance)
