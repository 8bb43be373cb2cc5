"""`live=True`: a figure that is redrawn in a notebook, a line of text elsewhere."""

import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from keras_initlab.monitor.live import line
from keras_initlab.stats import LayerStats


def fit(epochs=3, verbose=0, **settings):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, "relu", name="a"),
            layers.Dense(4, name="b"),
        ]
    )
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    monitor = il.VarianceMonitor(every=1, live=True, on_finding="ignore", **settings)
    model.fit(x, x[:, :4], epochs=epochs, verbose=verbose, callbacks=[monitor])
    return monitor


@pytest.fixture
def notebook(monkeypatch):
    """Stand in for IPython in a notebook's kernel; return what it was told to show."""
    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append(("update", data, raw))

    def display(data, raw, display_id):
        shown.append(("display", data, raw))
        return Handle() if display_id else None

    ipython = SimpleNamespace(
        version_info=(9, 0, 0),  # which matplotlib looks at
        get_ipython=lambda: SimpleNamespace(kernel=object()),
        display=SimpleNamespace(display=display),
    )
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    return shown


def test_a_terminal_gets_a_line_an_epoch_behind_the_progress_bar(capsys):
    monitor = fit(verbose=1)
    printed = capsys.readouterr().out.splitlines()
    at = [i for i, text in enumerate(printed) if text.startswith("epoch ")]
    assert len(at) == 3
    assert printed[at[-1]] == line(monitor).rstrip() or printed[at[-1]] == line(monitor)
    for i in at:
        # The bar above has its loss, and is complete.
        assert "loss" in printed[i - 1]
        assert "2/2" in printed[i - 1]


@pytest.mark.torch
def test_a_notebook_has_one_picture_redrawn_at_each_epoch(notebook, capsys):
    fit()
    assert [how for how, *_ in notebook] == ["display", "update", "update"]
    pictures = [data["image/png"] for _, data, _ in notebook]
    assert all(png.startswith(b"\x89PNG") for png in pictures)
    assert len(set(pictures)) == 3
    assert all(raw for *_, raw in notebook)
    assert capsys.readouterr().out == ""


@pytest.mark.torch
def test_another_fit_has_a_picture_of_its_own(notebook):
    monitor = fit(epochs=1)
    monitor.model.fit(np.ones((8, 8)), np.ones((8, 4)), verbose=0, callbacks=[monitor])
    assert [how for how, *_ in notebook] == ["display", "display"]


@pytest.mark.once
def test_nothing_is_printed_unless_asked(capsys):
    monitor = il.VarianceMonitor(every=1)
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4)])
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 8)), np.ones((8, 4)), verbose=0, callbacks=[monitor])
    assert capsys.readouterr().out == ""


@pytest.mark.once
def test_the_line_holds_the_course_its_ends_and_what_is_not_finite():
    stats = [
        LayerStats(f"d{i}", variance=10.0**-i, source="monitored") for i in range(8)
    ]
    stats.append(LayerStats("bad", nonfinite=3, source="monitored"))
    text = line(SimpleNamespace(stats=stats, epochs=[0, 4]))
    assert text == (
        "epoch 4: variance by depth █▇▆▅▄▃▂▁ 1e-07 (d7) to 1 (d0), 1 not finite"
    )


@pytest.mark.once
def test_many_layers_fit_a_line():
    stats = [LayerStats(f"d{i}", variance=1.0, source="monitored") for i in range(155)]
    assert len(line(SimpleNamespace(stats=stats, epochs=[0]))) < 110
