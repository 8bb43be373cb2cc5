"""Rules that normalise, drop or merge, against Monte Carlo."""

import keras
import numpy as np
import pytest
from keras import layers as L

from keras_initlab.propagation import propagate
from tests.propagation.cases import Case, check, conv, dense, normal, random_bias, table
from tests.propagation.simulation import complaints, measured, predicted

# What is predicted is NumPy's on every backend; what it is compared with takes a
# compilation for each shape on JAX.

SMALL = "few positions make a unit's statistics its own, and ratios of them"
SUM = "a sum is taken for normal, though one term is not negative"
MANY = "what is drawn for each unit is taken for normal"


def normed(*before, **rest):
    return [*before, L.BatchNormalization(**rest)]


def random_scale():
    return {
        "gamma_initializer": normal(0.7, 0.4),
        "beta_initializer": normal(0.3, 0.6),
    }


def settled(layer, units, generator):
    """Return a BatchNormalization that has seen data of its own."""
    layer.build((None, units))
    layer.moving_mean.assign(generator.normal(0.5, 0.3, units))
    layer.moving_variance.assign(generator.uniform(0.5, 3, units))
    return layer


def adapted(**rest):
    layer, generator = L.Normalization(**rest), np.random.default_rng(0)
    layer.adapt(generator.normal(3, 2, (200, 48)) * np.linspace(0.5, 2, 48))
    return layer


NORMALISING = [
    Case("BatchNormalization", (48,), normed(dense()), 0.5, batch=128),
    Case("of ReLU", (48,), normed(dense(64, "relu")), 0.5, batch=128),
    Case(
        "of a map",
        (4, 4, 16),
        [*normed(conv(48, None)), L.ReLU(), conv()],
        0.3,
        allowed={"profile": 0.05},
        because=SMALL,
    ),
    Case(
        "of a map of ReLU",
        (8, 8, 16),
        [*normed(conv()), conv(48, None)],
        0.3,
        allowed={"profile": 0.05},
        because=SMALL,
    ),
    Case(
        "three times",
        (8, 8, 16),
        [x for _ in range(3) for x in (*normed(conv(48, None)), L.ReLU())],
        allowed={"cosine": 0.02, "profile": 0.06},
        because=SMALL,
    ),
    Case(
        "ReLU, normalised, pooled",
        (8, 8, 16),
        [*normed(conv()), L.MaxPooling2D(2), conv()],
        allowed={"profile": 0.05},
        because=SMALL,
    ),
    Case(
        "random scales",
        (4, 4, 16),
        [*normed(conv(), **random_scale()), L.ReLU(), conv(48, None)],
        allowed={"cosine": 0.17},
        because=MANY,
    ),
    Case(
        "ε counts", (48,), normed(dense(kernel_initializer=normal(0, 0.02))), batch=128
    ),
    Case(
        "ReLU, normalised, ReLU",
        (48,),
        [*normed(dense(64, "relu")), L.ReLU()],
        0.5,
        batch=128,
        allowed={"cosine": 0.04, "mean": 0.02, "second": 0.03},
        because="that some units are off more than others is not known to the next",
    ),
    Case(
        "fresh, in inference",
        (48,),
        [*normed(dense(64, "relu")), L.ReLU()],
        0.5,
        training=False,
    ),
    Case(
        "settled, in inference",
        (48,),
        [
            dense(),
            settled(L.BatchNormalization(), 64, np.random.default_rng(5)),
            dense(),
        ],
        0.5,
        training=False,
    ),
    Case("LayerNormalization", (48,), [dense(), L.LayerNormalization()], 0.5),
    Case(
        "of steps",
        (6, 48),
        [
            dense(64, "relu", **random_bias()),
            L.LayerNormalization(**random_scale()),
            dense(64, "gelu"),
            L.LayerNormalization(),
        ],
        0.5,
    ),
    Case(
        "of all axes", (4, 4, 16), [conv(64), L.LayerNormalization((1, 2, 3)), conv()]
    ),
    Case(
        "without the mean", (6, 48), [dense(64, "relu"), L.RMSNormalization(), dense()]
    ),
    Case("GroupNormalization", (4, 4, 16), [conv(64), L.GroupNormalization(4), conv()]),
    Case(
        "of each unit",
        (8, 8, 64),
        [conv(64, None), L.GroupNormalization(-1), L.ReLU(), conv()],
        0.3,
    ),
    Case("UnitNormalization", (48,), [dense(64, "relu"), L.UnitNormalization()]),
    Case("Normalization", (48,), [adapted(), dense()], 3.0, 4.0),
    Case("of one mean", (48,), [L.Normalization(None, 0.5, 4.0), dense()], 3.0, 4.0),
    Case(
        "undone",
        (48,),
        [L.Normalization(None, 0.5, 4.0, invert=True), dense()],
        3.0,
        4.0,
    ),
    Case("Rescaling", (6, 6, 3), [L.Rescaling(1 / 127.5, -1), conv()], 127, 5000),
    Case(
        "Rescaling by channel",
        (6, 6, 3),
        [L.Rescaling([0.1, 0.2, 0.3], [0, 1, 2]), conv()],
        1.0,
        2.0,
    ),
]
if "rms_scaling" in L.LayerNormalization.__init__.__code__.co_varnames:
    layer = L.LayerNormalization(rms_scaling=True)
    NORMALISING += [Case("RMS scaling", (6, 48), [dense(64, "relu"), layer], 0.3)]

DROPS = {
    "Dropout": lambda: L.Dropout(0.4),
    "GaussianDropout": lambda: L.GaussianDropout(0.4),
    "GaussianNoise": lambda: L.GaussianNoise(0.7),
    "AlphaDropout": lambda: L.AlphaDropout(0.3),
}
SPATIAL = {
    "SpatialDropout2D": lambda: L.SpatialDropout2D(0.4),
    "Dropout of maps": lambda: L.Dropout(0.4, noise_shape=(None, 1, 1, None)),
}

DROPPING = [
    *(
        Case(name, (4, 4, 16), [make()], 0.5)
        for name, make in {**DROPS, **SPATIAL}.items()
    ),
    *(
        Case(f"{name} between", (4, 4, 16), [conv(), make(), conv()])
        for name, make in {**DROPS, **SPATIAL}.items()
    ),
    *(
        Case(
            f"{name} before a bend", (48,), [dense(), make(), L.Activation("gelu")], 0.3
        )
        for name, make in DROPS.items()
    ),
    *(
        Case(
            f"{name}, normalised, bent",
            (4, 4, 16),
            [conv(), make(), L.BatchNormalization(), L.ReLU(), conv(48, None)],
            batch=64,
            allowed={"profile": 0.06},
            because=SMALL,
        )
        for name, make in {**DROPS, **SPATIAL}.items()
    ),
    *(
        Case(f"{name} in inference", (48,), [dense(64, "relu"), make()], training=False)
        for name, make in DROPS.items()
    ),
    Case("of units", (5, 48), [dense(64, "relu"), L.Dropout(0.4, (None, 5, 1))]),
    Case("everything", (48,), [dense(64, "relu"), L.Dropout(1.0)]),
]


def sum_of(*branches, merge=L.Add, then=()):
    """Return what merges branches of one hidden layer."""

    def build(x):
        h = dense(64)(x)
        made = merge()([branch(h) for branch in branches])
        for one in then:
            made = one(made)
        return made

    return build


def same(h):
    return h


def relu(h):
    return L.ReLU()(h)


def scaled(factor):
    return lambda h: L.Rescaling(factor)(h)


def hidden(activation=None):
    return lambda h: dense(64, activation)(h)


def excited(x):
    h = conv()(x)
    s = dense(16, "relu")(L.GlobalAveragePooling2D()(h))
    s = L.Reshape((1, 1, 48))(dense(48, "sigmoid")(s))
    return conv()(L.Multiply()([h, s]))


def joined(*then, maps=False):
    """Return tensors of unlike moments joined, and what comes after."""

    def build(x):
        make = (lambda n, a: conv(n, a)) if maps else (lambda n, a: dense(n, a))
        parts = [L.Rescaling(3.0)(make(48, None)(x)), make(32, "relu")(x), x]
        made = L.Concatenate()(parts)
        for one in then:
            made = one(made)
        return made

    return build


def in_a_row(*then):
    def build(x):
        made = L.Concatenate(axis=1)([L.Rescaling(3.0)(dense(48, "relu")(x)), x])
        for one in then:
            made = one(made)
        return made

    return build


def of_two(merge, axis):
    return lambda x: merge(axis)([dense()(x), dense(64, "relu")(x)])


MERGING = [
    Case("x + x", (48,), sum_of(relu, relu)),
    Case("x + f(x)", (48,), sum_of(same, hidden("relu"), then=[dense()])),
    Case("x + relu(x)", (48,), sum_of(same, relu, then=[dense()])),
    Case("x + relu(x) + f(x)", (48,), sum_of(same, relu, hidden())),
    Case("x - relu(x)", (48,), sum_of(same, relu, merge=L.Subtract)),
    Case("3x - relu(x)", (48,), sum_of(scaled(3.0), relu, merge=L.Subtract)),
    Case("mean of three", (48,), sum_of(same, hidden("tanh"), relu, merge=L.Average)),
    Case(
        "dropped and not",
        (48,),
        sum_of(relu, lambda h: L.Dropout(0.5)(L.ReLU()(h)), then=[dense()]),
    ),
    Case("x x", (48,), sum_of(relu, relu, merge=L.Multiply)),
    Case(
        "x sigmoid(x)",
        (48,),
        sum_of(same, lambda h: L.Activation("sigmoid")(h), merge=L.Multiply),
    ),
    Case("a gate", (48,), sum_of(relu, hidden("sigmoid"), merge=L.Multiply)),
    Case("squeeze and excite", (4, 4, 16), excited),
    Case("greatest", (48,), sum_of(hidden(), hidden(), merge=L.Maximum)),
    Case("least", (48,), sum_of(hidden(), hidden("tanh"), merge=L.Minimum)),
    Case(
        "greatest of x and relu",
        (48,),
        sum_of(relu, hidden(), merge=L.Maximum),
        allowed={"cosine": 0.06, "mean": 0.02},
        because=SUM,
    ),
    Case("|x|", (48,), sum_of(same, scaled(-1.0), merge=L.Maximum)),
    Case(
        "a ReLU of a sum",
        (48,),
        sum_of(relu, hidden("relu"), then=[L.ReLU(), dense()]),
        allowed={"cosine": 0.13, "second": 0.02},
        because=SUM,
    ),
    *(
        Case(f"joined, {name}", shape, joined(*then, maps=len(shape) > 1), batch=64)
        for shape in ((48,), (4, 4, 16))
        for name, then in {
            "dense": [dense()],
            "relu": [L.ReLU()],
            "tanh, dense": [L.Activation("tanh"), dense()],
            "dropped, gelu": [L.Dropout(0.3), L.Activation("gelu")],
            "normalised, relu": [L.BatchNormalization(), L.ReLU()],
        }.items()
    ),
    Case("joined, by layer", (48,), joined(L.LayerNormalization(), L.ReLU(), dense())),
    Case("joined, pooled", (6, 6, 16), joined(L.MaxPooling2D(2), conv(), maps=True)),
    Case("joined in a row", (6, 48), in_a_row(dense(), L.ReLU())),
    Case("in a row, bent", (6, 48), in_a_row(L.ReLU(), L.Flatten(), dense())),
    Case("Dot", (48,), of_two(L.Dot, 1), batch=64),
    Case("Dot of steps", (24, 48), of_two(L.Dot, 2)),
]


@table(NORMALISING)
def test_normalising(case):
    check(case)


@table(DROPPING)
def test_dropping(case):
    check(case)


@table(MERGING)
def test_merging(case):
    check(case)


@pytest.mark.parametrize("shared", [True, False])
def test_two_towers(shared):
    """One network's outputs for two inputs share what two inputs of a batch do."""
    towers = [
        keras.Sequential([keras.Input((48,)), *(dense(96, "relu") for _ in range(4))])
        for _ in range(2)
    ]
    a, b = keras.Input((48,)), keras.Input((48,))
    made = L.Subtract()([towers[0](a), towers[0 if shared else 1](b)])
    model = keras.Model([a, b], made)
    signal = predicted(model, 0.3)
    found = measured(model, signal.units, 0.3, draws=24)
    allowed = {"second": 0.1} | dict.fromkeys(("cosine", "batch"), 0.05)
    allowed |= dict.fromkeys(("places", "places_cosine"), 0.05)
    assert complaints(signal, found, allowed) == []
    # Had they nothing in common, it would be more than each has.
    mean_square = propagate(towers[0], 0.3)[-1].second_moment
    assert (signal.second < mean_square) == shared


def test_a_difference_of_the_same_is_nothing():
    case = Case("x - x", (48,), sum_of(relu, relu, merge=L.Subtract))
    assert predicted(case.build()).second == 0


def test_renormalisation_is_measured():
    if "renorm" not in L.BatchNormalization.__init__.__code__.co_varnames:
        pytest.skip("no renorm in this Keras")
    model = keras.Sequential(
        [keras.Input((48,)), dense(), L.BatchNormalization(renorm=True)]
    )
    assert predicted(model).origin.measured
