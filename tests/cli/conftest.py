"""Saved models and batches for the command; an inspection that is made by hand."""

import sys
import types

import keras
import numpy as np
import pytest
from keras import layers

from tests.report import inspections


@pytest.fixture(autouse=True)
def _in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # What --import adds to it.
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one])


@pytest.fixture
def model():
    """Return a model that is saved as model.keras."""
    made = keras.Sequential(
        [
            keras.Input((8,), name="in"),
            layers.Dense(16, activation="relu", name="one"),
            layers.Dense(3, name="two"),
        ],
        name="net",
    )
    made.save("model.keras")
    return made


@pytest.fixture
def batch():
    return np.random.default_rng(0).normal(size=(4, 8)).astype("float32")


@pytest.fixture
def inspected(monkeypatch):
    """Return what `inspect` is called with; it finds one of each severity."""
    calls = []

    def inspect(model, x=None):
        print("chatter")
        calls.append((model, x))
        return inspections.small()

    stand_in = types.ModuleType("keras_initlab.inspection")
    stand_in.inspect = inspect
    monkeypatch.setitem(sys.modules, "keras_initlab.inspection", stand_in)
    return calls


@pytest.fixture
def refused(capsys):
    """Return a function that runs the command on bad input and returns its one line."""
    from keras_initlab.cli import main

    def run(*arguments):
        assert main(arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("keras-initlab: ")
        assert printed.err.count("\n") == 1
        assert "Traceback" not in printed.err
        return printed.err

    return run
