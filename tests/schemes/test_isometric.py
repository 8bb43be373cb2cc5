import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from keras_initlab import activations
from keras_initlab.activations import properties, quadrature
from keras_initlab.activations.table import NAMED
from keras_initlab.schemes.isometric import default_q
from tests.helpers import as_numpy, run_python


def net(*rows, shape=(64,)):
    return keras.Sequential([keras.Input(shape), *rows])


def rewrite(model, **options):
    plan = il.rewrite_initializers(model, scheme="isometric", seed=0, **options)
    return {row.layer: row for row in plan}


def sides(row):
    """Which sides of a kernel are in pairs, None where it is not mirrored at all."""
    if not isinstance(row.after, il.Mirrored):
        return None
    return row.after.inputs, row.after.outputs


def plain(activation, depth, width=64, **options):
    hidden = [layers.Dense(width, activation, name=f"d{i}") for i in range(depth)]
    return net(*hidden, layers.Dense(10, "softmax", name="head"), **options)


LINEAR = ["relu", "gelu", "silu", "softplus", "hard_silu"]
BENT = ["leaky_relu", "relu6", "elu", "selu", "mish", "softsign", "tanh", "sigmoid"]
ODD = ["softsign", "tanh"]


@pytest.mark.parametrize("activation", LINEAR)
def test_a_deep_network_keeps_all_distances(activation):
    model = plain(activation, 60)
    rewrite(model)
    x = np.random.default_rng(0).standard_normal((8, 64)).astype("float32")
    first = as_numpy(keras.ops.matmul(x, model.layers[0].kernel))
    h = x
    for layer in model.layers[:-2]:
        h = layer(h)
    last = as_numpy(keras.ops.matmul(h, model.layers[-2].kernel))

    def gram(z):
        return z @ z.T

    scale = np.abs(gram(first)).max()
    np.testing.assert_allclose(gram(last), gram(first), atol=1e-4 * scale)


@pytest.mark.parametrize("activation", LINEAR + BENT)
def test_every_output_has_the_second_moment_q(activation):
    model = plain(activation, 12)
    rows = rewrite(model)
    x = np.random.default_rng(0).standard_normal((256, 64)).astype("float32")
    q = default_q(activations.resolve(activation), 12)
    for layer in model.layers[:-1]:
        z = as_numpy(keras.ops.matmul(x, layer.kernel))
        assert (z**2).mean() == pytest.approx(q, rel=0.15), layer.name
        assert rows[layer.name].predicted_after == pytest.approx(q, rel=1e-6)
        x = layer(x)
    without = [(False, False)] * 4
    expected = [(False, True), (True, True), (True, True), (True, False)]
    found = [sides(rows[name]) for name in ("d0", "d1", "d11", "head")]
    assert found == (without if activation in ODD else expected)


def test_it_trains_where_others_do_not():
    """Fifty layers of GELU, on a task that a linear model cannot do."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((512, 8)).astype("float32")
    y = (x[:, 0] * x[:, 1] > 0).astype("int32")
    accuracy = {}
    for scheme in ("activation", "isometric"):
        keras.utils.set_random_seed(0)
        hidden = [layers.Dense(32, "gelu") for _ in range(50)]
        model = net(*hidden, layers.Dense(2, "softmax"), shape=(8,))
        il.rewrite_initializers(model, scheme=scheme, seed=0)
        model.compile(
            keras.optimizers.SGD(0.01, 0.9),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        model.fit(x, y, epochs=20, batch_size=32, verbose=0)
        accuracy[scheme] = model.evaluate(x, y, verbose=0)[1]
    assert accuracy["isometric"] > 0.85, accuracy
    assert accuracy["isometric"] > accuracy["activation"] + 0.2, accuracy


def test_pairs_part_ways_at_the_first_step():
    model = plain("relu", 3)
    rewrite(model)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((32, 64)).astype("float32")
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    model.fit(x, generator.integers(0, 10, 32), epochs=1, batch_size=32, verbose=0)
    kernel = as_numpy(model.layers[1].kernel)
    apart = np.abs(kernel[:, 0::2] + kernel[:, 1::2]).max(axis=0)
    assert (apart > 1e-6).all()


@pytest.mark.parametrize("activation", ["tanh", None])
def test_there_are_no_pairs_where_they_would_never_part(activation):
    """Behind an odd function the two of a pair get opposite gradients for ever."""
    model = net(
        layers.Dense(16, "relu", name="one"),
        layers.Dense(8, activation, name="code"),
        layers.Dense(16, "relu", name="three"),
        layers.Dense(4, name="head"),
    )
    rows = rewrite(model)
    assert [sides(rows[name]) for name in ("one", "code", "three", "head")] == [
        (False, True),
        (True, False),
        (False, True),
        (True, False),
    ]
    assert "behind an odd function" in rows["code"].note
    assert all(
        row.predicted_after == pytest.approx(row.target) for row in rows.values()
    )
    assert np.linalg.matrix_rank(as_numpy(model.get_layer("code").kernel)) == 8

    model.get_layer("code").kernel.assign(il.Mirrored(seed=1)((16, 8)))
    model.get_layer("three").kernel.assign(il.Mirrored(seed=1)((8, 16)))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((32, 64)), generator.standard_normal((32, 4))
    model.fit(x, y, epochs=9, batch_size=32, verbose=0)
    kernel = as_numpy(model.get_layer("code").kernel)
    np.testing.assert_allclose(kernel[:, 0::2], -kernel[:, 1::2], atol=1e-5)


def test_odd_widths_are_orthogonal_and_said_so():
    model = net(
        layers.Dense(32, "relu", name="one"),
        layers.Dense(15, "relu", name="two"),
        layers.Dense(32, "relu", name="three"),
        layers.Dense(32, "relu", name="four"),
        layers.Dense(3, name="head"),
    )
    rows = rewrite(model)
    assert sides(rows["one"]) == (False, True)
    assert sides(rows["two"]) == (True, False)
    assert "15 outputs, which is odd" in rows["two"].note
    assert sides(rows["three"]) == (False, True)
    assert "no pairs reach it" in rows["three"].note
    assert sides(rows["head"]) == (True, False)
    for name in ("one", "two", "three", "four"):  # of which three make pairs
        assert rows[name].predicted_after == pytest.approx(0.05 * 50 / 3)
    alone = net(layers.Dense(15, "relu"), layers.Dense(15, "relu"), shape=(15,))
    plan = il.rewrite_initializers(alone, scheme="isometric", seed=0)
    assert all(isinstance(row.after, il.Orthogonal) for row in plan)
    assert "Without pairs" in str(plan)


def test_nothing_reads_pairs_behind_an_even_function():
    model = net(
        layers.Dense(32, keras.ops.square, name="one"), layers.Dense(32, name="two")
    )
    rows = rewrite(model)
    assert sides(rows["one"]) is None
    assert sides(rows["two"]) is None


def test_shared_recurrent_depthwise_attention_and_lookup():
    tokens = keras.Input((12,), dtype="int32")
    shared = layers.Dense(16, "relu", name="shared")
    x = layers.Embedding(50, 16, name="embedding")(tokens)
    x = shared(shared(x))
    x = layers.MultiHeadAttention(2, 8, name="attention")(x, x)
    x = layers.LSTM(16, return_sequences=True, name="lstm")(x)
    x = layers.DepthwiseConv1D(3, padding="same", name="depthwise")(x)
    x = layers.Dense(32, "relu", name="even")(x)
    x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(tokens, layers.Dense(4, name="head")(x))
    plan = il.rewrite_initializers(model, scheme="isometric", seed=0)
    rows = {(row.layer, row.weight): row for row in plan}
    notes = {
        ("shared", "kernel"): "not mirrored: shared",
        ("attention/query", "kernel"): "not mirrored: inside attention",
        ("lstm", "kernel"): "LSTM",
        ("depthwise", "kernel"): "not mirrored: DepthwiseConv1D's kernel",
    }
    for key, note in notes.items():
        found = next(row for k, row in rows.items() if k[0].startswith(key[0]))
        assert isinstance(found.after, il.Orthogonal), key
        assert "not mirrored" in found.note, (key, found.note)
        assert note.split(": ")[-1] in found.note or "lstm" in key[0], found.note
    assert sides(rows["even", "kernel"]) == (False, True)
    assert sides(rows["head", "kernel"]) == (True, False)
    shared_row = rows["shared", "kernel"]
    assert shared_row.predicted_after == pytest.approx(shared_row.target, rel=0.02)
    recurrent = next(r for r in plan if r.weight == "recurrent_kernel")
    assert recurrent.gain == 1.0
    assert isinstance(recurrent.after, il.Orthogonal)


CARRYING = {
    "dropout": [layers.Dropout(0.3)],
    "layer normalisation": [layers.LayerNormalization()],
    "batch normalisation": [layers.BatchNormalization()],
    "flatten": [layers.Reshape((4, 16)), layers.Flatten()],
    "activation layer": [layers.LeakyReLU()],
}


@pytest.mark.parametrize("name", CARRYING)
def test_pairs_are_carried(name):
    model = net(
        layers.Dense(64, "relu", name="one"),
        *[type(one).from_config(one.get_config()) for one in CARRYING[name]],
        layers.Dense(16, name="two"),
    )
    rows = rewrite(model)
    assert sides(rows["one"]) == (False, True)
    assert sides(rows["two"]) == (True, False)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions(rank):
    kind = getattr(layers, f"Conv{rank}D")
    pool = getattr(layers, f"AveragePooling{rank}D")
    model = net(
        kind(16, 3, padding="same", activation="relu", name="one"),
        pool(2),
        kind(24, 3, padding="same", activation="gelu", name="two"),
        layers.Flatten(),
        layers.Dense(10, name="head"),
        shape=(*[4] * rank, 3),
    )
    rows = rewrite(model)
    assert [sides(rows[name]) for name in ("one", "two", "head")] == [
        (False, True),
        (True, True),
        (True, False),
    ]
    # A stem looks around: at one tap its three inputs would make eight pairs alike.
    assert [rows[name].after.base for name in ("one", "two")] == [
        "orthogonal",
        "delta_orthogonal",
    ]
    kernel = as_numpy(model.get_layer("two").kernel)
    assert np.count_nonzero(kernel) == 16 * 24
    for name in ("one", "two"):
        assert rows[name].predicted_after == pytest.approx(1.0)


def test_the_stem_of_a_deep_network_starts_at_its_centre():
    rows = [layers.Conv2D(8, 3, padding="same", activation="relu") for _ in range(21)]
    model = net(*rows, layers.Flatten(), layers.Dense(10), shape=(4, 4, 1))
    plan = rewrite(model)
    assert plan[rows[0].name].after.base == "delta_orthogonal"


def test_all_taps_where_skips_or_normalisation_carry_the_signal():
    x = keras.Input((8, 8, 16))
    y = layers.Conv2D(16, 3, padding="same", activation="relu", name="one")(x)
    y = layers.Conv2D(16, 3, padding="same", name="two")(y)
    model = keras.Model(x, layers.Add()([x, y]))
    rows = rewrite(model)
    assert rows["one"].after.base == "orthogonal"
    assert sides(rows["two"]) == (True, False)
    assert "residual branch, 1 of 1" in rows["two"].note
    zero = rewrite(model, residual="zero")
    assert isinstance(zero["two"].after, keras.initializers.Zeros)


def test_a_paired_stream():
    x = keras.Input((16,))
    y = layers.Dense(32, name="stem")(x)
    for i in range(3):
        z = layers.Dense(32, "relu", name=f"in{i}")(layers.ReLU()(y))
        y = layers.Add()([y, layers.Dense(32, name=f"out{i}")(z)])
    model = keras.Model(x, layers.Dense(4, name="head")(layers.ReLU()(y)))
    rows = rewrite(model)
    for name, row in rows.items():
        expected = (name != "stem", name != "head")
        assert sides(row) == expected, name
    assert rows["out1"].target == pytest.approx(0.05 * 50 / 7 / 3)


def test_wrapped_nested_and_einsum():
    model = net(
        layers.TimeDistributed(layers.Dense(16, "relu"), name="each"),
        keras.Sequential(
            [
                keras.Input((6, 16)),
                layers.EinsumDense("abc,cd->abd", (6, 32), activation="relu"),
                layers.Dense(16, "elu"),
            ],
            name="inner",
        ),
        layers.Flatten(),
        layers.Dense(4, name="head"),
        shape=(6, 8),
    )
    plan = il.rewrite_initializers(model, scheme="isometric", seed=0)
    assert [sides(row) for row in plan] == [
        (False, True),
        (True, True),
        (True, True),
        (True, False),
    ]
    assert all(row.predicted_after == pytest.approx(row.target) for row in plan)


def test_a_bias_that_is_not_zero():
    model = net(
        layers.Dense(16, "relu", bias_initializer="ones", name="one"),
        layers.Dense(16, name="two"),
    )
    rows = rewrite(model)
    assert sides(rows["one"]) is None
    assert "its bias does not start at 0" in rows["one"].note


def test_q_and_its_default():
    rows = rewrite(plain("tanh", 3), q=0.3)
    assert rows["d1"].target == 0.3
    assert rows["head"].target == 0.1
    by_depth = [default_q(activations.resolve("tanh"), n) for n in (10, 1000, 5000)]
    assert by_depth == sorted(by_depth, reverse=True)
    assert by_depth[0] > by_depth[-1]
    for depth in (50, 1000):
        assert default_q(activations.resolve("gelu"), depth) == 0.05
        softplus = default_q(activations.resolve("softplus"), depth)
        assert softplus == pytest.approx(0.05)
    assert default_q(activations.resolve("sigmoid"), 50) == pytest.approx(0.2, rel=1e-4)
    assert default_q(activations.resolve(keras.ops.square), 50) == 0.05
    # Shallow networks start less linear: they have fewer layers to bend in.
    assert 0.1 < default_q(activations.resolve("tanh"), 4) <= 1.0
    tanh = default_q(activations.resolve("tanh"), 50)
    assert tanh == pytest.approx(0.0125, rel=1e-4)
    assert default_q(activations.resolve("relu"), 1) == 1.0
    shrunk = activations.resolve(keras.ops.hard_shrink)
    assert default_q(shrunk, 10) <= 1.0
    odd = activations.odd_part("tanh")
    q = by_depth[-1]
    at = activations.moments(odd, variance=q)
    assert (q * at.derivative_second_moment / at.second_moment) ** 5000 < 1.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "isometric", "q": 0}, "`q` must be a finite number above 0"),
        ({"scheme": "isometric", "q": "x"}, "Received: q='x'"),
        ({"scheme": "variance", "q": 0.1}, "`q` belongs to scheme='isometric'"),
        ({"scheme": "isometric", "target": 2.0}, "`target` belongs to"),
        ({"scheme": "isometric", "criterion": "balanced"}, "`criterion` belongs to"),
        ({"scheme": "isometric", "only_unbuilt": True}, "`only_unbuilt` belongs to"),
        ({"scheme": "isometric", "residual": "none"}, "`residual` must be"),
    ],
)
def test_options_are_checked_before_anything_is_changed(options, message):
    model = plain("relu", 2)
    before = [as_numpy(w) for w in model.weights]
    with pytest.raises(ValueError, match=message):
        il.rewrite_initializers(model, **options)
    for was, now in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(was, as_numpy(now))


def test_dry_run_changes_nothing():
    model = plain("relu", 2)
    before = as_numpy(model.layers[0].kernel)
    rows = rewrite(model, dry_run=True)
    assert sides(rows["d0"]) == (False, True)
    np.testing.assert_array_equal(before, as_numpy(model.layers[0].kernel))
    assert isinstance(
        model.layers[0].kernel_initializer, keras.initializers.GlorotUniform
    )


def test_a_saved_model_draws_by_the_same_rule(tmp_path):
    """In another process: weights, config, and fresh weights of a clone."""
    model = plain("gelu", 4)
    rewrite(model)
    path = tmp_path / "deep.keras"
    model.save(path)
    code = f"""
import keras, numpy as np, keras_initlab as il
model = keras.saving.load_model({str(path)!r})
clone = keras.models.clone_model(model)
for one in (model, clone):
    k = keras.ops.convert_to_numpy(one.layers[1].kernel)
    assert np.array_equal(k[0::2], -k[1::2]) and np.array_equal(k[:, 0::2], -k[:, 1::2])
print(float((keras.ops.convert_to_numpy(model.layers[1].kernel) ** 2).sum()))
"""
    there = float(run_python(code).splitlines()[-1])
    here = float((as_numpy(model.layers[1].kernel) ** 2).sum())
    assert there == pytest.approx(here, rel=1e-6)


def test_seeds_repeat_and_differ():
    kernels = []
    for seed in (0, 0, 1):
        model = plain("relu", 3)
        il.rewrite_initializers(model, scheme="isometric", seed=seed)
        kernels.append([as_numpy(layer.kernel) for layer in model.layers])
    np.testing.assert_array_equal(kernels[0][1], kernels[1][1])
    assert not np.array_equal(kernels[0][1], kernels[2][1])
    assert not np.array_equal(kernels[0][1], kernels[0][2])


def test_no_activation_takes_long_to_find_its_q(monkeypatch):
    points = []

    def counted(function, x):
        points.append(x.size)
        return evaluate(function, x)

    evaluate = quadrature._evaluate
    monkeypatch.setattr(quadrature, "_evaluate", counted)
    for name, known in NAMED.items():
        if known.function is not None:
            points.clear()
            properties._moments.cache_clear()
            default_q.__wrapped__(known, 1000)
            assert sum(points) < 1_000_000, name


@pytest.mark.parametrize(
    "shifted",
    [
        lambda h: h - 1.0,
        lambda h: 1 - h,
        lambda h: 2 * h - 1,
        lambda h: h + 1,
        lambda h: h - keras.ops.arange(32, dtype="float32"),
        lambda h: layers.Subtract()([h, keras.ops.ones((1, 32))]),
        lambda h: -h,
        lambda h: h - h / 2,
    ],
)
@pytest.mark.parametrize("activation", ["relu", None])
def test_a_constant_taken_off_behind_a_kernel(shifted, activation):
    inputs = keras.Input((32,))
    h = shifted(layers.Dense(32, activation, name="one")(inputs))
    h = layers.Dense(32, "relu", name="two")(h)
    model = keras.Model(inputs, layers.Dense(3, name="head")(h))
    rows = rewrite(model)
    assert rows["two"].predicted_after == pytest.approx(1.0)
    assert rows["head"].predicted_after == pytest.approx(0.1)
    # A number is taken off both of a pair, and what reads them does not see it.
    alone = keras.Model(inputs, layers.Dense(32, activation)(inputs) - 1.0)
    assert rewrite(alone)
