"""Bare operations of a graph against what they do to Gaussian inputs."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_initlab as il
from keras_initlab.propagation import PropagationError, propagate
from keras_initlab.propagation.algebra.gradients import gradients
from keras_initlab.propagation.signal import Gradient, Signal
from keras_initlab.propagation.walk import Propagation
from tests.propagation.simulation import pair_moments

# What is predicted is NumPy's on every backend; what it is compared with takes a
# compilation for each shape on JAX.

CHUNKS, BATCH = 48, 64
GENERATOR = np.random.default_rng(0)
TABLE = GENERATOR.standard_normal((4, 6)).astype("float32")
SCALES = GENERATOR.uniform(0.5, 2.0, 6).astype("float32")
OFTEN = np.array([3, 1, 1, 1])
WIDE = np.tile(SCALES, 40)
MATRIX = GENERATOR.standard_normal((6, 5)).astype("float32")
STEPS = np.array([[1.0], [0.0], [1.0], [1.0]], "float32")
CAUSAL = np.tril(np.ones((4, 4), "float32"))


def spectral(x):
    return x * ops.sigmoid(x)


def by_hand(x):
    """Softmax as many write it."""
    e = ops.exp(0.3 * x)
    return e / ops.sum(e, axis=-1, keepdims=True)


# (id, function, shapes, means, variances). All are exact but for what is taken for
# independent or Gaussian and is not; those stand in ROUGH with what they are off by.
CASES = [
    ("add", lambda x, y: x + y, [(4, 6)] * 2, (0.5, -1.0), (1.0, 4.0)),
    ("add_itself", lambda x: x + x, [(4, 6)], (0.5,), (1.0,)),
    ("subtract_itself", lambda x: x - x, [(4, 6)], (0.5,), (1.0,)),
    ("subtract", lambda x, y: x - y, [(4, 6)] * 2, (0.5, 1.0), (1.0, 4.0)),
    ("add_number", lambda x: 3.0 + x, [(6,)], (0.5,), (2.0,)),
    ("number_less", lambda x: 1.0 - x, [(6,)], (0.5,), (2.0,)),
    ("add_scalar_array", lambda x: x + np.ones((1, 1)), [(6,)], (0.5,), (2.0,)),
    ("add_table", lambda x: x + TABLE, [(4, 6)], (0.5,), (2.0,)),
    ("add_row", lambda x: x + SCALES, [(4, 6)], (0.5,), (2.0,)),
    ("table_less", lambda x: ops.subtract(TABLE[None], x), [(4, 6)], (0.5,), (2.0,)),
    ("add_tensor", lambda x: x + ops.convert_to_tensor(TABLE), [(4, 6)], (0,), (1,)),
    ("add_over_steps", lambda x, y: x + y, [(4, 6), (1, 6)], (0.5, 1.0), (1.0, 4.0)),
    ("residual", lambda x: x + ops.relu(x), [(6,)], (0.0,), (1.0,)),
    ("twice", lambda x: 2.0 * x, [(6,)], (0.5,), (2.0,)),
    ("negative", lambda x: -x, [(6,)], (0.5,), (2.0,)),
    ("multiply", lambda x, y: x * y, [(4, 6)] * 2, (0.5, 1.0), (1.0, 2.0)),
    ("square", lambda x: x * x, [(6,)], (0.5,), (1.0,)),
    ("square_of_sum", lambda x, y: (s := x + y) * s, [(6,)] * 2, (0, 0.5), (1, 1)),
    ("swish", spectral, [(6,)], (0.2,), (2.0,)),
    ("multiply_row", lambda x: x * SCALES, [(4, 6)], (0.5,), (2.0,)),
    ("mask_steps", lambda x: x * STEPS, [(4, 6)], (0.5,), (2.0,)),
    ("gate", lambda x, y: x * ops.sigmoid(y), [(4, 6), (1, 6)], (0.5, 0.0), (1.0, 2.0)),
    ("divide_number", lambda x: x / 4.0, [(6,)], (0.5,), (2.0,)),
    ("divide_row", lambda x: x / SCALES, [(6,)], (0.5,), (2.0,)),
    ("softsign", lambda x: x / (1.0 + ops.abs(x)), [(6,)], (0.2,), (2.0,)),
    ("divide", lambda x, y: x / ops.exp(y), [(6,)] * 2, (0.5, 0.0), (1.0, 0.1)),
    ("inverse", lambda x: 1.0 / (1.0 + ops.exp(-x)), [(6,)], (0.5,), (2.0,)),
    ("softmax_by_hand", by_hand, [(64,)], (0.0,), (1.0,)),
    ("leaky", lambda x: ops.maximum(x, 0.1 * x), [(6,)], (0.2,), (2.0,)),
    ("maximum_zero", lambda x: ops.maximum(x, 0.0), [(6,)], (0.2,), (2.0,)),
    ("maximum", ops.maximum, [(6,)] * 2, (0.5, 0.0), (1.0, 2.0)),
    ("minimum", ops.minimum, [(6,)] * 2, (0.5, 0.0), (1.0, 2.0)),
    ("where_own", lambda x: ops.where(x > 0, x, 0.2 * x), [(6,)], (0.2,), (2.0,)),
    (
        "where",
        lambda x, y, z: ops.where(x > 0.5, y, z),
        [(6,)] * 3,
        (0, 1, 2),
        (1, 1, 2),
    ),
    ("where_mask", lambda x: ops.where(CAUSAL > 0, x, 3.0), [(4, 4)], (1.0,), (1.0,)),
    ("greater", lambda x: ops.cast(x > 0.3, "float32"), [(6,)], (0.0,), (1.0,)),
    ("floor", lambda x: ops.floor(x), [(6,)], (0.2,), (4.0,)),
    ("cast", lambda x: ops.cast(x, "float32") + 1.0, [(6,)], (0.5,), (1.0,)),
    ("relu", ops.relu, [(6,)], (0.5,), (1.0,)),
    ("power", lambda x: x**2 + ops.tanh(x), [(6,)], (0.5,), (1.0,)),
    ("stop", lambda x: ops.stop_gradient(ops.tanh(x)) + x, [(6,)], (0.5,), (1.0,)),
    ("straight", lambda x: x + ops.stop_gradient(ops.sign(x) - x), [(6,)], (0,), (1,)),
    # moves
    (
        "concatenate",
        lambda x, y: ops.concatenate([x, y], -1),
        [(4, 6), (4, 2)],
        (0, 1),
        (1, 4),
    ),
    (
        "in_a_row",
        lambda x, y: ops.concatenate([x, y], 1),
        [(4, 6), (2, 6)],
        (0, 1),
        (1, 4),
    ),
    ("hstack", lambda x, y: ops.hstack([x, y]), [(4, 6), (2, 6)], (0, 1), (1, 4)),
    ("stack", lambda x, y: ops.stack([x, y], -1), [(6,)] * 2, (0, 1), (1, 4)),
    ("stack_steps", lambda x, y: ops.stack([x, y], 1), [(6,)] * 2, (0, 1), (1, 4)),
    ("split", lambda x: ops.multiply(*ops.split(x, 2, -1)), [(4, 6)], (0.5,), (1.0,)),
    ("sections", lambda x: ops.split(x, [1, 3], 1)[1], [(4, 6)], (0.5,), (1.0,)),
    ("unstack", lambda x: ops.unstack(x, axis=1)[2], [(4, 6)], (0.5,), (1.0,)),
    ("item", lambda x: x[:, 1], [(4, 6)], (0.5,), (1.0,)),
    ("last_item", lambda x: x[:, -1, 1:4], [(4, 6)], (0.5,), (1.0,)),
    ("one_unit", lambda x: x[..., 0], [(4, 6)], (0.5,), (1.0,)),
    ("new_axis", lambda x: x[:, None, :, 1::2], [(4, 6)], (0.5,), (1.0,)),
    ("back", lambda x: x[:, ::-1], [(4, 6)], (0.5,), (1.0,)),
    ("slice", lambda x: ops.slice(x, (0, 1, 2), (-1, 2, 3)), [(4, 6)], (0.5,), (1.0,)),
    ("take", lambda x: ops.take(x, [0, 2, 2], axis=1), [(4, 6)], (0.5,), (1.0,)),
    ("reshape", lambda x: ops.reshape(x, (-1, 2, 12)), [(4, 6)], (0.5,), (1.0,)),
    ("reshape_open", lambda x: ops.reshape(x, (-1, 24)) ** 2, [(4, 6)], (0.5,), (1,)),
    ("transpose", lambda x: ops.transpose(x, (0, 2, 1)), [(4, 6)], (0.5,), (1.0,)),
    ("swapaxes", lambda x: ops.swapaxes(x, -1, 1), [(4, 6)], (0.5,), (1.0,)),
    ("moveaxis", lambda x: ops.moveaxis(x, 1, -1), [(2, 3, 4)], (0.5,), (1.0,)),
    ("squeeze", lambda x: ops.squeeze(x, 1), [(1, 6)], (0.5,), (1.0,)),
    ("expand", lambda x: ops.expand_dims(x, 1), [(6,)], (0.5,), (1.0,)),
    ("flip", lambda x: ops.flip(x * STEPS, 1), [(4, 6)], (0.5,), (1.0,)),
    ("roll", lambda x: ops.roll(x * STEPS, 1, 1), [(4, 6)], (0.5,), (1.0,)),
    ("repeat", lambda x: ops.repeat(x, 3, axis=1), [(4, 6)], (0.5,), (1.0,)),
    ("repeat_some", lambda x: ops.repeat(x, OFTEN, axis=1), [(4, 6)], (0.5,), (1,)),
    ("tile", lambda x: ops.tile(x, (1, 1, 3)), [(4, 6)], (0.5,), (1.0,)),
    ("pad", lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 0))), [(4, 6)], (0.5,), (1.0,)),
    ("to_depth", lambda x: ops.nn.space_to_depth(x, 2), [(4, 4, 3)], (0.5,), (1.0,)),
    ("to_space", lambda x: ops.nn.depth_to_space(x, 2), [(2, 2, 8)], (0.5,), (1.0,)),
    ("patches", lambda x: ops.image.extract_patches(x, 2), [(4, 4, 3)], (0.5,), (1.0,)),
    # sums
    ("mean_steps", lambda x: ops.mean(x, axis=1), [(4, 6)], (0.5,), (1.0,)),
    ("mean_units", lambda x: ops.mean(x, -1, keepdims=True), [(4, 6)], (0.5,), (1.0,)),
    ("sum_units", lambda x: ops.sum(x, axis=-1), [(4, 6)], (0.5,), (1.0,)),
    ("sum_all", lambda x: ops.sum(x, axis=(1, 2)), [(4, 6)], (0.5,), (1.0,)),
    ("mean_of_two", lambda x: ops.average(x, axis=-2), [(4, 6)], (0.5,), (1.0,)),
    ("cumsum", lambda x: ops.cumsum(x, axis=1), [(4, 6)], (0.5,), (1.0,)),
    ("diff", lambda x: ops.diff(x, axis=1), [(4, 6)], (0.5,), (1.0,)),
    ("max_steps", lambda x: ops.max(x, axis=1), [(4, 6)], (0.5,), (1.0,)),
    ("max_units", lambda x: ops.max(x, axis=-1), [(4, 6)], (0.5,), (1.0,)),
    ("min_all", lambda x: ops.min(x, axis=-1, keepdims=True), [(6,)], (0.5,), (1.0,)),
    ("max_pool", lambda x: ops.max_pool(x, (2,), (2,)), [(4, 6)], (0.5,), (1.0,)),
    ("mean_pool", lambda x: ops.average_pool(x, (2,), (2,)), [(4, 6)], (0.5,), (1.0,)),
    ("bilinear", lambda x: ops.image.resize(x, (6, 8)), [(4, 4, 3)], (0.5,), (1.0,)),
    (
        "nearest",
        lambda x: ops.image.resize(x, (2, 8), "nearest"),
        [(4, 4, 3)],
        (0.5,),
        (1.0,),
    ),
    ("softmax", lambda x: ops.softmax(x, axis=-1), [(4, 16)], (0.5,), (1.0,)),
    (
        "layer_norm",
        lambda x: ops.layer_normalization(x, WIDE, WIDE),
        [(2, 240)],
        (0.5,),
        (1.0,),
    ),
    ("rms_norm", lambda x: ops.rms_normalization(x, WIDE), [(2, 240)], (0.5,), (1.0,)),
    ("normalize", lambda x: ops.normalize(x), [(2, 240)], (0.5,), (1.0,)),
    (
        "batch_norm",
        lambda x: ops.batch_normalization(x, SCALES, SCALES, -1),
        [(4, 6)],
        (0.5,),
        (1.0,),
    ),
    # products
    ("matmul", ops.matmul, [(4, 6), (6, 5)], (0.5, 1.0), (1.0, 2.0)),
    ("matmul_heads", ops.matmul, [(2, 4, 6), (2, 6, 3)], (0.5, 1.0), (1.0, 2.0)),
    ("matmul_given", lambda x: ops.matmul(x, MATRIX), [(4, 6)], (0.5,), (1.0,)),
    ("matmul_rows", lambda x: x @ MATRIX, [(6,)], (0.5,), (1.0,)),
    ("dot", lambda x: ops.dot(x, MATRIX), [(4, 6)], (0.5,), (1.0,)),
    (
        "tensordot",
        lambda x: ops.tensordot(x, MATRIX, axes=[[2], [0]]),
        [(4, 6)],
        (0.5,),
        (1,),
    ),
    (
        "einsum",
        lambda x, y: ops.einsum("bthd,bshd->bhts", x, y),
        [(4, 2, 3), (5, 2, 3)],
        (0.5, 0.2),
        (1.0, 2.0),
    ),
    (
        "einsum_given",
        lambda x: ops.einsum("btc,cd->bdt", x, MATRIX),
        [(4, 6)],
        (0.5,),
        (1.0,),
    ),
]


# What is flat but for jumps, which finite differences see and gradients do not.
SLOPES = {"greater": 0.0, "floor": 0.0, "stop": 1.0, "straight": 1.0}


def built(function, shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs, function(*inputs))


def forward(model, means, variances, training=True):
    signals = [
        Signal.independent(tuple(one.shape), float(mean), float(variance))
        for one, mean, variance in zip(model.inputs, means, variances, strict=True)
    ]
    with np.errstate(all="ignore"):
        return signals, Propagation(model, training).run(signals)


def draw(model, means, variances, number, seed=0):
    generator = np.random.default_rng(seed)
    return [
        (
            mean + variance**0.5 * generator.standard_normal((number, *one.shape[1:]))
        ).astype("float32")
        for one, mean, variance in zip(model.inputs, means, variances, strict=True)
    ]


def called(model, inputs):
    made = model(inputs, training=False)
    return ops.convert_to_numpy(made).astype(np.float64)


def squared_slopes(model, data, place, step=3e-3):
    """Return the mean of (∂y/∂x)² over an input's elements, summed over y, by input.

    E|J v|² of a random v is Σ (∂y/∂x)²; J v by a step along v and one against it.
    """
    away = np.random.default_rng(1).standard_normal(data[place].shape)
    ahead, behind = (
        called(
            model,
            [
                one + (sign * step * away).astype("float32") if i == place else one
                for i, one in enumerate(data)
            ],
        )
        for sign in (1.0, -1.0)
    )
    slopes = ((ahead - behind) / (2 * step)).reshape(len(away), -1)
    return (slopes**2).sum(axis=1) / away[0].size


def agree(rows, expected, slack=0.0):
    """Assert the mean of independent rows, within five standard errors."""
    rows, expected = np.asarray(rows), np.asarray(expected)
    mean, error = rows.mean(axis=0), rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
    tolerance = (
        5 * error + slack * np.nanmax(np.abs(expected)) + 1e-4 * np.abs(expected) + 1e-6
    )
    off = np.abs(mean - expected) / tolerance
    assert np.nanmax(off) < 1, f"seen {mean}\npredicted {expected}\nerror {error}"


# How far off, relative to the second moment, a rule may be that takes for Gaussian or
# for independent what is not.
ROUGH = {
    "softmax_by_hand": 0.02,  # numerator and denominator are taken for independent
    "pad": 0.02,  # pairs of positions are counted as of long rows
    "layer_norm": 0.01,  # statistics of 240 units are taken for exact
    "rms_norm": 0.02,
    "normalize": 0.02,
}


@pytest.mark.parametrize(
    ("name", "function", "shapes", "means", "variances"),
    [pytest.param(*case, id=case[0]) for case in CASES],
)
def test_signal_and_gradient(name, function, shapes, means, variances):
    if keras.backend.backend() == "torch" and name in ("back", "slice"):
        pytest.skip("PyTorch has no such slices")
    slack = ROUGH.get(name, 0.0)
    model = built(function, shapes)
    signals, (output,) = forward(model, means, variances)
    assert not output.origin.measured
    data = draw(model, means, variances, CHUNKS * BATCH)
    values = called(model, data)
    assert values.shape[1:] == output.shape[1:]
    rows = [
        [part.mean(), *pair_moments(part, output.units).ravel()]
        for part in np.split(values, CHUNKS)
    ]
    known = output.pairs.copy()
    if output.near:  # pairs of positions are then of those that are far apart
        known[:, 1] = np.nan
    agree(rows, [output.mean, *known.ravel()], slack)
    found = gradients([output], Gradient(1.0))
    for place, signal in enumerate(signals):
        gradient = found.get(signal.serial, Gradient(0.0)).second
        if name in SLOPES:
            assert gradient == pytest.approx(SLOPES[name], abs=1e-9)
        else:
            agree(squared_slopes(model, data, place), gradient, slack)


def shifted(x):
    """What no rule sees through: the batch's own mean is taken away."""
    return x - ops.mean(x, axis=0, keepdims=True)


def similar(x, y):
    """Every input against every other, as contrastive losses have it."""
    return ops.matmul(x, ops.transpose(y)) * 0.5


# (id, function, shapes): no rule is known, a sample is measured.
MEASURED = [
    ("variance", lambda x: ops.var(x, axis=-1), [(4, 6)]),
    ("sort", lambda x: ops.sort(x, axis=-1), [(4, 6)]),
    ("log_softmax", lambda x: ops.log_softmax(x), [(4, 6)]),
    ("logsumexp", lambda x: ops.logsumexp(x, axis=1), [(4, 6)]),
    ("deviation", lambda x: ops.std(x, axis=-1), [(4, 6)]),
    ("top", lambda x: ops.top_k(x, 2)[0], [(4, 6)]),
    ("places", lambda x: ops.cast(ops.argmax(x, axis=-1), "float32"), [(4, 6)]),
    ("gram", lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))), [(4, 6)]),
    ("powers", ops.power, [(6,)] * 2),
    ("reflected", lambda x: ops.pad(x, ((0, 0), (1, 1), (0, 0)), "reflect"), [(4, 6)]),
    ("attention", ops.dot_product_attention, [(4, 2, 3), (5, 2, 3), (5, 2, 3)]),
    ("convolved", lambda x: ops.conv(x, MATRIX[:, :, None][:3]), [(8, 5)]),
    ("merged", lambda x: ops.reshape(x, (-1, 6)), [(4, 6)]),
    ("time_major", lambda x: ops.transpose(x, (1, 0, 2)) + 0.5, [(4, 6)]),
    ("over_the_batch", shifted, [(4, 6)]),
    ("whole_mean", lambda x: x * 0.0 + ops.mean(ops.square(x)), [(6,)]),
    ("similar", similar, [(6,), (6,)]),
    ("with_itself", lambda x: layers.Dot(2)([x, x]), [(4, 6)]),
    ("three", lambda x, y, z: ops.einsum("bi,bi,bi->bi", x, y, z), [(6,)] * 3),
]


@pytest.mark.parametrize(
    ("function", "shapes"), [pytest.param(*one[1:], id=one[0]) for one in MEASURED]
)
def test_what_has_no_rule_is_measured(function, shapes):
    model = built(function, shapes)
    means, variances = [0.5] * len(shapes), [1.0] * len(shapes)
    if function is ops.power:
        means, variances = [3.0, 0.5], [0.01, 0.04]
    signals, (output,) = forward(model, means, variances)
    assert output.origin.measured
    assert np.isfinite(output.pairs).all()
    values = called(model, draw(model, means, variances, 1024))
    rows = [[one.mean(), (one**2).mean()] for one in values]
    agree(rows, [output.mean, output.second], slack=0.05)
    found = gradients([output], Gradient(1.0))
    for signal in signals:
        assert np.isfinite(found[signal.serial].second)


def test_what_is_drawn_together_is_measured_together():
    # Both arguments are made of one tensor: neither is drawn without the other.
    model = built(lambda x: ops.arctan2(ops.relu(x), 1e-3 + ops.relu(x)), [(64,)])
    _, (output,) = forward(model, [0.0], [1.0])
    assert output.origin.measured
    assert output.mean == pytest.approx(np.pi / 8, rel=0.02)


def test_only_what_is_measured_says_so():
    inputs = keras.Input((4, 6))
    hidden = ops.sort(layers.Dense(8, name="before")(inputs), axis=-1)
    hidden = layers.Identity(name="sorted")(hidden)
    model = keras.Model(inputs, layers.Dense(3, name="after")(hidden))
    sources = {stat.layer: stat.source for stat in propagate(model)}
    assert sources == {
        "before": "predicted",
        "sorted": "measured",
        "after": "predicted",
    }


def test_a_rule_that_fails_names_the_operation():
    inputs = keras.Input((4, 6))
    picked = ops.take(TABLE, ops.cast(1e6 + ops.abs(inputs), "int32"), axis=0)
    model = keras.Model(inputs, ops.reshape(picked, (-1, 24, 6))[:, :2])
    if keras.backend.backend() == "jax":
        pytest.skip("JAX fills in what lies outside of a table")
    with pytest.raises(PropagationError, match=r"\(Take\).*Received"):
        propagate(model)


# (id, layer, operation, shapes) of one and the same.
TWINS = [
    ("add", layers.Add(), ops.add, [(4, 6)] * 2),
    ("subtract", layers.Subtract(), ops.subtract, [(4, 6)] * 2),
    ("multiply", layers.Multiply(), ops.multiply, [(4, 6)] * 2),
    ("maximum", layers.Maximum(), ops.maximum, [(4, 6)] * 2),
    (
        "concatenate",
        layers.Concatenate(1),
        lambda *x: ops.concatenate(x, 1),
        [(4, 6)] * 2,
    ),
    ("flatten", layers.Flatten(), lambda x: ops.reshape(x, (-1, 24)), [(4, 6)]),
    ("permute", layers.Permute((2, 1)), lambda x: ops.swapaxes(x, 1, 2), [(4, 6)]),
    ("softmax", layers.Softmax(), ops.softmax, [(4, 6)]),
    ("relu", layers.ReLU(), ops.relu, [(4, 6)]),
    ("max_pool", layers.MaxPooling1D(2), lambda x: ops.max_pool(x, 2, 2), [(4, 6)]),
    (
        "average_pool",
        layers.AveragePooling2D(2, 1, "same"),
        lambda x: ops.average_pool(x, 2, 1, "same"),
        [(4, 4, 3)],
    ),
    (
        "global_average",
        layers.GlobalAveragePooling1D(),
        lambda x: ops.mean(x, axis=1),
        [(4, 6)],
    ),
    ("global_max", layers.GlobalMaxPooling1D(), lambda x: ops.max(x, 1), [(4, 6)]),
    (
        "pad",
        layers.ZeroPadding1D(1),
        lambda x: ops.pad(x, ((0, 0), (1, 1), (0, 0))),
        [(4, 6)],
    ),
    ("crop", layers.Cropping1D(1), lambda x: x[:, 1:-1], [(4, 6)]),
    ("repeat", layers.UpSampling1D(2), lambda x: ops.repeat(x, 2, 1), [(4, 6)]),
    ("normalize", layers.UnitNormalization(), ops.normalize, [(4, 48)]),
    (
        "layer_norm",
        layers.LayerNormalization(),
        lambda x: ops.layer_normalization(x, epsilon=1e-3),
        [(4, 48)],
    ),
    ("dot", layers.Dot((2, 1)), ops.matmul, [(4, 6), (6, 5)]),
    (
        "dot_of_rows",
        layers.Dot(1),
        lambda x, y: ops.einsum("bi,bi->b", x, y)[:, None],
        [(6,), (6,)],
    ),
]


@pytest.mark.parametrize(
    ("layer", "operation", "shapes"), [pytest.param(*t[1:], id=t[0]) for t in TWINS]
)
def test_a_layer_and_its_operation_agree(layer, operation, shapes):
    def as_layer(*x):
        return layer(list(x) if len(x) > 1 else x[0])

    means, variances = [0.5, 0.2][: len(shapes)], [1.0, 2.0][: len(shapes)]
    found = []
    for function in (as_layer, operation):
        signals, (output,) = forward(built(function, shapes), means, variances)
        back = gradients([output], Gradient(1.0))[signals[0].serial].second
        found.append([output.mean, *output.pairs.ravel(), back])
        assert not output.origin.measured
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("lowest", [-math.inf, -65504.0])
def test_padding_for_a_maximum_leaves_what_it_is_taken_of(lowest):
    """Before a pooling, as in ResNets with pre-activation."""
    inputs = keras.Input((32, 32, 8))
    widths = ((0, 0), (1, 1), (1, 1), (0, 0))
    x = ops.pad(inputs, widths, constant_values=lowest)
    x = keras.layers.MaxPooling2D(3, 2, name="pool")(x)
    x = keras.layers.Conv2D(8, 3, use_bias=False, name="conv")(x)
    model = keras.Model(inputs, x)
    stats = {row.layer: row for row in il.propagate(model, 0.0, 1.0)}
    data = np.random.default_rng(0).standard_normal((32, 32, 32, 8)).astype("float32")
    (measured, _) = il.measure(model, data)
    assert stats["pool"].shape == (None, 16, 16, 8)
    # At the border, the maximum is of fewer: 60 of 256 places have 6 of 9, or 4.
    assert stats["pool"].second_moment == pytest.approx(
        measured.second_moment, rel=0.05
    )
    (row,) = il.rewrite_initializers(model, "variance", seed=0)
    assert "reaches" not in row.note
