import functools
import json

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from keras_initlab.initializers.auto import rule_for
from tests.helpers import as_numpy, assert_std


@keras.saving.register_keras_serializable("tests")
def registered_bend(x):
    return x * keras.ops.sigmoid(1.5 * x)


# (activation, gain, mode), the gains as the field gives them.
RULES = [
    ("relu", np.sqrt(2), "fan_in"),
    ("relu6", np.sqrt(2), "fan_in"),
    ("leaky_relu", np.sqrt(2 / 1.04), "fan_in"),
    (layers.LeakyReLU(0.3), np.sqrt(2 / 1.09), "fan_in"),
    (layers.ReLU(negative_slope=0.1), np.sqrt(2 / 1.01), "fan_in"),
    (layers.PReLU(), np.sqrt(2), "fan_in"),
    ("tanh", 1, "fan_avg"),
    ("hard_tanh", 1, "fan_avg"),
    ("sigmoid", 1, "fan_avg"),
    ("hard_sigmoid", 1, "fan_avg"),
    ("softmax", 1, "fan_avg"),
    ("log_softmax", 1, "fan_avg"),
    ("linear", 1, "fan_avg"),
    (None, 1, "fan_avg"),
    ("selu", 1, "fan_in"),
    ("gelu", 1.5335, "fan_in"),
    ("silu", 1.6765, "fan_in"),
    ("swish", 1.6765, "fan_in"),
    ("mish", 1.4868, "fan_in"),
    ("elu", 1.2452, "fan_in"),
    ("softplus", 1.0419, "fan_in"),
    ("softsign", 2.3375, "fan_in"),
    ("hard_silu", 1.7367, "fan_in"),
]


def rule_id(case):
    return case if isinstance(case, str) else type(case).__name__


@pytest.mark.parametrize(("activation", "gain", "mode"), RULES, ids=rule_id)
def test_rule(activation, gain, mode):
    rule = rule_for(activation)
    assert rule.gain == pytest.approx(gain, abs=5e-5)
    assert rule.mode == mode


FANS = {"fan_in": 300, "fan_out": 200, "fan_avg": 250}


@pytest.mark.parametrize(
    ("activation", "gain", "mode"),
    [rule for rule in RULES if isinstance(rule[0], str)],
)
def test_a_bare_string_chooses_by_the_layers_activation(activation, gain, mode):
    layer = layers.Dense(200, activation=activation, kernel_initializer="initlab>auto")
    layer.build((None, 300))
    assert_std(as_numpy(layer.kernel), gain / np.sqrt(FANS[mode]))


@pytest.mark.parametrize("distribution", ["truncated_normal", "normal", "uniform"])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
def test_distribution_and_mode(distribution, mode):
    drawn = as_numpy(il.Auto("relu", distribution, mode, seed=1)((300, 200)))
    std = np.sqrt(2 / FANS[mode])
    assert_std(drawn, std)
    assert abs(drawn.mean()) < 5 * std / np.sqrt(drawn.size)
    limit = {
        "uniform": np.sqrt(3) * std,
        "truncated_normal": 2 * std / 0.87962566,
        "normal": np.inf,
    }
    assert np.abs(drawn).max() <= limit[distribution] * (1 + 1e-6)
    if distribution != "normal":
        assert np.abs(drawn).max() > 0.98 * limit[distribution]


def std_of(layer):
    return as_numpy(layer.kernel).std()


def make(width=400, activation=None):
    return layers.Dense(width, activation, kernel_initializer="initlab>auto")


HE, GLOROT = np.sqrt(2 / 400), np.sqrt(1 / 400)


def sees(first):
    """Return "He" or "Glorot", whichever the kernel's deviation is within 3 % of."""
    for name, std in {"He": HE, "Glorot": GLOROT}.items():
        if abs(std_of(first) / std - 1) < 0.03:
            return name
    raise AssertionError(std_of(first))


AHEAD = {
    "next": ([layers.ReLU()], "He"),
    "through BatchNormalization": (
        [layers.BatchNormalization(), layers.Activation("relu")],
        "He",
    ),
    "through Dropout and Reshape": (
        [layers.Dropout(0.5), layers.Reshape((20, 20)), layers.Activation("relu")],
        "He",
    ),
    "linear Activation": ([layers.Activation("linear"), layers.ReLU()], "He"),
    "into a nested Sequential": (
        [keras.Sequential([layers.BatchNormalization(), layers.ReLU()])],
        "He",
    ),
    "past a transparent Sequential": (
        [keras.Sequential([layers.BatchNormalization()]), layers.ReLU()],
        "He",
    ),
    "not past another kernel": ([layers.Dense(400), layers.ReLU()], "Glorot"),
    "nothing": ([], "Glorot"),
}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", AHEAD)
def test_looks_ahead_in_a_sequential(name, lazy):
    after, expected = AHEAD[name]
    after = [type(one).from_config(one.get_config()) for one in after]
    first = make()
    if lazy:
        keras.Sequential([first, *after]).build((None, 400))
    else:
        keras.Sequential([keras.Input((400,)), first, *after])
    assert sees(first) == expected


def test_the_layers_own_activation_comes_first():
    first = make(activation="tanh")
    keras.Sequential([keras.Input((400,)), first, layers.ReLU()])
    assert sees(first) == "Glorot"


def test_the_argument_comes_before_the_layers_activation():
    layer = layers.Dense(400, "tanh", kernel_initializer=il.Auto("relu"))
    layer.build((None, 400))
    assert sees(layer) == "He"


def test_looks_out_of_an_inner_sequential():
    first = make()
    keras.Sequential(
        [keras.Input((400,)), keras.Sequential([first]), layers.Activation("relu")]
    )
    assert sees(first) == "He"


@pytest.mark.parametrize(
    ("wrap", "shape"),
    [(layers.TimeDistributed, (2, 400)), (layers.SpectralNormalization, (400,))],
)
def test_looks_past_a_wrapper(wrap, shape):
    first = make()
    keras.Sequential([keras.Input(shape), wrap(first), layers.ReLU()])
    assert sees(first) == "He"


def test_goes_by_the_layer_where_it_cannot_see():
    functional = make()
    layers.ReLU()(functional(keras.Input((400,))))
    assert sees(functional) == "Glorot"
    added = make()
    model = keras.Sequential([keras.Input((400,))])
    model.add(added)
    model.add(layers.ReLU())
    assert sees(added) == "Glorot"


class Deferred(keras.Model):
    """No build of its own: its weights are made in a symbolic call."""

    def __init__(self):
        super().__init__()
        self.bent = make(activation="relu")
        self.row = keras.Sequential([make(), layers.ReLU()])
        self.straight = make()

    def call(self, x):
        return self.straight(self.row(self.bent(x)))


def test_subclassed_model_goes_by_each_layer():
    model = Deferred()
    model(np.ones((1, 400), "float32"))
    assert sees(model.bent) == "He"
    assert sees(model.row.layers[0]) == "He"
    assert sees(model.straight) == "Glorot"


def test_called_by_hand_it_goes_by_shape_and_argument():
    assert_std(as_numpy(il.Auto()((300, 200))), np.sqrt(1 / 250))
    assert_std(as_numpy(il.Auto("relu")((300, 200))), np.sqrt(2 / 300))


def test_conv_uses_its_fans():
    layer = layers.Conv2D(
        64, 3, groups=4, activation="relu", kernel_initializer="initlab>auto"
    )
    layer.build((None, 8, 8, 64))
    assert_std(as_numpy(layer.kernel), np.sqrt(2 / (9 * 16)))


def test_a_bias_is_zero():
    layer = layers.Dense(8, "relu", bias_initializer="initlab>auto")
    layer.build((None, 4))
    np.testing.assert_array_equal(as_numpy(layer.bias), 0)


@pytest.mark.parametrize(
    "function", [lambda x: keras.ops.relu(x), keras.ops.relu, keras.activations.relu]
)
def test_callables_are_recognised(function):
    layer = make(activation=function)
    layer.build((None, 400))
    assert sees(layer) == "He"


def test_an_activation_that_mixes_units_is_taken_for_linear_with_a_warning():
    layer = make(activation=lambda x: x - keras.ops.mean(x, axis=-1, keepdims=True))
    with pytest.warns(UserWarning, match="takes it for linear"):
        layer.build((None, 400))
    assert sees(layer) == "Glorot"


def reloaded(initializer):
    config = json.loads(json.dumps(keras.initializers.serialize(initializer)))
    return keras.initializers.deserialize(config)


SAVED = {
    "partial": functools.partial(keras.activations.relu, negative_slope=0.3),
    "lambda": lambda x: keras.ops.relu(x),
    "layer": layers.LeakyReLU(0.3),
    "registered": registered_bend,
}


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.parametrize("cls", [il.Auto, il.Scaled])
def test_activations_survive_a_file(name, cls):
    initializer = cls(SAVED[name], seed=1)
    np.testing.assert_array_equal(
        as_numpy(initializer((8, 8))), as_numpy(reloaded(initializer)((8, 8)))
    )


def test_a_function_that_no_file_can_name_says_so_when_it_is_saved():
    initializer = il.Auto(lambda x: x * keras.ops.sigmoid(1.5 * x), seed=1)
    initializer((8, 8))
    with pytest.raises(ValueError, match=r"Register it with keras\.saving"):
        initializer.get_config()


def test_numpy_seeds_are_ints():
    assert il.Auto(seed=np.int64(3)).get_config()["seed"] == 3


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"activation": "rellu"}, ValueError, "rellu"),
        ({"activation": 3}, TypeError, "3"),
        ({"distribution": "cauchy"}, ValueError, "distribution='cauchy'"),
        ({"mode": "fan"}, ValueError, "mode='fan'"),
    ],
)
def test_bad_input(arguments, error, says):
    with pytest.raises(error, match="Received") as caught:
        il.Auto(**arguments)
    assert says in str(caught.value)


def test_an_embedding_starts_as_small_as_keras_own():
    layer = layers.Embedding(2000, 64, embeddings_initializer=il.Auto(seed=0))
    layer.build((None, 8))
    assert_std(as_numpy(layer.embeddings), 0.05 / 3**0.5)
