"""Whole architectures: keras.applications and KerasHub's backbones, random weights."""

import keras
import numpy as np
import pytest

import keras_initlab as il
from tests.calibration.models import tokens, uniform

QUICK = {"MobileNetV2": 32}
SLOW = {
    "ConvNeXtTiny": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "InceptionResNetV2": 75,
    "InceptionV3": 75,
    "MobileNet": 32,
    "MobileNetV3Small": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "VGG16": 32,
    "Xception": 71,
}
APPLICATIONS = [
    *[pytest.param(*one, id=one[0]) for one in QUICK.items()],
    *[pytest.param(*one, id=one[0], marks=pytest.mark.slow) for one in SLOW.items()],
]
LAYERS = {"num_layers": 2, "hidden_dim": 32}
TEXT = {"vocabulary_size": 50, **LAYERS, "intermediate_dim": 64}
HEADS = {**TEXT, "num_heads": 2, "max_sequence_length": 64, "dropout": 0.0}
BACKBONES = {
    "Bert": HEADS,
    "GPT2": HEADS,
    "Llama": {**TEXT, "num_query_heads": 2, "num_key_value_heads": 1},
    "ViT": {
        **LAYERS,
        "image_shape": (32, 32, 3),
        "patch_size": (8, 8),
        "num_heads": 2,
        "mlp_dim": 64,
    },
    "ResNet": {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 64],
        "stackwise_num_blocks": [2, 2],
        "stackwise_num_strides": [1, 2],
        "block_type": "basic_block",
        "image_shape": (32, 32, 3),
    },
}


def assert_calibrated(model, x):
    """Assert each row's target, and apart from the report that of linear layers."""
    report = il.calibrate(model, x)
    assert report.passes == 1
    assert not report.remarks
    layers = {layer.name: layer for layer in model._flatten_layers()}
    seen = moments(model, x)
    compared, bent = 0, []
    for row in report:
        assert row.changed, row
        assert row.after == pytest.approx(row.target, rel=0.01), row
        layer = layers[row.layer.split("/")[-1]]
        if row.weight not in ("kernel", "pointwise_kernel") or row.layer not in seen:
            continue
        if getattr(layer, "activation", None) in (None, keras.activations.linear):
            assert seen[row.layer] == pytest.approx(row.target, rel=0.01), row
            compared += 1
        else:
            bent.append((row, layer))
    # Of layers that have activations of their own, some, without them.
    for row, layer in bent[:: len(bent) // 5 + 1]:
        activation, layer.activation = layer.activation, keras.activations.linear
        found = moments(model, x)[row.layer]
        layer.activation = activation
        assert found == pytest.approx(row.target, rel=0.01), row
        compared += 1
    assert compared >= min(4, len(report) / 3)
    return report


def moments(model, x):
    return {s.layer: s.second_moment for s in il.measure(model, x, gradients=False)}


@pytest.mark.parametrize(("name", "size"), APPLICATIONS)
def test_applications(name, size):
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(size, size, 3), classes=10)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0  # which would drop other elements where it is measured
    assert_calibrated(model, 255 * uniform(8, size, size, 3))


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones(name):
    models = pytest.importorskip("keras_hub.models")
    model = getattr(models, f"{name}Backbone")(**BACKBONES[name])
    x = uniform(16, 32, 32, 3)
    if isinstance(model.input, dict):
        kinds = {"padding_mask": np.ones, "segment_ids": np.zeros}
        x = {
            one.name: kinds[one.name]((16, 64), "int32")
            if one.name in kinds
            else tokens(16, 64)
            for one in model.inputs
        }
    report = assert_calibrated(model, x)
    branches = [row for row in report if "residual branch" in row.note]
    assert len(branches) == 4
