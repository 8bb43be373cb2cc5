"""Shaping, joining, averaging and combining, against NumPy on drawn tensors."""

import numpy as np
import pytest

from keras_initlab.propagation.algebra.along_axis import (
    adaptive_means,
    along,
    interpolation,
    window_means,
)
from keras_initlab.propagation.algebra.elementwise import affine, apply, noisy
from keras_initlab.propagation.algebra.maximum import maximum
from keras_initlab.propagation.algebra.normalization import normalise
from keras_initlab.propagation.algebra.shape import (
    collapse,
    pad,
    repeat,
    reshape,
    take,
    transpose,
)
from keras_initlab.propagation.algebra.sums import (
    add,
    broadcast,
    concatenate,
    largest,
    multiply,
)
from keras_initlab.propagation.algebra.windows import Window
from tests.propagation.worlds import Law, by_world, complaints

SHARED = {(0, 1, 0): 0.5, (0, 0, 1): 0.4, (1, 0, 0): 0.3, (0, 1, 1): 0.2}
EVEN = Law((4, 3, 5), 0.7, SHARED)
UNEVEN = Law((4, 3, 5), 0.7, SHARED, {1: [0.5, 1.0, 1.5, 1.0]})
ROW = Law((6, 4), 0.5, {(0, 1, 0): 0.5, (0, 1, 1): 0.2})
ALONE = Law((1, 1, 5), 0.5, {(0, 0, 1): 0.4})
FLAT = Law((12,), 0.5, {(0, 0, 1): 0.4, (1, 0, 0): 0.2})


def relu(x):
    return np.maximum(x, 0)


def windows(x, size, stride):
    """Return windows along axis 1, of shape (batch, outputs, size, units)."""
    count = (x.shape[1] - size) // stride + 1
    return np.stack(
        [x[:, k * stride : k * stride + size] for k in range(count)], axis=1
    )


def averaged(signal, windows):
    """Return means over windows along some axes."""
    for axis, window in windows.items():
        signal = along(signal, axis, window_means(window))
    return signal


def through(sums):
    """Return sums along axis 1 as a function of an array."""
    matrix = sums.matrix()
    return lambda x: np.einsum("ow,bwu->bou", matrix, x)


MOVES = {
    "transpose": (
        EVEN,
        lambda s: transpose(s, (0, 2, 1, 3)),
        lambda x: x.transpose(0, 2, 1, 3),
    ),
    "transpose uneven": (
        UNEVEN,
        lambda s: transpose(s, (0, 3, 1, 2)),
        lambda x: x.transpose(0, 3, 1, 2),
    ),
    "reshape merges places": (
        UNEVEN,
        lambda s: reshape(s, (None, 12, 5)),
        lambda x: x.reshape(-1, 12, 5),
    ),
    "reshape flattens": (
        EVEN,
        lambda s: reshape(s, (None, 60)),
        lambda x: x.reshape(-1, 60),
    ),
    "reshape joins a row": (
        EVEN,
        lambda s: reshape(s, (None, 4, 15)),
        lambda x: x.reshape(-1, 4, 15),
    ),
    "reshape splits units": (
        FLAT,
        lambda s: reshape(s, (None, 3, 4)),
        lambda x: x.reshape(-1, 3, 4),
    ),
    "reshape lifts": (
        FLAT,
        lambda s: reshape(s, (None, 1, 1, 12)),
        lambda x: x.reshape(-1, 1, 1, 12),
    ),
    "other units": (EVEN, lambda s: s.with_units((1,)), lambda x: x),
    "all are units": (EVEN, lambda s: s.with_units((1, 2, 3)), lambda x: x),
    "take": (UNEVEN, lambda s: take(s, 1, 1, 3), lambda x: x[:, 1:3]),
    "take every other": (UNEVEN, lambda s: take(s, 1, 0, 4, 2), lambda x: x[:, ::2]),
    "take units": (EVEN, lambda s: take(s, -1, 1, 4), lambda x: x[..., 1:4]),
    "pad": (
        EVEN,
        lambda s: pad(s, 1, 1, 2),
        lambda x: np.pad(x, ((0, 0), (1, 2), (0, 0), (0, 0))),
    ),
    "pad units": (
        EVEN,
        lambda s: pad(s, 3, 1, 0),
        lambda x: np.pad(x, ((0, 0), (0, 0), (0, 0), (1, 0))),
    ),
    "repeat": (ROW, lambda s: repeat(s, 1, 3), lambda x: np.repeat(x, 3, axis=1)),
    "repeat in blocks": (
        ROW,
        lambda s: repeat(s, 1, 3, blocks=True),
        lambda x: np.tile(x, (1, 3, 1)),
    ),
    "repeat units": (ROW, lambda s: repeat(s, 2, 2), lambda x: np.repeat(x, 2, axis=2)),
    "mean of places": (
        UNEVEN,
        lambda s: collapse(s, (1, 2)),
        lambda x: x.mean(axis=(1, 2)),
    ),
    "mean of one axis": (UNEVEN, lambda s: collapse(s, (1,)), lambda x: x.mean(axis=1)),
    "sum of units": (
        EVEN,
        lambda s: collapse(s, (3,), total=True, keepdims=True),
        lambda x: x.sum(axis=3, keepdims=True),
    ),
    "averages": (
        ROW,
        lambda s: averaged(s, {1: Window(6, 3, 1)}),
        lambda x: windows(x, 3, 1).mean(axis=2),
    ),
    "averages of averages": (
        ROW,
        lambda s: averaged(averaged(s, {1: Window(6, 3, 1)}), {1: Window(4, 2, 1)}),
        lambda x: windows(windows(x, 3, 1).mean(axis=2), 2, 1).mean(axis=2),
    ),
    "repeated and averaged": (
        ROW,
        lambda s: averaged(repeat(s, 1, 2), {1: Window(12, 3, 3)}),
        lambda x: windows(np.repeat(x, 2, axis=1), 3, 3).mean(axis=2),
    ),
    "averages of a map": (
        UNEVEN,
        lambda s: averaged(s, {1: Window(4, 2, 2), 2: Window(3, 3, 3)}),
        lambda x: x.reshape(-1, 2, 2, 3, 5).mean(axis=(2, 3))[:, :, None],
    ),
    "interpolated": (
        ROW,
        lambda s: along(s, 1, interpolation(6, 2)),
        through(interpolation(6, 2)),
    ),
    "adaptive": (
        ROW,
        lambda s: along(s, 1, adaptive_means(6, 4)),
        through(adaptive_means(6, 4)),
    ),
    "broadcast": (
        ALONE,
        lambda s: broadcast(s, (None, 3, 2, 5)),
        lambda x: np.broadcast_to(x, (len(x), 3, 2, 5)),
    ),
    "broadcast from below": (
        FLAT,
        lambda s: broadcast(s, (None, 3, 12)),
        lambda x: np.broadcast_to(x[:, None], (len(x), 3, 12)),
    ),
    "affine": (UNEVEN, lambda s: affine(s, -2.0, 0.5), lambda x: 0.5 - 2 * x),
    "relu": (EVEN, lambda s: apply(s, "relu"), relu),
    "relu, uneven": (UNEVEN, lambda s: apply(s, "relu"), relu),
    "tanh": (EVEN, lambda s: apply(s, "tanh"), np.tanh),
    "square": (EVEN, lambda s: apply(s, np.square), np.square),
    "relu of a row, taken": (
        ROW,
        lambda s: apply(take(apply(s, "relu"), 1, 0, 3), "tanh"),
        lambda x: np.tanh(relu(x[:, :3])),
    ),
    "relu, turned, tanh": (
        EVEN,
        lambda s: apply(transpose(apply(s, "relu"), (0, 2, 1, 3)), "tanh"),
        lambda x: np.tanh(relu(x.transpose(0, 2, 1, 3))),
    ),
    "x + relu(x)": (EVEN, lambda s: add([s, apply(s, "relu")]), lambda x: x + relu(x)),
    "2x - relu(x)": (
        EVEN,
        lambda s: add([s, apply(s, "relu")], [2.0, -1.0]),
        lambda x: 2 * x - relu(x),
    ),
    "(x + 1) + x": (
        EVEN,
        lambda s: add([affine(s, 1.0, 1.0), s]),
        lambda x: 2 * x + 1,
    ),
    "x relu(x)": (EVEN, lambda s: multiply(s, apply(s, "relu")), lambda x: x * relu(x)),
    "x x": (EVEN, lambda s: multiply(s, s), np.square),
    "max(x, -x / 2)": (
        EVEN,
        lambda s: largest(s, affine(s, -0.5)),
        lambda x: np.maximum(x, -x / 2),
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_one(name):
    law, predicted, computed = MOVES[name]
    drawn = law.draw(np.random.default_rng(0))
    assert complaints(predicted(law.signal), by_world(computed, drawn)) == []


OTHER = Law((4, 3, 5), -0.4, {(0, 1, 0): 1.0, (0, 0, 1): 0.3})
SECOND = Law((2, 3, 5), -0.4, {(0, 1, 0): 1.0, (0, 0, 1): 0.3})
WIDER = Law((4, 3, 2), -0.4, {(0, 1, 0): 1.0, (0, 0, 1): 0.3})
TWO = {
    "x + y": (EVEN, OTHER, lambda s, t: add([s, t]), np.add),
    "x + y, uneven": (UNEVEN, OTHER, lambda s, t: add([s, t]), np.add),
    "(x + y) - x": (
        EVEN,
        OTHER,
        lambda s, t: add([add([s, t]), s], [1.0, -1.0]),
        lambda x, y: y,
    ),
    "(x + y) + (x - y)": (
        EVEN,
        OTHER,
        lambda s, t: add([add([s, t]), add([s, t], [1.0, -1.0])]),
        lambda x, y: 2 * x,
    ),
    "relu(x) + y + x": (
        EVEN,
        OTHER,
        lambda s, t: add([add([apply(s, "relu"), t]), s]),
        lambda x, y: relu(x) + y + x,
    ),
    "x y": (EVEN, OTHER, multiply, np.multiply),
    "x y, uneven": (UNEVEN, OTHER, multiply, np.multiply),
    "max(x, y)": (EVEN, OTHER, largest, np.maximum),
    "min(x, y)": (EVEN, OTHER, lambda s, t: largest(s, t, -1.0), np.minimum),
    "x + 1 y": (EVEN, ALONE, lambda s, t: add([s, t]), np.add),
    "joined units": (
        EVEN,
        WIDER,
        lambda s, t: concatenate([s, t], 3),
        lambda x, y: np.concatenate([x, y], axis=3),
    ),
    "joined units, bent": (
        EVEN,
        WIDER,
        lambda s, t: apply(concatenate([s, affine(t, 3.0)], 3), "tanh"),
        lambda x, y: np.tanh(np.concatenate([x, 3 * y], axis=3)),
    ),
    "joined units, parted": (
        EVEN,
        WIDER,
        lambda s, t: apply(take(concatenate([s, t], 3), 3, 5, 7), "relu"),
        lambda x, y: relu(y),
    ),
    "joined places, bent": (
        EVEN,
        SECOND,
        lambda s, t: apply(concatenate([s, affine(t, 3.0)], 1), "relu"),
        lambda x, y: relu(np.concatenate([x, 3 * y], axis=1)),
    ),
}


@pytest.mark.parametrize("name", TWO)
def test_two(name):
    one, two, predicted, computed = TWO[name]
    generator = np.random.default_rng(0)
    values = by_world(computed, one.draw(generator), two.draw(generator))
    assert complaints(predicted(one.signal, two.signal), values) == []


def test_noise():
    generator = np.random.default_rng(0)
    drawn = EVEN.draw(generator)
    kept = generator.random(drawn.shape) < 0.6
    signal = EVEN.signal
    made = noisy(signal, signal.second * 0.4 / 0.6, slope_second=1 / 0.6)
    assert complaints(made, drawn * kept / 0.6) == []


@pytest.mark.parametrize("axes", [(3,), (1, 2, 3)])
def test_layer_normalisation(axes):
    law = Law((2, 3, 400), 0.7, {(0, 1, 0): 0.5, (1, 0, 0): 0.3})
    drawn = law.draw(np.random.default_rng(0))[:200]
    rest = tuple(axis + 1 for axis in axes)
    spread = drawn.std(axis=rest, keepdims=True)
    values = (drawn - drawn.mean(axis=rest, keepdims=True)) / spread
    signal = law.signal.with_units(axes)
    made = normalise(signal, units=float(signal.size(signal.units)))
    assert made.second == pytest.approx(1.0)
    assert made.pairs[0, 1, 0] == pytest.approx(
        (values[:, :, 0, 0] * values[:, :, 1, 1]).mean() if axes == (3,) else made.mean,
        abs=0.02,
    )


@pytest.mark.parametrize("shared", [0.0, 0.8])
@pytest.mark.parametrize("bend", [None, "relu"])
def test_greatest_of_a_window(shared, bend):
    law = Law((6, 4), 0.5, {(0, 1, 0): shared, (0, 0, 1): 0.0})
    drawn = law.draw(np.random.default_rng(0))
    signal = law.signal if bend is None else apply(law.signal, bend)
    function = relu if bend else np.asarray
    values = by_world(lambda x: windows(function(x), 3, 3).max(axis=2), drawn)
    made = maximum(signal, {1: Window(6, 3, 3)})
    assert complaints(made, values, 0.005) == []
