"""Kernels of layers of the user's own, under any name."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_initlab as il
from keras_initlab.model.fans import Fans, kernel_fans
from keras_initlab.model.own_kernels import uses_of
from keras_initlab.model.own_weights import held_weights
from tests.own_layers import (
    Capsule,
    ClassToken,
    Convolution,
    Equalised,
    Experts,
    Fourier,
    GraphConvolution,
    InBackend,
    KolmogorovArnold,
    Linear,
    Listed,
    MLPBlock,
    NoisyLinear,
    Position,
    SelfAttention,
    SwiGLU,
    Transposed,
)


def built(layer, *shape):
    inputs = keras.Input(shape)
    keras.Model(inputs, layer(inputs))
    return layer


# The layer, its input, and the fans of each kernel; None of a weight that is none.
FANS = {
    "linear": (lambda: Linear(16), (8,), {"w": Fans(8, 16)}),
    "transposed": (lambda: Transposed(16), (8,), {"w": Fans(8, 16)}),
    "scaled in call": (lambda: Equalised(16), (8,), {"w": Fans(8, 16)}),
    "attention": (
        lambda: SelfAttention(2),
        (5, 8),
        {name: Fans(8, 8) for name in ("wq", "wk", "wv", "wo")},
    ),
    "gated": (
        SwiGLU,
        (8,),
        {"w1": Fans(8, 16), "w2": Fans(8, 16), "w3": Fans(16, 8)},
    ),
    "graph": (
        lambda: GraphConvolution(4),
        (6, 8),
        {"kernel": Fans(8, 4), "adjacency": Fans(6, 6)},
    ),
    "capsule": (lambda: Capsule(3, 4), (6, 8), {"W": Fans(8, 12)}),
    "fourier": (lambda: Fourier(16), (2,), {"B": Fans(2, 16)}),
    "splines": (
        lambda: KolmogorovArnold(4),
        (8,),
        {"base": Fans(8, 4), "splines": Fans(40, 4)},
    ),
    "convolution": (lambda: Convolution(4, 2), (6, 6, 3), {"k": Fans(27, 9)}),
    "experts": (Experts, (8,), {"w": Fans(8, 32)}),
    "list": (Listed, (8,), {"ws[0]": Fans(8, 8), "ws[1]": Fans(8, 8)}),
    "noisy": (lambda: NoisyLinear(4), (8,), {"w": Fans(8, 4), "sigma": None}),
    "a function of the backend": (lambda: InBackend(16), (8,), {"w": Fans(8, 16)}),
    "position": (Position, (5, 8), {"table": None}),
    "class token": (ClassToken, (5, 8), {"token": None}),
}


@pytest.mark.parametrize("name", FANS)
def test_weights_that_multiply_the_input_are_found(name):
    make, shape, expected = FANS[name]
    layer = built(make(), *shape)
    weights = held_weights(layer)
    found = {
        weight: kernel_fans(weights[weight].shape, layer, weight)
        if use.multiplies
        else None
        for weight, use in uses_of(layer).items()
    }
    assert found == expected


def test_the_layer_is_left_as_it_was():
    layer = built(Listed(), 8)
    held = dict(vars(layer))
    weights = list(layer.ws)
    uses_of(layer)
    assert list(layer.ws) == weights
    assert {name: id(value) for name, value in vars(layer).items()} == {
        name: id(value) for name, value in held.items()
    }
    assert layer(np.ones((2, 8), "float32")).shape == (2, 8)


class Counting(Linear):
    """Adds a loss and counts its calls."""

    def build(self, shape):
        super().build(shape)
        self.calls = self.add_weight(
            shape=(), dtype="int32", initializer="zeros", trainable=False
        )

    def call(self, x):
        self.calls.assign_add(1)
        self.add_loss(ops.mean(ops.square(self.w)))
        return super().call(x)


@pytest.mark.parametrize("scheme", ["activation", "variance", "isometric"])
def test_calls_to_look_inside_leave_no_trace(scheme):
    model = stack(Counting(8), layers.Dense(2))
    layer = model.layers[0]
    before = int(layer.calls.value), len(layer.losses), len(model.weights)
    plan = il.rewrite_initializers(model, scheme, dry_run=True)
    assert [row.weight for row in plan] == ["w", "kernel"]
    assert (int(layer.calls.value), len(layer.losses), len(model.weights)) == before


def stack(*inner, shape=(64,)):
    return keras.Sequential([keras.Input(shape), *inner])


def outputs_of(model, scheme, *, seeds=6):
    """Return the mean second moment of the outputs over rewrites, and the last plan."""
    shape = (128, *model.input_shape[1:])
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    seconds = []
    for seed in range(seeds):
        plan = il.rewrite_initializers(model, scheme, seed=seed)
        seconds.append(np.mean(np.square(model.predict(x, verbose=0))))
    return float(np.mean(seconds)), plan


MODELS = {
    "guide": lambda: stack(Linear(64), layers.Dense(64)),
    "deep": lambda: stack(
        Linear(128), layers.ReLU(), Linear(128), layers.ReLU(), Linear(64)
    ),
    "nested": lambda: stack(MLPBlock(64), layers.Dense(64)),
    "transposed": lambda: stack(Transposed(256), layers.ReLU(), Transposed(64)),
    "scaled in call": lambda: stack(Equalised(64), layers.Dense(64)),
    "attention": lambda: stack(SelfAttention(4), layers.Dense(64), shape=(6, 64)),
    "gated": lambda: stack(SwiGLU(), layers.Dense(64)),
    "splines": lambda: stack(KolmogorovArnold(64), layers.Dense(64)),
    "convolution": lambda: stack(
        Convolution(16), layers.ReLU(), Convolution(64, 2), shape=(8, 8, 16)
    ),
    "experts": lambda: stack(Experts(), layers.Dense(64)),
    "a function of the backend": lambda: stack(
        InBackend(64), layers.ReLU(), layers.Dense(64)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_variance_reaches_own_kernels_and_hits_the_head(name):
    second, plan = outputs_of(MODELS[name](), il.Variance(head=0.1))
    assert plan[-1].target == 0.1
    assert second == pytest.approx(0.1, rel=0.25)
    assert all(row.gain < 10 for row in plan)
    if name != "a function of the backend":
        assert all(row.predicted_after is not None for row in plan)


@pytest.mark.parametrize("name", ["deep", "nested", "gated"])
def test_isometric_hits_the_head(name):
    second, _ = outputs_of(MODELS[name](), "isometric")
    assert second == pytest.approx(0.1, rel=0.35)


def test_what_follows_inside_the_layer_counts():
    plan = il.rewrite_initializers(MODELS["gated"](), dry_run=True)
    assert [row.nonlinearity for row in plan] == ["silu", "linear", "linear", "linear"]
    plan = il.rewrite_initializers(MODELS["nested"](), dry_run=True)
    assert [row.nonlinearity for row in plan] == ["relu", "relu", "linear", "linear"]
    assert not any(row.note.startswith("what follows") for row in plan)


def test_a_redrawn_kernel_has_the_variance_of_the_plan():
    model = stack(Linear(256), layers.ReLU(), shape=(400,))
    (row,) = il.rewrite_initializers(model, seed=0)
    assert (row.layer, row.weight) == (model.layers[0].name, "w")
    values = ops.convert_to_numpy(model.layers[0].w)
    assert row.std == pytest.approx(math.sqrt(2 / 400))
    assert values.std() == pytest.approx(row.std, rel=5 / math.sqrt(2 * values.size))
    assert "its layer keeps no initializer" in row.note


class Keeping(Linear):
    """Keeps the initializer of its weight."""

    def __init__(self, units, w_initializer="glorot_uniform", **options):
        super().__init__(units, **options)
        self.w_initializer = keras.initializers.get(w_initializer)

    def build(self, shape):
        self.w = self.add_weight(
            shape=(shape[-1], self.units), initializer=self.w_initializer
        )
        self.b = self.add_weight(shape=(self.units,), initializer="zeros")

    def get_config(self):
        kept = keras.initializers.serialize(self.w_initializer)
        return {**super().get_config(), "w_initializer": kept}


def test_an_initializer_that_the_layer_keeps_is_set():
    model = stack(Keeping(300), layers.ReLU(), shape=(400,))
    (row,) = il.rewrite_initializers(model, seed=0)
    assert row.before.__class__.__name__ == "GlorotUniform"
    assert model.layers[0].w_initializer is row.after
    assert "keeps no initializer" not in row.note
    clone = keras.models.clone_model(model)
    values = ops.convert_to_numpy(clone.layers[0].w)
    assert values.std() == pytest.approx(math.sqrt(2 / 400), rel=0.02)


def test_constant_and_frozen_weights_are_kept():
    model = stack(NoisyLinear(32), Fourier(32), layers.Dense(4))
    plan = il.rewrite_initializers(model, "variance", seed=0)
    notes = {row.weight: row.note for row in plan}
    assert notes["B"].startswith("frozen")
    (left,) = plan.unlisted
    assert (left.weight, left.reason[:23]) == ("sigma", "only used among weights")
    assert np.ptp(ops.convert_to_numpy(model.layers[0].sigma)) == 0


def test_weights_that_are_left_alone_are_named_with_the_reason():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(50, 8, name="tokens")(inputs)
    x = Position(name="places")(x)
    x = layers.LSTM(8, name="lstm")(ClassToken(name="token")(x))
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    plan = il.rewrite_initializers(model, dry_run=True)
    left = {str(weight): weight.reason for weight in plan.unlisted}
    assert left["tokens/embeddings"] == "looked up, not multiplied"
    assert left["places/table"] == "added, not multiplied"
    assert "not multiplied" in left["token/token"]
    assert any("recurrent_kernel" in name for name in left)
    listed = {(row.layer, row.weight) for row in plan}
    axes = [v for v in model.weights if len(v.shape) > 1]
    assert len(listed) + len(left) == len(axes)
    for weight in plan.unlisted:
        assert f"left alone: {weight}" in str(plan) or str(weight) in str(plan)


def test_an_unbuilt_own_layer_is_named_or_served():
    class Body(keras.Model):
        def __init__(self):
            super().__init__()
            self.kept, self.lost = Keeping(200, name="kept"), Linear(4, name="lost")

        def call(self, x):
            return self.lost(ops.relu(self.kept(x)))

    model = Body()
    plan = il.rewrite_initializers(model, only_unbuilt=True, seed=0)
    assert [(row.layer, row.weight) for row in plan] == [("kept", "w")]
    (left,) = plan.unlisted
    assert (left.layer, left.reason) == (
        "lost",
        "not built, and keeps no kernel_initializer",
    )


def test_weights_of_the_model_itself_are_kernels():
    class Model(keras.Model):
        def __init__(self):
            super().__init__(name="whole")
            self.head = layers.Dense(64, name="head")

        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], 64), initializer="random_normal")
            self.head.build((None, 64))

        def call(self, x):
            return self.head(ops.relu(x @ self.w))

    model = Model()
    model(np.ones((1, 64), "float32"))
    plan = il.rewrite_initializers(model, "variance", head=0.1, seed=0)
    found = [(row.layer, row.weight, row.nonlinearity, row.target) for row in plan]
    assert found == [("whole", "w", "relu", 1.0), ("head", "kernel", "linear", 0.1)]
    x = np.random.default_rng(0).standard_normal((256, 64)).astype("float32")
    second = float(np.mean(np.square(model.predict(x, verbose=0))))
    assert second == pytest.approx(0.1, rel=0.5)


def test_a_weight_in_the_middle_of_a_composite_is_no_head():
    class Mixed(layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], 64), initializer="random_normal")
            self.out = layers.Dense(64)

        def call(self, x):
            return self.out(ops.relu(x @ self.w))

    plan = il.rewrite_initializers(stack(Mixed()), "variance", head=0.1, dry_run=True)
    assert {row.weight: row.target for row in plan} == {"w": 1.0, "kernel": 0.1}


def test_the_gradient_of_an_own_kernel_is_predicted():
    model = stack(Linear(64), layers.Dense(8))
    own = il.propagate(model)[0]
    assert own.weight == "w"
    # x is standardised: E[dw²] = E[x²] E[g²] for one input.
    assert own.weight_gradient_second_moment == pytest.approx(
        own.gradient_second_moment
    )
