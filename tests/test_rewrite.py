import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_initlab as il
from tests.helpers import as_numpy, assert_std, kernels


def following(model, **arguments):
    """Return {layer: nonlinearity} as a dry run finds it."""
    plan = il.rewrite_initializers(model, dry_run=True, **arguments)
    return {row.layer: row.nonlinearity for row in plan}


def block(x, name, activation="relu"):
    x = layers.Conv2D(4, 3, padding="same", name=name)(x)
    x = layers.BatchNormalization()(x)
    return layers.Activation(activation)(x)


def residual():
    inputs = keras.Input((8, 8, 3))
    x = block(inputs, "stem")
    y = block(x, "one")
    y = layers.Conv2D(4, 3, padding="same", name="two")(y)
    y = layers.BatchNormalization()(y)
    x = layers.Activation("gelu")(layers.Add()([x, y]))
    x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(4, 3, name="pooled")(x)
    x = layers.Dropout(0.2)(layers.AveragePooling2D(2)(x))
    x = layers.LeakyReLU(0.3)(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))


def test_finds_the_nonlinearity_through_the_graph():
    assert following(residual()) == {
        "stem": "relu",
        "one": "relu",
        "two": "gelu",
        "pooled": "leaky_relu(0.3)",
        "head": "softmax",
    }


def bare_operations():
    inputs = keras.Input((8,))
    x = ops.relu(layers.Dense(8, name="a")(inputs))
    y = layers.Dense(8, name="b")(x) * 2.0 + 1.0
    y = keras.activations.tanh(ops.reshape(y, (-1, 8)))
    z = layers.Dense(8, name="c")(x + y)
    z = ops.softmax(ops.concatenate([z, x], axis=-1))
    return keras.Model(inputs, z)


def test_reads_bare_operations():
    assert following(bare_operations()) == {"a": "relu", "b": "tanh", "c": "softmax"}


def nested():
    inner_in = keras.Input((8,))
    inner = keras.Model(inner_in, layers.Dense(8, name="deep")(inner_in), name="inner")
    inputs = keras.Input((8,))
    x = layers.Activation("silu")(inner(inputs))
    row = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, name="last")], name="row"
    )
    return keras.Model(inputs, layers.ELU()(row(x)))


def test_looks_into_and_out_of_nested_models():
    assert following(nested()) == {"inner/deep": "silu", "row/last": "elu"}


def test_a_shared_layer_has_one_row_and_says_what_else_it_feeds():
    one, two = keras.Input((8,)), keras.Input((8,))
    shared = layers.Dense(8, name="shared")
    joined = layers.Add()(
        [layers.Activation("relu")(shared(one)), layers.Activation("tanh")(shared(two))]
    )
    (row,) = il.rewrite_initializers(keras.Model([one, two], joined), dry_run=True)
    assert row.layer == "shared"
    other = {"relu": "tanh", "tanh": "relu"}[row.nonlinearity]
    assert row.note == f"also feeds {other}"


def test_time_distributed_and_separable():
    inputs = keras.Input((3, 8, 8, 2))
    x = layers.TimeDistributed(layers.SeparableConv2D(4, 3, name="apart"), name="td")(
        inputs
    )
    found = [
        (row.layer, row.weight, row.nonlinearity)
        for row in il.rewrite_initializers(
            keras.Model(inputs, layers.ReLU()(x)), dry_run=True
        )
    ]
    assert found == [
        ("td/apart", "depthwise_kernel", "linear"),
        ("td/apart", "pointwise_kernel", "relu"),
    ]


def test_the_depthwise_part_is_drawn_as_planned():
    """It feeds the pointwise part, whatever the layer's activation."""
    inputs = keras.Input((8, 8, 256))
    layer = layers.SeparableConv2D(64, 3, activation="relu")
    model = keras.Model(inputs, layer(inputs))
    depthwise, pointwise = il.rewrite_initializers(model, seed=0)
    assert_std(as_numpy(layer.depthwise_kernel), depthwise.std)
    assert_std(as_numpy(layer.pointwise_kernel), pointwise.std)
    clone = keras.models.clone_model(model)
    assert_std(kernels(clone)[0], depthwise.std)


def test_an_unknown_layer_on_the_way_is_named():
    class Mystery(layers.Layer):
        def call(self, x):
            return x

    inputs = keras.Input((8,))
    x = layers.ReLU()(Mystery(name="mystery")(layers.Dense(8)(inputs)))
    (row,) = il.rewrite_initializers(keras.Model(inputs, x), dry_run=True)
    assert row.nonlinearity == "linear"
    assert "mystery" in row.note


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.bent = layers.Dense(300, activation="relu", name="bent")
        self.row = keras.Sequential(
            [layers.Dense(300, name="inside"), layers.Activation("gelu")], name="row"
        )
        self.straight = layers.Dense(300, name="straight")

    def call(self, x):
        return self.straight(self.row(self.bent(x)))


def test_subclassed_goes_by_own_activation_and_inside_sequentials():
    model = Subclassed()
    model(np.ones((1, 300), "float32"))
    assert following(model) == {
        "bent": "relu",
        "row/inside": "gelu",
        "straight": "linear",
    }
    plan = il.rewrite_initializers(model, seed=1)
    for row, kernel in zip(plan, kernels(model), strict=True):
        assert_std(kernel, row.std)


def mlp(width=300):
    return keras.Sequential(
        [
            keras.Input((width,)),
            layers.Dense(width, name="one"),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.Dense(width, activation="tanh", name="two"),
            layers.Dense(width, name="three"),
        ]
    )


def test_rows_say_what_was_done():
    model = mlp()
    plan = il.rewrite_initializers(model, seed=0)
    assert [row.layer for row in plan] == ["one", "two", "three"]
    assert [row.weight for row in plan] == ["kernel"] * 3
    assert [row.nonlinearity for row in plan] == ["relu", "tanh", "linear"]
    assert [row.gain for row in plan] == pytest.approx([np.sqrt(2), 1, 1])
    assert {row.fan_in for row in plan} == {row.fan_out for row in plan} == {300}
    for row, layer in zip(plan, [model.get_layer(r.layer) for r in plan], strict=True):
        assert isinstance(row.before, keras.initializers.GlorotUniform)
        assert row.after is layer.kernel_initializer
        assert_std(as_numpy(layer.kernel), row.std)


def test_biases_and_norms_stay():
    model = mlp()
    model.get_layer("one").bias.assign(np.full(300, 0.25))
    il.rewrite_initializers(model, seed=0)
    np.testing.assert_array_equal(as_numpy(model.get_layer("one").bias), 0.25)


def test_a_seed_repeats_and_differs_by_layer():
    models = [mlp(16), mlp(16), mlp(16)]
    for model, seed in zip(models, [1, 1, 2], strict=True):
        il.rewrite_initializers(model, seed=seed)
    first, again, other = map(kernels, models)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    for one, two in zip(first, other, strict=True):
        assert not np.array_equal(one, two)
    assert not np.allclose(first[1] / first[1].max(), first[2] / first[2].max())


def test_dry_run_changes_nothing():
    model = mlp(8)
    before, config = kernels(model), model.get_config()
    plan = il.rewrite_initializers(model, dry_run=True)
    assert all(row.changed for row in plan)
    assert "dry run" in str(plan)
    assert model.get_config() == config
    for one, two in zip(before, kernels(model), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("skip", ["two", ["two"], {"two"}, iter(["two"]), "layer"])
def test_skip(skip):
    model = mlp(8)
    before = as_numpy(model.get_layer("two").kernel)
    if skip == "layer":
        skip = model.get_layer("two")
    plan = il.rewrite_initializers(model, skip=skip)
    assert [row.changed for row in plan] == [True, False, True]
    assert plan[1].note == "named in skip"
    np.testing.assert_array_equal(as_numpy(model.get_layer("two").kernel), before)


def test_skip_by_path_and_by_model():
    assert [
        r.changed for r in il.rewrite_initializers(nested(), skip="inner/deep")
    ] == [
        False,
        True,
    ]
    assert [r.changed for r in il.rewrite_initializers(nested(), skip=["inner"])] == [
        False,
        True,
    ]


def test_frozen_layers_are_left_alone():
    model = mlp(8)
    model.get_layer("two").trainable = False
    before = as_numpy(model.get_layer("two").kernel)
    plan = il.rewrite_initializers(model)
    assert (plan[1].changed, plan[1].note) == (False, "frozen")
    np.testing.assert_array_equal(as_numpy(model.get_layer("two").kernel), before)


def test_frozen_kernels_and_lora_are_left_alone():
    model = mlp(8)
    model.get_layer("one").enable_lora(2)
    model.get_layer("two").kernel.trainable = False
    before = kernels(model)
    plan = il.rewrite_initializers(model, seed=0)
    assert [row.changed for row in plan] == [False, False, True]
    assert [row.note for row in plan] == ["frozen (LoRA)", "frozen", ""]
    after = kernels(model)
    assert [np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [
        True,  # the kernel and its two LoRA factors
        True,
        True,
        True,
        False,
    ]


def test_quantised_kernels_are_left_working():
    model = mlp(8)
    model.quantize("int8")
    x = np.ones((1, 8), "float32")
    before = as_numpy(model(x))
    plan = il.rewrite_initializers(model, seed=0)
    assert not any(row.changed for row in plan)
    assert all("quantised" in row.note or "frozen" in row.note for row in plan)
    np.testing.assert_array_equal(as_numpy(model(x)), before)


def test_wrappers_are_looked_through_or_named():
    class Wrapped(layers.Layer):
        def __init__(self):
            super().__init__(name="wrapped")
            self.dense = layers.Dense(8, name="dense")

        def call(self, x):
            return self.dense(x)

    inputs = keras.Input((8,))
    x = layers.SpectralNormalization(layers.Dense(8, name="sn"), name="norm")(inputs)
    x = Wrapped()(layers.LeakyReLU(0.2)(x))
    one, two = il.rewrite_initializers(
        keras.Model(inputs, layers.ReLU()(x)), dry_run=True
    )
    assert (one.layer, one.nonlinearity) == ("norm/sn", "leaky_relu(0.2)")
    assert (two.layer, two.nonlinearity, two.note) == ("wrapped/dense", "relu", "")


def test_a_gate_is_noted():
    inputs = keras.Input((8,))
    x = layers.Dense(8)(inputs)
    x = layers.Multiply(name="gate")([x, layers.Activation("sigmoid")(x)])
    (row,) = il.rewrite_initializers(keras.Model(inputs, x), dry_run=True)
    assert row.nonlinearity == "sigmoid"
    assert row.note == "also feeds gate, whose effect is unknown"


def test_an_activation_without_a_gain_does_not_stop_the_rest():
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(8),
            layers.ReLU(threshold=50.0),
            layers.Dense(8, activation="relu"),
        ]
    )
    one, two = il.rewrite_initializers(model, seed=0)
    assert "threshold=50) has no known gain: taken for linear" in one.note
    assert one.changed
    assert two.nonlinearity == "relu"


def test_a_kernel_without_an_initializer_attribute_is_named():
    class Bare(layers.Layer):
        def build(self, shape):
            self.w = self.add_weight((shape[-1], 3), name="kernel")

        def call(self, x):
            return x @ self.w

    inputs = keras.Input((8,))
    (row,) = il.rewrite_initializers(keras.Model(inputs, Bare(name="bare")(inputs)))
    assert (row.layer, row.changed) == ("bare", False)
    assert row.note.startswith("its layer has no kernel_initializer")


def test_only_unbuilt_leaves_loaded_weights_and_sets_the_rest():
    class Tuned(keras.Model):
        def __init__(self):
            super().__init__()
            self.body = mlp(8)
            self.head = keras.Sequential(
                [layers.Dense(400, name="new"), layers.ReLU()], name="head"
            )

        def call(self, x):
            return self.head(self.body(x))

    model = Tuned()
    before = kernels(model.body)
    plan = il.rewrite_initializers(model, seed=0, only_unbuilt=True)
    assert [row.changed for row in plan] == [False, False, False, True]
    assert [row.note for row in plan][:3] == ["built already"] * 3
    assert plan[3].layer == "head/new"
    assert plan[3].fan_in is None
    model(np.ones((1, 8), "float32"))
    for one, two in zip(before, kernels(model.body), strict=True):
        np.testing.assert_array_equal(one, two)
    assert plan[3].nonlinearity == "relu"
    assert_std(kernels(model.head)[0], np.sqrt(2 / 8))


def test_attention_keeps_the_rule_in_its_config():
    inputs = keras.Input((5, 8))
    attention = layers.MultiHeadAttention(2, 4, name="mha")
    model = keras.Model(inputs, attention(inputs, inputs))
    plan = il.rewrite_initializers(model, seed=0)
    assert [row.layer for row in plan] == [
        f"mha/{one}" for one in ("query", "key", "value", "attention_output")
    ]
    config = attention.get_config()["kernel_initializer"]
    assert config["registered_name"] == "initlab>auto"
    query, key, value, _ = kernels(keras.models.clone_model(model))
    assert not np.array_equal(query, key)
    assert not np.array_equal(key, value)


def test_recurrent_kernels_of_cells_are_reached():
    inputs = keras.Input((5, 8))
    x = layers.Bidirectional(layers.LSTM(4, name="rnn"), name="both")(inputs)
    plan = il.rewrite_initializers(keras.Model(inputs, x), seed=0)
    assert [row.layer for row in plan] == [
        "both/forward_rnn/lstm_cell",
        "both/backward_rnn/lstm_cell",
    ]
    assert {row.nonlinearity for row in plan} == {"tanh"}


def test_a_clone_draws_by_the_same_rule():
    model = residual()
    il.rewrite_initializers(model, seed=0)
    clone = keras.models.clone_model(model)
    again = il.rewrite_initializers(clone, dry_run=True)
    for row in again:
        assert (
            row.before.get_config()
            == model.get_layer(row.layer).kernel_initializer.get_config()
        )


def test_a_clone_of_a_seeded_wide_model_has_the_planned_deviations():
    model = mlp()
    plan = il.rewrite_initializers(model, seed=0)
    for row, kernel in zip(plan, kernels(keras.models.clone_model(model)), strict=True):
        assert_std(kernel, row.std)


def test_a_function_that_no_file_can_name_is_kept_by_its_gain():
    inputs = keras.Input((300,))
    x = ops.gelu(layers.Dense(300)(inputs))  # approximate: keras.activations' is exact
    model = keras.Model(inputs, x)
    (row,) = il.rewrite_initializers(model, seed=0)
    assert isinstance(row.after, il.Scaled)
    assert row.after.gain == pytest.approx(1.5336, abs=1e-4)
    clone = keras.models.clone_model(model)
    assert_std(kernels(clone)[0], row.std)


def test_the_model_trains_on_after_a_rewrite():
    model = mlp(8)
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
    model.fit(x, x, verbose=0)
    before = kernels(model)
    il.rewrite_initializers(model, seed=0)
    drawn = kernels(model)
    model.fit(x, x, verbose=0)
    assert not np.array_equal(before[0], drawn[0])
    assert not np.array_equal(drawn[0], kernels(model)[0])


def test_deep_relu_network_keeps_its_signal():
    """He keeps the second moment over 30 ReLU layers, where Glorot halves it each."""

    def deep():
        rows = [layers.Dense(512, activation="relu") for _ in range(30)]
        return keras.Sequential([keras.Input((512,)), *rows])

    x = np.random.default_rng(0).normal(size=(64, 512)).astype("float32")
    plain, rewritten = deep(), deep()
    il.rewrite_initializers(rewritten, seed=0)
    moments = [np.mean(as_numpy(m(x)) ** 2) for m in (plain, rewritten)]
    assert moments[0] < 1e-6
    assert 0.3 < moments[1] < 3


def hollow():
    """A model that Keras marks as built, with a warning, and that has no weights."""
    model = Subclassed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.build((None, 300))
    return model


BAD = {
    "a layer": (lambda: (layers.Dense(3), {}), TypeError, "of type Dense"),
    "a string": (lambda: ("model", {}), TypeError, "'model'"),
    "None": (lambda: (None, {}), TypeError, "None"),
    "unbuilt": (
        lambda: (keras.Sequential([layers.Dense(3)]), {}),
        ValueError,
        "not built. Call model.build",
    ),
    "unbuilt subclass": (lambda: (Subclassed(), {}), ValueError, "not built. Call the"),
    "hollow subclass": (lambda: (hollow(), {}), ValueError, "not built. Call the"),
    "scheme": (lambda: (mlp(8), {"scheme": "magic"}), ValueError, "scheme='magic'"),
    "skip": (lambda: (mlp(8), {"skip": "nine"}), ValueError, "'nine'. Layers with a"),
    "seed": (lambda: (mlp(8), {"seed": "a"}), TypeError, "seed='a'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_and_the_model_unchanged(name):
    make, error, says = BAD[name]
    model, arguments = make()
    before = kernels(model) if getattr(model, "weights", None) else None
    with pytest.raises(error, match="Received") as caught:
        il.rewrite_initializers(model, **arguments)
    assert says in str(caught.value)
    if before is not None:
        for one, two in zip(before, kernels(model), strict=True):
            np.testing.assert_array_equal(one, two)
        assert isinstance(
            model.layers[0].kernel_initializer, keras.initializers.GlorotUniform
        )
