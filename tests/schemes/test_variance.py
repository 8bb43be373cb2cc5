import json

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from tests.helpers import as_numpy


def rewrite(model, **options):
    plan = il.rewrite_initializers(model, scheme="variance", seed=0, **options)
    return {row.layer: row for row in plan}


def net(*rows, shape=(64,)):
    return keras.Sequential([keras.Input(shape), *rows])


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu", "tanh", "sigmoid"])
def test_every_kernels_output_has_the_target(activation):
    hidden = [layers.Dense(512, activation, name=f"d{i}") for i in range(6)]
    model = net(*hidden, layers.Dense(10, "softmax", name="head"))
    rewrite(model)
    x = np.random.default_rng(0).standard_normal((256, 64)).astype("float32")
    for layer in hidden:
        z = as_numpy(keras.ops.matmul(x, layer.kernel))
        assert (z**2).mean() == pytest.approx(1.0, abs=0.35), layer.name
        x = as_numpy(layer(x))


def test_the_plan_predicts_before_and_after():
    model = net(layers.Dense(32, "relu", name="one"), layers.Dense(32, name="two"))
    plan = il.rewrite_initializers(model, scheme="variance", target=2.0, dry_run=True)
    one, two = plan
    assert one.predicted_before == pytest.approx(64 * 2 / 96)
    assert one.predicted_after == pytest.approx(2.0)
    assert (one.target, two.target) == (2.0, 1.0)
    assert two.note == "head"
    assert type(model.layers[0].kernel_initializer).__name__ == "GlorotUniform"
    text = str(plan)
    assert "E x² before" in text
    assert "assumed: inputs: mean 0 and variance 1" in text
    assert json.dumps(plan.records)


def test_small_heads_start_near_log_classes():
    model = net(
        layers.Dense(128, "relu"),
        layers.Dense(128, "relu"),
        layers.Dense(10, "softmax"),
    )
    rewrite(model, head=0.1)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((512, 64)).astype("float32")
    y = generator.integers(0, 10, 512)
    probabilities = as_numpy(model(x))
    loss = -np.log(probabilities[np.arange(512), y]).mean()
    assert loss == pytest.approx(np.log(10), rel=0.06)


def residual(blocks=16, width=64):
    x = inputs = keras.Input((width,))
    for index in range(blocks):
        y = layers.Dense(width, "relu", name=f"in{index}")(x)
        x = layers.Add(name=f"sum{index}")(
            [x, layers.Dense(width, name=f"out{index}")(y)]
        )
    return keras.Model(inputs, layers.Dense(4, name="head")(x))


@pytest.mark.parametrize(
    ("option", "stream"), [("scaled", 2.0), ("zero", 1.0), ("keep", 17.0)]
)
def test_depth_adds_variance_only_where_it_is_kept(option, stream):
    model = residual()
    rows = rewrite(model, residual=option)
    stats = {one.layer: one for one in il.propagate(model)}
    assert stats["sum15"].second_moment == pytest.approx(stream, rel=1e-6)
    expected = {"scaled": 1 / 16, "zero": 0.0, "keep": 1.0}[option]
    assert rows["out3"].target == expected
    assert rows["in3"].predicted_after == pytest.approx(1.0)
    kernel = as_numpy(model.get_layer("out3").kernel)
    assert (np.abs(kernel).max() == 0) == (option == "zero")


def test_balanced_is_between_forward_and_backward():
    forward = rewrite(net(layers.Dense(256, "relu", name="a"), layers.Dense(4)))["a"]
    balanced = rewrite(
        net(layers.Dense(256, "relu", name="a"), layers.Dense(4)), criterion="balanced"
    )["a"]
    assert forward.std**2 == pytest.approx(1 / 64)
    # Backward asks for 1 / (256 · E relu'²): the harmonic mean, as Glorot's.
    assert balanced.std**2 == pytest.approx(2 / (64 + 128))


def test_balanced_is_glorot_for_a_linear_network():
    model = net(layers.Dense(32, name="a"), layers.Dense(16, name="b"), layers.Dense(4))
    rows = rewrite(model, criterion="balanced")
    assert rows["a"].std ** 2 == pytest.approx(2 / (64 + 32))


def test_a_shared_kernel_has_one_scale():
    shared = layers.Dense(64, "relu", name="shared")
    model = net(shared, layers.Rescaling(3.0), layers.Dense(64, name="d"))
    inputs = keras.Input((64,))
    outputs = layers.Dense(4)(shared(layers.Rescaling(3.0)(shared(inputs))))
    model = keras.Model(inputs, outputs)
    row = rewrite(model)["shared"]
    # Its two inputs have second moments 1 and, at that scale, another.
    assert row.predicted_after == pytest.approx(1.0, rel=0.8)
    stats = {one.layer: one for one in il.propagate(model)}
    seconds = [stats["shared#0"].second_moment, stats["shared#1"].second_moment]
    assert seconds[0] != pytest.approx(seconds[1])


def test_what_reaches_a_kernel_counts():
    model = net(layers.Rescaling(10.0), layers.Dropout(0.5), layers.Dense(8, name="d"))
    row = rewrite(model, mean=0.0, variance=1.0, target=0.1)["d"]
    assert row.std**2 == pytest.approx(0.1 / (64 * 100 * 2))


def test_inputs_behind_rescaling_are_standard_unless_told():
    row = rewrite(net(layers.Rescaling(1 / 255), layers.Dense(8, "relu", name="d")))[
        "d"
    ]
    assert row.std**2 == pytest.approx(1 / 64)


def test_skipped_and_frozen_kernels_are_counted_but_left():
    frozen = layers.Dense(64, "relu", name="frozen")
    model = net(frozen, layers.Dense(64, "relu", name="skip"), layers.Dense(64, "relu"))
    frozen.trainable = False
    before = [as_numpy(one) for one in model.weights[:4]]
    rows = rewrite(model, skip="skip")
    assert all(
        np.array_equal(one, as_numpy(two))
        for one, two in zip(before, model.weights[:4], strict=True)
    )
    assert not rows["frozen"].changed
    assert rows["frozen"].predicted_after == rows["frozen"].predicted_before


def test_subclassed_models_and_composite_layers():
    class Block(layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.a = layers.Dense(64, "relu", name="a")
            self.b = layers.Dense(64, name="b")

        def build(self, shape):
            self.a.build(shape)
            self.b.build(shape)

        def call(self, x):
            return x + self.b(self.a(x))

    model = net(Block(name="one"), Block(name="two"), layers.Dense(4, name="head"))
    rows = rewrite(model)
    assert rows["one/a"].predicted_after == pytest.approx(1.0)
    # The two blocks add to one stream.
    assert rows["one/b"].target == rows["two/b"].target == 0.5
    assert "residual branch, 1 of 2" in rows["one/b"].note
    assert rows["head"].note.endswith("head")


def test_the_scheme_is_in_the_config_and_can_be_saved(tmp_path):
    model = net(layers.Dense(16, "relu"), layers.Dense(4))
    rewrite(model)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    assert isinstance(loaded.layers[0].kernel_initializer, il.Scaled)
    x = np.ones((2, 64), "float32")
    assert np.allclose(as_numpy(model(x)), as_numpy(loaded(x)))


def test_recurrent_and_attention_kernels():
    inputs = keras.Input((10, 32))
    x = layers.LSTM(32, return_sequences=True, name="lstm")(inputs)
    x = layers.MultiHeadAttention(2, 16, name="mha")(x, x)
    model = keras.Model(inputs, layers.Dense(4, name="head")(x))
    rows = rewrite(model)
    for path in ("mha/query", "mha/key", "mha/value"):
        assert rows[path].predicted_after == pytest.approx(1.0), path
    assert all(row.gain is not None for row in rows.values())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"target": 0.0}, "`target` must be a finite number above 0"),
        ({"target": float("nan")}, "`target`"),
        ({"residual": "half"}, "`residual` must be 'scaled' or 'zero' or 'keep'"),
        ({"criterion": "backward"}, "`criterion` must be"),
        ({"only_unbuilt": True}, "`only_unbuilt` belongs to"),
        ({"variance": -1.0}, "`variance` must be finite and not negative"),
    ],
)
def test_bad_options_are_refused_and_change_nothing(options, text):
    model = net(layers.Dense(8))
    before = as_numpy(model.layers[0].kernel)
    with pytest.raises(ValueError, match=text):
        il.rewrite_initializers(model, scheme="variance", **options)
    assert np.array_equal(before, as_numpy(model.layers[0].kernel))


def test_options_of_the_other_scheme_are_refused():
    with pytest.raises(ValueError, match="`target` belongs to scheme='variance'"):
        il.rewrite_initializers(net(layers.Dense(8)), target=2.0)


def test_an_input_that_is_always_zero_leaves_the_rule_by_activation():
    model = net(layers.Rescaling(0.0), layers.Dense(8, "relu", name="d"))
    row = rewrite(model, mean=0.0, variance=1.0)["d"]
    assert "nothing reaches it" in row.note
    assert row.gain == pytest.approx(np.sqrt(2))


@pytest.mark.parametrize(("activation", "unstable"), [("silu", True), ("tanh", False)])
def test_a_signal_that_will_not_stay_is_warned_of(activation, unstable):
    model = net(*(layers.Dense(64, activation) for _ in range(40)))
    plan = il.rewrite_initializers(model, scheme="variance", dry_run=True)
    assert any(line.startswith("unstable") for line in plan.assumptions) == unstable


def classifier(*, trainable=True):
    return keras.Sequential(
        [
            keras.Input((16,), dtype="int32"),
            layers.Embedding(500, 16, name="embedding", trainable=trainable),
            layers.LSTM(16, name="lstm"),
            layers.Dense(8, "softmax", name="head"),
        ]
    )


def test_the_small_start_of_a_trained_embedding_is_not_made_up_for():
    """Its gain was 34.6 on the LSTM's kernel, too large once the rows had grown."""
    plan = il.rewrite_initializers(classifier(), scheme="variance", seed=0)
    assert plan[0].gain == pytest.approx(1.0, rel=0.05)
    assert "embeddings that are trained: mean 0 and variance 1" in str(plan)


def test_that_of_a_frozen_one_is():
    plan = il.rewrite_initializers(
        classifier(trainable=False), scheme="variance", seed=0
    )
    assert plan[0].gain > 10
    assert "embeddings that are trained" not in str(plan)
