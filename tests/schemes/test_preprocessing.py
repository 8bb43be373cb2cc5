"""What stands before the first weights is how a user standardises."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_initlab as il

IMAGE = (16, 16, 3)


class Own(layers.Layer):
    def call(self, x):
        return (x - 127.0) / 73.0


class Composite(layers.Layer):
    def __init__(self):
        super().__init__()
        self.rescale, self.flip = layers.Rescaling(1 / 255), layers.RandomFlip()

    def call(self, x):
        return self.flip(self.rescale(x))


class Whitening(layers.Layer):
    """With weights that are not trained, as Normalization has them."""

    def build(self, shape):
        self.matrix = self.add_weight(shape=(3, 3), trainable=False, name="matrix")

    def call(self, x):
        return ops.matmul(x, self.matrix) / 64.0


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.conv = layers.Conv2D(8, 3, activation="relu", name="first")
        self.pool, self.head = layers.GlobalAveragePooling2D(), layers.Dense(3)

    def call(self, x):
        return self.head(self.pool(self.conv(x / 255.0)))


def subclassed():
    model = Subclassed()
    model(np.zeros((2, *IMAGE), "float32"))
    return model


def images(*rows):
    def build():
        inputs = x = keras.Input(IMAGE)
        for row in rows:
            x = row(x)
        x = layers.Conv2D(8, 3, activation="relu", name="first")(x)
        return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))

    return build


def augmentation():
    return [
        layers.RandomFlip(),
        layers.RandomRotation(0.1),
        layers.RandomZoom(0.1),
        layers.RandomContrast(0.2),
        layers.RandomBrightness(0.2),
    ]


PREPROCESSING = {
    "nothing": lambda: images(),
    "Rescaling": lambda: images(layers.Rescaling(1 / 255)),
    "RandomFlip, Rescaling": lambda: images(
        layers.RandomFlip(), layers.Rescaling(1 / 255)
    ),
    "x / 255": lambda: images(lambda x: x / 255.0),
    "x / 127.5 - 1": lambda: images(lambda x: x / 127.5 - 1),
    "Lambda": lambda: images(layers.Lambda(lambda x: x / 255.0)),
    "a layer of one's own": lambda: images(Own()),
    "a composite layer": lambda: images(Composite()),
    "untrained weights": lambda: images(Whitening()),
    "Normalization": lambda: images(layers.Normalization()),
    "Resizing, Rescaling": lambda: images(
        layers.Resizing(8, 8), layers.Rescaling(1 / 255)
    ),
    "preprocess_input": lambda: images(
        keras.applications.mobilenet_v2.preprocess_input
    ),
    "preprocess_input, caffe": lambda: images(
        keras.applications.resnet.preprocess_input
    ),
    "several augmentations": lambda: images(*augmentation(), layers.Rescaling(1 / 255)),
    "augmentations at the end": lambda: images(
        layers.Rescaling(1 / 255), *augmentation()
    ),
    "a nested Sequential": lambda: images(
        keras.Sequential(
            [keras.Input(IMAGE), *augmentation(), layers.Rescaling(1 / 255)]
        )
    ),
    "a subclassed model": lambda: subclassed,
}


@pytest.mark.parametrize("name", PREPROCESSING)
def test_the_first_kernel_reads_what_is_standardised(name):
    model = PREPROCESSING[name]()()
    plan = il.rewrite_initializers(model, scheme="variance", seed=0)
    first = next(row for row in plan if row.layer == "first")
    assert first.std == pytest.approx((9 * 3) ** -0.5, rel=1e-6)
    # propagate says of the model what the plan says of it.
    stats = {one.layer: one for one in il.propagate(model)}
    assert stats["first"].second_moment == pytest.approx(0.5, rel=1e-3)
    head = next(one for key, one in stats.items() if key.startswith("dense"))
    assert head.second_moment == pytest.approx(1.0, rel=1e-3)


def test_what_is_said_of_the_inputs_counts():
    options = {"mean": 127.0, "variance": 73.0**2}
    model = images(lambda x: x / 255.0)()
    (first, _) = il.rewrite_initializers(model, scheme="variance", **options)
    second = (127**2 + 73**2) / 255**2
    assert first.std == pytest.approx((27 * second) ** -0.5, rel=1e-6)
    stats = {one.layer: one for one in il.propagate(model, **options)}
    assert stats["first"].second_moment > 0
    plain = il.propagate(
        keras.Sequential([keras.Input((4,)), layers.Rescaling(0.1), layers.Dense(3)]),
        variance=1.0,
    )
    assert plain[0].second_moment == pytest.approx(0.01)


def test_the_plan_says_behind_what_inputs_are_standard():
    model = images(layers.RandomFlip(), layers.Rescaling(1 / 255, name="scale"))()
    plan = il.rewrite_initializers(model, scheme="variance", dry_run=True)
    assert "inputs: mean 0 and variance 1, behind scale, all elements independent" in (
        plan.assumptions
    )


def test_the_layers_before_keep_their_gradient():
    model = images(layers.Rescaling(1 / 255, name="scale"))()
    stats = {one.layer: one for one in il.propagate(model)}
    assert stats["scale"].second_moment == 1.0
    assert stats["scale"].gradient_second_moment > 0


def test_padding_and_dropout_keep_their_figures():
    padded = images(layers.Rescaling(1 / 255), layers.ZeroPadding2D(2))()
    stats = [one.second_moment for one in il.propagate(padded)]
    assert stats[:2] == pytest.approx([1.0, (16 / 20) ** 2])
    dropped = images(layers.Rescaling(1 / 255), layers.Dropout(0.5))()
    assert [one.second_moment for one in il.propagate(dropped)][:2] == [1.0, 2.0]


def test_several_inputs_each_by_itself():
    """Numbers that are standardised and categories in one row, as in tables."""
    age, income = keras.Input((1,), name="age"), keras.Input((1,), name="income")
    kind = keras.Input((1,), dtype="int32", name="kind")
    parts = [
        layers.Normalization()(age),
        income / 1000.0,
        layers.CategoryEncoding(10, "one_hot")(kind),
    ]
    row = layers.Concatenate(name="row")(parts)
    outputs = layers.Dense(1)(layers.Dense(8, "relu", name="first")(row))
    model = keras.Model([age, income, kind], outputs)
    (first, _) = il.rewrite_initializers(model, scheme="variance", seed=0)
    # Of ten entries that encode a category one is 1.
    assert first.std**2 == pytest.approx(1 / 3)
    stats = {one.layer: one for one in il.propagate(model)}
    assert stats["row"].second_moment == pytest.approx(3 / 12)


def test_branches_that_meet_a_signal_later():
    inputs = keras.Input(IMAGE)
    x = inputs / 255.0
    y = layers.Conv2D(3, 3, padding="same", activation="relu", name="first")(x)
    y = layers.Concatenate(name="both")([x, y])
    model = keras.Model(inputs, layers.Conv2D(3, 3)(y))
    il.rewrite_initializers(model, scheme="variance", seed=0)
    stats = {one.layer: one for one in il.propagate(model)}
    assert stats["both"].second_moment == pytest.approx(0.75)


def test_tokens_and_masks_are_not_standardised():
    tokens = keras.Input((6,), dtype="int32")
    known = ops.cast(ops.not_equal(tokens, 0), "float32")
    x = layers.Embedding(50, 8, name="words")(tokens) * ops.expand_dims(known, -1)
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    model = keras.Model(tokens, layers.Dense(2)(x))
    stats = {one.layer: one.second_moment for one in il.propagate(model)}
    kept = il.propagate(model, 0.0, 1.0)
    assert stats == {one.layer: one.second_moment for one in kept}


def test_a_model_without_weights_does_what_it_does():
    model = keras.Sequential([keras.Input((4,)), layers.Rescaling(0.5)])
    assert il.propagate(model)[0].second_moment == 0.25


def test_bytes_are_learned_from_as_by_default():
    """Digits as 0 to 255, in the first epoch; Keras's default is the measure."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8, 1) * (255 / 16)).astype("float32")
    losses = {}
    for scheme in ("default", "variance"):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.RandomFlip("horizontal"),
                layers.Rescaling(1 / 255),
                layers.Conv2D(16, 3, activation="relu"),
                layers.Conv2D(16, 3, activation="relu"),
                layers.Flatten(),
                layers.Dense(10, "softmax"),
            ]
        )
        if scheme == "variance":
            il.rewrite_initializers(model, scheme, seed=0)
        model.compile("adam", "sparse_categorical_crossentropy")
        losses[scheme] = model.fit(x, y, verbose=0, batch_size=32).history["loss"][0]
    assert losses["variance"] < 1.1 * losses["default"], losses
