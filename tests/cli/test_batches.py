"""--data: what is measured on, and what does not fit the model."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_initlab.cli import main
from tests.cli.spoil import cut, flipped

SAVED = {
    "one array": {"anything": (4, 8)},
    "x among others": {"x": (4, 8), "y": (4,)},
    "the input's name": {"in": (4, 8), "y": (4,)},
}


@pytest.mark.parametrize("case", SAVED)
def test_data(case, model, inspected):
    arrays = {name: np.ones(shape) for name, shape in SAVED[case].items()}
    np.savez("batch.npz", **arrays)
    assert main(["inspect", "model.keras", "--data", "batch.npz"]) == 0
    assert inspected[0][1].shape == (4, 8)


def test_data_of_one_array(model, batch, inspected):
    np.save("batch.npy", batch)
    assert main(["inspect", "model.keras", "--data", "batch.npy"]) == 0
    np.testing.assert_array_equal(inspected[0][1], batch)


MISFITS = {
    "width": (
        np.ones((4, 9)),
        "holds an array of shape (4, 9) and dtype float64; "
        "the model's input 'in' takes (None, 8)",
    ),
    "rank": (np.ones((4, 8, 2)), "does not fit"),
    "single": (np.ones(8), "write x[None]"),
    "empty": (np.ones((0, 8)), "has no inputs"),
    "scalar": (np.ones(()), "has no inputs"),
    "texts": (np.full((4, 8), "a"), "takes (None, 8) of dtype float32"),
    "objects": (np.full((4, 8), None), "holds Python objects, which are not loaded"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_data_that_does_not_fit(case, model, inspected, refused):
    array, reason = MISFITS[case]
    np.savez("batch.npz", x=array)
    assert reason in refused("inspect", "model.keras", "--data", "batch.npz")
    assert inspected == []


def test_data_without_what_is_wanted(model, inspected, refused):
    np.savez("batch.npz", a=np.ones((4, 8)), b=np.ones(4))
    line = refused("inspect", "model.keras", "--data", "batch.npz")
    assert "one named 'x' or 'in'. Received: 'a', 'b'" in line


@pytest.mark.parametrize("spoil", [lambda _: b"", lambda _: b"hello", cut, flipped])
@pytest.mark.parametrize("name", ["batch.npz", "batch.npy"])
def test_data_that_is_spoilt(name, spoil, model, inspected, refused, tmp_path):
    file = tmp_path / name
    if name == "batch.npy" and spoil is flipped:
        return  # numbers like any others: an .npy file has no checksum
    (np.savez if name == "batch.npz" else np.save)(file, np.ones((4, 8)))
    file.write_bytes(spoil(file.read_bytes()))
    line = refused("inspect", "model.keras", "--data", name)
    assert f"--data {name} is" in line
    assert "damaged" in line


def test_no_data_file(model, inspected, refused, tmp_path):
    line = refused("inspect", "model.keras", "--data", "none.npz")
    assert "--data none.npz does not exist" in line
    assert "is a folder" in refused("inspect", "model.keras", "--data", str(tmp_path))


def two_inputs(nested):
    left, right = keras.Input((4,), name="left"), keras.Input((5,), name="right")
    joined = layers.Concatenate()([left, right])
    both = {"left": left, "right": right} if nested else [left, right]
    return keras.Model(both, layers.Dense(2)(joined))


@pytest.mark.parametrize("nested", [False, True], ids=["list", "dict"])
def test_data_for_two_inputs(nested, inspected, refused):
    two_inputs(nested).save("two.keras")
    np.savez("batch.npz", right=np.ones((3, 5)), left=np.ones((3, 4)), y=np.ones(3))
    assert main(["inspect", "two.keras", "--data", "batch.npz"]) == 0
    ((model, x),) = inspected
    assert isinstance(x, dict if nested else list)
    assert model(x).shape == (3, 2)


def test_data_that_does_not_fit_two_inputs(inspected, refused):
    two_inputs(nested=False).save("two.keras")
    np.savez("one.npz", x=np.ones((3, 4)))
    line = refused("inspect", "two.keras", "--data", "one.npz")
    assert (
        "an array for each input of the model: 'left', 'right'. Received: 'x'" in line
    )
    np.savez("uneven.npz", left=np.ones((3, 4)), right=np.ones((2, 5)))
    line = refused("inspect", "two.keras", "--data", "uneven.npz")
    assert "Received: 3 of 'left', 2 of 'right'" in line


def test_images_without_channels_fit_as_keras_has_it(inspected):
    keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten()]).save("image.keras")
    np.savez("batch.npz", x=np.ones((4, 6, 6)))
    assert main(["inspect", "image.keras", "--data", "batch.npz"]) == 0
