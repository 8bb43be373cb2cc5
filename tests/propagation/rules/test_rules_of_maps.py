"""Rules that pool, move, cut, pad, repeat or bend what is there: Monte Carlo."""

import keras
import pytest
from keras import layers as L

from tests.propagation.cases import Case, check, constant, conv, dense, normal, table

# What is predicted is NumPy's on every backend; what it is compared with takes a
# compilation for each shape on JAX.

LEVEL = "values of uneven level are taken for exchangeable"
SMALL = "a map of 4x4 or less is all border: neighbours share more or less than others"
NOT_NORMAL = "the greatest of a window is taken for normal by the next pooling"

POOLING = [
    Case("average", (6, 6, 16), [L.AveragePooling2D(2)], 0.3),
    Case("average 3x3/2 same", (6, 6, 16), [L.AveragePooling2D(3, 2, "same")], 0.3),
    Case(
        "average twice",
        (11, 11, 16),
        [conv(), L.AveragePooling2D(3, 2), L.AveragePooling2D(3, 2)],
    ),
    Case("average between", (10, 10, 16), [conv(), L.AveragePooling2D(3, 1), conv()]),
    Case("AveragePooling1D", (8, 16), [L.AveragePooling1D(4)], 1.0),
    Case("AveragePooling3D", (4, 4, 4, 16), [L.AveragePooling3D(2)], 1.0),
    Case("greatest", (6, 6, 16), [L.MaxPooling2D(2)], 0.3),
    Case("greatest 3x3/2 same", (6, 6, 16), [L.MaxPooling2D(3, 2, "same")]),
    Case("MaxPooling1D", (8, 16), [L.MaxPooling1D(4)], 1.0),
    *(
        Case(
            f"greatest of {a}",
            (6, 6, 16),
            [conv(48, a), L.MaxPooling2D(2)],
            allowed={"second": 0.03, "mean": 0.02},
            because=LEVEL,
        )
        for a in ("relu", "tanh", "gelu")
    ),
    Case(
        "greatest, then relu",
        (6, 6, 16),
        [conv(48, None), L.MaxPooling2D(2), L.ReLU()],
        allowed={"mean": 0.025, "cosine": 0.025},
        because=LEVEL + "; " + NOT_NORMAL,
    ),
    Case(
        "greatest 3x3/2 of relu",
        (8, 8, 16),
        [conv(), L.MaxPooling2D(3, 2, "same"), conv()],
        allowed={"profile": 0.05},
        because=LEVEL,
    ),
    Case(
        "greatest twice",
        (15, 15, 16),
        [conv(), L.MaxPooling2D(3, 2), L.MaxPooling2D(3, 2)],
        allowed={"second": 0.06, "mean": 0.04, "cosine": 0.02},
        because=NOT_NORMAL,
    ),
    Case(
        "VGG",
        (16, 16, 8),
        [conv(), conv(), L.MaxPooling2D(2), conv(), conv(), L.MaxPooling2D(2), conv()],
        allowed={"places": 0.03, "places_cosine": 0.03, "profile": 0.06},
        because=SMALL,
    ),
    Case(
        "greatest behind zeros", (6, 6, 16), [L.ZeroPadding2D(1), L.MaxPooling2D(3, 2)]
    ),
    Case("mean of all", (6, 6, 16), [conv(), L.GlobalAveragePooling2D(), dense()]),
    Case("mean, kept", (4, 4, 16), [L.GlobalAveragePooling2D(keepdims=True)], 0.3),
    Case(
        "mean of means",
        (8, 8, 16),
        [conv(), L.AveragePooling2D(3, 2), L.GlobalAveragePooling2D(), dense()],
    ),
    Case(
        "greatest of all",
        (6, 6, 16),
        [conv(), L.GlobalMaxPooling2D()],
        allowed={"second": 0.03},
        because=LEVEL,
    ),
    Case("GlobalMaxPooling1D", (6, 16), [L.GlobalMaxPooling1D()]),
]
if hasattr(L, "AdaptiveAveragePooling2D"):  # Keras 3.13
    POOLING += [
        Case("adaptive", (7, 7, 16), [conv(), L.AdaptiveAveragePooling2D(3)], 0.3),
        Case("adaptive greatest", (6, 6, 16), [L.AdaptiveMaxPooling2D(3)], 0.3),
    ]

MOVES = [
    Case("Flatten", (4, 4, 16), [conv(), L.Flatten(), dense(64, "relu")]),
    Case(
        "Flatten, kernels off zero",
        (4, 4, 16),
        [conv(), L.Flatten(), dense(kernel_initializer=normal(0.02, 0.05))],
    ),
    Case("Reshape splits", (48,), [dense(64, "relu"), L.Reshape((4, 16)), dense()]),
    Case(
        "Reshape splits, kernels off zero",
        (48,),
        [
            dense(64, "relu"),
            L.Reshape((4, 16)),
            dense(kernel_initializer=normal(0.05, 0.05)),
        ],
    ),
    Case(
        "to a map", (48,), [dense(384, "relu"), L.Reshape((4, 4, 24)), conv(), conv()]
    ),
    Case(
        "Reshape merges", (4, 4, 16), [conv(), L.Reshape((16, 48)), dense(64, "relu")]
    ),
    Case("by rows", (4, 4, 16), [conv(), L.Reshape((4, 192)), dense(64, "relu")]),
    Case(
        "mixer",
        (24, 64),
        [dense(64, "gelu"), L.Permute((2, 1)), dense(48, "gelu"), L.Permute((2, 1))],
    ),
    Case("Permute", (4, 5, 16), [conv(), L.Permute((2, 1, 3)), conv()]),
    Case("RepeatVector", (48,), [L.RepeatVector(5), dense(64, "relu")]),
    Case(
        "RepeatVector, convolved",
        (48,),
        [L.RepeatVector(5), L.Conv1D(48, 3, padding="same", activation="relu")],
    ),
    Case(
        "ZeroPadding2D", (4, 4, 16), [conv(), L.ZeroPadding2D(1), conv(padding="valid")]
    ),
    Case("zeros alone", (4, 4, 16), [conv(), L.ZeroPadding2D(((1, 0), (2, 1)))]),
    Case(
        "zeros, then relu",
        (4, 4, 16),
        [conv(48, None), L.ZeroPadding2D(1), L.ReLU(), conv()],
    ),
    Case(
        "zeros, then sigmoid",
        (4, 4, 16),
        [conv(48, None), L.ZeroPadding2D(1), L.Activation("sigmoid"), conv()],
    ),
    Case("ZeroPadding1D", (6, 16), [L.ZeroPadding1D((2, 1)), L.Conv1D(32, 3)]),
    Case("Cropping2D", (6, 6, 16), [conv(), L.Cropping2D(((1, 0), (2, 1)))]),
    Case("UpSampling2D", (4, 4, 16), [conv(), L.UpSampling2D(2), conv()]),
    Case(
        "bilinear",
        (4, 4, 16),
        [conv(), L.UpSampling2D(2, interpolation="bilinear"), conv()],
    ),
    Case("bilinear 3", (4, 4, 16), [L.UpSampling2D(3, interpolation="bilinear")], 0.3),
    Case("UpSampling1D", (4, 16), [L.UpSampling1D(3), L.Conv1D(32, 3)]),
    Case(
        "ResNet's stem",
        (16, 16, 16),
        [
            L.ZeroPadding2D(1),
            conv(strides=2, padding="valid", activation=None),
            L.BatchNormalization(),
            L.ReLU(),
            L.ZeroPadding2D(1),
            L.MaxPooling2D(3, 2),
            conv(),
        ],
        allowed={"places": 0.03, "places_cosine": 0.04, "profile": 0.06},
        because=SMALL,
    ),
]

BENDS = [
    *(
        Case(f"relu, then {a}", (48,), [dense(64, "relu"), L.Activation(a), dense()])
        for a in ("tanh", "sigmoid", "gelu", "relu")
    ),
    *(
        Case(
            f"relu, shifted, then {a}",
            (48,),
            [dense(64, "relu"), L.Rescaling(2.0, -0.5), L.Activation(a)],
        )
        for a in ("relu", "tanh", "gelu")
    ),
    Case(
        "shifted, then silu",
        (48,),
        [dense(), L.Rescaling(2.0, -0.5), L.Activation("silu"), dense()],
    ),
    *(
        Case(type(layer).__name__ + note, (48,), [dense(), layer, dense()])
        for layer, note in [
            (L.LeakyReLU(negative_slope=0.3), ""),
            (L.ReLU(6.0), " to 6"),
            (L.ReLU(1.0, 0.1, 0.2), " of all arguments"),
            (L.PReLU(alpha_initializer=constant(0.25)), ""),
            (L.ELU(0.5), ""),
            (L.Softmax(), ""),
            (L.Lambda(lambda x: keras.ops.sin(2 * x)), ""),
        ]
    ),
    Case(
        "bounded maps",
        (4, 4, 16),
        [conv(48, "hard_tanh"), conv(48, "hard_tanh"), conv(48, None)],
    ),
    Case("Softmax over steps", (24, 48), [dense(), L.Softmax(axis=1), dense()]),
    Case("ten classes", (48,), [dense(10, "softmax")], batch=128),
    Case("ten classes, sure", (48,), [dense(10, "softmax")], 0.0, 25.0, batch=128),
]


@table(POOLING)
def test_pooling(case):
    check(case)


@table(MOVES)
def test_moves(case):
    check(case)


@table(BENDS)
def test_bends(case):
    check(case)


@pytest.mark.parametrize("layer", [L.Identity(), L.ActivityRegularization(0.1)])
def test_what_leaves_values_alone_leaves_the_signal_alone(layer):
    check(Case("as it was", (48,), [dense(), layer]))
