"""Attention as public models write it: sizes read from symbols, a table of biases."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_initlab as il
from keras_initlab.model.graph import ASSUMED_SIZE
from keras_initlab.propagation.algebra import sampling

pytestmark = [pytest.mark.tensorflow, pytest.mark.jax, pytest.mark.torch]

WIDTH, HEADS = 32, 2


def dense(name):
    normal = keras.initializers.RandomNormal(stddev=WIDTH**-0.5)
    return layers.Dense(WIDTH, use_bias=False, kernel_initializer=normal, name=name)


class Attention(layers.Layer):
    """Scores plus a bias that the first layer makes and the others are passed."""

    def __init__(self, has_table=False, **options):
        super().__init__(**options)
        self.has_table = has_table
        self.query, self.key = dense("query"), dense("key")
        self.value, self.end = dense("value"), dense("end")
        if has_table:
            self.table = self.add_weight(
                shape=(8, HEADS), initializer="random_normal", name="table"
            )

    def biases(self, queries, keys):
        if not self.has_table:
            return ops.zeros((1, HEADS, queries, keys))
        apart = ops.arange(keys)[None] - ops.arange(queries)[:, None]
        rows = ops.take(self.table, ops.clip(ops.abs(apart), 0, 7), axis=0)
        return ops.expand_dims(ops.transpose(rows, (2, 0, 1)), 0)

    def call(self, x, memory=None, mask=None, bias=None):
        batch, length = ops.shape(x)[:2]
        memory = x if memory is None else memory

        def split(states):
            return ops.reshape(states, (batch, -1, HEADS, WIDTH // HEADS))

        query = split(self.query(x))
        key, value = split(self.key(memory)), split(self.value(memory))
        scores = ops.einsum("bqnd,bknd->bnqk", query, key) / math.sqrt(WIDTH)
        if bias is None:
            bias = self.biases(length, ops.shape(key)[1])
            if mask is not None:
                mask = (1.0 - ops.cast(mask[:, None], bias.dtype)) * -1e9
                bias = bias + mask
        weights = ops.softmax(scores + bias, axis=-1)
        x = ops.einsum("bnqk,bknd->bqnd", weights, value)
        return self.end(ops.reshape(x, (batch, -1, WIDTH))), bias


class Block(layers.Layer):
    """Attention to what came before, then to the memory."""

    def __init__(self, has_table, **options):
        super().__init__(**options)
        self.own = Attention(has_table, name="own")
        self.cross = Attention(name="cross")

    def call(self, x, memory, memory_mask, bias=None):
        causal = None
        if bias is None:
            places = ops.arange(ops.shape(x)[1])
            causal = (places[:, None] >= places[None])[None]
        own, bias = self.own(x, mask=causal, bias=bias)
        x = x + own
        cross, _ = self.cross(x, memory=memory, mask=memory_mask)
        return x + cross, bias


def decoder():
    """Two blocks; the second is passed the bias, with the mask in it, of the first."""
    x, memory = keras.Input((None, WIDTH)), keras.Input((None, WIDTH), name="memory")
    mask = keras.Input((None,), dtype="int32", name="memory_mask")
    y, bias = Block(True, name="first")(x, memory, mask[:, None])
    y, _ = Block(False, name="second")(y, memory, mask[:, None], bias)
    return keras.Model([x, memory, mask], y)


def redraw(model, seed):
    generator = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        normal = generator.standard_normal(variable.shape)
        variable.assign(normal / math.sqrt(WIDTH))


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return decoder()


def test_every_kernel_inside_is_reached(model):
    plan = il.rewrite_initializers(model, "variance", seed=0, dry_run=True)
    assert len(plan) == 16
    assert not [row.layer for row in plan if "reach" in row.note]
    assert not [line for line in plan.assumptions if "measured as a whole" in line]
    assert "nothing is masked: memory_mask" in plan.assumptions
    (left,) = plan.unlisted
    assert (left.layer, left.weight) == ("first/own", "table")
    assert left.reason == "added, not multiplied"


def test_what_is_predicted_is_measured(model):
    """On average over draws, each within what three draws of 32 units differ by."""
    length, draws = ASSUMED_SIZE, 3
    x = np.random.default_rng(0).standard_normal((2, 8, length, WIDTH))
    batch = [*x.astype("float32"), np.ones((8, length), "int32")]
    predicted = {row.layer: row.second_moment for row in il.propagate(model)}
    logs = dict.fromkeys(predicted, 0.0)
    for seed in range(draws):
        redraw(model, seed)
        for row in il.measure(model, batch):
            if row.layer in logs:
                ratio = row.second_moment / predicted[row.layer]
                logs[row.layer] += math.log(ratio) / draws
    assert len(logs) == 22
    worst = max(logs, key=lambda name: abs(logs[name]))
    # A kernel's sum over 32 × 32 entries differs by √(2/32) from draw to draw, in the
    # direction of a mean that positions share; five such layers follow each other.
    assert abs(logs[worst]) < 5 * math.sqrt(2 / WIDTH * 5 / draws), (worst, logs)


def test_a_mask_that_a_bias_brings_along_is_the_same_mask(model):
    """The weights of 64 positions, each over those before it: not one over all."""
    stats = {row.layer: row for row in il.propagate(model)}
    # What they average has E x² of Σ 1/t / 64 of the values', up to what the scores do.
    share = np.mean(1 / np.arange(1, ASSUMED_SIZE + 1))
    for block in ("first", "second"):
        ratio = (
            stats[f"{block}/own"].second_moment
            / stats[f"{block}/own/value"].second_moment
        )
        assert share / 2 < ratio < 0.5, (block, ratio)


def test_sizes_left_open_are_the_same_in_samples_and_in_calls():
    assert sampling.concrete((None, None, 3), 5) == (5, ASSUMED_SIZE, 3)


class TwoSizes(layers.Layer):
    """Reads several open sizes, and gives them in another order."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inner = dense("inner")

    def call(self, x):
        batch, rows, columns = ops.shape(x)[:3]
        x = ops.reshape(self.inner(x), (batch, rows, columns, 4, WIDTH // 4))
        x = ops.reshape(
            ops.transpose(x, (0, 2, 1, 3, 4)), (batch, columns, rows, WIDTH)
        )
        first = ops.slice(x, (0, 0, 0, 0), (batch, columns, rows, 1))
        # Of two tensors that no rule tells apart, so that both are sampled again.
        return ops.sort(x, axis=-1) + ops.broadcast_to(
            ops.sort(first, axis=-1), (batch, columns, rows, WIDTH)
        )


def test_several_open_sizes_in_a_row():
    inputs = keras.Input((None, None, 16))
    model = keras.Model(inputs, TwoSizes(name="two")(inputs))
    stats = {row.layer: row for row in il.propagate(model)}
    assert stats["two/inner"].source == "predicted"
    assert stats["two"].shape == (None, None, None, WIDTH)
    inner = stats["two/inner"].second_moment
    assert stats["two"].second_moment == pytest.approx(2 * inner, rel=0.05)


class Padded(layers.Layer):
    """Adds what all inputs share: from the left, as of a batch of 1."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inner = dense("inner")

    def call(self, x):
        ops.arange(ops.shape(x)[1])  # needs a length
        x = ops.ones((1, 1, WIDTH)) * self.inner(x)
        return ops.reshape(x, (ops.shape(x)[0], -1, WIDTH))


def test_a_number_of_a_batch_of_one_leaves_the_batch_alone():
    inputs = keras.Input((None, WIDTH))
    model = keras.Model(inputs, Padded(name="padded")(inputs))
    (inner, whole) = il.propagate(model)
    assert whole.shape == (*inner.shape[:1], None, WIDTH)
    assert whole.second_moment == pytest.approx(inner.second_moment)
    assert whole.source == "predicted"
