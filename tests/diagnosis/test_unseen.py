"""Diagnosis of networks that its rules were not fitted to: it runs, and it is right."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from tests.diagnosis import cases
from tests.diagnosis.cases import alarms, compiled, constant, normal, stack

# What is asked here are rules on figures that all backends agree on; elsewhere a few
# show that the backend is read at all.
FEW = ("siamese", "gates of one input", "zeros in the middle")
OTHER = keras.backend.backend() != "torch"


def some(table):
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)),
            id=name.replace(" ", "-"),
        )
        for name, value in table.items()
        if name in FEW or not OTHER
    ]


def drawn(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def model_of(inputs, outputs):
    return keras.Model(inputs, outputs)


# Sound networks -------------------------------------------------------------------


def siamese():
    tower = keras.Sequential([keras.Input((64,)), layers.Dense(32, "relu")])
    a, b = keras.Input((64,)), keras.Input((64,))
    apart = layers.Lambda(lambda pair: keras.ops.abs(pair[0] - pair[1]))
    return model_of([a, b], layers.Dense(1, "sigmoid")(apart([tower(a), tower(b)])))


def u_net(**options):
    x = inputs = keras.Input((8, 8, 1))
    skips = []
    options = {"padding": "same", "activation": "relu", **options}
    for filters in (8, 16):
        x = layers.Conv2D(filters, 3, **options)(x)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(32, 3, **options)(x)
    for filters, skip in zip((16, 8), skips[::-1], strict=True):
        x = layers.Conv2DTranspose(filters, 3, strides=2, **options)(x)
        x = layers.Concatenate()([x, skip])
        x = layers.Conv2D(filters, 3, **options)(x)
    return model_of(inputs, layers.Conv2D(1, 1, activation="sigmoid")(x))


def residual(blocks=4, pooled=True, **options):
    """Return a residual network with BatchNormalization at each convolution."""
    options = {"padding": "same", **options}
    x = inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(16, 3, padding="same")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for _ in range(blocks):
        y = layers.Conv2D(16, 3, **options)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.BatchNormalization()(layers.Conv2D(16, 3, **options)(y))
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x) if pooled else layers.Flatten()(x)
    return model_of(inputs, layers.Dense(10, "softmax")(x))


def encoder(first=True):
    """Return attention blocks of small kernels, normalised before or after them."""

    def normalised(x, here):
        return layers.LayerNormalization()(x) if here else x

    def kernel():
        return keras.initializers.TruncatedNormal(stddev=0.02)

    x = inputs = keras.Input((12,), dtype="int32")
    x = layers.Embedding(40, 32)(x)
    for _ in range(3):
        y = normalised(x, first)
        y = layers.MultiHeadAttention(4, 8, kernel_initializer=kernel())(y, y)
        x = normalised(layers.Add()([x, y]), not first)
        y = layers.Dense(64, "gelu", kernel_initializer=kernel())(normalised(x, first))
        y = layers.Dense(32, kernel_initializer=kernel())(y)
        x = normalised(layers.Add()([x, y]), not first)
    x = layers.GlobalAveragePooling1D()(normalised(x, first))
    return model_of(inputs, layers.Dense(2, "softmax")(x))


def fused():
    image = keras.Input((8, 8, 1), name="image")
    mask = keras.Input((4,), name="mask")
    x = layers.Flatten()(layers.Conv2D(8, 3, activation="relu")(image))
    x = layers.Dense(32, "relu")(layers.Concatenate()([x, mask]))
    inputs = {"image": image, "mask": mask}
    return model_of(inputs, layers.Dense(10, "softmax")(x))


class Beside(layers.Layer):
    """Add what a kernel of zeros makes to what another weight makes."""

    def build(self, shape):
        self.main = self.add_weight(shape=(shape[-1], 8), name="main")
        self.zeros = self.add_weight(
            shape=(shape[-1], 8), initializer="zeros", name="kernel"
        )

    def call(self, x):
        return keras.ops.tanh(x @ self.main) + x @ self.zeros


def sequential(*rows, shape):
    return keras.Sequential([keras.Input(shape), *rows])


def many(make, count):
    return [make() for _ in range(count)]


def deep_convolutions():
    def make():
        options = {"padding": "same", "activation": "relu"}
        return layers.Conv2D(24, 3, kernel_initializer="he_normal", **options)

    rows = [*many(make, 12), layers.GlobalAveragePooling2D()]
    return sequential(*rows, layers.Dense(10, "softmax"), shape=(8, 8, 1))


def squeezed():
    """Return convolutions whose channels are weighed by gates."""
    x = inputs = keras.Input((8, 8, 1))
    for filters in (16, 32):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        gate = layers.Dense(4, "relu")(layers.GlobalAveragePooling2D()(x))
        gate = layers.Reshape((1, 1, filters))(layers.Dense(filters, "sigmoid")(gate))
        x = layers.MaxPooling2D()(layers.Multiply()([x, gate]))
    return model_of(inputs, layers.Dense(10, "softmax")(layers.Flatten()(x)))


def quantised():
    rows = [layers.Dense(16, "relu"), layers.Dense(16, "relu"), layers.Dense(4)]
    model = sequential(*rows, shape=(64,))
    for row in model.layers:
        row.quantize("int8")
    return model


VECTORS, IMAGES, TOKENS = cases.digits, cases.images, cases.tokens
SOUND = {
    "siamese": (
        siamese,
        lambda: ([VECTORS()[0], VECTORS()[0][::-1]], None),
    ),
    "u-net": (u_net, IMAGES),
    "residual with normalisation": (residual, IMAGES),
    "encoder, pre-norm": (encoder, TOKENS),
    "encoder, post-norm": (lambda: encoder(False), TOKENS),
    "mask of ones": (
        fused,
        lambda: ({"image": IMAGES()[0], "mask": np.ones((1024, 4), "float32")}, None),
    ),
    "kernel of zeros beside another": (
        lambda: sequential(Beside(), layers.Dense(3), shape=(64,)),
        VECTORS,
    ),
    "twelve convolutions, pooled": (deep_convolutions, IMAGES),
    "gated channels": (squeezed, IMAGES),
    "one unit": (
        lambda: sequential(
            layers.Dense(1, "softplus"), layers.Dense(1), layers.Dense(3), shape=(64,)
        ),
        VECTORS,
    ),
    "quantised": (quantised, VECTORS),
    "stacked GRU": (
        lambda: sequential(
            layers.GRU(24, return_sequences=True),
            layers.GRU(24),
            layers.Dense(10),
            shape=(8, 8),
        ),
        cases.rows_of_digits,
    ),
}


@pytest.mark.parametrize(("build", "data"), some(SOUND))
def test_sound_network_raises_no_alarm(build, data):
    keras.utils.set_random_seed(1)
    model = build()
    before = [np.array(one) for one in model.get_weights()]
    x = cases.batch(data()[0])
    findings = [*il.diagnose(model), *il.diagnose(model, x)]
    assert not alarms(findings), [str(one) for one in findings]
    after = model.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.torch
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if index else [])
        for index, name in enumerate(
            ("MobileNetV2", "ResNet50", "DenseNet121", "InceptionV3", "EfficientNetB0")
        )
    ],
)
def test_normalised_application_raises_no_alarm(name):
    keras.utils.set_random_seed(0)
    size = 75 if name == "InceptionV3" else 32
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(size, size, 3), classes=10)
    findings = [*il.diagnose(model), *il.diagnose(model, drawn(16, size, size, 3))]
    assert not alarms(findings), [str(one) for one in findings]


def test_a_single_input_does_not_make_units_dead():
    model = sequential(layers.Dense(64, "relu"), layers.Dense(3), shape=(12,))
    assert not alarms(il.diagnose(model, drawn(1, 12)))


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("build", [u_net, lambda: residual(pooled=False)])
def test_sound_network_raises_no_alarm_in_training(build):
    keras.utils.set_random_seed(1)
    model = build()
    x, labels = IMAGES()
    if model.output_shape[-1] == 1:
        model.compile("adam", "binary_crossentropy")
        y = (x > 0).astype("float32")
    else:
        model, y = compiled(model), labels
    monitor = il.VarianceMonitor(every=1, gradients=True, on_finding="ignore")
    cases.fit(model, x, y, 4, [monitor])
    findings = monitor.findings
    findings += il.diagnose(model, cases.batch(x))
    assert not alarms(findings), [str(one) for one in findings]


# Faults ---------------------------------------------------------------------------


def with_weight(model, layer, index, value):
    """Overwrite one entry, or with a number for all of them a whole weight."""
    found = model.layers[layer].get_weights()
    found[index] = np.array(found[index])
    if np.isfinite(value):
        found[index][...] = value
    else:
        found[index].flat[0] = value
    model.layers[layer].set_weights(found)
    return model


def normalised_convolutions(**options):
    rows = []
    for _ in range(4):
        rows.append(layers.Conv2D(16, 3, padding="same", **options))
        rows += [layers.BatchNormalization(), layers.ReLU()]
    rows += [layers.Flatten(), layers.Dense(10, "softmax")]
    return sequential(*rows, shape=(8, 8, 1))


def gates_of_one_input():
    gated = layers.GRU(32, kernel_initializer=normal(4.0))
    return sequential(gated, layers.Dense(10, "softmax"), shape=(8, 8))


def tokens_and_bytes():
    a, b = keras.Input((64,)), keras.Input((12,), dtype="int32")
    x = layers.Flatten()(layers.Embedding(40, 8)(b))
    x = layers.Concatenate()([layers.Dense(32, "relu")(a), x])
    return model_of([a, b], layers.Dense(10, "softmax")(x))


def dead_by_bias():
    def make():
        return layers.Conv2D(
            16, 3, activation="relu", padding="same", bias_initializer=constant(-9.0)
        )

    rows = [*many(make, 3), layers.Flatten(), layers.Dense(10, "softmax")]
    return sequential(*rows, shape=(8, 8, 1))


def same_seed():
    return residual(kernel_initializer=keras.initializers.HeNormal(seed=1))


def sigmoids():
    rows = many(lambda: layers.Conv2D(16, 3, activation="sigmoid", padding="same"), 10)
    rows += [layers.Flatten(), layers.Dense(10, "softmax")]
    return sequential(*rows, shape=(8, 8, 1))


FAULTY = {
    "zeros in the middle": (
        lambda: with_weight(normalised_convolutions(), 3, 0, 0.0),
        IMAGES,
        "constant-kernel",
    ),
    "constants in a u-net": (
        lambda: u_net(kernel_initializer=constant(0.03)),
        IMAGES,
        "constant-kernel",
    ),
    "NaN in a moving variance": (
        lambda: with_weight(normalised_convolutions(), 4, 3, np.nan),
        IMAGES,
        "nonfinite",
    ),
    "infinity in a bias": (
        lambda: with_weight(normalised_convolutions(), 3, 1, np.inf),
        IMAGES,
        "nonfinite",
    ),
    "gates of one input": (
        gates_of_one_input,
        cases.rows_of_digits,
        "initializer-mismatch",
    ),
    "bytes beside tokens": (
        tokens_and_bytes,
        lambda: ([cases.pixels()[0], TOKENS()[0]], None),
        "input-scale",
    ),
    "dead by their bias": (dead_by_bias, IMAGES, "large-biases"),
    "one seed in a residual network": (same_seed, IMAGES, "shared-draw"),
    "ten sigmoids": (sigmoids, IMAGES, "vanishing-signal"),
    "nothing but ones": (
        lambda: sequential(layers.Dense(8, "relu"), layers.Dense(3), shape=(12,)),
        lambda: (np.ones((32, 12), "float32"), None),
        "input-scale",
    ),
}


@pytest.mark.parametrize(("build", "data", "code"), some(FAULTY))
def test_fault_is_found(build, data, code):
    keras.utils.set_random_seed(1)
    findings = il.diagnose(build(), cases.batch(data()[0]))
    assert code in alarms(findings), [str(one) for one in findings]


def test_remedy_of_large_biases_is_not_a_rewrite():
    findings = il.diagnose(dead_by_bias(), cases.batch(IMAGES()[0]))
    assert 'bias_initializer="zeros"' in findings[0].remedy
    follows = {one.code for one in findings[0].consequences}
    assert follows >= {"vanishing-signal", "dead-units"}


def test_remedy_of_a_vanishing_signal_cures_it():
    model = sigmoids()
    x = cases.batch(IMAGES()[0])
    il.rewrite_initializers(model, scheme="isometric", seed=0)
    assert not alarms(il.diagnose(model, x))


def test_inputs_without_a_name_of_their_own_are_called_x():
    model = sequential(layers.Dense(8, "relu"), layers.Dense(3), shape=(12,))
    found = il.diagnose(model, 1000 * drawn(16, 12))
    assert [one.layer for one in found if one.code == "input-scale"] == ["x"]


@pytest.mark.torch
@pytest.mark.slow
def test_nan_weights_are_no_small_updates():
    x, y = cases.regression()
    model = stack(
        layers.Dense(64, "relu"),
        layers.Dense(1),
        shape=(8,),
        loss="values",
        optimizer=keras.optimizers.SGD(1.0),
    )
    monitor = il.VarianceMonitor(every=1, gradients=True, on_finding="ignore")
    cases.fit(model, x, 1e6 * y, 2, [monitor])
    told = {one.code for one in monitor.findings}
    assert "nonfinite" in told
    assert "update-too-small" not in told
