import os
import stat

import keras
import numpy as np
import pytest

from keras_initlab.cli import main
from tests.helpers import kernels


def rewritten(name):
    model = keras.saving.load_model(name)
    return [layer.kernel_initializer.__class__.__name__ for layer in model.layers]


def test_saves_another_model(model, capsys, tmp_path):
    before = (tmp_path / "model.keras").read_bytes()
    assert main(["rewrite", "model.keras", "-o", "new.keras", "--seed", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "net: 2 of 2 kernels rewritten"
    assert lines[-1] == "saved: new.keras"
    assert rewritten("new.keras") == ["Mirrored", "Mirrored"]
    assert (tmp_path / "model.keras").read_bytes() == before
    assert sorted(os.listdir()) == ["model.keras", "new.keras"]


@pytest.mark.parametrize("scheme", ["auto", "activation", "variance", "isometric"])
def test_schemes_and_seeds(scheme, model):
    drawn = []
    for name in ("a.keras", "b.keras"):
        more = ["--scheme", scheme, "--seed", "3"]
        assert main(["rewrite", "model.keras", "-o", name, *more]) == 0
        drawn.append(kernels(keras.saving.load_model(name)))
    for a, b in zip(*drawn, strict=True):
        assert (a == b).all()


def test_skip(model):
    more = ["--skip", "one", "--seed", "0", "--scheme", "activation"]
    assert main(["rewrite", "model.keras", "-o", "new.keras", *more]) == 0
    assert rewritten("new.keras") == ["GlorotUniform", "Auto"]


def test_data(model, batch, capsys, refused):
    np.save("batch.npy", 3.0 * batch)
    more = ["--data", "batch.npy", "--seed", "0", "--scheme", "activation"]
    assert main(["rewrite", "model.keras", "-o", "new.keras", *more]) == 0
    assert "measured: in: mean" in capsys.readouterr().out
    assert rewritten("new.keras") == ["Scaled", "Auto"]
    np.save("zeros.npy", 0.0 * batch)
    line = refused("rewrite", "model.keras", "--dry-run", "--data", "zeros.npy")
    assert "is 0 at 'in'" in line


@pytest.mark.parametrize(
    "options", [[], ["--only-defaults"], ["--no-only-defaults"]], ids=str
)
def test_what_somebody_has_chosen(options):
    inputs = keras.Input((8,))
    chosen = keras.layers.Dense(
        8, "relu", kernel_initializer="lecun_normal", name="chosen"
    )
    # A head that is far smaller than usual is left alone unless asked.
    small = keras.initializers.RandomNormal(stddev=1e-4)
    head = keras.layers.Dense(3, kernel_initializer=small, name="head")
    keras.Model(inputs, head(chosen(inputs))).save("model.keras")
    more = ["--scheme", "activation", *options]
    assert main(["rewrite", "model.keras", "-o", "new.keras", *more]) == 0
    layers = keras.saving.load_model("new.keras").layers[1:]
    names = [layer.kernel_initializer.__class__.__name__ for layer in layers]
    expected = "LecunNormal" if options == ["--only-defaults"] else "Auto"
    assert names[0] == expected
    assert (names[1] == "Auto") == (options == ["--no-only-defaults"])


@pytest.mark.parametrize("options", [[], ["--redraw"]], ids=str)
def test_what_a_model_has_learned_is_drawn_over_with_a_warning_unless_meant(
    options, model, capsys
):
    for layer in model.layers:
        layer.bias.assign(layer.bias + 0.3)
    model.save("model.keras")
    assert main(["rewrite", "model.keras", "-o", "new.keras", *options]) == 0
    assert ("what they have learned is lost" in capsys.readouterr().err) != bool(
        options
    )


def test_a_dry_run_saves_nothing(model, capsys):
    assert main(["rewrite", "model.keras", "-o", "new.keras", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "2 kernels to rewrite (dry run)" in out
    assert "assumed: scheme='auto' chose Isometric()" in out
    assert "saved" not in out
    assert os.listdir() == ["model.keras"]
    assert main(["rewrite", "model.keras", "--dry-run"]) == 0


def test_nothing_is_replaced_unless_the_user_says_so(model, refused, tmp_path):
    (tmp_path / "new.keras").write_text("precious")
    line = refused("rewrite", "model.keras", "-o", "new.keras")
    assert "new.keras exists. Pass --force" in line
    assert (tmp_path / "new.keras").read_text() == "precious"
    assert "is the model itself" in refused(
        "rewrite", "model.keras", "-o", "model.keras"
    )
    os.chmod("new.keras", 0o640)
    assert main(["rewrite", "model.keras", "-o", "new.keras", "--force"]) == 0
    assert rewritten("new.keras") == ["Mirrored", "Mirrored"]
    assert stat.S_IMODE(os.stat("new.keras").st_mode) == 0o640


def test_in_place(model):
    assert main(["rewrite", "model.keras", "-o", "model.keras", "--force"]) == 0
    assert rewritten("model.keras") == ["Mirrored", "Mirrored"]


def test_a_link_stays_a_link(model, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "new.keras").write_text("old")
    os.symlink("there/new.keras", "link.keras")
    assert main(["rewrite", "model.keras", "-o", "link.keras", "--force"]) == 0
    assert os.path.islink("link.keras")
    assert rewritten("there/new.keras") == ["Mirrored", "Mirrored"]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), ValueError("odd")])
def test_what_cannot_be_saved_leaves_nothing(
    error, model, refused, monkeypatch, tmp_path
):
    (tmp_path / "new.keras").write_text("precious")

    def fail(_self, path, *_args, **_more):
        path.write_text("half")
        raise error

    monkeypatch.setattr(keras.Model, "save", fail)
    line = refused("rewrite", "model.keras", "-o", "new.keras", "--force")
    assert "new.keras cannot be" in line
    assert sorted(os.listdir()) == ["model.keras", "new.keras"]
    assert (tmp_path / "new.keras").read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "needs -o OUT.keras, or --dry-run"),
        (["-o", "new.h5"], "must end in .keras"),
        (["-o", "."], "is a folder"),
        (["-o", "nowhere/new.keras"], "there is no folder nowhere"),
        (["--dry-run", "--skip", "three"], "Received: 'three'"),
    ],
)
def test_bad_input(arguments, reason, model, refused):
    assert reason in refused("rewrite", "model.keras", *arguments)
    assert os.listdir() == ["model.keras"]


def test_a_model_that_is_not_built(refused):
    keras.Sequential([keras.layers.Dense(3)]).save("model.keras")
    line = refused("rewrite", "model.keras", "--dry-run")
    assert "`model` must be built" in line


def test_an_unknown_scheme(model, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["rewrite", "model.keras", "--dry-run", "--scheme", "best"])
    assert caught.value.code == 2
    assert capsys.readouterr().out == ""
