"""Deep networks: prediction and measurement, at every layer, by powers of ten."""

from dataclasses import dataclass

import keras
import numpy as np
import pytest
from keras import layers as L

from keras_initlab.propagation import propagate
from tests.propagation.cases import conv, dense, table
from tests.propagation.simulation import measurements, model_of

# What is predicted is NumPy's on every backend; deep networks drawn again and again
# take long enough on one.

FIGURES = ("second_moment", "gradient_second_moment", "weight_gradient_second_moment")

WIDTH = "256 units: what draws differ by adds up over layers"
COLLAPSE = "once small, the signal halves at each layer; when that begins is chance"
NOT_NORMAL = "sums of a ReLU's output and a normal branch are taken for normal"
SMALL = "maps shrink to 4x4 and 2x2, where everything is border"


@dataclass
class Case:
    """A network; by how many powers of ten, and of cosine, it may be off."""

    name: str
    shape: tuple
    layers: object
    off: float = 0.1
    cosine: float = 0.05
    because: str = ""
    draws: int = 4
    batch: int = 16
    slow: bool = False

    def build(self):
        return model_of(self.shape, self.layers)


def check(case):
    model = case.build()
    expected, every = propagate(model), measurements(model, case.draws, case.batch)
    wrong = []
    for index, one in enumerate(expected):
        assert one.layer == every[0][index].layer
        for figure in FIGURES:
            value = getattr(one, figure)
            found = np.array([getattr(stats[index], figure) or 0.0 for stats in every])
            if value is None or not found.all():
                continue
            error = np.std(np.log10(found), ddof=1) / np.sqrt(case.draws)
            apart = np.log10(value) - np.log10(found.mean())
            if abs(apart) > case.off + 5 * error:
                wrong.append(f"{one.layer} {figure} 10^{apart:.2f} ± {error:.2f}")
        cosines = np.array([stats[index].input_cosine for stats in every])
        error = cosines.std(ddof=1) / np.sqrt(case.draws)
        if abs(one.input_cosine - cosines.mean()) > case.cosine + 5 * error:
            wrong.append(
                f"{one.layer} {one.input_cosine:.3f}, not {cosines.mean():.3f}"
            )
    assert not wrong, wrong


def mlp(activation, initializer, depth=50):
    return [
        dense(256, activation, kernel_initializer=initializer) for _ in range(depth)
    ]


def normed_conv(x, filters, strides=1, size=3, relu=True):
    x = L.BatchNormalization()(conv(filters, None, size, strides=strides)(x))
    return L.ReLU()(x) if relu else x


def plain_conv(x, filters, strides=1, size=3, relu=True):
    return conv(filters, "relu" if relu else None, size, strides=strides)(x)


def resnet(step):
    """ResNet v1 of two stages, with or without normalisation."""

    def build(x):
        x = step(x, 32)
        for stage in range(2):
            filters = 32 * 2**stage
            for block in range(3):
                strides = 2 if stage and not block else 1
                y = step(step(x, filters, strides), filters, relu=False)
                if not block:
                    x = step(x, filters, strides, 1, relu=False)
                x = L.ReLU()(L.Add()([x, y]))
        return dense(10)(L.GlobalAveragePooling2D()(x))

    return build


def resnet_v2(x):
    x = conv(32, None)(x)
    for stage in range(2):
        filters = 32 * 2**stage
        for block in range(3):
            strides = 2 if stage and not block else 1
            h = L.ReLU()(L.BatchNormalization()(x))
            y = normed_conv(h, filters, strides)
            y = conv(filters, None)(y)
            x = x if block else conv(filters, None, 1, strides=strides)(h)
            x = L.Add()([x, y])
    x = L.ReLU()(L.BatchNormalization()(x))
    return dense(10)(L.GlobalAveragePooling2D()(x))


def pre_activation(activation):
    def build(x):
        x = dense(128)(x)
        for _ in range(20):
            x = L.Add()([x, dense(128)(L.Activation(activation)(x))])
        return dense(10)(x)

    return build


def unet(x):
    a = conv(24)(conv(24)(x))
    b = conv(48)(conv(48)(L.MaxPooling2D(2)(a)))
    c = conv(96)(conv(96)(L.MaxPooling2D(2)(b)))
    up = L.Concatenate()([L.UpSampling2D(2)(c), b])
    up = conv(48)(conv(48)(up))
    up = L.Conv2DTranspose(24, 2, strides=2, padding="same")(up)
    up = conv(24)(conv(24)(L.Concatenate()([up, a])))
    return L.Conv2D(8, 1, activation="sigmoid")(up)


def densenet(x):
    x = conv(32, None)(x)
    for _ in range(6):
        x = L.Concatenate()([x, conv(24, None)(L.ReLU()(L.BatchNormalization()(x)))])
    x = L.ReLU()(L.BatchNormalization()(x))
    return dense(10)(L.GlobalAveragePooling2D()(x))


def mobilenet(x):
    x = normed_conv(x, 32, 2)
    for filters, strides in ((32, 1), (48, 1), (48, 2), (48, 1)):
        y = L.ReLU(6.0)(normed_conv(x, 4 * x.shape[-1], size=1, relu=False))
        y = L.DepthwiseConv2D(3, strides=strides, padding="same")(y)
        y = L.ReLU(6.0)(L.BatchNormalization()(y))
        y = normed_conv(y, filters, size=1, relu=False)
        x = L.Add()([x, y]) if strides == 1 and x.shape[-1] == filters else y
    return dense(10)(L.GlobalAveragePooling2D()(x))


def vgg_with_normalisation():
    made = []
    for filters in (32, 48):
        for _ in range(2):
            made += [conv(filters), L.BatchNormalization()]
        made += [L.MaxPooling2D(2), L.Dropout(0.25)]
    return [*made, L.Flatten(), dense(128, "relu"), L.Dropout(0.5), dense(10)]


STACKS = [
    *(
        Case(f"{a}, {i}", (256,), mlp(a, i), 0.2, because=WIDTH)
        for a, i in [
            ("relu", "he_normal"),
            ("tanh", "lecun_normal"),
            ("gelu", "lecun_normal"),
        ]
    ),
    *(
        Case(f"{a}, {i}", (256,), mlp(a, i), 0.2, because=WIDTH, slow=True)
        for a, i in [
            ("relu", "glorot_uniform"),
            ("tanh", "he_normal"),
            ("silu", "glorot_uniform"),
            ("silu", "lecun_normal"),
            ("tanh", "glorot_uniform"),
        ]
    ),
    *(
        Case(
            f"{a}, he_normal", (256,), mlp(a, "he_normal", 20), 0.5, 0.1, why, slow=True
        )
        for a, why in (("gelu", COLLAPSE), ("silu", COLLAPSE))
    ),
    Case(
        "relu and Dropout",
        (256,),
        [x for layer in mlp("relu", "he_normal", 20) for x in (layer, L.Dropout(0.5))],
        0.2,
        because=WIDTH,
    ),
    Case("pre-activation relu", (128,), pre_activation("relu"), 0.2, 0.1, WIDTH),
    Case(
        "pre-activation gelu",
        (128,),
        pre_activation("gelu"),
        0.2,
        0.1,
        WIDTH,
        slow=True,
    ),
]

IMAGES = [
    Case(
        "plain",
        (8, 8, 16),
        [*(conv() for _ in range(20)), L.GlobalAveragePooling2D(), dense(10)],
        0.3,
        0.1,
        WIDTH,
        slow=True,
    ),
    Case(
        "plain tanh",
        (8, 8, 16),
        [*(conv(48, "tanh") for _ in range(20)), L.Flatten(), dense(10)],
    ),
    Case(
        "ResNet",
        (8, 8, 3),
        resnet(normed_conv),
        0.2,
        0.15,
        NOT_NORMAL,
        batch=32,
        slow=True,
    ),
    Case(
        "ResNet, not normalised", (8, 8, 3), resnet(plain_conv), 0.2, 0.15, NOT_NORMAL
    ),
    Case("ResNet v2", (8, 8, 3), resnet_v2, 0.15, 0.1, SMALL, batch=32, slow=True),
    Case("U-Net", (16, 16, 3), unet, 0.15, 0.1, SMALL, batch=8),
    Case("DenseNet", (8, 8, 3), densenet, batch=32),
    Case("MobileNet", (16, 16, 3), mobilenet, 0.15, 0.1, SMALL, batch=32, slow=True),
    Case("VGG, normalised", (16, 16, 3), vgg_with_normalisation(), 0.2, 0.1, SMALL),
]

EVERY = {"tensorflow": 1, "torch": 2, "jax": 100}


@table(STACKS, EVERY)
def test_stacks(case):
    check(case)


@table(IMAGES, EVERY)
def test_images(case):
    if keras.backend.backend() == "jax":
        pytest.skip("takes JAX minutes to compile")
    check(case)
