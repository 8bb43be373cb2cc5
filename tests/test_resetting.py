"""reset_weights: every weight drawn again, in place, by what drew it first."""

import gc

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from tests.helpers import as_numpy

SIZE = 24
IMAGE, SEQUENCE, VECTOR = (8, 8, SIZE), (6, SIZE), (SIZE,)
VIDEO = (4, 4, 4, SIZE)


class Inline(layers.Layer):
    """Weights whose initializers no attribute keeps."""

    def build(self, input_shape):
        self.w = self.add_weight(
            shape=(input_shape[-1], SIZE),
            initializer=keras.initializers.RandomNormal(stddev=0.3),
        )
        self.v = self.add_weight((SIZE,), lambda s, dtype: keras.random.normal(s))
        self.steps = self.add_weight(
            shape=(), dtype="int32", initializer="ones", trainable=False, name="steps"
        )

    def call(self, x):
        return x @ self.w + self.v


class Early(layers.Layer):
    """Weights from `__init__`, one of them a bare variable."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.scale = keras.Variable(3.0)
        self.w = self.add_weight(
            shape=(units, units), initializer=keras.initializers.RandomUniform(-1, 1)
        )

    def call(self, x):
        return self.scale * (x @ self.w)


class Mixed(layers.Layer):
    """Own weights beside inner layers, one of them made in `build`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(SIZE, "relu")

    def build(self, input_shape):
        self.first.build(input_shape)
        self.second = layers.Dense(SIZE)
        self.second.build((None, SIZE))
        self.shift = self.add_weight(shape=(SIZE,), initializer="zeros", name="shift")
        self.shift.assign(np.arange(SIZE))
        super().build(input_shape)

    def call(self, x):
        return self.second(self.first(x)) + self.shift


class Nested(keras.initializers.Initializer):
    """Draws by another initializer."""

    def __init__(self):
        self.inner = keras.initializers.RandomNormal()

    def __call__(self, shape, dtype=None, **kwargs):
        return 2.0 * self.inner(shape, dtype=dtype)


def recurrent(kind, **options):
    return layers.RNN(kind(SIZE, bias_initializer="random_normal"), **options)


EVERY = [
    (VECTOR, lambda: layers.Dense(SIZE, kernel_initializer=Nested())),
    (VECTOR, lambda: layers.BatchNormalization()),
    (VECTOR, lambda: Inline()),
    (VECTOR, lambda: Early(SIZE)),
    (VECTOR, lambda: Mixed()),
    (VECTOR, lambda: layers.Dense(SIZE, kernel_initializer="initlab>auto")),
    (VECTOR, lambda: layers.SpectralNormalization(layers.Dense(SIZE))),
    (VECTOR, lambda: keras.Sequential([layers.Dense(SIZE), layers.PReLU()])),
    (
        SEQUENCE,
        lambda: layers.EinsumDense("abc,cde->abde", (None, 4, 6), None, "e"),
    ),
    (SEQUENCE, lambda: layers.LayerNormalization()),
    (SEQUENCE, lambda: layers.LSTM(SIZE)),
    (SEQUENCE, lambda: layers.Bidirectional(layers.GRU(SIZE), merge_mode="sum")),
    (SEQUENCE, lambda: recurrent(layers.LSTMCell)),
    (SEQUENCE, lambda: layers.TimeDistributed(layers.Dense(SIZE))),
    (SEQUENCE, lambda: layers.Conv1D(SIZE, 3)),
    (IMAGE, lambda: layers.Conv2DTranspose(SIZE, 3)),
    (IMAGE, lambda: layers.DepthwiseConv2D(3)),
    (IMAGE, lambda: layers.SeparableConv2D(SIZE, 3)),
    (IMAGE, lambda: layers.GroupNormalization(4)),
    (IMAGE, lambda: layers.ConvLSTM1D(SIZE, 3)),
    (VIDEO, lambda: layers.Conv3D(SIZE, 2)),
]


def attention():
    x = keras.Input(SEQUENCE)
    y = layers.MultiHeadAttention(4, 6, name="attention")(x, x)
    y = layers.GroupQueryAttention(6, 4, 2, name="grouped")(y, y)
    tokens = keras.Input((6,), dtype="int32")
    z = layers.Embedding(50, SIZE)(tokens)
    return keras.Model([x, tokens], layers.Add()([y, z]))


@pytest.fixture(scope="module")
def models():
    built = [keras.Sequential([keras.Input(shape), make()]) for shape, make in EVERY]
    return [*built, attention()]


def figures(model):
    return [as_numpy(weight) for weight in model.weights]


def spoil(model):
    model.set_weights([np.ones_like(weight) * 7 for weight in model.get_weights()])


def digest(model):
    return [keras.ops.convert_to_numpy(v).copy() for v in model.variables]


def same(first, second):
    return all((a == b).all() for a, b in zip(first, second, strict=True))


def mlp(*inner, **options):
    return keras.Sequential(
        [keras.Input((SIZE,)), *(inner or [layers.Dense(SIZE), layers.Dense(SIZE)])],
        **options,
    )


def test_every_layer_is_drawn_as_it_was_first(models):
    for model in models:
        before = figures(model)
        spoil(model)
        il.reset_weights(model)
        for weight, first, again in zip(
            model.weights, before, figures(model), strict=True
        ):
            name = f"{model.layers[0].name}: {weight.path}"
            if first.std() == 0 or weight.name in ("shift", "bias") or first.ndim == 0:
                if "rnn" not in name:
                    np.testing.assert_array_equal(first, again, err_msg=name)
                continue
            assert (first != again).any(), name
            # Each deviation to five standard errors.
            assert abs(first.std() / again.std() - 1) < 5 / np.sqrt(first.size), name


def test_one_seed_one_draw_for_each_weight(models):
    for model in models:
        il.reset_weights(model, seed=5)
        first = digest(model)
        keras.utils.set_random_seed(99)
        spoil(model)
        il.reset_weights(model, seed=5)
        assert same(first, digest(model)), model.layers[0].name
    model = mlp()
    il.reset_weights(model, seed=5)
    kernels = [model.weights[0], model.weights[2]]
    assert (as_numpy(kernels[0]) != as_numpy(kernels[1])).all()
    before = digest(model)
    il.reset_weights(model, seed=6)
    assert not same(before, digest(model))


def test_a_model_built_again_is_drawn_alike():
    first, second = mlp(), mlp()
    il.reset_weights(first, seed=1)
    il.reset_weights(second, seed=1)
    assert same(digest(first), digest(second))


def test_seeds_of_initializers():
    fixed = keras.initializers.GlorotUniform(seed=3)
    model = mlp(layers.Dense(SIZE, kernel_initializer=fixed), layers.Dense(SIZE))
    before = digest(model)
    il.reset_weights(model)
    after = digest(model)
    assert (before[0] == after[0]).all()
    assert (before[2] != after[2]).all()
    il.reset_weights(model, seed=0)
    assert (digest(model)[0] != after[0]).all()
    keras.utils.set_random_seed(4)
    il.reset_weights(model)
    before = digest(model)
    keras.utils.set_random_seed(4)
    il.reset_weights(model)
    assert same(before, digest(model))


def test_global_generators_go_on_as_if_nothing_had_happened():
    def drawn():
        keras.utils.set_random_seed(1)
        il.reset_weights(mlp(Inline()), seed=3)
        return np.random.rand(), as_numpy(keras.random.normal((1,)))[0]  # noqa: NPY002

    first = drawn()
    keras.utils.set_random_seed(1)
    mlp(Inline())
    assert first == (np.random.rand(), as_numpy(keras.random.normal((1,)))[0])  # noqa: NPY002


def test_random_streams_start_anew():
    model = mlp(layers.Dropout(0.5, seed=2), layers.GaussianNoise(1.0))
    x = np.ones((4, SIZE))

    def noisy():
        return as_numpy(model(x, training=True))

    il.reset_weights(model, seed=0)
    first, second = noisy(), noisy()
    il.reset_weights(model, seed=0)
    assert (noisy() == first).all()
    assert (second != first).any()
    il.reset_weights(model, seed=1)
    assert (noisy() != first).any()


def test_a_compiled_model_stays_compiled():
    traces = []

    class Counted(layers.Dense):
        def call(self, x):
            traces.append(1)
            return super().call(x)

    model = mlp(Counted(SIZE), layers.BatchNormalization(), layers.Dropout(0.5, seed=1))
    eager = keras.backend.backend() == "torch"
    model.compile("adam", "mse", metrics=["mae"])
    x = np.random.default_rng(0).normal(size=(8, SIZE)).astype("float32")
    model.fit(x, x, verbose=0)
    il.reset_weights(model, seed=0, optimizer=True)
    variables, function = list(map(id, model.variables)), model.train_function
    losses = [model.fit(x, x, shuffle=False, verbose=0).history["loss"]]
    count = len(traces)
    for _ in range(2):
        il.reset_weights(model, seed=0, optimizer=True)
        losses.append(model.fit(x, x, shuffle=False, verbose=0).history["loss"])
    assert eager or len(traces) == count
    assert model.train_function is function
    assert list(map(id, model.variables)) == variables
    assert losses[0] == losses[1] == losses[2]


def test_optimizer_and_metrics_on_request():
    model = mlp()
    rate = 0.05
    inner = keras.optimizers.Nadam(rate, use_ema=True)
    model.compile(keras.optimizers.LossScaleOptimizer(inner), "mse", metrics=["mae"])
    x = np.random.default_rng(0).normal(size=(8, SIZE)).astype("float32")
    model.fit(x, x, verbose=0)
    model.optimizer.learning_rate = 0.5
    state = [as_numpy(v) for v in model.optimizer.variables]
    il.reset_weights(model)
    assert same(state, [as_numpy(v) for v in model.optimizer.variables])
    il.reset_weights(model, optimizer=True)
    fresh = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Nadam(rate, use_ema=True)
    )
    fresh.build(model.trainable_variables)
    fresh.learning_rate = 0.5
    for variable, first in zip(model.optimizer.variables, fresh.variables, strict=True):
        np.testing.assert_array_equal(as_numpy(variable), as_numpy(first))
    assert all(float(as_numpy(v).sum()) == 0 for v in model.metrics_variables)


def frozen_model():
    base = mlp(
        layers.Dense(SIZE, name="inner"),
        layers.BatchNormalization(name="norm"),
        name="base",
    )
    base.trainable = False
    return mlp(base, layers.Dense(4, name="head"))


def test_frozen_layers_only_when_named():
    model = frozen_model()
    spoil(model)
    reset = il.reset_weights(model, seed=0)
    assert [row.layer for row in reset if row.reset] == ["head", "head"]
    assert {row.note for row in reset if not row.reset} == {"frozen"}
    assert "left as it is: base/inner/kernel" in str(reset)
    il.reset_weights(model, seed=0, layers="base")
    assert not any((as_numpy(weight) == 7).any() for weight in model.weights)
    base = model.layers[0]
    base.trainable = True
    base.get_layer("inner").trainable = False
    reset = il.reset_weights(model, layers="base")
    assert {row.layer for row in reset if row.reset} == {"base/norm"}


@pytest.mark.parametrize("name", ["path", "call", "layer"])
def test_layers_are_named(name):
    model = frozen_model()
    head = {"path": "head", "call": "head#0", "layer": model.layers[1]}[name]
    reset = il.reset_weights(model, layers=[head])
    assert {row.layer for row in reset if row.reset} == {"head"}


def test_lora_and_quantised_layers_are_left():
    model = mlp(
        layers.Dense(SIZE, name="lora"),
        layers.Dense(SIZE, name="whole"),
        layers.Dense(SIZE, name="plain"),
    )
    model.layers[0].enable_lora(2)
    model.layers[1].quantize("int8")
    before = digest(model)
    reset = il.reset_weights(model, seed=0)
    notes = {row.layer: row.note for row in reset}
    assert notes == {"lora": "LoRA", "whole": "quantised", "plain": ""}
    changed = [(a != b).any() for a, b in zip(before, digest(model), strict=True)]
    assert sum(changed) == 1
    with pytest.raises(ValueError, match="LoRA"):
        il.reset_weights(model, layers="lora")


def test_what_a_normalization_was_adapted_to_stays():
    scale = layers.Normalization(name="scale")
    scale.adapt(np.full((3, SIZE), 5.0) + np.arange(3)[:, None])
    model = mlp(scale, layers.Dense(2))
    x = np.full((1, SIZE), 6.0)
    il.reset_weights(model)
    np.testing.assert_allclose(as_numpy(scale(x)), 0.0, atol=1e-6)
    il.reset_weights(model, layers="scale")
    np.testing.assert_allclose(as_numpy(scale(x)), 6.0, atol=1e-5)


def test_stateful_recurrence_starts_from_zeros():
    model = keras.Sequential(
        [keras.Input(batch_shape=(2, 3, SIZE)), layers.LSTM(4, stateful=True)]
    )
    model(np.ones((2, 3, SIZE)))
    il.reset_weights(model)
    assert not any(as_numpy(state).any() for state in model.layers[0].states)


def test_a_rewrite_says_what_is_drawn():
    model = mlp(
        layers.Dense(SIZE, "relu"),
        Inline(),
        layers.Dense(SIZE, kernel_initializer="zeros"),
    )
    plan = il.rewrite_initializers(model, only_defaults=False)
    spoil(model)
    reset = il.reset_weights(model, seed=0)
    drawn = {(row.layer, row.weight): row.initializer for row in reset}
    for row in plan:
        assert type(drawn[row.layer, row.weight]) is type(row.after)
        assert drawn[row.layer, row.weight].get_config().get("gain") == (
            row.after.get_config().get("gain")
        )
        if row.std:
            kernel = next(
                v for v in model.get_layer(row.layer).weights if v.name != "bias"
            )
            assert abs(as_numpy(kernel).std() / row.std - 1) < 5 / SIZE


class Hidden(layers.Layer):
    """A weight that nothing says the first value of."""

    def __init__(self, values, **kwargs):
        super().__init__(**kwargs)
        self.values = keras.Variable(values.matrix)

    def call(self, x):
        return x @ self.values


class Matrix:
    """What no config can hold."""

    matrix = np.eye(SIZE, dtype="float32")


class Failing(keras.initializers.Initializer):
    """Draws once."""

    drawn = False

    def __call__(self, shape, dtype=None, **kwargs):
        if self.drawn:
            raise RuntimeError("no more")
        self.drawn = True
        return keras.ops.ones(shape, dtype)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: Hidden(Matrix(), name="hidden"), "hidden/values"),
        (lambda: layers.Dense(3, kernel_initializer=Failing(), name="d"), "d/kernel"),
    ],
    ids=["unknown", "failing"],
)
def test_all_or_nothing(layer, message):
    model = mlp(layers.Dense(SIZE), layer())
    before = digest(model)
    with pytest.raises(ValueError, match=message):
        il.reset_weights(model)
    assert same(before, digest(model))
    il.reset_weights(model, layers=model.layers[0])
    assert not same(before, digest(model))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layers": "haed"}, ValueError, "'head'"),
        ({"layers": []}, ValueError, "a layer or more"),
        ({"layers": 3}, TypeError, "names or paths"),
        ({"layers": layers.Dense(3, name="foreign")}, ValueError, "foreign"),
        ({"seed": 1.5}, TypeError, "int"),
        ({"optimizer": "adam"}, TypeError, "True or False"),
    ],
)
def test_bad_arguments(arguments, error, message):
    model = frozen_model()
    before = digest(model)
    with pytest.raises(error, match=message):
        il.reset_weights(model, **arguments)
    assert same(before, digest(model))


def test_bad_models():
    with pytest.raises(TypeError, match=r"keras\.Sequential"):
        il.reset_weights(layers.Dense(3))
    with pytest.raises(ValueError, match="built"):
        il.reset_weights(keras.Sequential([layers.Dense(3)]))


def test_ten_resets_leave_memory_as_it_was():
    model = mlp()
    model.compile("adam", "mse")
    x = np.ones((2, SIZE))
    model.fit(x, x, verbose=0)

    def held():
        gc.collect()
        if keras.backend.backend() == "jax":
            import jax

            return len(jax.live_arrays()), 0
        kind = type(keras.ops.ones(()))
        objects = gc.get_objects()
        return sum(isinstance(one, kind) for one in objects), 0

    il.reset_weights(model, seed=0, optimizer=True)
    before = held()
    for seed in range(10):
        il.reset_weights(model, seed=seed, optimizer=True)
    assert held() == before
