"""What is found out about the kernels of real models.

That is NumPy on weights' values and initializers: PyTorch, which compiles nothing, does
all of it, other backends some.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_initlab as il
from keras_initlab import activations
from keras_initlab.anatomy import anatomy_of, kernel_facts
from tests.diagnosis.planted import HeOfShape


def model_of(*rows, shape=(6,), dtype="float32"):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *rows])


def facts(model):
    """Return the facts of a model's kernels by their layers' paths."""
    return {
        one.layer if one.weight == "kernel" else f"{one.layer}:{one.weight}": one
        for one in kernel_facts(anatomy_of(model))
    }


def three(units=8, **settings):
    """Return Dense layers `a`, `b` and `c`, of which the last is the head."""
    named = (layers.Dense(units, "relu", name=name, **settings) for name in "ab")
    return model_of(*named, layers.Dense(3, name="c"))


def alter(layer, change, weight=0):
    """Apply `change` to one of a layer's weights."""
    values = layer.get_weights()
    change(values[weight])
    layer.set_weights(values)


def twin(layer, first=0, other=1, noise=0.0):
    """Make a unit of a Dense layer or convolution read what another one reads."""
    kernel, bias = layer.get_weights()
    kernel[..., other] = kernel[..., first] * np.float32(1 + noise)
    bias[other] = bias[first]
    layer.set_weights([kernel, bias])


def same_rows(kernel, first=0, other=1):
    kernel[other] = kernel[first]


def twins(model, name):
    one = facts(model)[name]
    return one.twins, one.read_alike


# Twins --------------------------------------------------------------------------------


def test_drawn_units_are_no_twins():
    for one in facts(three()).values():
        assert (one.twins, one.read_alike, one.constant) == (0, None, None)


@pytest.mark.parametrize(("noise", "found"), [(0, 1), (1e-6, 1), (-1e-6, 1), (1e-3, 0)])
def test_twins_that_are_read_apart_and_alike(noise, found):
    model = three()
    twin(model.layers[0], noise=noise)
    assert twins(model, "a") == (found, 0 if found else None)
    alter(model.layers[1], same_rows)
    assert twins(model, "a") == (found, 1 if found else None)
    assert twins(model, "b") == (0, None)


def test_each_twin_but_the_first_is_counted():
    model = three()
    for other in (3, 5):
        twin(model.layers[0], 0, other)
    twin(model.layers[0], 1, 2)
    alter(model.layers[1], lambda kernel: same_rows(kernel, 0, 3))
    assert twins(model, "a") == (3, 1)


def test_units_without_weights_are_left_out():
    model = three()
    alter(model.layers[0], lambda kernel: kernel[:, :3].fill(0))
    assert twins(model, "a") == (0, None)


def test_units_of_other_biases_are_no_twins():
    model = three()
    twin(model.layers[0])
    alter(model.layers[0], lambda bias: bias[:1].fill(0.1), weight=1)
    assert twins(model, "a") == (0, None)


def test_units_of_one_weight_each_are_no_twins():
    model = model_of(layers.Dense(4096, "relu", name="a"), layers.Dense(2), shape=(1,))
    assert twins(model, "a") == (0, None)


def test_twins_of_a_wide_layer_are_all_found():
    model = three(2048)
    kernel, bias = model.layers[0].get_weights()
    order = np.random.default_rng(0).permutation(2048)
    kernel[:, order[:700]] = kernel[:, order[700:1400]]
    model.layers[0].set_weights([kernel, bias])
    assert twins(model, "a") == (700, 0)
    alter(model.layers[1], lambda k: k.__setitem__(order[:600], k[order[700:1300]]))
    assert twins(model, "a") == (700, 600)
    assert twins(model, "b") == (0, None)


def test_filters_are_read_at_each_position_of_what_was_flattened():
    model = model_of(
        layers.Conv2D(5, 3, name="a"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(4, name="b"),
        layers.Dense(2),
        shape=(6, 6, 2),
    )
    twin(model.layers[0])
    assert twins(model, "a") == (1, 0)

    def read_alike(kernel):
        positions = kernel.reshape(-1, 5, 4)
        positions[:, 1] = positions[:, 0]

    reader = model.get_layer("b")
    alter(reader, read_alike)
    assert twins(model, "a") == (1, 1)
    alter(reader, lambda kernel: kernel[6].fill(0.5))  # position 1, channel 1
    assert twins(model, "a") == (1, 0)


def test_convolutions_read_channels_at_each_position_of_their_field():
    model = model_of(
        layers.Conv2D(5, 3, name="a"),
        layers.Conv2D(4, 3, name="b"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2),
        shape=(7, 7, 2),
    )
    twin(model.layers[0])
    alter(model.layers[1], lambda kernel: same_rows(kernel[0, 0]))
    assert twins(model, "a") == (1, 0)

    def read_alike(kernel):
        kernel[:, :, 1] = kernel[:, :, 0]

    alter(model.layers[1], read_alike)
    assert twins(model, "a") == (1, 1)


@pytest.mark.torch
@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("SimpleRNN", 1)])
def test_recurrent_units_are_twins_in_all_their_gates(kind, gates):
    layer = getattr(layers, kind)(6, name="r")
    model = model_of(layer, layers.Dense(2, name="head"), shape=(5, 3))
    name = f"r/{layer.cell.name}"
    alter(model.layers[-1], same_rows)

    def double(values, count=gates):
        by_gate = values.reshape(*values.shape[:-1], gates, 6)
        by_gate[..., :count, 1] = by_gate[..., :count, 0]

    for weight in range(3):
        alter(layer, lambda values: double(values, gates - 1), weight)
    assert twins(model, name) == (0, None)
    for weight in range(3):
        alter(layer, double, weight)
    # The other units still read these two apart.
    assert twins(model, name) == (1, 0)
    alter(layer, same_rows, weight=1)
    assert twins(model, name) == (1, 1)


def test_units_of_an_equation():
    model = model_of(
        layers.EinsumDense("ab,bc->ac", 8, bias_axes="c", activation="relu", name="a"),
        layers.EinsumDense("ab,bcd->acd", (3, 2), name="b"),
        layers.Flatten(),
        layers.Dense(2),
    )
    twin(model.layers[0])
    assert twins(model, "a") == (1, 0)
    alter(model.layers[1], same_rows)
    assert twins(model, "a") == (1, 1)
    alter(model.layers[1], lambda kernel: kernel.__setitem__((..., 1), kernel[..., 0]))
    # Nothing is known of how what was flattened from two axes is read.
    assert twins(model, "b")[0] == 3


@pytest.mark.parametrize(
    ("between", "known"),
    [
        ([layers.Dropout(0.5)], True),
        ([layers.LayerNormalization(), layers.ReLU()], True),
        ([layers.Reshape((2, 4)), layers.Flatten()], False),
        ([layers.Lambda(lambda x: keras.ops.flip(x, 1))], False),
    ],
    ids=["Dropout", "LayerNormalization", "Reshape", "Lambda"],
)
def test_readers_are_known_as_long_as_units_keep_their_place(between, known):
    model = model_of(
        layers.Dense(8, name="a"), *between, layers.Dense(8), layers.Dense(2)
    )
    twin(model.layers[0])
    # No two rows of what reads them are alike: whichever is which, they are parted.
    assert twins(model, "a") == (1, 0)
    alter(model.layers[-2], same_rows)
    assert twins(model, "a") == (1, 1 if known else None)


def test_where_units_are_added_it_is_not_known_which_are_read_alike():
    inputs = keras.Input((8,))
    x = layers.Dense(8, "relu", name="a")(inputs)
    sums = layers.Add()([x, layers.Dense(8, name="b")(x)])
    model = keras.Model(inputs, [layers.Dense(2, name="c")(sums), x])
    twin(model.get_layer("a"))
    assert twins(model, "a") == (1, 0)
    alter(model.get_layer("c"), same_rows)
    assert twins(model, "a") == (1, None)


def test_filters_that_a_reshape_makes_pixels_of_are_read_apart():
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(8, 3, padding="same", name="a")(inputs)
    x = layers.Reshape((8, 8, 2))(x)
    model = keras.Model(inputs, layers.Conv2D(3, 3, name="b")(x))
    alter(
        model.get_layer("a"), lambda kernel: np.copyto(kernel[..., 4:], kernel[..., :4])
    )
    assert twins(model, "a") == (4, 0)
    alter(model.get_layer("b"), lambda kernel: kernel.fill(1.0))
    assert twins(model, "a") == (4, None)


def test_kernels_that_read_inputs_of_their_own_have_no_twins():
    model = model_of(
        layers.DepthwiseConv2D(3, depthwise_initializer="ones", name="each"),
        layers.SeparableConv2D(6, 3, depthwise_initializer="zeros", name="both"),
        layers.Conv2D(6, 3, groups=3, name="groups"),
        layers.Flatten(),
        layers.Dense(2),
        shape=(8, 8, 6),
    )
    alter(model.layers[2], lambda kernel: kernel[..., 1:].__iadd__(0))
    found = facts(model)
    for name in ("each", "both:depthwise_kernel", "groups"):
        assert (found[name].units, found[name].twins) == (0, 0)
    assert found["both:pointwise_kernel"].units == 6
    # A sum over each channel is no fault; a kernel that lets nothing through is one.
    constant = [one for one in il.diagnose(model) if one.code == "constant-kernel"]
    assert [one.layer for one in constant] == ["both"]


# Values -------------------------------------------------------------------------------


def test_constants_and_what_is_not_finite():
    model = three(kernel_initializer="ones")
    alter(model.layers[1], lambda kernel: kernel[0, :3].__setitem__(..., np.nan))
    alter(model.layers[1], lambda kernel: kernel[1].__setitem__(..., np.inf))
    found = facts(model)
    assert (found["a"].constant, found["a"].nonfinite) == (1.0, 0)
    assert (found["b"].constant, found["b"].nonfinite) == (None, 11)
    assert (found["b"].twins, found["c"].constant) == (0, None)


def test_digests_are_the_same_for_the_same_draws_alone():
    def dense(name, initializer):
        return layers.Dense(6, kernel_initializer=initializer, name=name)

    rows = {
        "one": keras.initializers.HeNormal(seed=1),
        "again": keras.initializers.HeNormal(seed=1),
        "other": keras.initializers.HeNormal(seed=2),
        "identity": "identity",
        "zeros": "zeros",
        "constant": keras.initializers.Constant(0.5),
        "ours": il.HeNormal(seed=1),
        "ours again": il.HeNormal(seed=1),
    }
    model = model_of(*[dense(*row) for row in rows.items()])
    digests = {name: one.digest for name, one in facts(model).items()}
    assert digests["one"] == digests["again"]
    drawn = [digests[name] for name in ("one", "other", "ours", "ours again")]
    assert None not in drawn
    assert len(set(drawn)) == 4
    assert not any(digests[name] for name in ("identity", "zeros", "constant"))
    alter(model.layers[0], lambda kernel: kernel[0, :1].fill(0.1))
    found = facts(model)
    assert found["one"].digest != found["again"].digest


class Tied(layers.Layer):
    """Multiplies by the kernel of another layer."""

    def __init__(self, other, **settings):
        super().__init__(**settings)
        self.other = other

    def build(self, shape):
        self.kernel = self.other.kernel

    def call(self, x):
        return keras.ops.matmul(x, self.kernel)


def test_shared_and_tied_kernels_are_one():
    inputs = keras.Input((6,))
    shared = layers.Dense(6, "tanh", name="shared")
    x = Tied(shared, name="tied")(shared(shared(inputs)))
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    assert [*facts(model)] == ["shared", "head"]
    assert not any(one.code == "shared-draw" for one in il.diagnose(model))


# Initializers -------------------------------------------------------------------------

NORMAL = keras.initializers.RandomNormal


@pytest.mark.torch
@pytest.mark.parametrize(
    ("activation", "initializer", "scale"),
    [
        ("relu", "he_normal", 1),
        ("relu", "glorot_uniform", 0.5),
        ("relu", "lecun_normal", 0.5),
        ("relu", "orthogonal", 0.5),
        ("relu", NORMAL(stddev=1.0), 16 / 2),
        ("relu", NORMAL(stddev=0.01), 1e-4 * 16 / 2),
        *[("tanh", one, 1) for one in ("he_normal", "glorot_normal", "lecun_uniform")],
        ("tanh", NORMAL(stddev=1.0), 16 / activations.gain("tanh") ** 2),
        ("selu", "lecun_normal", 1),
        ("selu", "he_normal", 2),
        ("gelu", "glorot_uniform", 1 / activations.gain("gelu") ** 2),
        ("gelu", "he_normal", 2 / activations.gain("gelu") ** 2),
        ("linear", "lecun_normal", 1),
        ("linear", "he_uniform", 2),
        ("relu", "zeros", None),
        ("relu", "initlab>auto", None),
        ("relu", "initlab>he_normal", 1),
    ],
)
def test_scale_of_an_initializer_over_what_fits(activation, initializer, scale):
    dense = layers.Dense(16, activation, kernel_initializer=initializer, name="a")
    one = facts(model_of(dense, layers.Dense(16), shape=(16,)))["a"]
    assert one.nonlinearity == activation
    assert one.scale == (None if scale is None else pytest.approx(scale, rel=2e-3))


@pytest.mark.torch
@pytest.mark.parametrize(
    ("layer", "shape", "ratio"),
    [
        (layers.Dense(8, kernel_initializer="he_normal"), (6,), 1),
        (layers.Conv2D(8, 3, kernel_initializer="he_normal"), (8, 8, 4), 1),
        (
            layers.DepthwiseConv2D(3, depthwise_initializer="he_normal"),
            (8, 8, 32),
            1 / 32,
        ),
        (
            layers.Conv2DTranspose(16, 3, strides=3, kernel_initializer="he_normal"),
            (4, 4, 16),
            1 / 9,
        ),
        (
            layers.EinsumDense(
                "abc,cde->abde", (8, 6, 4), kernel_initializer="he_normal"
            ),
            (8, 5),
            1,
        ),
        (
            layers.EinsumDense(
                "abc,cde->abde", (8, 16, 16), kernel_initializer=HeOfShape()
            ),
            (8, 16),
            1 / 16,
        ),
        (layers.Dense(64, kernel_initializer=HeOfShape()), (64,), None),
        (
            layers.DepthwiseConv2D(3, depthwise_initializer="initlab>he_normal"),
            (8, 8, 32),
            None,
        ),
        (layers.Dense(8, kernel_initializer="orthogonal"), (6,), None),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_variance_by_wrong_fans(layer, shape, ratio):
    model = model_of(
        layer, layers.ReLU(), layers.Flatten(), layers.Dense(2), shape=shape
    )
    found = facts(model)[layer.name].by_wrong_fans
    assert found == (None if ratio is None else pytest.approx(ratio))


def test_all_layers_that_were_drawn_alike_are_named():
    """As under one initializer object: query, key and value of each of two blocks."""
    pairs = [
        [layers.Dense(16, kernel_initializer=one, name=f"{place}{i}") for i in range(2)]
        for place in "qkv"
        for one in [keras.initializers.HeNormal(seed=ord(place))]
    ]
    model = keras.Sequential([keras.Input((16,)), *(i for p in pairs for i in p)])
    (found,) = (one for one in il.diagnose(model) if one.code == "shared-draw")
    for names in ("q0, q1", "k0, k1", "v0, v1"):
        assert names in found.evidence


class GatedAttention(layers.Layer):
    """Scores that tanh and sigmoid make, drawn by one initializer object."""

    def build(self, shape):
        draw = keras.initializers.get("glorot_uniform")
        self.v = self.add_weight(shape=(shape[-1], 16), initializer=draw, name="v")
        self.u = self.add_weight(shape=(shape[-1], 16), initializer=draw, name="u")

    def call(self, x):
        return ops.tanh(ops.matmul(x, self.v)) * ops.sigmoid(ops.matmul(x, self.u))


def test_weights_of_one_layer_that_start_alike_are_named():
    model = keras.Sequential([keras.Input((8,)), GatedAttention(name="alpha")])
    (found,) = (one for one in il.diagnose(model) if one.code == "shared-draw")
    assert "alpha/v, alpha/u are the same" in found.evidence
