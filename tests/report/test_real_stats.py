"""Reports of figures that propagate and measure have found."""

import json

import jsonschema
import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from keras_initlab.report import InspectedLayer, Inspection
from tests.report.test_html import Page
from tests.report.test_jsonform import SCHEMA, strict


@pytest.fixture(scope="module")
def real():
    inner = keras.Sequential(
        [keras.Input((6, 6, 4)), layers.Conv2D(8, 3, name="conv"), layers.ReLU()],
        name="encoder",
    )
    shared = layers.Dense(8, activation="tanh", name="shared")
    inputs = keras.Input((6, 6, 4), name="in")
    x = layers.GlobalAveragePooling2D(name="pool")(inner(inputs))
    outputs = layers.Dense(3, name="head")(shared(shared(x)))
    model = keras.Model(inputs, outputs, name="real")
    x = np.random.default_rng(0).normal(size=(16, 6, 6, 4)).astype("float32")
    x[0] = np.inf
    measured = {one.layer: one for one in il.measure(model, x)}
    predicted = {one.layer: one for one in il.propagate(model)}
    names = dict.fromkeys([*measured, *predicted])
    found = [
        InspectedLayer(
            name, "Layer", predicted=predicted.get(name), measured=measured.get(name)
        )
        for name in names
    ]
    findings = tuple(il.diagnose(list(measured.values())))
    return Inspection("real", tuple(found), findings, data=f"x of shape {x.shape}")


def test_json_fits_the_schema(real):
    assert real.findings
    jsonschema.validate(strict(real.json()), SCHEMA)
    json.dumps(real.records)


def test_every_layer_has_a_row(real):
    text, page = real.text(), Page(real.html())
    names = [one.layer for one in real.layers]
    assert {"encoder/conv", "shared#0", "shared#1", "head"} <= set(names)
    for name in names:
        assert f" {name} " in text
        assert name in page.text
    assert page.tags.count("tr") == 1 + len(names)
