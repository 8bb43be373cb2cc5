"""What every registered `initlab>` initializer owes its users."""

import json

import keras
import numpy as np
import pytest
from keras import layers
from keras.src import testing

import keras_initlab as il
from tests.helpers import as_numpy, kernels

REGISTERED = {
    name: cls
    for name, cls in keras.saving.get_custom_objects().items()
    if name.startswith("initlab>")
    and isinstance(cls, type)
    and issubclass(cls, keras.initializers.Initializer)
}
# Arguments other than the defaults, so that a config that forgets one shows.
ARGUMENTS = {
    "initlab>auto": {
        "activation": "gelu",
        "distribution": "uniform",
        "mode": "fan_out",
        "seed": 3,
    },
    "initlab>scaled": {
        "gain": 1.5,
        "mode": "fan_avg",
        "distribution": "normal",
        "seed": 3,
    },
    "initlab>glorot_uniform": {"seed": 3},
    "initlab>glorot_normal": {"seed": 3},
    "initlab>he_uniform": {"seed": 3},
    "initlab>he_normal": {"seed": 3},
    "initlab>lecun_uniform": {"seed": 3},
    "initlab>lecun_normal": {"seed": 3},
    "initlab>orthogonal": {"gain": "relu", "seed": 3},
    "initlab>delta_orthogonal": {"gain": 1.5, "seed": 3},
    "initlab>mirrored": {
        "gain": "tanh",
        "q": 0.25,
        "base": "orthogonal",
        "inputs": True,
        "outputs": False,
        "seed": 3,
        "theta": 0.3,
    },
    "initlab>sparse": {"sparsity": 0.5, "gain": "relu", "seed": 3},
    "initlab>identity": {"gain": 1.5},
    "initlab>bias_constant": {"value": 0.2},
    "initlab>bias_class_prior": {"counts": [3, 4, 5, 8]},
    "initlab>bias_forget_gate": {"value": 2.0},
}
RANDOM = sorted(name for name, given in ARGUMENTS.items() if "seed" in given)
# Those that any kernel may have; delta_orthogonal wants a convolution.
DENSE = [name for name in RANDOM if name != "initlab>delta_orthogonal"]
# What an initializer can be asked for by hand.
SHAPES = {
    "initlab>delta_orthogonal": (3, 8, 8),
    "initlab>bias_constant": (4,),
    "initlab>bias_class_prior": (4,),
    "initlab>bias_forget_gate": (4,),
}
DTYPES = ["float16", "bfloat16", "float32", "float64"]


def test_every_name_is_covered():
    assert set(REGISTERED) == set(ARGUMENTS)
    assert "initlab>auto" in REGISTERED


@pytest.fixture(params=sorted(REGISTERED))
def name(request):
    return request.param


@pytest.fixture
def initializer(name):
    return REGISTERED[name](**ARGUMENTS[name])


@pytest.fixture
def shape(name):
    return SHAPES.get(name, (8, 8))


of_random = pytest.mark.parametrize("name", RANDOM)
of_dense = pytest.mark.parametrize("name", DENSE)


def test_config_is_what_the_user_gave(name, initializer):
    assert initializer.get_config() == ARGUMENTS[name]
    assert REGISTERED[name]().get_config().get("seed") is None


def test_its_repr_is_the_call_that_makes_it(initializer):
    cls = type(initializer)
    for one in (initializer, cls()):
        same = eval(repr(one), {cls.__name__: cls})
        assert same.get_config() == one.get_config()


def test_a_repr_names_the_numbers_and_what_is_not_default():
    assert repr(il.Mirrored(gain=1.4, q=0.05)) == "Mirrored(gain=1.4, q=0.05)"
    assert repr(il.HeNormal()) == "HeNormal()"
    assert repr(il.Scaled("tanh", seed=3)) == "Scaled(gain='tanh', seed=3)"
    # What no config can hold has a repr all the same.
    assert repr(il.Auto(lambda x: x * 2)).startswith("Auto(activation=<function")


def test_config_round_trips_through_json(initializer):
    config = json.loads(json.dumps(initializer.get_config()))
    again = type(initializer).from_config(config)
    assert again.get_config() == initializer.get_config()
    assert initializer.clone().get_config() == initializer.get_config()


def test_kerass_own_serialization_checks(initializer):
    """Config, JSON and dir() round trips, as Keras tests its own initializers."""
    testing.TestCase().run_class_serialization_test(initializer)


def test_keras_finds_it_by_name_and_config(name, initializer):
    assert type(keras.initializers.get(name)) is REGISTERED[name]
    config = keras.initializers.serialize(initializer)
    again = keras.initializers.deserialize(config)
    assert again.get_config() == initializer.get_config()
    assert config["registered_name"] == name


def test_it_is_a_plain_initializer(name):
    """EinsumDense re-makes subclasses of VarianceScaling with arguments of its own."""
    assert not issubclass(REGISTERED[name], keras.initializers.VarianceScaling)


def test_given_arguments_repeat(initializer, shape):
    first, second = as_numpy(initializer(shape)), as_numpy(initializer(shape))
    np.testing.assert_array_equal(first, second)


@of_random
def test_without_a_seed_it_does_not_repeat(name, shape):
    fresh = REGISTERED[name]()
    assert not np.array_equal(as_numpy(fresh(shape)), as_numpy(fresh(shape)))


@of_random
def test_no_seed_follows_set_random_seed(name, shape):
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(5)
        drawn.append(as_numpy(REGISTERED[name]()(shape)))
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(name, initializer, shape, dtype):
    if dtype == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has float64 only with x64 switched on")
    drawn = initializer(shape, dtype=dtype)
    assert keras.backend.standardize_dtype(drawn.dtype) == dtype
    wide = as_numpy(initializer(shape, dtype="float32"))
    if dtype != "float64" or name not in RANDOM:
        # A narrow draw is the rounded wide one.
        np.testing.assert_allclose(as_numpy(drawn), wide, rtol=2**-8, atol=1e-6)
    else:
        assert as_numpy(drawn).std() == pytest.approx(wide.std(), rel=0.5)


@of_dense
@pytest.mark.parametrize("policy", ["bfloat16", "mixed_bfloat16", "mixed_float16"])
def test_policies(name, policy):
    keras.config.set_dtype_policy(policy)
    drawn = []
    for kind in (policy, "float32"):
        layer = layers.Dense(
            50, kernel_initializer=REGISTERED[name](**ARGUMENTS[name]), dtype=kind
        )
        layer.build((None, 40))
        drawn.append(as_numpy(layer.kernel))
    np.testing.assert_allclose(*drawn, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_an_lstm_of_any_dtype_can_be_orthogonal(dtype):
    """Keras's own orthogonal needs a QR that no backend has in bfloat16."""
    layer = layers.LSTM(4, recurrent_initializer="initlab>orthogonal", dtype=dtype)
    layer.build((None, 3, 4))
    gate = as_numpy(layer.cell.recurrent_kernel)[:, :4]
    tolerance = {"bfloat16": 0.03, "float16": 0.004, "float32": 1e-6}[dtype]
    np.testing.assert_allclose(gate.T @ gate, np.eye(4), atol=tolerance)


@pytest.mark.parametrize("dtype", ["int32", "bool"])
def test_other_dtypes_are_refused(initializer, shape, dtype):
    with pytest.raises(ValueError, match=f"Received: dtype='{dtype}'"):
        initializer(shape, dtype=dtype)


@pytest.mark.parametrize("bad", [(None, 4), (0, 4), (4, -1)])
def test_bad_shapes_are_refused(initializer, bad):
    with pytest.raises(ValueError, match="Received: shape"):
        initializer(bad)


@of_random
@pytest.mark.parametrize("seed", ["3", 3.0, True, [1]])
def test_bad_seeds_are_refused(name, seed):
    with pytest.raises(TypeError, match="`seed` must be an int"):
        REGISTERED[name](seed=seed)


@of_dense
def test_one_shared_instance_gives_every_layer_its_own_draw(initializer):
    model = keras.Sequential(
        [keras.Input((8,))]
        + [layers.Dense(8, kernel_initializer=initializer) for _ in range(3)]
    )
    first, second, third = kernels(model)
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, third)


def functional(initializer):
    inputs = keras.Input((6, 8))
    one = layers.Dense(8, kernel_initializer=initializer)(inputs)
    two = layers.Dense(8, kernel_initializer=initializer)(inputs)
    joined = layers.Add()([one, two])
    attended = layers.MultiHeadAttention(2, 4, kernel_initializer=initializer)(
        joined, joined
    )
    both = layers.Bidirectional(
        layers.LSTM(
            4, kernel_initializer=initializer, recurrent_initializer=initializer
        )
    )(attended)
    return keras.Model(inputs, both)


def sequential(initializer):
    return keras.Sequential(
        [keras.Input((8,))]
        + [layers.Dense(8, kernel_initializer=initializer) for _ in range(3)]
    )


def lazy_sequential(initializer):
    model = keras.Sequential(
        [layers.Dense(8, kernel_initializer=initializer) for _ in range(3)]
    )
    model.build((None, 8))
    return model


class Subclassed(keras.Model):
    def __init__(self, initializer):
        super().__init__()
        self.first = layers.Dense(8, kernel_initializer=initializer)
        self.blocks = [
            layers.Dense(8, kernel_initializer=initializer) for _ in range(2)
        ]

    def call(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


def subclassed(initializer):
    model = Subclassed(initializer)
    model(np.ones((2, 8), "float32"))
    return model


BUILDERS = [functional, sequential, lazy_sequential, subclassed]


@of_dense
@pytest.mark.parametrize("build", BUILDERS)
def test_one_seed_repeats_a_whole_model_whatever_its_layers_are_called(
    initializer, build
):
    first = kernels(build(initializer))
    for _ in range(3):  # move Keras's counters of automatic names
        layers.Dense(1)
        keras.Sequential()
    second = kernels(build(type(initializer).from_config(initializer.get_config())))
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)


@of_dense
@pytest.mark.parametrize("build", BUILDERS)
def test_no_two_kernels_of_a_model_are_alike(initializer, build):
    """Q, K and V among them, forward and backward, kernel and recurrent kernel."""
    flat = [kernel.reshape(-1)[:16] for kernel in kernels(build(initializer))]
    scaled = [one / np.abs(one).max() for one in flat]
    for i, one in enumerate(scaled):
        for two in scaled[:i]:
            assert not np.allclose(one, two)


def compiled(model):
    model.compile("sgd", "mse")
    return model


X, Y = np.ones((4, 8), "float32"), np.ones((4, 8), "float32")
WAYS = {
    "fit": lambda model: compiled(model).fit(X, Y, verbose=0, epochs=0),
    "evaluate": lambda model: compiled(model).evaluate(X, Y, verbose=0),
    "predict": lambda model: model.predict(X, verbose=0),
    "train_on_batch": lambda model: freeze(compiled(model)).train_on_batch(X, Y),
}


def freeze(model):
    model.optimizer.learning_rate = 0.0
    return model


class Nested(keras.Model):
    def __init__(self, initializer):
        super().__init__()
        self.inner = Subclassed(initializer)
        self.row = keras.Sequential(
            [layers.Dense(8, kernel_initializer=initializer), layers.ReLU()]
        )

    def call(self, x):
        return self.row(self.inner(x))


def unbuilt_sequential(initializer):
    return keras.Sequential(
        [
            layers.Dense(8, kernel_initializer=initializer),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(8, kernel_initializer=initializer),
        ]
    )


@pytest.mark.parametrize("make", [Subclassed, Nested, unbuilt_sequential])
@pytest.mark.parametrize("way", WAYS)
def test_a_model_draws_alike_whoever_builds_it(make, way):
    """On JAX and PyTorch `fit` gives weights their values when no scope is open."""
    initializer = REGISTERED["initlab>auto"](seed=1)
    called = make(initializer)
    called(X)
    model = make(initializer)
    WAYS[way](model)
    if not model.built:  # on TensorFlow no epoch builds nothing
        model(X)
    for one, two in zip(kernels(called), kernels(model), strict=True):
        np.testing.assert_array_equal(one, two)


@of_dense
def test_sequential_draws_alike_however_it_is_built(initializer):
    for one, two in zip(
        kernels(sequential(initializer)),
        kernels(lazy_sequential(initializer)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)
