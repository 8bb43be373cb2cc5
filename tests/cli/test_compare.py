import json
import os
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_initlab.cli import main
from tests.bench import networks

ARGUMENTS = ["compare", "model.keras", "--data", "train.npz", "--epochs", "2"]


@pytest.fixture
def trained():
    """Save a compiled, trained model and data; return the model."""
    x, y = networks.data()
    np.savez("train.npz", x=x, y=y)
    model = networks.small()
    model.fit(x, y, verbose=0)
    model.save("model.keras")
    return model


def test_prints_a_table_and_keeps_the_runs(trained, capsys):
    more = ["--candidate", "as-built", "--candidate", "zeros", "--seeds", "2"]
    assert main([*ARGUMENTS, *more, "--runs", "runs.jsonl", "--width", "80"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Comparison: 2 candidates, 2 seeds, 2 epochs\n")
    assert "val_accuracy" in printed
    assert max(map(len, printed.splitlines())) <= 80
    rows = [json.loads(line) for line in Path("runs.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    # Drawn anew for each seed, not those in the file.
    first, second = (row["run"]["initial"]["loss"] for row in rows[::2])
    assert first != second


def test_other_forms(trained, capsys):
    more = ["--candidate", "zeros", "--seeds", "1"]
    assert main([*ARGUMENTS, *more, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["best"] == "zeros"
    assert found["candidates"][0]["seeds"] == 1
    assert main([*ARGUMENTS, *more, "-o", "page.html"]) == 0
    assert "<table>" in Path("page.html").read_text()


def test_the_default_candidates_of_a_model_that_is_not_compiled(capsys):
    x, y = networks.data()
    np.savez("train.npz", x=x, y=y)
    model = networks.small()
    keras.Sequential(model.layers).save("model.keras")
    more = ["--loss", "sparse_categorical_crossentropy", "--metric", "accuracy"]
    assert main([*ARGUMENTS, *more, "--seeds", "1", "--epochs", "1"]) == 0
    printed = capsys.readouterr().out
    for name in ("as built", "activation", "variance", "isometric", "calibrate"):
        assert name in printed


def test_bad_input(trained, refused):
    keras.Sequential(trained.layers).save("bare.keras")
    assert "pass --loss" in refused("compare", "bare.keras", "--data", "train.npz")
    line = refused(*ARGUMENTS, "--candidate", "he_norml")
    assert "Did you mean 'he_normal'?" in line
    np.savez("x.npz", x=networks.data()[0])
    assert "named 'y'" in refused("compare", "model.keras", "--data", "x.npz")
    assert "is one of the inputs" in refused(*ARGUMENTS, "-o", "train.npz")
    assert sorted(os.listdir()) == ["bare.keras", "model.keras", "train.npz", "x.npz"]
