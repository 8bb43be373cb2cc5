"""Rewriting that looks at a batch: moments, means and correlations of the inputs."""

import itertools
import re

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from keras_initlab.propagation import batch_moments
from tests.helpers import as_numpy

WIDTH = 300


def pixels(*shape, seed=0):
    """Return numbers in [0, 1] that nobody standardised, larger on some inputs."""
    generator = np.random.default_rng(seed)
    scale = generator.uniform(0.3, 1.0, size=(shape[0], *[1] * (len(shape) - 1)))
    return (scale * generator.beta(0.5, 1.5, size=shape)).astype("float32")


def dense(*before, shape=(WIDTH,), last=10):
    return keras.Sequential(
        [
            keras.Input(shape),
            *before,
            layers.Dense(WIDTH, "relu", name="one"),
            layers.Dense(WIDTH, "tanh", name="two"),
            layers.Dense(last, name="head"),
        ]
    )


def second_moments(model, x, names=("one", "two")):
    """Return E[x²] of kernels' outputs on a batch, before activations."""
    figures = []
    for name in names:
        layer = model.get_layer(name)
        reader = keras.Model(model.inputs, layer.input)
        read = as_numpy(reader(x))
        figures.append(np.square(read @ as_numpy(layer.kernel)).mean())
    return np.array(figures)


@pytest.mark.parametrize("scheme", ["variance", "activation"])
def test_outputs_have_their_target_on_inputs_that_are_not_standardised(scheme):
    x = pixels(64, WIDTH)
    model = dense()
    il.rewrite_initializers(model, scheme, seed=0)
    wanted = {"variance": (1.0, 1.0), "activation": (2.0, 1.0)}[scheme]
    assert second_moments(model, x)[0] < 0.3 * wanted[0]
    plan = il.rewrite_initializers(model, scheme, seed=0, x=x)
    found = second_moments(model, x)
    # One draw of a kernel, on inputs that are much alike, moves it by √(2 / units).
    np.testing.assert_allclose(found, wanted, rtol=5 * np.sqrt(2 / WIDTH))
    assert "reads the batch" in plan[0].note or scheme == "variance"
    assert "reads the batch" not in plan[1].note


def test_isometric_reads_the_batch():
    x = 40 * pixels(64, WIDTH)
    model = dense(last=WIDTH)
    without = il.rewrite_initializers(model, "isometric", seed=0)
    plan = il.rewrite_initializers(model, "isometric", seed=0, x=x)
    second = np.square(x).mean()
    assert plan[0].gain == pytest.approx(without[0].gain / np.sqrt(second), rel=1e-6)
    assert second_moments(model, x)[0] == pytest.approx(plan[0].target, rel=0.35)


@pytest.mark.parametrize(
    "before",
    [
        lambda: layers.Rescaling(1 / 255.0),
        lambda: layers.Normalization(
            mean=np.full(WIDTH, 2.0), variance=np.full(WIDTH, 0.25)
        ),
        lambda: layers.Lambda(lambda x: 3.0 * x**2),
        lambda: layers.Dense(WIDTH, "relu", trainable=False),
        lambda: keras.Sequential([layers.Rescaling(4.0), layers.Dropout(0.5)]),
    ],
    ids=["rescaling", "normalization", "lambda", "frozen", "nested"],
)
def test_behind_preprocessing(before):
    x = pixels(64, WIDTH)
    model = dense(before())
    plan = il.rewrite_initializers(model, "variance", seed=0, x=x)
    reader = keras.Model(model.inputs, model.get_layer("one").input)
    read = as_numpy(reader(x))
    noise = 2.0 if "sequential" in model.layers[0].name else 1.0
    row = next(row for row in plan if row.layer == "one")
    second = noise * np.square(read).mean()
    assert row.gain == pytest.approx(1 / np.sqrt(second), rel=1e-4)
    (measured,) = plan.inputs
    rows = read.reshape(len(read), -1)
    lengths = np.sqrt(np.square(rows).sum(1))
    cosine = (rows @ rows.T).sum() - np.square(lengths).sum()
    cosine /= np.square(lengths).sum() * (len(rows) - 1)
    assert measured["mean"] == pytest.approx(read.mean(), rel=1e-4, abs=1e-6)
    assert measured["variance"] == pytest.approx(read.var(), rel=1e-4)
    assert measured["input_cosine"] == pytest.approx(cosine, rel=1e-4)
    assert measured["source"] == "measured"


def test_correlation_of_inputs_reaches_batch_statistics():
    # Inputs that are nearly alike: what a batch's variance divides by is small.
    generator = np.random.default_rng(0)
    x = generator.normal(size=(1, WIDTH)) + 0.1 * generator.normal(size=(64, WIDTH))
    model = keras.Sequential(
        [
            keras.Input((WIDTH,)),
            layers.BatchNormalization(center=False, scale=False),
            layers.Dense(WIDTH, name="one"),
            layers.Dense(3, name="head"),
        ]
    )
    plan = il.rewrite_initializers(model, "variance", x=x, seed=0)
    # E[y²] = 1 behind batch statistics, whatever E[x²] is.
    assert plan[0].gain == pytest.approx(1.0, rel=0.05)
    assert "cosine 0.99" in str(plan)


def test_tokens_that_are_often_the_same():
    generator = np.random.default_rng(0)
    tokens = generator.zipf(1.3, size=(128, 40)).clip(max=499)
    model = keras.Sequential(
        [
            keras.Input((40,), dtype="int32"),
            layers.Embedding(500, 64, name="look"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(WIDTH, name="one"),
            layers.Dense(3, name="head"),
        ]
    )
    without = il.rewrite_initializers(model, "variance", seed=0)
    plan = il.rewrite_initializers(model, "variance", seed=0, x=tokens)
    assert any("same token" in line for line in plan.measured)
    found = []
    # Over draws of the embedding, scaled to variance 1 as it is taken to become.
    for _ in range(20):
        rows = generator.normal(size=(500, 64))
        found.append(np.square(rows[tokens].mean(1)).mean())
    assert plan[0].gain == pytest.approx(1 / np.sqrt(np.mean(found)), rel=0.1)
    assert without[0].gain > 1.5 * plan[0].gain


def test_several_inputs_by_name_or_in_order():
    first, second = keras.Input((8,), name="a"), keras.Input((6,), name="b")
    joined = layers.Add()([layers.Dense(4)(first), layers.Dense(4)(second)])
    model = keras.Model([first, second], layers.Dense(2)(joined))
    x = [pixels(32, 8), 30 * pixels(32, 6)]
    plans = [
        il.rewrite_initializers(model, "variance", x=one, dry_run=True)
        for one in (x, {"b": x[1], "a": x[0]}, iter([(x, None)]))
    ]
    gains = [[row.gain for row in plan] for plan in plans]
    assert gains[0] == gains[1] == gains[2]
    assert [one["input"] for one in plans[0].inputs] == ["a", "b"]


def test_images_and_recurrent_layers_and_subclassed_models():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = layers.Conv2D(32, 3, activation="relu")
            self.pool = layers.GlobalAveragePooling2D()
            self.head = layers.Dense(3)

        def call(self, x):
            return self.head(self.pool(self.conv(x / 255.0)))

    images = 255 * pixels(32, 12, 12, 3)
    model = Net()
    model(images)
    for scheme in ("variance", "isometric", "activation"):
        plan = il.rewrite_initializers(model, scheme, seed=0, x=images)
        second = np.square(images / 255).mean()
        assert plan.inputs[0]["second_moment"] == pytest.approx(second, rel=1e-4)
    assert plan[0].gain == pytest.approx(np.sqrt(2 / second), rel=1e-4)
    sequence = keras.Sequential([keras.Input((7, 5)), layers.LSTM(8), layers.Dense(2)])
    x = 9 * pixels(16, 7, 5)
    plan = il.rewrite_initializers(sequence, x=x)
    assert plan[0].gain == pytest.approx(1 / np.sqrt(np.square(x).mean()), rel=1e-4)


def test_the_plan_says_what_was_measured():
    x = pixels(32, WIDTH)
    plan = il.rewrite_initializers(dense(), "variance", x=x)
    assert len(plan.measured) == 1
    assert f"measured: {plan.measured[0]}" in str(plan)
    assert "assumed: inputs: Gaussian with the moments of the batch" in str(plan)
    assert {record["inputs"] for record in plan.records} == {"measured"}
    plan = il.rewrite_initializers(dense(), "variance")
    assert {record["inputs"] for record in plan.records} == {"assumed"}
    assert "measured" not in str(plan)


def test_a_batch_of_one_and_constant_data():
    plan = il.rewrite_initializers(dense(), "variance", x=pixels(1, WIDTH))
    assert any("batch of one" in line for line in plan.measured)
    plan = il.rewrite_initializers(dense(), "variance", x=np.full((8, WIDTH), 2.0))
    assert plan[0].gain == pytest.approx(0.5)


def broken(x, value):
    x[0, 0] = value
    return x


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": broken(pixels(4, WIDTH), np.nan)}, ValueError, "1 values of NaN"),
        ({"x": broken(pixels(4, WIDTH), np.inf)}, ValueError, "finite"),
        ({"x": pixels(4, 7)}, ValueError, r"shape \(None, 300\)"),
        (
            {"x": np.ones((0, WIDTH))},
            ValueError,
            "batch",
        ),
        ({"x": np.zeros((4, WIDTH))}, ValueError, "is 0 at"),
        ({"x": [pixels(4, WIDTH)] * 2}, ValueError, "each of the model's inputs"),
        ({"x": "pixels"}, TypeError, "array"),
        ({"x": pixels(4, WIDTH), "mean": 0.5}, ValueError, "`mean` and `variance`"),
        ({"x": pixels(4, WIDTH), "only_unbuilt": True}, ValueError, "only_unbuilt"),
    ],
)
def test_bad_batches_change_nothing(arguments, error, message):
    model = dense()
    before = [weight.copy() for weight in model.get_weights()]
    scheme = "activation" if "only_unbuilt" in arguments else "variance"
    with pytest.raises(error, match=message):
        il.rewrite_initializers(model, scheme, **arguments)
    after = model.get_weights()
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


def test_looking_at_a_batch_leaves_no_trace():
    model = dense(layers.Dense(WIDTH, trainable=False), layers.BatchNormalization())
    before = [as_numpy(variable).copy() for variable in model.variables]
    il.rewrite_initializers(model, "variance", x=pixels(8, WIDTH), dry_run=True)
    after = [as_numpy(variable) for variable in model.variables]
    assert all((a == b).all() for a, b in zip(before, after, strict=True))
    assert not model.losses


@pytest.mark.parametrize("shape", [(3, 4, 2), (1, 4, 2), (3, 1, 2), (3, 4, 1)])
def test_pairs_are_those_of_the_definition(shape):
    stack = np.random.default_rng(0).normal(1.0, size=shape)
    sums, counts = np.zeros((2, 2, 2)), np.zeros((2, 2, 2))
    indices = list(np.ndindex(*shape))
    for a, b in itertools.product(indices, indices):
        kind = (int(a[2] != b[2]), int(a[1] != b[1]), int(a[0] != b[0]))
        sums[kind] += stack[a] * stack[b]
        counts[kind] += 1
    expected = np.where(counts, sums / np.maximum(counts, 1), 7.0)
    np.testing.assert_allclose(batch_moments._pairs(stack, 7.0), expected, rtol=1e-9)


def test_shares_of_equal_tokens_are_those_of_the_definition():
    tokens = np.random.default_rng(0).integers(3, size=(4, 5))
    sums, counts = np.zeros((2, 2)), np.zeros((2, 2))
    indices = list(np.ndindex(*tokens.shape))
    for a, b in itertools.product(indices, indices):
        kind = (int(a[1] != b[1]), int(a[0] != b[0]))
        sums[kind] += tokens[a] == tokens[b]
        counts[kind] += 1
    np.testing.assert_allclose(batch_moments._alike(tokens), sums / counts)


def test_draws_of_narrow_deep_networks_spread():
    depth, width = 30, 40
    chain = [layers.Dense(width, "relu") for _ in range(depth)]
    model = keras.Sequential([keras.Input((width,)), *chain, layers.Dense(5)])
    plan = il.rewrite_initializers(model, "variance", seed=0, dry_run=True)
    (line,) = [line for line in plan.assumptions if line.startswith("spread")]
    assert "calibrate" in line
    factor = float(re.search(r"twenty is (\S+) times", line).group(1))
    generator = np.random.default_rng(0)
    logs = []
    for _ in range(400):
        z = generator.normal(size=width)
        for _ in range(depth):
            w = generator.normal(size=(width, width)) * np.sqrt(2 / width)
            z = np.maximum(z, 0) @ w
        logs.append(np.log(np.square(z).mean()))
    # What the approximation leaves out, the input's own length among it: a tenth.
    assert np.log(factor) == pytest.approx(2 * np.std(logs), rel=0.25)
    wide = keras.Sequential([keras.Input((500,)), layers.Dense(500, "relu")])
    plan = il.rewrite_initializers(wide, "variance", dry_run=True)
    assert not any(line.startswith("spread") for line in plan.assumptions)
