"""After one call every kernel's output has the target, on that batch."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il


def _pixels(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype("float32")


def _plain():
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(16, 3, name="conv"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.ReLU(),
            layers.Conv2DTranspose(8, 3, strides=2, name="transpose"),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            *[layer for _ in range(5) for layer in (layers.Dense(64), layers.ReLU())],
            layers.Dense(10, name="head"),
        ]
    )


def test_outputs_have_the_target_as_measured_apart():
    model, x = _plain(), _pixels(64, 12, 12, 3)
    report = il.calibrate(model, x)
    assert report.passes == 1
    measured = {s.layer: s.second_moment for s in il.measure(model, x, gradients=False)}
    for row in report:
        assert measured[row.layer] == pytest.approx(row.target, rel=0.01)
    assert [row.target for row in report] == [1.0] * 8 + [0.1]
