"""Models with initlab initializers through every way that Keras saves and copies."""

import importlib.util
import json

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from tests.helpers import as_numpy, kernels, run_python


def by_name():
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, activation="relu", kernel_initializer="initlab>auto")(
        inputs
    )
    x = layers.Flatten()(x)
    x = layers.Dense(8, activation="gelu", kernel_initializer=il.Auto(seed=1))(x)
    x = layers.Dense(8, kernel_initializer=il.Scaled(layers.LeakyReLU(0.3)))(x)
    x = layers.LeakyReLU(0.3)(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


def rewritten():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.SeparableConv2D(4, 3),
            layers.BatchNormalization(),
            layers.LeakyReLU(0.3),
            layers.Reshape((36, 4)),
            layers.LSTM(6),
            layers.Dense(3, activation="softmax"),
        ]
    )
    il.rewrite_initializers(model, seed=0)
    return model


MODELS = [by_name, rewritten]
X = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype("float32")


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    """Return a model that was trained; no test changes it."""
    made = request.param()
    made.compile("adam", "sparse_categorical_crossentropy")
    made.fit(X, np.arange(5) % 3, verbose=0)
    return made


def initializers(model):
    found = []
    for layer in model._flatten_layers():
        for name in ("kernel_initializer", "depthwise_initializer"):
            if name in vars(layer):
                initializer = getattr(layer, name)
                found.append((type(initializer).__name__, initializer.get_config()))
    return json.loads(json.dumps(found))


def assert_same(one, two):
    np.testing.assert_array_equal(
        as_numpy(one(X, training=False)), as_numpy(two(X, training=False))
    )
    assert initializers(one) == initializers(two)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_save_and_load(model, suffix, tmp_path):
    path = tmp_path / f"model.{suffix}"
    model.save(path)
    options = {"safe_mode": True} if suffix == "keras" else {}
    assert_same(model, keras.saving.load_model(path, **options))


def test_weights(model, tmp_path):
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    other = keras.models.clone_model(model)
    other.load_weights(path)
    assert_same(model, other)


def test_json_and_config(model):
    for other in (
        keras.models.model_from_json(model.to_json()),
        type(model).from_config(model.get_config()),
        keras.models.clone_model(model),
    ):
        assert initializers(other) == initializers(model)
        other.set_weights(model.get_weights())
        assert_same(model, other)


@pytest.mark.tensorflow
def test_export(model, tmp_path):
    import tensorflow as tf

    model.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "exported"))
    served = loaded.serve(X)
    np.testing.assert_allclose(
        as_numpy(served), as_numpy(model(X, training=False)), rtol=1e-5, atol=1e-6
    )


def drawn():
    model = keras.Sequential(
        [
            keras.Input((6, 8)),
            layers.Dense(8, "gelu", kernel_initializer=il.Auto(seed=3)),
            layers.LSTM(4, kernel_initializer=il.Auto(seed=3)),
            layers.Dense(
                8, kernel_initializer=il.Scaled(2.0, "fan_avg", "uniform", seed=3)
            ),
            layers.Dense(
                8, kernel_initializer=il.Scaled(1.0, "fan_in", "normal", seed=3)
            ),
        ]
    )
    return [weight.tolist() for weight in model.get_weights() if weight.ndim == 2]


LOAD_AND_DRAW = """
import json
import numpy as np
import keras_initlab
import keras
model = keras.saving.load_model({path!r})
x = np.load({data!r})
y = keras.ops.convert_to_numpy(model(x, training=False))
np.save({out!r}, y)
from tests.test_saving import drawn
print(json.dumps([keras.backend.backend(), drawn()]))
"""


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_loads_and_draws_alike_in_another_process_under_any_backend(backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    if keras.backend.backend() not in ("jax", backend):
        pytest.skip("one backend against all three tells the same of every pair")
    model = rewritten()
    path, data, out = (
        str(tmp_path / name) for name in ("model.keras", "x.npy", "y.npy")
    )
    model.save(path)
    np.save(data, X)
    here = drawn()
    printed = run_python(
        LOAD_AND_DRAW.format(path=path, data=data, out=out), backend=backend
    )
    name, there = json.loads(printed.splitlines()[-1])
    assert name == backend
    np.testing.assert_allclose(
        np.load(out), as_numpy(model(X, training=False)), rtol=1e-5, atol=1e-6
    )
    assert len(here) == 5
    for index in (0, 1, 3, 4):  # 2 is Keras's own recurrent kernel
        np.testing.assert_array_equal(here[index], there[index])


@pytest.mark.jax  # where Python starts in half the time
def test_loading_without_the_package_says_what_is_missing(tmp_path):
    path = str(tmp_path / "model.keras")
    by_name().save(path)
    printed = run_python(
        "import keras\n"
        "try:\n"
        f"    keras.saving.load_model({path!r})\n"
        "except Exception as error:\n"
        "    print(error)\n"
    )
    assert "could not be deserialized" in printed
    assert "initlab>auto" in printed
    assert "Auto" in printed


def test_kernels_are_drawn_not_copied(model):
    """A clone has new weights, as a clone of any Keras model has."""
    assert not np.array_equal(
        kernels(model)[0], kernels(keras.models.clone_model(model))[0]
    )
