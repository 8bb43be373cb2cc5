"""KerasHub's backbones from small configs: diagnosed; decoders predicted, too."""

import keras
import numpy as np
import pytest

import keras_initlab as il
from tests.diagnosis.cases import alarms
from tests.keras_hub_backbones import NAMES
from tests.keras_hub_backbones import backbone as backbone_of
from tests.keras_hub_backbones import batch as batch_of

keras_hub = pytest.importorskip("keras_hub")
models = keras_hub.models

SIZES = {"vocabulary_size": 50, "num_layers": 2, "hidden_dim": 32}
HEADS = {**SIZES, "num_heads": 2, "intermediate_dim": 64}
GROUPED = {
    **SIZES,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_dim": 64,
}
BACKBONES = {
    "GPT2": {**HEADS, "max_sequence_length": 64},
    "OPT": {**HEADS, "max_sequence_length": 64},
    "Llama": GROUPED,
    "Mistral": {**GROUPED, "sliding_window": 16},
    "Gemma": {**GROUPED, "head_dim": 16},
    "T5": HEADS,
}
# Kernels of the second block, by what stands in their names.
LAYERS_OF_A_BLOCK = {"GPT2": 6, "OPT": 6, "Llama": 7, "Mistral": 7, "Gemma": 7, "T5": 7}


@pytest.fixture(params=BACKBONES)
def backbone(request):
    keras.utils.set_random_seed(0)
    return getattr(models, f"{request.param}Backbone")(**BACKBONES[request.param])


def batch(model):
    tokens = np.random.default_rng(0).integers(0, 50, (16, 64))
    return {
        one.name: np.ones((16, 64), "int32") if "mask" in one.name else tokens
        for one in model.inputs
    }


def test_decoders_are_opened(backbone):
    kind = type(backbone).__name__.removesuffix("Backbone")
    plan = il.rewrite_initializers(backbone, "variance", seed=0, dry_run=True)
    assert len(plan) >= 2 * LAYERS_OF_A_BLOCK[kind]
    assert not [row.layer for row in plan if "reach" in row.note]
    assert not [line for line in plan.assumptions if "measured as a whole" in line]
    assert any("taken for 64" in line for line in plan.assumptions)
    found = il.inspect(backbone)
    inside = [one for one in found.layers if one.layer.count("/") == 2]
    assert len([one for one in inside if one.kernel_shape]) >= 8
    assert all(one.predicted is not None for one in inside)


def test_what_is_predicted_of_decoders_is_measured(backbone):
    measured = {one.layer: one for one in il.measure(backbone, batch(backbone))}
    predicted = il.propagate(backbone, from_weights=True)
    ratios = [
        one.second_moment / measured[one.layer].second_moment
        for one in predicted
        if one.layer in measured
        and measured[one.layer].second_moment
        and measured[one.layer].shape[-1] == 32
    ]
    assert len(ratios) > 8
    # One draw of narrow layers, and tokens that repeat: within a factor of 2.
    assert np.exp(np.mean(np.abs(np.log(ratios)))) < 2


# Several layers of RWKV7 do start from one kernel. Of the experts of Qwen3Moe, a
# prediction makes more gradient than a batch shows.
KNOWN = {"RWKV7": {"shared-draw"}, "Qwen3Moe": {"exploding-gradient"}}


@pytest.mark.torch
@pytest.mark.parametrize("name", NAMES)
def test_no_backbone_raises_an_alarm(name):
    model = backbone_of(keras_hub, name)
    findings = [*il.diagnose(model), *il.diagnose(model, batch_of(model))]
    told = alarms(findings) - KNOWN.get(name, set())
    assert not told, [str(one) for one in findings]


# What is fitted to classes: a backbone's name, and which of its outputs.
FITTED = {
    "Bert": "pooled_output",
    "GPT2": None,
    "ResNet": None,
    "SwinTransformer": None,
    "ViT": None,
}


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("name", FITTED)
def test_no_backbone_raises_an_alarm_while_it_is_fitted(name):
    body = backbone_of(keras_hub, name)
    features = body.output if FITTED[name] is None else body.output[FITTED[name]]
    if len(features.shape) == 4:
        features = keras.layers.GlobalAveragePooling2D()(features)
    elif len(features.shape) == 3:
        features = keras.layers.GlobalAveragePooling1D()(features)
    head = keras.layers.Dense(2, "softmax")(features)
    model = keras.Model(body.input, head)
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    x = batch_of(model, 128)
    first = x["token_ids"] if isinstance(x, dict) else x
    share = first.reshape(len(first), -1)[:, :200].mean(axis=1)
    y = (share > np.median(share)).astype("int32")
    monitor = il.VarianceMonitor(every=1, gradients=True, on_finding="ignore")
    model.fit(x, y, batch_size=32, epochs=3, verbose=0, callbacks=[monitor])
    assert monitor.stats
    assert not alarms(monitor.findings), [str(one) for one in monitor.findings]
