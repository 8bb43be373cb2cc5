"""What every registered `initlab>` initializer owes its users."""

import json

import keras
import numpy as np
import pytest
from keras import layers

from tests.helpers import as_numpy, assert_std, kernels

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


def test_config_is_what_the_user_gave(name, initializer):
    assert initializer.get_config() == ARGUMENTS[name]
    assert REGISTERED[name]().get_config()["seed"] is None


def test_config_round_trips_through_json(initializer):
    config = json.loads(json.dumps(initializer.get_config()))
    again = type(initializer).from_config(config)
    assert again.get_config() == initializer.get_config()
    assert initializer.clone().get_config() == initializer.get_config()


def test_keras_finds_it_by_name_and_config(name, initializer):
    assert type(keras.initializers.get(name)) is REGISTERED[name]
    config = keras.initializers.serialize(initializer)
    again = keras.initializers.deserialize(config)
    assert again.get_config() == initializer.get_config()
    assert config["registered_name"] == name


def test_it_is_a_plain_initializer(name):
    """EinsumDense re-makes subclasses of VarianceScaling with arguments of its own."""
    assert not issubclass(REGISTERED[name], keras.initializers.VarianceScaling)


def test_an_int_seed_repeats_and_none_does_not(name, initializer):
    first, second = as_numpy(initializer((8, 8))), as_numpy(initializer((8, 8)))
    np.testing.assert_array_equal(first, second)
    fresh = REGISTERED[name]()
    assert not np.array_equal(as_numpy(fresh((8, 8))), as_numpy(fresh((8, 8))))


def test_no_seed_follows_set_random_seed(name):
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(5)
        drawn.append(as_numpy(REGISTERED[name]()((8, 8))))
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(initializer, dtype):
    if dtype == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has float64 only with x64 switched on")
    drawn = initializer((40, 50), dtype=dtype)
    assert keras.backend.standardize_dtype(drawn.dtype) == dtype
    wide = as_numpy(initializer((40, 50), dtype="float32"))
    if dtype != "float64":
        # A narrow draw is the rounded wide one.
        np.testing.assert_allclose(as_numpy(drawn), wide, rtol=2**-8, atol=1e-6)
    else:
        assert_std(as_numpy(drawn), wide.std())


@pytest.mark.parametrize("policy", ["bfloat16", "mixed_bfloat16", "mixed_float16"])
def test_policies(name, policy):
    layer = layers.Dense(50, kernel_initializer=name, dtype=policy)
    layer.build((None, 40))
    assert_std(as_numpy(layer.kernel), np.sqrt(1 / 45 if "auto" in name else 1 / 40))


@pytest.mark.parametrize("dtype", ["int32", "bool"])
def test_other_dtypes_are_refused(initializer, dtype):
    with pytest.raises(ValueError, match=f"Received: dtype='{dtype}'"):
        initializer((4, 4), dtype=dtype)


@pytest.mark.parametrize("shape", [(None, 4), (0, 4), (4, -1)])
def test_bad_shapes_are_refused(initializer, shape):
    with pytest.raises(ValueError, match="Received: shape"):
        initializer(shape)


@pytest.mark.parametrize("seed", ["3", 3.0, True, [1]])
def test_bad_seeds_are_refused(name, seed):
    with pytest.raises(TypeError, match="`seed` must be an int"):
        REGISTERED[name](seed=seed)


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


@pytest.mark.parametrize("build", BUILDERS)
def test_no_two_kernels_of_a_model_are_alike(initializer, build):
    """Q, K and V among them, forward and backward, kernel and recurrent kernel."""
    flat = [kernel.reshape(-1)[:16] for kernel in kernels(build(initializer))]
    scaled = [one / np.abs(one).max() for one in flat]
    for i, one in enumerate(scaled):
        for two in scaled[:i]:
            assert not np.allclose(one, two)


def test_sequential_draws_alike_however_it_is_built(initializer):
    for one, two in zip(
        kernels(sequential(initializer)),
        kernels(lazy_sequential(initializer)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)
