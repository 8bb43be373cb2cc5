"""Of sound networks nothing is said at all, not even what is only worth knowing."""

import keras
import numpy as np
import pytest

import keras_initlab as il
from tests.diagnosis.cases import batch
from tests.diagnosis.healthy_architectures import ARCHITECTURES
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
