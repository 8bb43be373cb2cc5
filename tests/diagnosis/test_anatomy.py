"""What layers are to a network, what is known of data, and that nothing is moved."""

import random

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_initlab as il
from keras_initlab.anatomy import anatomy_of, input_facts, kernel_facts
from keras_initlab.diagnosis import InputFacts
from tests.diagnosis.planted import HeOfShape
from tests.diagnosis.test_facts import alter, facts, model_of, same_rows, twin, twins


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def roles(model):
    """Return which kernels have which roles, by their layers' paths."""
    names = ("head", "branch_end", "normalised", "guarded")
    return {
        key: {name for name in names if getattr(one, name)}
        for key, one in facts(model).items()
    }


def kinds(model, figure):
    """Return the layers of which something is so."""
    known = anatomy_of(model).layers
    return [path for path, one in known.items() if getattr(one, figure)]


def residual():
    inputs = keras.Input((8, 8, 3), name="in")
    x = layers.Rescaling(2.0, name="scaled")(inputs)
    x = layers.Conv2D(6, 3, padding="same", name="stem")(x)
    x = layers.BatchNormalization(name="norm")(x)
    y = layers.Conv2D(6, 3, padding="same", activation="relu", name="first")(x)
    y = layers.Conv2D(6, 3, padding="same", name="last")(y)
    x = layers.Add(name="sum")([x, y])
    x = layers.GlobalAveragePooling2D(name="pool")(layers.ReLU(name="relu")(x))
    outputs = layers.Softmax(name="softmax")(layers.Dense(3, name="head")(x))
    return keras.Model(inputs, outputs)


def test_roles_of_kernels():
    assert roles(residual()) == {
        "stem": {"normalised"},
        "first": set(),
        "last": {"branch_end"},
        "head": {"head"},
    }


def test_roles_of_layers():
    model = residual()
    assert kinds(model, "starts") == ["scaled"]
    assert kinds(model, "ends") == ["head", "softmax"]
    assert kinds(model, "normalises") == ["norm"]
    assert kinds(model, "bends") == ["first", "relu", "softmax"]


@pytest.mark.torch
def test_gates_and_attention_are_guarded_and_simple_recurrence_is_not():
    inputs = keras.Input((5, 8))
    x = layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    x = layers.LayerNormalization(name="norm")(layers.Add(name="sum")([x, inputs]))
    x = layers.LSTM(4, return_sequences=True, name="lstm")(x)
    x = layers.Bidirectional(layers.GRU(4, return_sequences=True), name="both")(x)
    x = layers.SimpleRNN(4, name="simple")(x)
    found = roles(keras.Model(inputs, layers.Dense(2, name="head")(x)))
    guarded = {key.split("/")[0] for key, names in found.items() if "guarded" in names}
    assert guarded == {"attention", "lstm", "both"}
    assert found["attention/attention_output"] == {"branch_end", "guarded"}


def test_nested_and_shared_layers():
    inner = [layers.Dense(6, "relu", name="a"), layers.Dense(6, name="b")]
    encoder = keras.Sequential([keras.Input((6,)), *inner], name="encoder")
    shared = layers.Dense(6, "tanh", name="shared")
    inputs = keras.Input((6,))
    outputs = layers.Dense(2, name="head")(shared(shared(encoder(inputs))))
    model = keras.Model(inputs, outputs)
    assert [*facts(model)] == ["encoder/a", "encoder/b", "shared", "head"]
    assert kinds(model, "ends") == ["head"]
    assert kinds(model, "bends") == ["encoder/a", "shared"]
    twin(inner[0])
    alter(inner[1], same_rows)
    assert twins(model, "encoder/a") == (1, 1)
    twin(shared)
    assert twins(model, "shared") == (1, 0)
    alter(shared, same_rows)
    alter(model.get_layer("head"), same_rows)
    twin(shared)
    assert twins(model, "shared") == (1, 1)


class Branching(keras.Model):
    """Looks at its inputs' values: nothing can be followed through it."""

    def __init__(self):
        super().__init__(name="branching")
        self.hidden = layers.Dense(6, "tanh", name="hidden")
        self.head = layers.Dense(3, kernel_initializer="zeros", name="head")

    def call(self, x):
        x = self.hidden(x)
        if keras.config.backend() == "torch" and float(keras.ops.sum(x)) < 0:
            return x
        if isinstance(x, keras.KerasTensor):
            raise TypeError("these are no values")
        return self.head(x)


def test_of_a_model_without_a_graph_the_last_kernel_is_the_head():
    model = Branching()
    model(normal(2, 6))
    assert roles(model) == {"hidden": set(), "head": {"head"}}
    assert kinds(model, "ends") == ["head"]
    # Zeros in a head are no fault; in a hidden layer they are.
    assert il.diagnose(model) == []
    assert il.diagnose(model, normal(8, 6)) == []
    twin(model.hidden)
    assert twins(model, "hidden") == (1, None)
    alter(model.hidden, lambda kernel: kernel.fill(0))
    assert il.diagnose(model)[0].code == "constant-kernel"


@keras.saving.register_keras_serializable("tests")
class Broken(layers.Layer):
    """Can be run on batches of the size it was made for alone."""

    def call(self, x):
        if x.shape[0] != 5:
            raise ValueError("broken takes five inputs at a time")
        return x

    def compute_output_shape(self, shape):
        return shape


def test_where_nothing_can_be_predicted_the_weights_still_speak():
    inputs = keras.Input((6,))
    x = Broken(name="broken")(layers.Dense(6, "tanh", name="a")(inputs))
    x = layers.Dense(6, "tanh", kernel_initializer="zeros", name="b")(x)
    model = keras.Model(inputs, layers.Dense(2, name="c")(x))
    anatomy = anatomy_of(model)
    assert anatomy.forward is None
    assert "broken" in anatomy.problem
    [found] = il.diagnose(model)
    assert (found.code, found.layer) == ("constant-kernel", "b")
    assert "Nothing is predicted" in il.inspect(model).notes[0]
    found = il.diagnose(model, normal(5, 6))
    assert "constant-kernel" in [one.code for one in found]


def test_frozen_layers_are_looked_at_and_stay_frozen():
    model = model_of(
        layers.Dense(6, "tanh", kernel_initializer="ones", name="a"), layers.Dense(2)
    )
    model.layers[0].trainable = False
    assert [one.layer for one in il.diagnose(model)] == ["a"]
    assert [one.trainable for one in model.layers] == [False, True]
    assert len(model.trainable_variables) == 2


# Data ---------------------------------------------------------------------------------


def of_data(x, *rows, shape=(4,), dtype="float32"):
    model = model_of(*(rows or [layers.Dense(3)]), shape=shape, dtype=dtype)
    return input_facts(anatomy_of(model), x)


def test_facts_of_an_array():
    x = 3 + 2 * normal(500, 4).astype("float64")
    x[:7, 1] = np.nan
    x[7, 1] = np.inf
    [one] = of_data(x)
    assert one.nonfinite == 8
    assert one.mean == pytest.approx(3, abs=0.2)
    assert one.deviation == pytest.approx(2, rel=0.1)
    assert one.spread == pytest.approx(1, rel=0.2)
    x[:, 2] *= 1000
    [one] = of_data(keras.ops.convert_to_tensor(x))
    assert one.largest == 2
    assert one.spread == pytest.approx(1000, rel=0.2)


def test_data_without_a_finite_value_and_of_constants():
    [one] = of_data(np.full((3, 4), np.nan))
    assert (one.mean, one.deviation, one.nonfinite) == (0, 0, 12)
    [one] = of_data(np.ones((3, 4)))
    assert (one.mean, one.deviation, one.spread) == (1, 0, 1)
    assert of_data(np.zeros((3, 4)))[0].spread == 1


@pytest.mark.parametrize(
    ("rows", "scaled"),
    [
        ([layers.Rescaling(1 / 255), layers.Dense(3)], True),
        ([layers.BatchNormalization(), layers.Dense(3)], True),
        ([layers.Normalization(mean=0.0, variance=1.0), layers.Dense(3)], True),
        ([layers.Dropout(0.1), layers.LayerNormalization(), layers.Dense(3)], True),
        ([layers.Dense(3), layers.BatchNormalization()], False),
        ([layers.Dropout(0.1), layers.Dense(3)], False),
    ],
    ids=lambda value: value[0].name if isinstance(value, list) else None,
)
def test_what_a_model_scales_itself(rows, scaled):
    assert of_data(normal(9, 4), *rows)[0].scaled is scaled


def test_tokens_have_no_scale():
    tokens = np.arange(40_000, dtype="int32").reshape(-1, 4)
    rows = [layers.Embedding(40_000, 2), layers.Flatten(), layers.Dense(3)]
    [one] = of_data(tokens, *rows, dtype="int32")
    assert one.scaled
    assert one.deviation > 1e4


class Recommender(keras.Model):
    """Two tables of embeddings and two of biases, read from columns: no kernel."""

    def __init__(self):
        super().__init__()
        self.tables = [layers.Embedding(50, width) for width in (16, 16, 1, 1)]

    def call(self, x):
        users, items, *biases = (
            table(x[:, number % 2]) for number, table in enumerate(self.tables)
        )
        return ops.sum(users * items, axis=-1, keepdims=True) + sum(biases)


def test_tokens_that_a_model_without_kernels_picks_have_no_scale():
    model = Recommender()
    pairs = np.random.default_rng(0).integers(0, 50, (64, 2)).astype("int32")
    model(pairs)
    (one,) = input_facts(anatomy_of(model), pairs)
    assert one.scaled
    assert il.diagnose(model, pairs) == []


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_several_inputs_by_name_and_in_order(order):
    inputs = {name: keras.Input((4,), name=name) for name in order}
    joined = layers.Concatenate()([inputs["a"], inputs["b"]])
    model = keras.Model([inputs[name] for name in order], layers.Dense(3)(joined))
    x = {"a": normal(9, 4) + 1000, "b": normal(9, 4)}
    for given in (x, [x[name] for name in order]):
        found = {one.name: one for one in input_facts(anatomy_of(model), given)}
        assert found["a"].mean == pytest.approx(1000, abs=1)
        assert found["b"].mean == pytest.approx(0, abs=1)
        scale = [one for one in il.diagnose(model, given) if one.code == "input-scale"]
        assert [one.layer for one in scale] == ["a"]
        stats = {one.layer: one.predicted for one in il.inspect(model, given).layers}
        for name, mean in {"a": 1000, "b": 0}.items():
            if name in stats:
                assert stats[name].mean == pytest.approx(mean, abs=1)


def test_names_of_inputs_that_have_none():
    model = Branching()
    model(normal(2, 6))
    [one] = input_facts(anatomy_of(model), normal(4, 6))
    assert one.name == "x"
    two = input_facts(anatomy_of(model), [normal(4, 6), np.zeros((4, 0)), normal(4, 6)])
    assert [one.name for one in two] == ["x[0]", "x[2]"]
    assert all(isinstance(one, InputFacts) for one in two)


# No trace -----------------------------------------------------------------------------


def busy(initializer="he_normal"):
    """Return a compiled model that draws numbers, and keeps averages and seeds."""
    rows = [
        layers.GaussianNoise(0.1, seed=3),
        layers.Dense(8, "relu", kernel_initializer=initializer),
        layers.Dropout(0.3),
        layers.BatchNormalization(),
        layers.Dense(8, "tanh", kernel_initializer=keras.initializers.HeNormal(seed=1)),
        layers.Dense(3),
    ]
    model = model_of(*rows)
    model.layers[1].trainable = False
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def state(model):
    """Return all that a model holds: weights, seeds, averages, the optimizer's."""
    found = [*model.variables, *model.optimizer.variables]
    for layer in model.layers:
        generator = getattr(layer, "seed_generator", None)
        found += [] if generator is None else [generator.state]
    return [np.array(keras.ops.convert_to_numpy(one)) for one in found]


def seed_all():
    keras.utils.set_random_seed(5)
    keras.random.normal(())  # makes Keras's own generator


def draws():
    """Return the first numbers of every generator that models draw from."""
    return [
        random.random(),
        np.random.random(),  # noqa: NPY002
        *keras.ops.convert_to_numpy(keras.random.normal((2,))),
        *keras.ops.convert_to_numpy(keras.initializers.HeNormal()((2, 2))).ravel(),
    ]


@pytest.mark.parametrize("initializer", ["he_normal", HeOfShape()], ids=["he", "own"])
def test_a_model_and_all_generators_are_as_before(initializer):
    x = normal(16, 6)
    model = busy(initializer)
    model.fit(x, x[:, :3], verbose=0)
    before, config = state(model), model.get_config()
    weights = [id(one) for one in model.weights]
    seed_all()
    expected = draws()
    seed_all()
    first = il.diagnose(model, x)
    assert draws() == expected
    assert first == il.diagnose(model, x)
    assert il.diagnose(model) == list(il.inspect(model).findings)
    assert all(map(np.array_equal, before, state(model)))
    assert len(before) == len(state(model))
    assert model.get_config() == config
    assert weights == [id(one) for one in model.weights]
    assert [one.trainable for one in model.layers] == [True, False, *[True] * 4]


def test_training_goes_on_as_if_nothing_had_been_asked():
    x = normal(32, 6)
    losses = []
    for asked in (False, True):
        keras.utils.set_random_seed(0)
        model = busy()
        found = []
        for _ in range(2):
            history = model.fit(x, x[:, :3], batch_size=8, epochs=1, verbose=0)
            found += history.history["loss"]
            if asked:
                il.diagnose(model)
        losses.append(found)
    assert losses[0] == losses[1]


def test_facts_while_training_leave_initializers_alone():
    one = kernel_facts(anatomy_of(busy(HeOfShape())), initial=False)[0]
    assert (one.initializer, one.scale, one.by_wrong_fans, one.digest) == (
        "",
        *[None] * 3,
    )


# Own attention, own normalisations, masks ---------------------------------------------


@keras.saving.register_keras_serializable("tests")
class RootMeanSquare(layers.Layer):
    """x / √E[x²], with a scale."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        square = ops.mean(ops.square(x), axis=-1, keepdims=True)
        return x * ops.rsqrt(square + 1e-6) * self.scale


@keras.saving.register_keras_serializable("tests")
class RootMeanSquareNorm(RootMeanSquare):
    """The same, and its name says so."""


@keras.saving.register_keras_serializable("tests")
class Attention(layers.Layer):
    """One head of attention, written out."""

    def __init__(self, width, **options):
        super().__init__(**options)
        self.width = width
        start = keras.initializers.RandomNormal(stddev=0.02)
        self.inner = [
            layers.Dense(width, kernel_initializer=start, name=name) for name in "qkvo"
        ]

    def build(self, shape):
        for layer in self.inner:
            layer.build(shape)

    def call(self, x, mask):
        q, k, v = (layer(x) for layer in self.inner[:3])
        scores = ops.matmul(q, ops.transpose(k, (0, 2, 1))) / self.width**0.5
        scores = scores + (1.0 - ops.cast(mask, "float32")[:, None, :]) * -1e9
        return self.inner[3](ops.matmul(ops.softmax(scores), v))


def own_decoder(norm):
    tokens = keras.Input((12,), dtype="int32", name="tokens")
    mask = keras.Input((12,), dtype="int32", name="mask")
    x = layers.Embedding(40, 32)(tokens)
    for _ in range(3):
        x = layers.Add()([x, Attention(32)(norm()(x), mask)])
    x = layers.GlobalAveragePooling1D()(norm()(x))
    return keras.Model([tokens, mask], layers.Dense(2, "softmax")(x))


def test_own_attention_under_a_mask_is_a_branch():
    known = {
        one.layer: one
        for one in kernel_facts(anatomy_of(own_decoder(RootMeanSquareNorm)))
    }
    inside = [one for path, one in known.items() if path.startswith("attention")]
    assert len(inside) == 12
    assert all(one.guarded and one.bypassed for one in inside)


def test_own_attention_and_own_normalisations_raise_no_alarm():
    generator = np.random.default_rng(0)
    data = [generator.integers(0, 40, (32, 12)), np.ones((32, 12), "int32")]
    model = own_decoder(RootMeanSquareNorm)
    told = [*il.diagnose(model), *il.diagnose(model, data)]
    assert {one.code for one in told if one.severity != "info"} == set()
    [shared, *_] = told
    assert (shared.code, shared.severity) == ("shared-draw", "info")


@pytest.mark.parametrize("kind", [RootMeanSquare, RootMeanSquareNorm])
def test_an_own_normalisation_is_predicted(kind):
    model = keras.Sequential([keras.Input((8, 32)), kind(), layers.Dense(3)])
    for variance in (1.0, 1e-3):
        first = il.propagate(model, variance=variance)[0]
        assert first.second_moment == pytest.approx(1, rel=0.15)


def test_an_own_normalisation_is_known_by_its_name():
    known = anatomy_of(own_decoder(RootMeanSquareNorm)).layers
    normalising = [path for path, one in known.items() if one.normalises]
    assert len(normalising) == 4
