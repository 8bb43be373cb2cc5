"""What a monitor says of a training, when, and what it may lead to.

A judge sees figures alone, which are the same on all backends: those that compile each
model do some of the trainings, PyTorch all.
"""

import warnings
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from keras_initlab.diagnosis import Finding
from keras_initlab.monitor import FindingError
from keras_initlab.monitor.judge import Judge
from keras_initlab.stats import LayerStats

from .models import BACKEND, data, fit, frozen, mlp

EVERY = ["raise", "stop", "warn", "ignore", "call"]
HANDLERS = EVERY if BACKEND == "torch" else EVERY[:1]


def net(activation="tanh", rate=0.01, units=16, bias="zeros", kernel="he_normal"):
    """Return a compiled model: hidden layers `first` and `second`, and a head."""
    settings = {"kernel_initializer": kernel, "bias_initializer": bias}
    hidden = (
        layers.Dense(units, activation, name=name, **settings)
        for name in ("first", "second")
    )
    model = keras.Sequential([keras.Input((6,)), *hidden, layers.Dense(2, name="head")])
    model.compile(keras.optimizers.SGD(rate), "mse")
    return model


def vanishing(layer_count=8):
    tiny = {"class_name": "RandomNormal", "config": {"stddev": 1e-4}}
    hidden = [
        layers.Dense(8, "tanh", kernel_initializer=tiny, name=f"dense_{i}")
        for i in range(layer_count)
    ]
    return keras.Sequential([keras.Input((6,)), *hidden, layers.Dense(2, name="head")])


class Rate(keras.callbacks.Callback):
    """Sets another learning rate when an epoch begins."""

    def __init__(self, epoch, rate):
        super().__init__()
        self.epoch, self.rate = epoch, rate

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            self.model.optimizer.learning_rate = self.rate


def watched(model, *callbacks, epochs=1, gradients=False, **settings):
    """Train; return the monitor, how many epochs there were, and what was warned of."""
    settings.setdefault("on_finding", "warn")
    monitor = il.VarianceMonitor(1, gradients=gradients, **settings)
    x, y = data(32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = fit(model, x / 2, y, [*callbacks, monitor], epochs=epochs)
    told = [str(one.message) for one in caught if "Epoch" in str(one.message)]
    return monitor, len(history.epoch), told


def codes(monitor):
    return [(one.epoch, one.code, one.severity, one.layer) for one in monitor.findings]


# What it may lead to ------------------------------------------------------------------

NAN = (2, "nonfinite", "error", "first")
TWINS = (0, "symmetric-units", "warning", "first")


def twins():
    """Return a model of which a third of the first units have a twin, for good."""
    model = net()
    kernel, bias = model.layers[0].get_weights()
    kernel[:, :5] = kernel[:, 5:10]
    model.layers[0].set_weights([kernel, bias])
    kernel, bias = model.layers[1].get_weights()
    kernel[:5] = kernel[5:10]
    model.layers[1].set_weights([kernel, bias])
    return model


@pytest.mark.parametrize("what", HANDLERS)
def test_an_error_stops_or_raises(what):
    called = []
    handler = called.append if what == "call" else what
    model, wild = net(), Rate(2, float("inf"))
    if what == "raise":
        with pytest.raises(FindingError, match=r"Epoch 2: nonfinite in first: \d+ "):
            watched(model, wild, epochs=5, on_finding=handler)
        assert not any("call" in vars(layer) for layer in model.layers)
        return
    monitor, epochs, told = watched(model, wild, epochs=5, on_finding=handler)
    assert codes(monitor) == [NAN]
    assert epochs == (3 if what == "stop" else 5)
    assert len(told) == (what in ("warn", "stop"))
    assert all(one.startswith("Epoch 2: nonfinite in first: ") for one in told)
    assert called == ([monitor.findings[0]] if what == "call" else [])


@pytest.mark.torch
@pytest.mark.parametrize("what", HANDLERS)
def test_a_warning_only_warns(what):
    called = []
    handler = called.append if what == "call" else what
    monitor, epochs, told = watched(twins(), epochs=2, on_finding=handler)
    assert codes(monitor) == [TWINS]
    assert epochs == 2
    assert len(told) == (what in ("warn", "stop", "raise"))
    assert "5 of its 16 units" in monitor.findings[0].evidence
    assert [one.code for one in called] == ["symmetric-units"] * (what == "call")


@pytest.mark.torch
@pytest.mark.parametrize("what", ["warn", "stop", "raise", "call"])
def test_what_is_only_worth_knowing_is_kept_and_not_told(monkeypatch, what):
    note = Finding("wrong-fans", "info", "first", "Some.", "Look.")
    monkeypatch.setattr("keras_initlab.diagnosis.rules.rules", lambda: (one_note,))

    def one_note(facts):
        yield note

    called = []
    handler = called.append if what == "call" else what
    monitor, epochs, told = watched(net(), epochs=3, on_finding=handler)
    assert monitor.findings == [replace(note, epoch=0)]
    assert (epochs, told, called) == (3, [], [])


@pytest.mark.torch
def test_each_fit_begins_anew():
    model = twins()
    monitor = il.VarianceMonitor(1, on_finding="ignore")
    for _ in range(2):
        fit(model, *data(32), [monitor], epochs=2)
        assert codes(monitor) == [TWINS]


# When --------------------------------------------------------------------------------


@pytest.mark.torch
def test_findings_are_told_once_with_the_epoch_in_which_they_began():
    model = twins()
    monitor, _, told = watched(model, Rate(1, float("inf")), epochs=4)
    assert codes(monitor)[0] == TWINS
    assert [one[:3] for one in codes(monitor)[1:]] == [(1, "nonfinite", "error")]
    assert [one.split(" in ")[0] for one in told] == [
        "Epoch 0: symmetric-units",
        "Epoch 1: nonfinite",
    ]


@pytest.mark.torch
@pytest.mark.parametrize("gradients", [False, True])
def test_vanishing_is_told_once(gradients):
    monitor, _, told = watched(frozen(vanishing()), epochs=3, gradients=gradients)
    assert [one[:3] for one in codes(monitor)] == [(0, "initializer-mismatch", "error")]
    follows = [one.code for one in monitor.findings[0].consequences]
    backward = ["no-gradient", "vanishing-gradient"] if gradients else []
    assert follows == ["vanishing-signal", *backward]
    assert sum("vanishing-signal" in one for one in told) == 1


@pytest.mark.torch
def test_steps_that_move_nothing():
    monitor, *_ = watched(net(rate=1e-12), epochs=3, gradients=True)
    assert codes(monitor) == [(0, "update-too-small", "warning", "first")]
    # What has moved once is done, not stuck.
    later = Rate(1, 0.0)
    monitor, *_ = watched(net(), later, epochs=3, gradients=True)
    assert codes(monitor) == []
    monitor, *_ = watched(net(rate=1e-12), epochs=2)
    assert codes(monitor) == []


@pytest.mark.torch
def test_steps_that_replace_weights():
    monitor, *_ = watched(net(), Rate(1, 30.0), epochs=2, gradients=True)
    assert ("update-too-large", "warning") in {one[1:3] for one in codes(monitor)}
    assert {one[0] for one in codes(monitor)} == {1}


@pytest.mark.torch
def test_dead_units():
    bias = keras.initializers.Constant(-50.0)
    monitor, *_ = watched(net("relu", bias=bias), epochs=2)
    found = {code: (epoch, level) for epoch, code, level, _ in codes(monitor)}
    assert found == {"large-biases": (0, "error")}
    assert "dead-units" in {one.code for one in monitor.findings[0].consequences}
    # A tanh that is 0 is none.
    monitor, *_ = watched(net("tanh"), epochs=1)
    assert codes(monitor) == []


def test_symmetric_units_are_found_after_steps():
    constant = keras.initializers.Constant(0.05)
    model = net(kernel=constant)
    model.layers[-1].set_weights([np.full((16, 2), 0.1), np.zeros(2)])
    monitor, _, told = watched(model, epochs=3)
    found = {
        code: (epoch, level, layer) for epoch, code, level, layer in codes(monitor)
    }
    assert found["constant-kernel"] == (0, "error", "second")
    assert "symmetric-units in first" in told[0]
    [cause] = il.diagnose(model)
    assert cause.code == "constant-kernel"
    assert [one.code for one in cause.consequences] == ["symmetric-units"]


@pytest.mark.torch
@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu"])
def test_healthy_networks_are_not_warned_of(activation):
    assert codes(watched(net(activation), epochs=3, gradients=True)[0]) == []


def test_a_model_that_is_not_built_is_judged_as_well():
    model = keras.Sequential([layers.Dense(8, "relu"), layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    monitor, *_ = watched(model, Rate(1, float("inf")), epochs=2)
    assert [one[:3] for one in codes(monitor)] == [(1, "nonfinite", "error")]


# Whose doing it was -------------------------------------------------------------------


@pytest.mark.torch
def test_what_was_sound_at_the_first_step_was_broken_by_the_steps():
    model = net("relu", rate=3.0)
    monitor, *_ = watched(model, epochs=4, gradients=True)
    cause = monitor.findings[0]
    assert cause.code in ("update-too-large", "exploding-signal", "nonfinite")
    for finding in (cause, *cause.consequences):
        assert "learning rate" in finding.remedy
        assert "rewrite_initializers" not in finding.remedy


def test_targets_that_are_nan_are_told_at_the_first_step():
    model, (x, y) = net(), data(32)
    y = np.where(np.arange(len(y))[:, None] == 3, np.nan, y)
    monitor = il.VarianceMonitor(1, gradients=True, on_finding="ignore")
    fit(model, x, y, [monitor], epochs=1)
    [finding, *_] = monitor.findings
    assert (finding.epoch, finding.code) == (0, "nonfinite")
    assert "of the targets are NaN" in finding.evidence
    assert "np.isfinite(y)" in finding.remedy


@pytest.mark.torch
def test_weights_that_begin_at_0_make_no_large_steps():
    keras.utils.set_random_seed(0)
    x = np.linspace(-1, 1, 64)[:, None].astype("float32")
    model = keras.Sequential(
        [keras.Input((1,)), layers.Dense(1, kernel_initializer="zeros")]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    monitor = il.VarianceMonitor(1, gradients=True, on_finding="ignore")
    fit(model, x, 2 * x + 0.5, [monitor], epochs=4)
    assert codes(monitor) == []


@pytest.mark.torch
def test_steps_that_creep():
    monitor, *_ = watched(net(rate=1e-6), epochs=4, gradients=True)
    [finding] = monitor.findings
    assert (finding.epoch, finding.code) == (2, "update-too-small")
    assert "larger learning rate" in finding.remedy


class Fails(keras.callbacks.Callback):
    """Spoils the weights after a step, and raises after another."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 0:
            kernel, bias = self.model.layers[0].get_weights()
            self.model.layers[0].set_weights([kernel * np.nan, bias])
        if batch == 2:
            raise RuntimeError("fit fails")


@pytest.mark.torch
@pytest.mark.parametrize("handler", ["warn", "raise"])
def test_where_fit_fails_it_is_told_what_was_seen(handler):
    monitor = il.VarianceMonitor(1, on_finding=handler)
    with (
        pytest.raises(RuntimeError, match="fit fails"),
        pytest.warns(UserWarning, match="Epoch 0: nonfinite in first"),
    ):
        fit(net(), *data(96), [Fails(), monitor], epochs=2)
    assert [one[:2] for one in codes(monitor)] == [(0, "nonfinite")]
    assert monitor.stats


# The judge by himself ----------------------------------------------------------------


def saturated(*shares):
    return [
        LayerStats(name, "kernel", saturated_fraction=share, source="monitored")
        for name, share in zip(("hidden", "norm", "out"), shares, strict=True)
    ]


def test_a_fault_that_moves_is_the_same_fault():
    judge = Judge(mlp(), updates=False)
    assert judge.findings(saturated(0.1, 0.1, 0.1)) == []
    [found] = judge.findings(saturated(0.5, 0.1, 0.1))
    assert found.layer == "hidden"
    assert judge.findings(saturated(0.6, 0.9, 0.1)) == []


def test_what_is_not_known_of_a_model_silences_no_rule_of_signals():
    judge = Judge(object(), updates=False)
    [found] = judge.findings(saturated(0.5, 0.1, 0.1))
    assert found.code == "saturated-units"


def test_weights_are_looked_at_in_windows_that_double():
    model = mlp()
    judge = Judge(model, updates=False)
    seen = []
    for window in range(1, 9):
        if window == 5:
            model.get_layer("hidden").set_weights(
                [np.full((6, 8), np.nan), np.zeros(8)]
            )
        seen += [(window, one.code) for one in judge.findings(saturated(0, 0, 0))]
    assert seen == [(8, "nonfinite")]


def test_what_follows_from_a_told_fault_is_told_again_only_where_it_is_worse():
    judge = Judge(object(), updates=False)

    def window(large, share):
        return [
            LayerStats(
                "hidden",
                "kernel",
                second_moment=moment,
                saturated_fraction=share,
                source="monitored",
            )
            for moment in (1.0, large)
        ] + [LayerStats("out", "kernel", source="monitored")]

    [cause] = judge.findings(window(1e5, 0.0))
    assert (cause.code, cause.severity) == ("exploding-signal", "warning")
    assert judge.findings(window(1e5, 0.5)) == []
    [worse] = judge.findings([LayerStats("hidden", nonfinite=3, source="monitored")])
    assert worse.code == "nonfinite"
