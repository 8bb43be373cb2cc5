"""Attention layers against simulation."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_initlab.measurement import measure
from keras_initlab.propagation import propagate
from keras_initlab.propagation.algebra.softmax import softmax_moments
from keras_initlab.propagation.propagate import run_forward
from keras_initlab.propagation.weights import WeightMoments
from tests.propagation.sequences import (
    INDEPENDENT,
    SHIFTED,
    STEADY,
    Law,
    check,
    predicted,
    simulated,
)

# What is predicted is NumPy's on every backend; what it is compared with takes a
# compilation for each shape on JAX.

STEPS, FEATURES = 12, 64

# Predictions know heads of few dimensions on average only, by the first order.
WIDTH = 0.03

STRONG = keras.initializers.VarianceScaling(2.0)
heads = layers.MultiHeadAttention
groups = layers.GroupQueryAttention

SELF = {
    "heads": lambda x: heads(4, 16)(x, x),
    "strong": lambda x: heads(4, 16, kernel_initializer=STRONG)(x, x),
    "small heads": lambda x: heads(16, 4, kernel_initializer=STRONG)(x, x),
    # With dropout, which is off: on JAX, Keras's fused operation wants equal widths.
    "wide head": lambda x: heads(1, 64, 32, dropout=0.5, output_shape=48)(x, x),
    "causal": lambda x: heads(4, 16)(x, x, use_causal_mask=True),
    "window": lambda x: heads(4, 16, sliding_window=3)(x, x),
    "causal window": lambda x: heads(4, 16, sliding_window=3)(
        x, x, use_causal_mask=True
    ),
    "gate": lambda x: heads(4, 16, use_gate=True)(x, x),
    "biases": lambda x: heads(4, 16, bias_initializer="ones")(x, x),
    "scores": lambda x: heads(4, 16)(x, x, return_attention_scores=True),
    "causal scores": lambda x: heads(4, 16)(
        x, x, return_attention_scores=True, use_causal_mask=True
    ),
    "groups": lambda x: groups(16, 4, 2)(x, x),
}


def run(model):
    return lambda arrays: model(arrays, training=False)


@pytest.mark.parametrize(
    "name",
    SELF,
)
def test_self_attention(name):
    inputs = keras.Input((STEPS, FEATURES))
    model = keras.Model(inputs, SELF[name](inputs))
    for law in (INDEPENDENT, SHIFTED, STEADY):
        signals = predicted(model, [law.signal((STEPS, FEATURES))])
        rows = simulated(model, [law], signals, draws=20, run=run(model))
        check(signals, rows, WIDTH, f"{name}, {vars(law)}")


def test_longer_sequences():
    # More keys than dimensions: what values are drawn to is more than what is left of
    # them by chance.
    inputs = keras.Input((100, 32))
    model = keras.Model(inputs, heads(2, 32, kernel_initializer=STRONG)(inputs, inputs))
    signals = predicted(model, [INDEPENDENT.signal((100, 32))])
    rows = simulated(model, [INDEPENDENT], signals, batch=4, run=run(model))
    check(signals, rows, 2 * WIDTH)


def test_queries_of_few_dimensions_are_alike_by_chance():
    inputs = keras.Input((STEPS, FEATURES))
    layer = heads(4, 16, kernel_initializer=STRONG)
    model = keras.Model(inputs, layer(inputs, inputs))
    (out,) = predicted(model, [INDEPENDENT.signal((STEPS, FEATURES))])
    rows = simulated(model, [INDEPENDENT], [out], draws=80, run=run(model))[:, 0, 3]
    error = rows.std() / np.sqrt(len(rows))
    found = out.pairs[0, 1, 0]
    assert abs(found - rows.mean()) < 5 * error + 0.02 * found
    even = 4.0 / STEPS  # two kernels of gain √2, and even weights
    assert found > 1.05 * even


def test_one_key():
    inputs = keras.Input((1, FEATURES))
    model = keras.Model(inputs, heads(2, 32)(inputs, inputs))
    (out,) = predicted(model, [INDEPENDENT.signal((1, FEATURES))])
    assert out.second == pytest.approx(1.0)  # the value itself, by two Glorot kernels


def test_dropout():
    inputs = keras.Input((STEPS, FEATURES))
    model = keras.Model(inputs, heads(4, 16, dropout=0.3)(inputs, inputs))
    for law in (INDEPENDENT, SHIFTED):
        signals = predicted(model, [law.signal((STEPS, FEATURES))], training=True)
        rows = simulated(
            model, [law], signals, draws=20, run=lambda x: model(x, training=True)
        )
        check(signals, rows, WIDTH, str(vars(law)))


@pytest.mark.parametrize("axes", [None, (2,)])
def test_attention_axes(axes):
    inputs = keras.Input((4, 6, FEATURES))
    model = keras.Model(inputs, heads(4, 16, attention_axes=axes)(inputs, inputs))
    signals = predicted(model, [INDEPENDENT.signal((4, 6, FEATURES))])
    assert signals[0].shape == (None, 4, 6, FEATURES)
    rows = simulated(model, [INDEPENDENT], signals, batch=8, run=run(model))
    check(signals, rows, WIDTH)


BOTH = {
    "heads": lambda x, y: heads(4, 16)(x, y),
    "heads, key": lambda x, y: heads(4, 16)(query=x, value=y, key=y),
    "dot": lambda x, y: layers.Attention()([x, y]),
    "dot, scale": lambda x, y: layers.Attention(use_scale=True)([x, y, y]),
    "concat": lambda x, y: layers.Attention(score_mode="concat")([x, y]),
    "additive": lambda x, y: layers.AdditiveAttention(use_scale=False)([x, y]),
    "dot, causal": lambda x, y: layers.Attention()([x, y], use_causal_mask=True),
}


@pytest.mark.parametrize("name", BOTH)
def test_two_inputs(name):
    shapes = [(8, 48), (STEPS, 48)]
    inputs = [keras.Input(shape) for shape in shapes]
    model = keras.Model(inputs, BOTH[name](*inputs))
    for mean in (0.0, 0.5):
        laws = [Law(mean, 0.1), Law(mean, 0.1)]
        given = [law.signal(s) for law, s in zip(laws, shapes, strict=True)]
        signals = predicted(model, given)
        assert signals[0].shape == (None, 8, 48)
        rows = simulated(model, laws, signals, draws=20, run=run(model))
        check(signals, rows, 2 * WIDTH, f"{name}, mean {mean}")


@pytest.mark.parametrize("deviation", [0.15, 0.3, 1.0])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_to_itself(deviation, causal):
    # A position's own logit, its square, stands out, and the more the larger x is.
    inputs = keras.Input((STEPS, 64))
    layer = layers.Attention()
    made = layer([inputs, inputs], use_causal_mask=causal)
    model = keras.Model(inputs, made)
    law = Law(variance=deviation**2)
    signals = predicted(model, [law.signal((STEPS, 64))])
    rows = simulated(model, [law], signals, draws=20, run=run(model))
    check(signals, rows, 3 * WIDTH)


def transformer(x, *, causal, before):
    width = x.shape[-1]
    read = layers.LayerNormalization()(x) if before else x
    made = heads(4, width // 4)(read, read, use_causal_mask=causal)
    x = layers.Add()([x, made])
    x = x if before else layers.LayerNormalization()(x)
    read = layers.LayerNormalization()(x) if before else x
    made = layers.Dense(4 * width, activation="gelu")(read)
    x = layers.Add()([x, layers.Dense(width)(made)])
    return x if before else layers.LayerNormalization()(x)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_encoder(before, causal):
    inputs = keras.Input((STEPS, FEATURES))
    x = inputs
    for _ in range(2):
        x = transformer(x, causal=causal, before=before)
    model = keras.Model(inputs, x)
    signals = predicted(model, [INDEPENDENT.signal((STEPS, FEATURES))])
    rows = simulated(model, [INDEPENDENT], signals, draws=8, batch=8, run=run(model))
    # Under a causal mask positions are not all alike; predictions pool them.
    check(signals, rows, 2 * WIDTH if causal else WIDTH)


def test_gradients():
    names = ("plain", "causal", "mixed")
    inputs = [keras.Input((STEPS, 128)) for _ in names]
    outputs = []
    for start, name in zip(inputs, names, strict=True):
        start = layers.Activation("linear", name=f"before_{name}")(start)
        if name == "mixed":
            layer = groups(64, 4, 2, kernel_initializer=STRONG, name=name)
        else:
            layer = heads(2, 64, kernel_initializer=STRONG, name=name)
        outputs.append(layer(start, start, use_causal_mask=name == "causal"))
    model = keras.Model(inputs, outputs)
    generator = np.random.default_rng(0)
    x = [Law(mean=0.5).draw(generator, 16, (STEPS, 128)) for _ in names]
    found = {one.layer: one for one in propagate(model, mean=0.5)}
    for one in measure(model, x):
        # One draw; what queries and keys make of heads of 64 dimensions.
        guess = found[one.layer]
        assert guess.second_moment == pytest.approx(one.second_moment, rel=0.15)
        assert guess.gradient_second_moment == pytest.approx(
            one.gradient_second_moment, rel=0.25
        ), one.layer
        if one.weight is not None:
            assert guess.weight_gradient_second_moment == pytest.approx(
                one.weight_gradient_second_moment, rel=0.35
            ), one.layer


@pytest.mark.parametrize("name", ["", "dropout", "use_gate", "scores", "rank"])
def test_calls_are_recorded_as_they_are_measured(name):
    options = {name: 0.1 if name == "dropout" else True} if name else {}
    shape = (3, 4, 8) if options.pop("rank", None) else (4, 8)
    scores = options.pop("scores", False)
    inputs = keras.Input(shape)
    made = []
    for layer in (heads(2, 4, name="heads", **options), groups(4, 2, 1, **options)):
        if len(shape) == 2 or isinstance(layer, heads):
            out = layer(inputs, inputs, return_attention_scores=scores)
            made.append(out[0] if scores else out)
    model = keras.Model(inputs, made)
    x = np.random.default_rng(0).standard_normal((4, *shape)).astype("float32")
    found, measured = propagate(model), measure(model, x, gradients=False)
    assert [one.layer for one in found] == [one.layer for one in measured]
    assert [one.shape for one in found] == [one.shape for one in measured]
    assert all(one.gradient_second_moment > 0 for one in found)


def test_designers_choose_the_kernels_inside():
    asked = []

    def designer(layer, weight, response, known):
        asked.append((layer.name, weight))
        return WeightMoments(0.0, 1 / response)

    inputs = keras.Input((STEPS, 16))
    model = keras.Model(inputs, heads(2, 8)(inputs, inputs))
    (out,) = run_forward(model, designer=designer).outputs
    names = ("query", "key", "value", "attention_output")
    assert asked == [(name, "kernel") for name in names]
    assert out.second == pytest.approx(1.0)


class OwnAttention(heads):
    def _compute_attention(self, query, key, value, *args, **kwargs):
        return value, None


def test_attention_of_its_own_is_not_taken_for_keras_s():
    inputs = keras.Input((STEPS, 16))
    model = keras.Model(inputs, OwnAttention(2, 8, name="own")(inputs, inputs))
    out = propagate(model)[-1]
    # Two Glorot kernels and no average over keys.
    assert out.second_moment == pytest.approx(1.0, rel=0.3)


@pytest.mark.parametrize(("count", "variance"), [(4, 1.0), (4, 9.0), (60, 2.0)])
def test_softmax_moments(count, variance):
    logits = np.random.default_rng(0).standard_normal((20_000, count)) * variance**0.5
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    squares = (weights**2).sum(axis=1)
    slopes = (weights**2 * (1 - 2 * weights + squares[:, None])).sum(axis=1)
    found = softmax_moments(count, variance)
    for one, measured in ((found.second, squares), (found.jacobian, slopes)):
        error = measured.std() / np.sqrt(len(measured))
        assert abs(count * one - measured.mean()) < 5 * error
