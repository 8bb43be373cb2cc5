"""Files that hold no model, or none that can be loaded: one clear line each."""

import os
import sys
import zipfile

import keras
import pytest
from keras import layers

from keras_initlab.cli import main
from tests.cli.spoil import cut, flipped

LAYERS = """
import keras

print("imported")

@keras.saving.register_keras_serializable("mine")
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""


SPOILT = {
    "nothing": (lambda _: b"", "no model, or only the beginning of one"),
    "text": (lambda _: b"hello", "no model, or only the beginning of one"),
    "half": (cut, "no model, or only the beginning of one"),
    "flipped": (flipped, "is damaged: its model.weights.h5"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_archive(case, model, refused, inspected, tmp_path):
    spoil, reason = SPOILT[case]
    file = tmp_path / "model.keras"
    file.write_bytes(spoil(file.read_bytes()))
    assert reason in refused("inspect", "model.keras")
    assert reason in refused("rewrite", "model.keras", "--dry-run")


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"a.txt": "a"}, "there is no config.json in it"),
        ({"config.json": "{not"}, "cannot be loaded: JSONDecodeError"),
        ({"config.json": "{}", "metadata.json": "{}"}, "cannot be loaded"),
    ],
)
def test_archives_of_something_else(members, reason, refused, inspected):
    with zipfile.ZipFile("a.keras", "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    assert reason in refused("inspect", "a.keras")


def test_no_file(refused, inspected):
    assert "none.keras does not exist" in refused("inspect", "none.keras")


@pytest.mark.parametrize("name", ["saved", "saved.keras"])
def test_a_folder(name, refused, inspected):
    os.mkdir(name)
    assert f"{name} is a folder" in refused("inspect", name)


def test_another_kind_of_file(refused, inspected, tmp_path):
    (tmp_path / "model.pt").write_text("x")
    assert "ends in none of .keras, .h5" in refused("inspect", "model.pt")


def test_a_file_of_somebody_else(model, refused, inspected, monkeypatch):
    def deny(*_args, **_more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", deny)
    assert "cannot be read: Permission denied" in refused("inspect", "model.keras")


def test_weights_without_a_model(model, refused, inspected, tmp_path):
    model.save_weights("a.weights.h5")
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.weights.h5").read_bytes())
    for name in ("a.weights.h5", "b.h5"):
        assert f"{name} holds weights and no model" in refused("inspect", name)


def test_hdf5(model, refused, inspected, tmp_path, capsys):
    model.save("old.h5")
    capsys.readouterr()
    assert main(["inspect", "old.h5"]) == 0
    assert len(inspected) == 1
    capsys.readouterr()
    (tmp_path / "text.h5").write_text("hello")
    assert "text.h5 is no HDF5 file, or damaged" in refused("inspect", "text.h5")


@pytest.mark.parametrize("name", ["code.keras", "code.h5"])
def test_code_is_not_loaded_unless_the_user_says_so(name, refused, inspected, capsys):
    keras.Sequential([keras.Input((8,)), layers.Lambda(lambda x: 2 * x)]).save(name)
    capsys.readouterr()
    line = refused("inspect", name)
    assert f"{name} holds code" in line
    assert "pass --unsafe" in line
    assert inspected == []
    assert main(["inspect", name, "--unsafe"]) == 0
    assert len(inspected) == 1


def test_a_function_of_ones_own(refused, inspected):
    def twice(x):
        return 2 * x

    model = keras.Sequential([keras.Input((8,)), layers.Dense(3, activation=twice)])
    model.save("a.keras")
    line = refused("inspect", "a.keras")
    assert "needs the function 'twice', which is not known here" in line
    assert "--import MODULE" in line


def test_a_class_of_ones_own_is_imported(refused, inspected, tmp_path, capsys):
    (tmp_path / "my_layers_of_a_test.py").write_text(LAYERS)
    space = {}
    exec(LAYERS, space)
    keras.Sequential([keras.Input((8,)), space["Twice"]()]).save("a.keras")
    keras.saving.get_custom_objects().pop("mine>Twice")
    capsys.readouterr()
    try:
        line = refused("inspect", "a.keras")
        assert "class 'Twice' (registered as 'mine>Twice')" in line
        module = ["--import", "my_layers_of_a_test"]
        assert main(["inspect", "a.keras", *module, "--format", "json"]) == 0
        printed = capsys.readouterr()
        assert printed.out.startswith("{")
        assert "imported" in printed.err
        assert len(inspected) == 1
    finally:
        keras.saving.get_custom_objects().pop("mine>Twice", None)
        sys.modules.pop("my_layers_of_a_test", None)


def test_modules_that_cannot_be_imported(model, refused, inspected, tmp_path):
    line = refused("inspect", "model.keras", "--import", "no_such_module")
    assert "--import no_such_module fails with ModuleNotFoundError" in line
    (tmp_path / "broken_of_a_test.py").write_text("1 / 0")
    line = refused("inspect", "model.keras", "--import", "broken_of_a_test")
    assert "fails with ZeroDivisionError" in line


def test_names_with_codes_reach_no_terminal(refused, inspected):
    line = refused("inspect", "a\x1b[31m\nb.keras")
    assert "a\\x1b[31m b.keras does not exist" in line
