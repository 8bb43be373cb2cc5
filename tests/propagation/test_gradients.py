"""Gradients, at every layer and of every kernel, against automatic differentiation.

`measure` sends a gradient of N(0, 1) back from the outputs, for fresh weights and
inputs each time; what is predicted must be its mean square.
"""

from dataclasses import dataclass

import keras
import numpy as np
import pytest
from keras import layers as L

from keras_initlab.propagation import propagate
from tests.propagation.cases import conv, dense, normal, random_bias, table
from tests.propagation.simulation import measurements, model_of

# What is predicted is NumPy's on every backend; what it is compared with takes a
# compilation for each shape on JAX.

FIGURES = ("second_moment", "gradient_second_moment", "weight_gradient_second_moment")


@dataclass
class Case:
    """A network, and by how much its gradients may be off, beside chance."""

    name: str
    shape: tuple
    layers: object
    mean: float = 0.0
    batch: int = 16
    draws: int = 6
    off: float = 0.1
    because: str = ""

    def build(self):
        return model_of(self.shape, self.layers)


def compared(model, case):
    """Return rows of (layer, figure, predicted, measured, standard error)."""
    expected = propagate(model, case.mean)
    every = measurements(model, case.draws, case.batch, case.mean)
    assert [one.layer for one in expected] == [one.layer for one in every[0]]
    rows = []
    for index, one in enumerate(expected):
        for figure in FIGURES:
            found = [getattr(stats[index], figure) for stats in every]
            value = getattr(one, figure)
            # Of a normalisation's scale nothing is predicted.
            scale = "normalization" in one.layer and "weight" in figure
            if found[0] is None or scale:
                continue
            error = np.std(found, ddof=1) / np.sqrt(case.draws)
            rows.append((one.layer, figure, value, np.mean(found), error))
    return rows


def check(case):
    wrong = [
        f"{layer} {figure}: {value}, not {found:.4g} ± {error:.2g}"
        for layer, figure, value, found, error in compared(case.build(), case)
        if value is None or abs(value - found) > 5 * error + case.off * abs(found)
    ]
    assert not wrong, wrong


def stack(make, depth, *head):
    return [layer for _ in range(depth) for layer in make()] + list(head)


def normed(layer):
    return lambda: [layer(), L.BatchNormalization(), L.ReLU()]


FLAT, MEAN = [L.Flatten()], [L.GlobalAveragePooling2D()]


def head():
    return [L.Flatten(), dense(10)]


def residual(x):
    x = dense(96)(x)
    for _ in range(3):
        x = L.Add()([x, dense(96)(L.ReLU()(x))])
    return dense(10)(x)


def residual_after(x):
    x = dense(96, "relu")(x)
    for _ in range(3):
        x = L.ReLU()(L.Add()([x, dense(96)(dense(96, "relu")(x))]))
    return dense(10)(x)


def residual_maps(x):
    x = conv(48, None)(x)
    for _ in range(2):
        y = conv(48, None)(L.ReLU()(L.BatchNormalization()(x)))
        y = conv(48, None)(L.ReLU()(L.BatchNormalization()(y)))
        x = L.Add()([x, y])
    return dense(10)(L.GlobalAveragePooling2D()(L.ReLU()(L.BatchNormalization()(x))))


def excited(x):
    h = conv()(x)
    s = dense(16, "relu")(L.GlobalAveragePooling2D()(h))
    s = L.Reshape((1, 1, 48))(dense(48, "sigmoid")(s))
    return dense(10)(L.Flatten()(conv()(L.Multiply()([h, s]))))


def merged(merge, *branches):
    def build(x):
        h = dense(96)(x)
        return dense(10)(merge()([branch(h) for branch in branches]))

    return build


def same(h):
    return h


def relu(h):
    return L.ReLU()(h)


def squared(x):
    h = dense(96, "relu")(x)
    return dense(10)(L.Multiply()([h, h]))


def joined(x):
    h, u = dense(96)(x), L.Rescaling(3.0)(dense(64, "relu")(x))
    return dense(10)(L.ReLU()(L.BatchNormalization()(L.Concatenate()([h, u]))))


def densely(x):
    x = conv(32, None)(x)
    for _ in range(3):
        x = L.Concatenate()([x, conv(24, None)(L.ReLU()(x))])
    return dense(10)(L.GlobalAveragePooling2D()(L.ReLU()(x)))


def shared_maps(x):
    h = L.ReLU()(dense(96)(x))
    return L.Add()([dense(10)(h), dense(10)(L.Activation("tanh")(h))])


VECTORS = [
    *(
        Case(f"MLP {a}", (64,), stack(lambda a=a: [dense(96, a)], 4, dense(10)))
        for a in ("relu", "tanh", "gelu")
    ),
    Case(
        "inputs and biases off zero",
        (64,),
        stack(lambda: [dense(96, "relu", **random_bias())], 3, dense(10)),
        1.0,
    ),
    Case("softmax", (64,), [dense(96, "gelu"), dense(10, "softmax")]),
    Case("steps", (5, 64), stack(lambda: [dense(96, "relu")], 3, dense(10)), 0.5),
    Case(
        "mean over steps",
        (5, 64),
        [dense(96, "relu"), dense(96, "relu"), L.GlobalAveragePooling1D(), dense(10)],
        0.5,
    ),
    Case(
        "a bend of a bend", (64,), [dense(96, "relu"), L.Activation("tanh"), dense(10)]
    ),
    Case(
        "BatchNormalization",
        (64,),
        stack(normed(lambda: dense(96)), 3, dense(10)),
        batch=64,
    ),
    Case(
        "BatchNormalization behind",
        (64,),
        stack(lambda: [dense(96, "relu"), L.BatchNormalization()], 3, dense(10)),
        batch=64,
    ),
    Case(
        "LayerNormalization",
        (5, 64),
        stack(lambda: [dense(96), L.LayerNormalization(), L.ReLU()], 3, dense(10)),
    ),
    Case(
        "RMSNormalization",
        (64,),
        stack(lambda: [dense(96, "relu"), L.RMSNormalization()], 3, dense(10)),
    ),
    Case(
        "Dropout",
        (64,),
        stack(lambda: [dense(96, "relu"), L.Dropout(0.4)], 3, dense(10)),
    ),
    Case("dropped, then bent", (64,), [dense(96), L.Dropout(0.4), L.ReLU(), dense(10)]),
    Case("residual", (64,), residual),
    Case("residual, ReLU behind", (64,), residual_after),
    Case("x sigmoid(x)", (64,), merged(L.Multiply, same, L.Activation("sigmoid"))),
    Case("x x", (64,), squared),
    Case("x + relu(x) + f(x)", (64,), merged(L.Add, same, relu, L.Dense(96))),
    Case("x - 0.3x", (64,), merged(L.Subtract, same, L.Rescaling(0.3))),
    Case("two kernels' greatest", (64,), merged(L.Maximum, L.Dense(96), L.Dense(96))),
    Case("leaky by hand", (64,), merged(L.Maximum, same, L.Rescaling(0.2))),
    Case("joined", (64,), joined, batch=64),
    Case("one signal, two ways", (64,), shared_maps),
    Case("Dot", (64,), lambda x: L.Dot(1)([dense(96, "relu")(x), dense(96)(x)])),
    Case(
        "repeated",
        (48,),
        [dense(64, "relu"), L.RepeatVector(5), dense(64, "relu"), dense(3)],
    ),
    Case(
        "mixer",
        (16, 64),
        [
            dense(64, "gelu"),
            L.Permute((2, 1)),
            dense(48, "gelu"),
            L.Permute((2, 1)),
            dense(64, "gelu"),
            L.Flatten(),
            dense(10),
        ],
    ),
    Case(
        "einsum",
        (5, 48),
        [
            L.EinsumDense("abc,cde->abde", (5, 4, 16), activation="relu"),
            L.EinsumDense("abde,dec->abc", (5, 64), activation="relu"),
            dense(10),
        ],
    ),
]

MAPS = [
    Case("flat head", (6, 6, 8), [conv(), conv(strides=2), *FLAT, dense(10)]),
    Case("mean head", (6, 6, 8), [conv(), conv(strides=2), conv(), *MEAN, dense(10)]),
    Case("mean head off zero", (6, 6, 8), [conv(), conv(), *MEAN, dense(10)], 0.5),
    Case("tanh", (4, 4, 8), [*stack(lambda: [conv(48, "tanh")], 6), *FLAT, dense(10)]),
    Case("a map", (6, 6, 8), [conv(), conv(padding="valid"), conv(4, None)]),
    Case(
        "averages",
        (8, 8, 8),
        [
            conv(),
            L.AveragePooling2D(2),
            conv(),
            L.AveragePooling2D(3, 2, "same"),
            *head(),
        ],
    ),
    Case(
        "averages, mean head",
        (8, 8, 8),
        [conv(), L.AveragePooling2D(3, 2), conv(), *MEAN, dense(10)],
    ),
    Case(
        "greatest",
        (8, 8, 8),
        [conv(), L.MaxPooling2D(2), conv(), L.MaxPooling2D(3, 2, "same"), *head()],
        off=0.15,
        because="windows of a small map are taken for exchangeable",
    ),
    Case(
        "greatest of all",
        (8, 8, 8),
        [conv(), conv(), L.GlobalMaxPooling2D(), dense(10)],
    ),
    Case(
        "greatest, then relu",
        (8, 8, 8),
        [conv(48, None), L.MaxPooling2D(2), L.ReLU(), conv(), *FLAT, dense(10)],
    ),
    Case(
        "BatchNormalization",
        (6, 6, 8),
        [*stack(normed(lambda: conv(48, None)), 3), *MEAN, dense(10)],
        batch=32,
        off=0.2,
        because="a small map's statistics",
    ),
    Case(
        "BatchNormalization behind",
        (8, 8, 8),
        [
            *stack(lambda: [conv(), L.BatchNormalization()], 2),
            L.MaxPooling2D(2),
            *stack(lambda: [conv(), L.BatchNormalization()], 2),
            *FLAT,
            dense(10),
        ],
        batch=32,
        off=0.3,
        because="units that are seldom on have gradients without bound",
    ),
    Case(
        "GroupNormalization",
        (6, 6, 8),
        [
            *stack(lambda: [conv(64, None), L.GroupNormalization(8), L.ReLU()], 3),
            *FLAT,
            dense(10),
        ],
    ),
    Case(
        "SpatialDropout2D",
        (6, 6, 8),
        [conv(), L.SpatialDropout2D(0.4), conv(), *MEAN, dense(10)],
    ),
    Case("residual", (6, 6, 8), residual_maps, batch=32, off=0.2, because="as above"),
    Case("squeeze and excite", (5, 5, 8), excited),
    Case("densely", (6, 6, 8), densely),
    Case(
        "transposed",
        (4, 4, 8),
        [
            L.Conv2DTranspose(48, 3, strides=2, padding="same", activation="relu"),
            L.Conv2DTranspose(48, 4, strides=2, padding="same", activation="relu"),
            L.Conv2D(3, 3),
        ],
    ),
    Case(
        "depthwise",
        (6, 6, 48),
        [L.DepthwiseConv2D(3, padding="same"), conv(48, "relu", 1), *MEAN, dense(10)],
    ),
    Case("groups", (6, 6, 48), [conv(groups=4), conv(), *FLAT, dense(10)], draws=4),
    Case(
        "causal",
        (8, 24),
        [
            L.Conv1D(48, 3, padding="causal", activation="relu"),
            L.Conv1D(48, 3, padding="causal", activation="relu", dilation_rate=2),
            L.GlobalAveragePooling1D(),
            dense(10),
        ],
    ),
    Case("nearest", (4, 4, 8), [conv(), L.UpSampling2D(2), conv(), *FLAT, dense(10)]),
    Case(
        "bilinear",
        (4, 4, 8),
        [conv(), L.UpSampling2D(2, interpolation="bilinear"), conv(), *FLAT, dense(10)],
    ),
    Case(
        "cut and padded",
        (6, 6, 8),
        [conv(), L.Cropping2D(1), L.ZeroPadding2D(1), conv(padding="valid"), *head()],
    ),
    Case(
        "to a map",
        (48,),
        [dense(384, "relu"), L.Reshape((4, 4, 24)), conv(), conv(8, None)],
    ),
]

EVERY = {"tensorflow": 1, "torch": 2, "jax": 20}


@table(VECTORS, EVERY)
def test_vectors(case):
    check(case)


@table(MAPS, EVERY)
def test_maps(case):
    check(case)


def test_two_inputs():
    a, b = keras.Input((64,)), keras.Input((32,))
    merged = L.Add()([dense(96, "relu")(a), dense(96, "tanh")(b)])
    model = keras.Model([a, b], dense(10)(merged))
    case = Case("two inputs", (), None)
    for layer, figure, value, found, error in compared(model, case):
        assert value == pytest.approx(found, abs=5 * error + 0.1 * found), (
            layer,
            figure,
        )


def test_embedding():
    x = keras.Input((7,), dtype="int32")
    h = L.Embedding(50, 64, embeddings_initializer=normal(0, 1))(x)
    model = keras.Model(x, dense(10)(L.GlobalAveragePooling1D()(dense(64, "relu")(h))))
    case = Case("tokens", (), None, draws=16)
    for layer, figure, value, found, error in compared(model, case):
        assert value == pytest.approx(found, abs=5 * error + 0.1 * found), (
            layer,
            figure,
        )


def test_output_gradient_counts_for_each_output():
    x = keras.Input((48,))
    h = dense(64, "relu")(x)
    one, two = (
        keras.Model(x, dense(10)(h)),
        keras.Model(x, [dense(10)(h), dense(10)(h)]),
    )
    single, double = propagate(one)[0], propagate(two)[0]
    assert double.gradient_second_moment == pytest.approx(
        2 * single.gradient_second_moment
    )
