"""KerasHub's decoders from small configs: opened, predicted, rewritten, inspected."""

import keras
import numpy as np
import pytest

import keras_initlab as il

models = pytest.importorskip("keras_hub.models")

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
