"""What a finding says is to be done mends what it found.

The first part is the table of what happens if the initial weights are wrong: the fault
is named, the network does not learn, and with the remedy it does. The second part goes
through the planted faults that lie in initial weights. PyTorch, which compiles nothing,
does all of it; other backends some of each, as the figures are the same there.
"""

import re

import keras
import pytest

import keras_initlab as il
from tests.diagnosis.cases import (
    alarms,
    batch,
    constant,
    digits,
    fit,
    normal,
    pixels,
    plain,
    seeded,
)
from tests.diagnosis.networks import FAULTY, HEALTHY

BACKEND = keras.backend.backend()
CALL = re.compile(r'il\.rewrite_initializers\(model(, scheme="\w+")?\)')

ELSE = re.compile(r'((?:bias|recurrent)_initializer)="(\w+)"')

ABOUT_STARTS = {
    *("constant-kernel", "symmetric-units", "shared-draw"),
    *("vanishing-signal", "exploding-signal", "collapsed-inputs"),
    "exploding-gradient",
    *("initializer-mismatch", "wrong-fans", "saturated-units"),
}


def remedied(model, finding):
    """Return the model after what the finding says, to the letter."""
    for attribute, value in ELSE.findall(finding.remedy):
        for layer in model.layers:
            holder = getattr(layer, "cell", layer)
            if hasattr(holder, attribute):
                setattr(holder, attribute, keras.initializers.get(value))
        model = keras.models.clone_model(model)
    if "than softmax in" in finding.remedy:
        for layer in model.layers[:-1]:
            if layer.name in finding.remedy:
                layer.activation = keras.activations.gelu
        return keras.models.clone_model(model)
    call = CALL.search(finding.remedy)
    if call is not None:
        eval(call[0], {"il": il, "model": model})
        return model
    if ELSE.search(finding.remedy):
        return model
    if "il.HeNormal(seed=0)" in finding.remedy:
        return rebuilt(model, il.HeNormal(seed=0))
    assert '"initlab>he_normal"' in finding.remedy
    return rebuilt(model, "initlab>he_normal")


def rebuilt(model, initializer):
    """Return the model built anew with another initializer for all kernels."""
    for layer in model.layers:
        for name in ("kernel", "depthwise", "pointwise"):
            if hasattr(layer, f"{name}_initializer"):
                chosen = keras.initializers.get(initializer)
                setattr(layer, f"{name}_initializer", chosen)
    return keras.models.clone_model(model)


# Initial weights that are wrong -------------------------------------------------------

STARTS = {
    "zeros": ("zeros", {"constant-kernel"}),
    "constants": (constant(0.05), {"constant-kernel"}),
    "too large": (normal(2.0), set()),
    "too small": (normal(0.01), {"initializer-mismatch"}),
}
TABLE = [(start, activation) for start in STARTS for activation in ("tanh", "relu")]
SOME = [("constants", "relu")]


@pytest.mark.parametrize(("start", "activation"), TABLE if BACKEND == "torch" else SOME)
def test_what_happens_if_the_initial_weights_are_wrong(start, activation):
    kernel, codes = STARTS[start]
    if start == "too large":
        codes = {
            "tanh": {"saturated-units"},
            "relu": {"initializer-mismatch"},
        }[activation]
    build = seeded(plain, activation, 6, kernel, optimizer="sgd", rate=0.05)
    x, y = digits()
    model = build()
    findings = il.diagnose(model, batch(x))
    assert codes <= alarms(findings)
    assert any(one.code in codes and one.severity == "error" for one in findings)
    assert max(fit(model, x, y, 8).history["accuracy"]) < 0.75
    for one in findings:
        if one.code in codes:
            model = remedied(build(), one)
            assert alarms(il.diagnose(model, batch(x))) == set()
    assert fit(model, x, y, 8).history["accuracy"][-1] > 0.9


# Planted faults -----------------------------------------------------------------------

ELSEWHERE = (
    *("constants in the middle", "half of the units twice", "one seed"),
    *("GELU, Glorot, 20 layers", "depthwise, He"),
)
TO_CURE = [
    pytest.param(case, code, id=f"{case.name}: {code}")
    for case in FAULTY
    if case.phase != "training" and "input-scale" not in case.codes
    if BACKEND == "torch" or case.name in ELSEWHERE
    for code in case.codes
    if code in ABOUT_STARTS
]


def diagnosed(case, model):
    x, _ = case.data()
    return il.diagnose(model, None if case.phase == "model" else batch(x))


@pytest.mark.parametrize(("case", "code"), TO_CURE)
def test_the_remedy_cures_what_was_planted(case, code):
    model = case.build()
    [finding, *_] = [one for one in diagnosed(case, model) if one.code == code]
    assert finding.severity in ("error", "warning")
    assert code not in alarms(diagnosed(case, remedied(model, finding)))


def test_every_code_about_initial_weights_has_a_cure():
    cured = {code for case in FAULTY for code in case.codes if case.phase != "training"}
    assert cured >= ABOUT_STARTS
    assert {case.name for case in FAULTY} >= {*ELSEWHERE}


def named(name, some=FAULTY):
    return next(case for case in some if case.name == name)


@pytest.mark.torch
def test_biases_of_zero_cure_what_large_ones_did():
    case = named("dead by their bias")
    model = case.build()
    assert set(case.codes) <= alarms(diagnosed(case, model))
    for layer in model.layers:
        layer.bias_initializer = keras.initializers.Zeros()
    model = keras.models.clone_model(model)
    assert not set(case.codes) & alarms(diagnosed(case, model))


def test_scaled_inputs_cure_what_comes_of_unscaled_ones():
    case = named("pixels from 0 to 255")
    x, _ = pixels()
    model = case.build()
    found = {one.code: one for one in il.diagnose(model, batch(x))}
    follows = {one.code for one in found["input-scale"].consequences}
    assert "saturated-units" in follows
    done = "x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-7)"
    assert done in found["input-scale"].remedy
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-7)
    assert alarms(il.diagnose(model, batch(x))) == set()


def test_a_layer_that_scales_inputs_cures_them_too():
    x, _ = pixels()
    model = named("pixels from 0 to 255").build()
    scaling = keras.layers.Normalization()
    scaling.adapt(x)
    model = keras.Sequential([keras.Input((64,)), scaling, *model.layers])
    assert alarms(il.diagnose(model, batch(x))) == set()


@pytest.mark.torch
def test_remedies_do_no_harm_to_healthy_networks():
    for name in ("LSTM", "convolutions"):
        case = named(name, HEALTHY)
        model = case.build()
        il.rewrite_initializers(model)
        assert alarms(diagnosed(case, model)) == set()
