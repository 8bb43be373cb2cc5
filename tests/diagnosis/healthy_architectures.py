"""Networks with nothing wrong, by architectures that look like a fault.

Preprocessing inside of the model, inner levels with a path around them, filters drawn
alike for pixels that are shuffled, and networks that have learned all there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from tests.diagnosis import cases
from tests.diagnosis.cases import (
    Case,
    before_and_while_trained,
    compiled,
    head,
    plain,
    seeded,
    stack,
)

HE = "he_normal"


# Data -----------------------------------------------------------------------------


def line() -> tuple[Any, Any]:
    """Return two standardised features and y = 2a + b."""
    x = np.random.default_rng(0).standard_normal((cases.ROWS, 2)).astype("float32")
    return x, (2 * x[:, :1] + x[:, 1:]).astype("float32")


def positive() -> tuple[Any, Any]:
    """Return one positive number and a smooth function of it."""
    x = np.random.default_rng(0).uniform(0, 1, (cases.ROWS, 1)).astype("float32")
    return x, np.sin(4 * x)


def one_signed() -> tuple[Any, Any]:
    """Return digits of which all pixels are between 0.5 and 1."""
    x, y = cases.fractions()
    return 0.5 + x / 2, y


def two_kinds() -> tuple[Any, Any]:
    """Return 128 equal features, in two kinds: 1 and 2."""
    y = np.random.default_rng(0).integers(0, 2, cases.ROWS)
    return np.repeat((1.0 + y)[:, None], 128, axis=1).astype("float32"), y


def xor() -> tuple[Any, Any]:
    """Return XOR of two signs."""
    x = np.random.default_rng(0).choice([-1.0, 1.0], (cases.ROWS, 2))
    return x.astype("float32"), (x[:, :1] * x[:, 1:] < 0).astype("float32")


def byte_images() -> tuple[Any, Any]:
    """Return digits as images of bytes."""
    x, y = cases.pixels()
    return x.reshape(-1, 8, 8, 1), y


def colour_images() -> tuple[Any, Any]:
    """Return digits as images of bytes with three channels."""
    x, y = byte_images()
    return np.repeat(x, 3, axis=-1), y


def whole_bytes() -> tuple[Any, Any]:
    """Return digits as images of whole numbers from 0 to 255."""
    x, y = byte_images()
    return x.astype("uint8"), y


def masks() -> tuple[Any, Any]:
    """Return 8×8 images and which pixels are above the mean."""
    x, _ = cases.images()
    return x, (x > 0).astype("float32")


def halves() -> tuple[Any, Any]:
    """Return images at half their size, and the images."""
    x, _ = cases.images()
    small = x.reshape(-1, 4, 2, 4, 2, 1).mean(axis=(2, 4))
    return small, x


def images_of_16() -> tuple[Any, Any]:
    """Return digits as 16×16 images, 512 of them."""
    x, y = cases.images()
    return x[:512].repeat(2, axis=1).repeat(2, axis=2), y[:512]


class ICNR(keras.initializers.Initializer):
    """Four copies of each filter, one for each pixel of a 2×2 block."""

    def __call__(self, shape: Any, dtype: Any = None, **_: Any) -> Any:
        one = keras.initializers.HeNormal(0)((*shape[:-1], shape[-1] // 4), dtype)
        # On PyTorch a repeated axis of size 1 is a view of one entry.
        return ops.repeat(one, 4, axis=-1) * ops.ones(shape)


# Networks -------------------------------------------------------------------------


def linear_from_zero() -> Any:
    """Return a regression whose kernel starts at 0."""
    row = layers.Dense(1, kernel_initializer="zeros")
    return stack(row, shape=(2,), loss="values", rate=0.05)


def two_signs() -> Any:
    """Return tanh 8-8 for XOR."""
    rows = [layers.Dense(8, "tanh"), layers.Dense(8, "tanh"), layers.Dense(1)]
    return stack(*rows, shape=(2,), loss="values", rate=0.03)


def scaled_inside(scale: Callable[[Any], Any], channels: int = 1) -> Any:
    """Return convolutions behind a function of their inputs."""
    inputs = keras.Input((8, 8, channels))
    x = layers.Conv2D(16, 3, activation="relu", kernel_initializer=HE)(scale(inputs))
    x = layers.Conv2D(16, 3, activation="relu", kernel_initializer=HE)(x)
    x = layers.Flatten()(x)
    return compiled(keras.Model(inputs, head()(x)))


def behind(layer: Callable[[], Any], *, channels: int = 1) -> Any:
    """Return convolutions behind a layer that scales."""
    return scaled_inside(lambda x: layer()(x), channels)


def discretized() -> Any:
    """Return one-hot bins of one large number, and a small network."""
    bins = layers.Discretization([*range(10, 250, 10)], output_mode="one_hot")
    rows = [bins, layers.Dense(16, "relu"), layers.Dense(1)]
    return stack(*rows, shape=(1,), loss="values", rate=0.01)


def ages() -> tuple[Any, Any]:
    """Return one number between 0 and 255 and a smooth function of it."""
    x = np.random.default_rng(0).uniform(0, 255, (cases.ROWS, 1)).astype("float32")
    return x, np.sin(x / 40)


@keras.saving.register_keras_serializable("tests")
class Shuffle(layers.Layer):
    """TensorFlow's depth_to_space, of a block of 2×2."""

    def call(self, x: Any) -> Any:
        height, width, channels = x.shape[1:]
        x = ops.reshape(x, (-1, height, width, 2, 2, channels // 4))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, 2 * height, 2 * width, channels // 4))


class ICNRInOrder(ICNR):
    """The same where the place in a block comes before the channel."""

    def __call__(self, shape: Any, dtype: Any = None, **_: Any) -> Any:
        one = keras.initializers.HeNormal(0)((*shape[:-1], shape[-1] // 4), dtype)
        return ops.tile(one, (1, 1, 1, 4))


def super_resolution(inside: bool) -> Any:
    """Return sub-pixel upsampling whose kernel starts as that of nearest neighbours.

    Args:
        inside: whether pixels are shuffled by a layer of one's own, or by operations.
    """
    inputs = keras.Input((4, 4, 1))
    x = layers.Conv2D(16, 3, padding="same", activation="relu", kernel_initializer=HE)(
        inputs
    )
    x = layers.Conv2D(32, 3, padding="same", kernel_initializer=ICNRInOrder())(x)
    if inside:
        x = Shuffle()(x)
    else:
        x = layers.Reshape((4, 4, 2, 2, 8))(x)
        x = layers.Permute((1, 3, 2, 4, 5))(x)
        x = layers.Reshape((8, 8, 8))(x)
    x = layers.ReLU()(x)
    x = layers.Conv2D(1, 3, padding="same")(x)
    return compiled(keras.Model(inputs, x), loss="values")


def shuffled_output() -> Any:
    """Return sub-pixel upsampling that makes the output itself."""
    inputs = keras.Input((4, 4, 1))
    x = layers.Conv2D(16, 3, padding="same", activation="relu", kernel_initializer=HE)(
        inputs
    )
    x = layers.Conv2D(4, 3, padding="same", kernel_initializer=ICNR())(x)
    return compiled(keras.Model(inputs, Shuffle()(x)), loss="values")


def unet(normalised: bool, kernel: str = "glorot_uniform") -> Any:
    """Return a U-Net of three levels for 8×8 images."""

    def twice(x: Any, filters: int) -> Any:
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", kernel_initializer=kernel)(x)
            x = layers.BatchNormalization()(x) if normalised else x
            x = layers.ReLU()(x)
        return x

    x = inputs = keras.Input((8, 8, 1))
    skips = []
    for filters in (8, 16):
        x = twice(x, filters)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = twice(x, 32)
    for filters, skip in ((16, skips[1]), (8, skips[0])):
        x = layers.Conv2DTranspose(filters, 2, strides=2, padding="same")(x)
        x = twice(layers.Concatenate()([x, skip]), filters)
    model = keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(x))
    model.compile(keras.optimizers.Adam(0.003), "binary_crossentropy")
    return model


def vgg() -> Any:
    """Return VGG-16's 13 convolutions, narrow, He and ReLU, for 16×16 images."""
    rows: list[Any] = []
    for filters, count in ((16, 2), (32, 2), (32, 3), (64, 3), (64, 3)):
        for _ in range(count):
            rows.append(
                layers.Conv2D(
                    filters,
                    3,
                    padding="same",
                    activation="relu",
                    kernel_initializer=HE,
                )
            )
        if len(rows) < 12:
            rows.append(layers.MaxPooling2D())
    rows += [layers.Flatten(), layers.Dense(64, "relu", kernel_initializer=HE)]
    return stack(*rows, head(), shape=(16, 16, 1), rate=0.001)


def squeeze_excitation() -> Any:
    """Return convolutions whose channels are gated by a narrow network of their own."""
    x = inputs = keras.Input((8, 8, 1))
    for _ in range(3):
        x = layers.Conv2D(
            16, 3, padding="same", activation="relu", kernel_initializer=HE
        )(x)
        gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
        gate = layers.Conv2D(4, 1, activation="relu")(gate)
        x = layers.Multiply()([x, layers.Conv2D(16, 1, activation="sigmoid")(gate)])
    return compiled(keras.Model(inputs, head()(layers.Flatten()(x))))


@keras.saving.register_keras_serializable("tests")
class Residue(keras.Model):
    """u″ = -sin x on [0, π], u(0) = u(π) = 0, by finite differences of the network."""

    def train_loss(self, x: Any) -> Any:
        step = 0.05
        left, here, right = self(x - step), self(x), self(x + step)
        equation = (left - 2 * here + right) / step**2 + ops.sin(x)
        ends = self(ops.convert_to_tensor([[0.0], [np.pi]], "float32"))
        return ops.mean(equation**2) + 10 * ops.mean(ends**2)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        return self.train_loss(x)


def pinn() -> Any:
    """Return a network that solves a differential equation."""
    x = inputs = keras.Input((1,))
    for _ in range(4):
        x = layers.Dense(24, "tanh")(x)
    model = Residue(inputs, layers.Dense(1)(x))
    model.compile(keras.optimizers.Adam(0.003), "mse")
    return model


def interval() -> tuple[Any, Any]:
    """Return points in [0, π]."""
    x = np.random.default_rng(0).uniform(0, np.pi, (512, 1)).astype("float32")
    return x, np.sin(x)


# Cases ----------------------------------------------------------------------------

SCALERS: dict[str, tuple[Callable[[], Any], Any]] = {
    "x / 255": (seeded(scaled_inside, lambda x: x / 255), byte_images),
    "a function": (seeded(scaled_inside, lambda x: (x - 100.0) / 50.0), byte_images),
    "Lambda": (
        seeded(behind, lambda: layers.Lambda(lambda x: x / 127.5 - 1)),
        byte_images,
    ),
    "Rescaling of bytes": (
        seeded(behind, lambda: layers.Rescaling(1 / 255)),
        byte_images,
    ),
    "preprocess_input, tf": (
        seeded(
            scaled_inside, keras.applications.mobilenet_v2.preprocess_input, channels=3
        ),
        colour_images,
    ),
    "preprocess_input, torch": (
        seeded(scaled_inside, keras.applications.densenet.preprocess_input, channels=3),
        colour_images,
    ),
    "preprocess_input as a Lambda": (
        seeded(
            behind,
            lambda: layers.Lambda(keras.applications.mobilenet_v2.preprocess_input),
            channels=3,
        ),
        colour_images,
    ),
    "Discretization": (seeded(discretized), ages),
}


ARCHITECTURES: tuple[Case, ...] = (
    *before_and_while_trained("linear, from zero", seeded(linear_from_zero), line, 6),
    *before_and_while_trained(
        "one positive number", seeded(plain, "relu", 2, inputs=1, outputs=1), positive
    ),
    *before_and_while_trained(
        "inputs of one sign", seeded(plain, "relu", 3, HE), one_signed
    ),
    *before_and_while_trained(
        "two kinds of inputs",
        seeded(plain, "relu", 3, HE, inputs=128, outputs=2),
        two_kinds,
    ),
    *before_and_while_trained("XOR", seeded(two_signs), xor, 25),
    *(
        case
        for name, (build, data) in SCALERS.items()
        for case in before_and_while_trained(f"scaled by {name}", build, data)
    ),
    *before_and_while_trained(
        "sub-pixels, by a layer", seeded(super_resolution, True), halves
    ),
    *before_and_while_trained(
        "sub-pixels, by layers", seeded(super_resolution, False), halves
    ),
    *before_and_while_trained(
        "sub-pixels as the output", seeded(shuffled_output), halves
    ),
    *before_and_while_trained("U-Net", seeded(unet, False), masks),
    *before_and_while_trained("U-Net, He", seeded(unet, False, HE), masks),
    *before_and_while_trained("U-Net, normalised", seeded(unet, True), masks),
    *before_and_while_trained("VGG", seeded(vgg), images_of_16),
    *before_and_while_trained(
        "squeeze and excitation", seeded(squeeze_excitation), cases.images
    ),
    *before_and_while_trained("differential equation", seeded(pinn), interval, 60),
)
