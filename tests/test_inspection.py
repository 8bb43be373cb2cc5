"""inspect and diagnose on real models: what is filled in, and what is refused."""

import datetime
import json
import math

import jsonschema
import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from keras_initlab.stats import LayerStats
from tests.report.test_html import Page
from tests.report.test_jsonform import SCHEMA, strict

EVIL = "<script>alert(1)</script>"


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def images():
    """Return a model with nested and shared layers, and one of each usual kind."""
    inner = [
        layers.Conv2D(8, 3, kernel_initializer="he_normal", name="conv"),
        layers.ReLU(name="relu"),
    ]
    encoder = keras.Sequential([keras.Input((6, 6, 4)), *inner], name="encoder")
    shared = layers.Dense(8, activation="tanh", name="shared")
    inputs = keras.Input((6, 6, 4), name="in")
    x = layers.GlobalAveragePooling2D(name="pool")(encoder(inputs))
    outputs = layers.Dense(3, name="head")(shared(shared(x)))
    return keras.Model(inputs, outputs, name="images")


@pytest.fixture(scope="module")
def known():
    """Return inspections of one model, without a batch and with one."""
    keras.utils.set_random_seed(0)
    model, x = images(), normal(16, 6, 6, 4)
    return il.inspect(model), il.inspect(model, x), model, x


def by_name(inspection):
    return {one.layer: one for one in inspection.layers}


@pytest.mark.parametrize("which", [0, 1], ids=["without", "with"])
def test_what_is_known_of_a_kernel(known, which):
    found = by_name(known[which])
    conv = found["encoder/conv"]
    assert (conv.kind, conv.weight) == ("Conv2D", "kernel")
    assert conv.kernel_shape == (3, 3, 4, 8)
    assert (conv.fan_in, conv.fan_out) == (36, 72)
    assert (conv.nonlinearity, conv.initializer) == ("relu", "HeNormal")
    for call in ("shared#0", "shared#1"):
        assert found[call].kernel_shape == (8, 8)
        assert found[call].nonlinearity == "tanh"
        assert found[call].initializer == "GlorotUniform"
    assert found["head"].nonlinearity == "linear"
    pool = found["pool"]
    assert pool.kind == "GlobalAveragePooling2D"
    unknown = (pool.weight, pool.kernel_shape, pool.fan_in, pool.nonlinearity)
    assert unknown == (None,) * 4


def test_figures_without_a_batch_are_predicted(known):
    inspection, _, model, _ = known
    assert inspection.data is None
    predicted = {one.layer: one for one in il.propagate(model, from_weights=True)}
    for one in inspection.layers:
        assert one.measured is None
        assert one.predicted == predicted[one.layer]
        assert one.predicted.variance > 0
        assert one.predicted.gradient_second_moment is not None
    assert any("pass a batch" in note for note in inspection.notes)


def test_figures_with_a_batch_are_measured_as_well(known):
    _, inspection, model, x = known
    assert inspection.data == "x of shape (16, 6, 6, 4)"
    measured = {one.layer: one for one in il.measure(model, x)}
    assert [one.layer for one in inspection.layers] == [*measured]
    for one in inspection.layers:
        assert one.measured == measured[one.layer]
        assert one.measured.source == "measured"
        assert one.predicted.source == "predicted"
        assert math.isclose(one.predicted.variance, one.measured.variance, rel_tol=1)
    assert not any("pass a batch" in note for note in inspection.notes)


def test_an_inspection_says_of_what_it_is_and_when_and_with_what(known):
    _, inspection, model, _ = known
    origin = inspection.origin
    assert inspection.parameters == model.count_params()
    assert inspection.file is None
    made = datetime.datetime.fromisoformat(origin.created)
    assert abs(datetime.datetime.now(datetime.UTC) - made) < datetime.timedelta(hours=1)
    assert origin.backend == keras.backend.backend()
    assert origin.versions["keras"] == keras.__version__
    assert origin.versions["keras-initlab"] == il.__version__
    assert origin.versions[origin.backend]


def test_seeds_do_not_fill_every_row():
    seeded = keras.initializers.HeNormal(seed=12345)
    dense = layers.Dense(4, kernel_initializer=seeded, name="dense")
    inspection = il.inspect(keras.Sequential([keras.Input((4,)), dense]))
    assert inspection.layers[0].initializer == "HeNormal"


def test_the_prediction_is_of_inputs_like_those_given(known):
    *_, model, x = known
    found = by_name(il.inspect(model, 10 * x))["encoder/conv"]
    usual = by_name(il.inspect(model))["encoder/conv"]
    ratio = found.predicted.variance / usual.predicted.variance
    assert ratio == pytest.approx(100, rel=0.1)


def test_findings_are_those_of_diagnose(known):
    bare, full, model, x = known
    assert list(bare.findings) == il.diagnose(model)
    assert list(full.findings) == il.diagnose(model, x)
    assert "input-scale" in [one.code for one in il.inspect(model, 1e4 * x).findings]


@pytest.mark.parametrize("which", [0, 1], ids=["without", "with"])
def test_all_forms_of_a_real_inspection(known, which):
    inspection = known[which]
    text, page = inspection.text(), Page(inspection.html())
    for one in inspection.layers:
        assert f" {one.layer} " in text
        assert one.layer in page.text
    assert page.tags.count("tr") == 1 + len(inspection.layers)
    jsonschema.validate(strict(inspection.json()), SCHEMA)
    assert len(inspection.records) == len(inspection.layers)
    assert "image" in inspection._repr_html_()
    inspection.plot().canvas.draw()
    assert repr(inspection).startswith("<Inspection of 'images': 6 layers, ")


def test_print(known, capsys):
    print(known[1].text())
    told = capsys.readouterr().out
    assert told.startswith("images: 6 layers, measured on x of shape (16, 6, 6, 4)")
    assert "HeNormal" in told


def test_a_name_that_would_run_is_escaped():
    # Keras takes no slash in a name; a path has them.
    outer, inner = EVIL.split("/")
    dense = layers.Dense(4, "relu", kernel_initializer="zeros", name=inner)
    nested = keras.Sequential([keras.Input((4,)), dense], name=outer)
    model = keras.Sequential(
        [keras.Input((4,)), nested, layers.Dense(2, name="head")], name="<b>evil"
    )
    inspection = il.inspect(model, normal(8, 4))
    assert EVIL in [one.layer for one in inspection.layers]
    assert EVIL in [one.layer for one in inspection.findings]
    html = inspection.html()
    page = Page(html)
    assert "<script" not in html
    assert "<b>" not in html
    assert EVIL in page.text
    assert EVIL in inspection.text()
    jsonschema.validate(strict(inspection.json()), SCHEMA)


def test_three_hundred_layers():
    rows = [
        layers.Dense(4, "tanh", kernel_initializer="glorot_normal", name=f"dense_{i}")
        for i in range(300)
    ]
    model = keras.Sequential([keras.Input((4,)), *rows])
    inspection = il.inspect(model)
    assert len(inspection.layers) == 300
    assert len(str(inspection).splitlines()) > 300
    assert Page(inspection.html()).tags.count("tr") == 301
    json.loads(inspection.json())


def test_usage():
    model = keras.Sequential(
        [
            keras.Input((64,)),
            *(layers.Dense(64, "relu") for _ in range(30)),
            layers.Dense(10, "softmax"),
        ]
    )
    [finding] = il.diagnose(model)
    assert finding.code == "initializer-mismatch"
    assert "vanishing-signal" in finding.follows
    assert "il.rewrite_initializers(model)" in finding.remedy
    il.rewrite_initializers(model, scheme="isometric")
    left = il.inspect(model, normal(64, 64)).findings
    assert [one for one in left if one.severity != "info"] == []


# What is not built, or no model -------------------------------------------------------


def test_a_model_that_is_not_built_is_built_by_a_batch():
    def fresh():
        return keras.Sequential([layers.Dense(4, "tanh"), layers.Dense(2)], name="late")

    for function in (il.diagnose, il.inspect):
        with pytest.raises(ValueError, match=r"'late' is not built.* keras\.Input, or"):
            function(fresh())
    model = fresh()
    assert il.inspect(model, normal(8, 3)).layers[0].kernel_shape == (3, 4)
    assert model.built
    assert il.diagnose(fresh(), normal(8, 3)) == []


def test_a_batch_that_does_not_fit_is_refused(known):
    *_, model, _ = known
    with pytest.raises(Exception, match=r"shape|incompatible|expected"):
        il.inspect(model, normal(8, 5))


STATS = [LayerStats("dense", variance=1.0, source="measured")]


@pytest.mark.parametrize("wrong", [None, "model.keras", STATS, layers.Dense(3)])
def test_inspect_takes_models_alone(wrong):
    with pytest.raises(TypeError, match=r"`model` must be a keras\.Model\. Received: "):
        il.inspect(wrong)


@pytest.mark.parametrize(
    ("wrong", "x", "message"),
    [
        (3, None, "a keras.Model or a list of LayerStats.* Received: 3 of type int"),
        (["dense"], None, r"Received: \['dense'\] of type list"),
        ("dense", None, "of type str"),
        (layers.Dense, None, "of type type|of type .*Meta|Received: "),
        (STATS, [[1.0]], "`x` goes with a model, not with stats"),
    ],
)
def test_diagnose_takes_models_and_stats_alone(wrong, x, message):
    with pytest.raises(TypeError, match=message):
        il.diagnose(wrong, x)
