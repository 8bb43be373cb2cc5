"""Every rule against Monte Carlo: fresh weights and fresh inputs, many times.

The rules are NumPy alone and the same on every backend, what differs is what a layer
does. JAX, which compiles each operation for each shape, sees every fifth case.
"""

import keras
import numpy as np
import pytest
from keras import layers as L

from keras_initlab.propagation import propagate
from tests.propagation.cases import (
    Case,
    check,
    constant,
    conv,
    dense,
    normal,
    random_bias,
    table,
    uniform,
)

# What is predicted is NumPy's on every backend; what it is compared with takes a
# compilation for each shape on JAX.


def einsum(equation, shape, bias=None):
    bias_initializer = normal(0.2, 0.3)
    return L.EinsumDense(
        equation, shape, bias_axes=bias, bias_initializer=bias_initializer
    )


ACTIVATIONS = "relu leaky_relu tanh sigmoid silu gelu softplus elu selu relu6 softmax"
ACTIVATIONS = [*ACTIVATIONS.split(), "hard_sigmoid", "exponential", "softsign"]

LINEAR = [
    *(Case(f"Dense {a}", (96,), [dense(96, a), dense(48)]) for a in ACTIVATIONS),
    *(
        Case(f"Dense {a}, inputs off zero", (96,), [dense(96, a)], 1.0, 0.5)
        for a in ("relu", "tanh", "gelu", "softmax", "sigmoid")
    ),
    Case("zeros", (96,), [dense(kernel_initializer="zeros", bias_initializer="ones")]),
    Case("ones", (96,), [dense(8, "relu", kernel_initializer="ones")], 0.3, batch=256),
    Case(
        "a constant",
        (96,),
        [dense(8, "tanh", kernel_initializer=constant(-0.1))],
        0.3,
        batch=256,
    ),
    Case("uniform from 0", (96,), [dense(kernel_initializer=uniform(0, 1))], 0.3),
    Case(
        "kernels off zero",
        (96,),
        [
            dense(96, "relu", kernel_initializer=normal(0.03, 0.1), **random_bias()),
            dense(64, "tanh", kernel_initializer=normal(0.05, 0.1)),
        ],
        0.5,
        draws=40,
    ),
    Case(
        "kernels and biases off zero",
        (96,),
        [dense(96, kernel_initializer=normal(0.03, 0.1), **random_bias(0.5, 0.2))],
        0.5,
    ),
    Case("constant bias", (96,), [dense(64, "relu", bias_initializer="ones"), dense()]),
    Case(
        "random bias",
        (96,),
        [dense(96, "relu", **random_bias()), dense(64, "tanh", **random_bias())],
    ),
    Case("positions", (6, 96), [dense(96, "relu", **random_bias()), dense()], 0.5),
    Case("einsum ab,bc->ac", (96,), [einsum("ab,bc->ac", 64, "c"), L.ReLU()], 0.5),
    Case("einsum heads", (5, 96), [einsum("abc,cde->abde", (5, 4, 20), "de")], 0.5),
    Case(
        "einsum joins heads", (5, 6, 16), [einsum("abcd,cde->abe", (5, 64), "e")], 0.5
    ),
    Case("einsum sums two", (5, 40), [einsum("abc,bcd->ad", (64,), "d")], 0.5),
    Case("einsum over steps", (50, 20), [einsum("abc,bd->adc", (64, 20))], 0.5),
    Case("einsum ...", (3, 4, 96), [einsum("...x,xy->...y", 64, "y")], 0.5),
    Case("einsum by step", (5, 48), [einsum("abc,bcd->abd", (5, 64), "d")], 0.5),
    Case("einsum scales", (5, 96), [einsum("abc,c->abc", (5, 96))], 0.5),
    Case("einsum scales all", (5, 96), [einsum("abc,bc->abc", (5, 96))], 0.5),
    Case("# Embedding", (7,), [L.Embedding(50, 64), dense()]),
    Case(
        "# Embedding off zero",
        (7,),
        [
            L.Embedding(50, 64, embeddings_initializer=normal(0.5, 1.0)),
            dense(48, "relu"),
        ],
    ),
]

CONVOLUTIONS = [
    Case("Conv2D valid", (6, 6, 16), [conv(padding="valid")], 0.3),
    Case("Conv2D same", (6, 6, 16), [conv(activation=None)]),
    Case("Conv2D same, inputs off zero", (6, 6, 16), [conv(activation=None)], 0.5),
    Case("Conv2D same tanh", (4, 4, 16), [conv(activation="tanh"), conv()]),
    Case("Conv2D bias", (4, 4, 16), [conv(**random_bias(0.5)), conv()]),
    Case("Conv2D sigmoid", (4, 4, 16), [conv(activation="sigmoid"), conv()]),
    Case("2x2 map", (2, 2, 16), [conv(), conv()], 0.5),
    Case("2x2 map, inputs alike", (2, 2, 32), [conv(96, None)], 2.0, draws=24),
    Case("2x2 map 5x5", (2, 2, 16), [conv(size=5), conv(size=5)], 0.5),
    *(
        Case(f"six {k}x{k} {a}", (4, 4, 32), [conv(64, a, k) for _ in range(6)])
        for k in (3, 5)
        for a in (None, "tanh", "relu")
    ),
    Case("strides", (7, 7, 16), [conv(strides=2), conv(strides=2)], 0.3),
    Case("dilation", (7, 7, 16), [conv(dilation_rate=2), conv()], 0.3),
    Case("groups", (5, 5, 32), [conv(groups=4), conv(groups=2)], 0.3),
    Case(
        "Conv1D causal",
        (8, 32),
        [
            L.Conv1D(48, 3, padding="causal", activation="relu"),
            L.Conv1D(48, 3, padding="causal", dilation_rate=2),
        ],
        0.3,
    ),
    Case(
        "Conv3D",
        (4, 4, 4, 16),
        [
            L.Conv3D(32, 3, padding="same", activation="relu"),
            L.Conv3D(32, 3, padding="same"),
        ],
        0.3,
    ),
    Case("DepthwiseConv2D", (5, 5, 64), [L.DepthwiseConv2D(3, padding="same")], 0.3),
    Case(
        "DepthwiseConv2D times 2",
        (5, 5, 64),
        [L.DepthwiseConv2D(3, padding="same", depth_multiplier=2), conv(48, None, 1)],
    ),
    Case("DepthwiseConv1D", (9, 64), [L.DepthwiseConv1D(3, strides=2)], 0.3),
    Case(
        "SeparableConv2D",
        (5, 5, 64),
        [L.SeparableConv2D(64, 3, padding="same", depth_multiplier=2)],
        0.3,
    ),
    *(
        Case(
            f"Conv2DTranspose {stride} {padding} {extra}",
            (5, 5, 16),
            [
                L.Conv2DTranspose(
                    32, 3, strides=stride, padding=padding, output_padding=extra
                )
            ],
        )
        for stride in (1, 2, 3)
        for padding in ("same", "valid")
        for extra in (None, 0, stride - 1)
        if extra is None or stride > 1
    ),
    Case(
        "Conv2DTranspose relu",
        (5, 5, 16),
        [
            L.Conv2DTranspose(
                32, 4, strides=2, padding="same", activation="relu", **random_bias()
            ),
            conv(24),
        ],
        0.3,
    ),
    Case("Conv1DTranspose", (5, 16), [L.Conv1DTranspose(32, 5, strides=2)], 0.3),
    Case("Conv3DTranspose", (3, 3, 3, 16), [L.Conv3DTranspose(24, 3, strides=2)]),
    Case(
        "a kernel of ones",
        (5, 5, 8),
        [conv(8, None, kernel_initializer="ones")],
        0.3,
        draws=40,
        allowed={"profile": 0.2, "places": 0.03, "places_cosine": 0.03},
        because="windows that overlap are alike, however far they are from the border",
    ),
    Case(
        "a uniform kernel",
        (5, 5, 8),
        [conv(8, None, padding="valid", kernel_initializer=uniform(0, 1))],
        0.3,
    ),
    Case(
        "delta-orthogonal",
        (4, 4, 24),
        [
            conv(24, "tanh", kernel_initializer="initlab>delta_orthogonal")
            for _ in range(3)
        ],
        allowed={"second": 0.04},
        because="24 channels, in three layers of tanh",
    ),
]


def first(*after):
    """Return channels_first convolutions, which TensorFlow lacks on a CPU."""
    form = {"data_format": "channels_first"}
    return [conv(**form), *(make(**form) for make in after), conv(**form)]


CHANNELS_FIRST = [
    Case("Conv2D", (16, 4, 4), first(), 0.3),
    Case("MaxPooling2D", (16, 6, 6), first(lambda **f: L.MaxPooling2D(2, **f))),
    Case("UpSampling2D", (16, 3, 3), first(lambda **f: L.UpSampling2D(2, **f))),
]


@table(LINEAR)
def test_linear(case):
    check(case)


@table(CONVOLUTIONS)
def test_convolutions(case):
    check(case)


@pytest.mark.jax
@pytest.mark.torch
@table(CHANNELS_FIRST)
def test_channels_first(case):
    check(case)


@pytest.mark.parametrize("activation", ["relu", "gelu", "exponential"])
def test_what_explodes_stays_a_number(activation):
    large = {"kernel_initializer": normal(0.0, 10.0)}
    layers = [L.Dense(512, activation, **large) for _ in range(80)]
    stats = propagate(keras.Sequential([keras.Input((512,)), *layers]))
    seconds = np.array([one.second_moment for one in stats])
    assert np.isfinite(seconds).all()
    assert (np.diff(seconds) >= 0).all()
    assert seconds[-1] > 1e290
