"""Of sound networks nothing is said at all, not even what is only worth knowing."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_initlab as il
from tests.diagnosis.cases import batch
from tests.diagnosis.healthy_architectures import ARCHITECTURES, whole_bytes
from tests.diagnosis.healthy_small_starts import SMALL_STARTS

UNTRAINED = [one for one in (*ARCHITECTURES, *SMALL_STARTS) if one.phase == "batch"]

# The smallest images that they take, where that is more than 32 pixels. Not among them
# are those that take more than a few seconds, and VGG, in which Keras's default kernels
# lose the signal indeed.
APPLICATIONS = {
    "ConvNeXtTiny": 64,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "InceptionV3": 75,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "Xception": 71,
}


@pytest.mark.torch
@pytest.mark.parametrize("case", UNTRAINED, ids=lambda case: case.name)
def test_nothing_is_said_of_an_untrained_network(case):
    model = case.build()
    x, y = case.data()
    assert [str(one) for one in il.diagnose(model)] == []
    told = il.diagnose(model, batch(x), batch(y))
    assert [str(one) for one in told] == []


def convolution_behind(operation, shape, dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype)
    x = layers.Conv2D(8, 3, kernel_initializer="he_normal")(operation(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


SCALING = {
    "divided": lambda x: ops.cast(x, "float32") / 255,
    "Rescaling": layers.Rescaling(1 / 255),
    "Lambda": lambda x: layers.Lambda(lambda y: ops.cast(y, "float32") / 127 - 1)(x),
}
MOVING = {
    "Reshape": layers.Reshape((8, 8, 1)),
    "cast": lambda x: ops.reshape(ops.cast(x, "float32"), (-1, 8, 8, 1)),
    "Lambda": layers.Lambda(lambda x: ops.reshape(x, (-1, 8, 8, 1))),
    "augmentation": lambda x: layers.RandomRotation(0.1)(layers.Reshape((8, 8, 1))(x)),
}


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("name", SCALING)
def test_bytes_that_the_model_scales_are_no_fault(name, dtype):
    model = convolution_behind(SCALING[name], (8, 8, 1), dtype)
    x, _ = whole_bytes()
    assert codes(il.diagnose(model, x[:64].astype(dtype))) == []


@pytest.mark.parametrize("name", MOVING)
def test_bytes_that_the_model_only_moves_are_told(name):
    model = convolution_behind(MOVING[name], (64,))
    x, _ = whole_bytes()
    x = x[:64].reshape(-1, 64).astype("float32")
    assert "input-scale" in codes(il.diagnose(model, x))


def codes(findings):
    return [one.code for one in findings]


def test_one_of_two_inputs_is_scaled():
    image, other = keras.Input((8, 8, 1), name="image"), keras.Input((64,), name="row")
    x = layers.Flatten()(layers.Conv2D(8, 3)(image / 255))
    x = layers.Concatenate()([x, layers.Dense(8)(other)])
    model = keras.Model([image, other], layers.Dense(3)(x))
    x, _ = whole_bytes()
    x = x[:64].astype("float32")
    told = il.diagnose(model, [x, x.reshape(-1, 64)])
    assert [one.layer for one in told if one.code == "input-scale"] == ["row"]


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("name", APPLICATIONS)
def test_nothing_is_said_of_keras_applications(name):
    shape = (APPLICATIONS[name],) * 2 + (3,)
    model = getattr(keras.applications, name)(weights=None, input_shape=shape)
    assert [str(one) for one in il.diagnose(model)] == []
    x = np.random.default_rng(0).uniform(0, 255, (8, *shape)).astype("float32")
    if name.startswith(("DenseNet", "Inception", "MobileNet", "ResNet", "Xception")):
        x = x / 127.5 - 1  # as their `preprocess_input` does; the others do it inside
    assert [str(one) for one in il.diagnose(model, x)] == []
