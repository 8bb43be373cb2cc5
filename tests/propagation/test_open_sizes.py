"""Layers whose call needs sizes that the model leaves open are opened as well."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_initlab as il
from keras_initlab.model.graph import graph_of
from keras_initlab.propagation import monte_carlo
from keras_initlab.propagation.algebra.sums import add
from keras_initlab.propagation.arguments import constant
from keras_initlab.propagation.signal import Signal

# What stands in for a size that is not known.
LENGTH = 64


@keras.saving.register_keras_serializable("open_sizes")
class CausalMean(layers.Layer):
    """The mean over all positions up to each, of what a kernel makes of them."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.inner = layers.Dense(
            units, use_bias=False, kernel_initializer="he_normal", name="inner"
        )

    def call(self, x):
        positions = ops.arange(ops.shape(x)[1])
        mask = ops.cast(positions[:, None] >= positions[None], x.dtype)
        return ops.matmul(mask / ops.sum(mask, axis=1, keepdims=True), self.inner(x))


@keras.saving.register_keras_serializable("open_sizes")
class Heads(layers.Layer):
    """Splits units into heads with the batch's size, as much public code does."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inner = layers.Dense(
            32, use_bias=False, kernel_initializer="he_normal", name="inner"
        )

    def call(self, x):
        batch, length = ops.shape(x)[0], ops.shape(x)[1]
        x = ops.reshape(self.inner(x), (batch * length, 4, 8))
        x = ops.reshape(x, (batch, length, 4, 8)) + ops.zeros((batch, length, 4, 8))
        return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (batch, length, 32))


def model_of(layer, *more, shape=(None, 16)):
    return keras.Sequential([keras.Input(shape), layer, *more])


def by_layer(stats):
    return {one.layer: one for one in stats}


def test_a_call_that_needs_a_length_is_opened():
    model = model_of(CausalMean(32, name="causal"))
    stats = by_layer(il.propagate(model))
    assert stats["causal/inner"].second_moment == pytest.approx(2.0)
    assert stats["causal/inner"].source == "predicted"
    # Of t independent positions of second moment 2 the mean has 2 / t.
    expected = 2 * np.mean(1 / np.arange(1, LENGTH + 1))
    # The mean is measured on 8,192 independent elements at each position: 5 of
    # √(2/8192 · Σ 1/t²) / Σ 1/t.
    assert stats["causal"].second_moment == pytest.approx(expected, rel=0.021)


def test_what_follows_has_the_sizes_of_the_model_again():
    model = model_of(
        CausalMean(32, name="causal"),
        layers.Dense(8, kernel_initializer="he_normal", name="after"),
        CausalMean(4, name="again"),
    )
    stats = by_layer(il.propagate(model))
    assert stats["causal"].shape == (None, None, 32)
    assert stats["after"].shape == (None, None, 8)
    assert stats["again/inner"].second_moment == pytest.approx(
        2 * stats["after"].second_moment
    )


def test_gradients_find_their_way_through():
    model = model_of(
        layers.Dense(16, use_bias=False, kernel_initializer="he_normal", name="before"),
        CausalMean(32, name="causal"),
    )
    stats = by_layer(il.propagate(model))
    fixed = by_layer(
        il.propagate(
            model_of(
                layers.Dense(
                    16, use_bias=False, kernel_initializer="he_normal", name="before"
                ),
                CausalMean(32, name="causal"),
                shape=(LENGTH, 16),
            )
        )
    )
    for key in stats:
        assert stats[key].gradient_second_moment == pytest.approx(
            fixed[key].gradient_second_moment
        ), key
        assert stats[key].second_moment == pytest.approx(fixed[key].second_moment)


@pytest.mark.parametrize("shape", [(None, 16), (12, 16)], ids=["open", "known"])
def test_a_call_that_needs_the_batch_is_opened(shape):
    model = model_of(Heads(name="heads"), shape=shape)
    stats = by_layer(il.propagate(model))
    assert stats["heads/inner"].second_moment == pytest.approx(2.0)
    assert stats["heads/inner"].shape[0] is None
    assert stats["heads"].shape[0] is None
    assert stats["heads"].second_moment == pytest.approx(2.0, rel=0.05)


def test_a_subclassed_model_that_needs_the_batch_is_opened():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.heads = Heads(name="heads")
            self.head = layers.Dense(3, name="head")

        def call(self, x):
            batch = ops.shape(x)[0]
            return self.head(ops.reshape(self.heads(x), (batch, -1)))

    model = Net()
    model(np.zeros((2, 5, 16), "float32"))
    assert [one.layer for one in il.propagate(model)] == [
        "heads/inner",
        "heads",
        "head",
    ]


@pytest.mark.parametrize("scheme", ["variance", "isometric"])
def test_schemes_reach_the_kernels_inside(scheme):
    model = model_of(
        CausalMean(32, name="causal"), layers.Dense(3, name="head"), shape=(None, 16)
    )
    plan = il.rewrite_initializers(model, scheme, seed=0)
    inner = next(row for row in plan if row.layer == "causal/inner")
    assert "out of the prediction's reach" not in inner.note
    if scheme == "variance":
        assert inner.gain == pytest.approx(1.0)
    assert any("64" in line and "causal" in line for line in plan.assumptions)


def test_inspect_shows_the_layers_inside_and_what_was_assumed():
    model = model_of(CausalMean(32, name="causal"), layers.Dense(3, name="head"))
    found = il.inspect(model)
    assert [one.layer for one in found.layers] == ["causal/inner", "causal", "head"]
    assert found.layers[0].fan_in == 16
    (note,) = (line for line in found.notes if "causal" in line)
    assert "64" in note
    assert "measured as a whole" not in note


@keras.saving.register_keras_serializable("open_sizes")
class WithoutCache(CausalMean):
    """Returns None beside its output, and takes more than its output's spec does."""

    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape[:-1], self.inner.units))

    def call(self, x, bias=None, scale=1.0):
        return super().call(x) * scale, None


@keras.saving.register_keras_serializable("open_sizes")
class Block(layers.Layer):
    """Calls a layer that Keras makes no node of, with keywords in no order."""

    def __init__(self, **options):
        super().__init__(**options)
        self.attention = WithoutCache(16, name="attention")
        self.head = layers.Dense(4, kernel_initializer="he_normal", name="head")

    def call(self, x, other=None):
        x, cache = self.attention(scale=2.0, x=x)
        return self.head(x if cache is None else x + cache)


def test_a_call_that_returns_none_beside_its_output_is_opened():
    layer = Block(name="block")
    layer(np.zeros((2, 5, 16), "float32"))
    model = model_of(layer)
    stats = by_layer(il.propagate(model))
    assert stats["block/attention/inner"].second_moment == pytest.approx(2.0)
    assert stats["block/head"].source == "predicted"
    assert stats["block/head"].second_moment == pytest.approx(
        2 * stats["block/attention"].second_moment
    )


def test_keyword_arguments_are_not_taken_for_each_other():
    class Two(layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.wide = layers.Dense(
                4, use_bias=False, kernel_initializer="he_normal", name="wide"
            )

        def call(self, wide, also):
            return self.wide(wide) + also

    wide, also = keras.Input((None, 16)), keras.Input((None, 4))
    model = keras.Model([wide, also], Two(name="two")(wide=wide, also=also))
    stats = by_layer(il.propagate(model, variance=[3.0, 100.0]))
    assert stats["two/wide"].second_moment == pytest.approx(6.0)
    assert stats["two"].second_moment == pytest.approx(106.0)


def test_nothing_is_left_on_the_layers():
    model = model_of(CausalMean(32, name="causal"))
    layer = model.layers[0]
    before = [
        (len(one._inbound_nodes), len(one._outbound_nodes))
        for one in (layer, layer.inner)
    ]
    il.propagate(model)
    assert before == [
        (len(one._inbound_nodes), len(one._outbound_nodes))
        for one in (layer, layer.inner)
    ]


def test_a_signal_with_other_sizes_is_the_same_signal():
    signal = Signal.independent((None, None, 8), 0.5, 2.0)
    sized = signal.with_shape((None, 64, 8))
    assert sized.shape == (None, 64, 8)
    assert (sized.mean, sized.second) == (signal.mean, signal.second)
    assert sized.with_shape(sized.shape) is sized
    ((parent, pull),) = sized.edges.parents
    assert parent is signal
    gradient = object()
    assert pull(gradient) is gradient


def test_a_softmax_of_some_of_the_logits_is_not_one_of_all():
    scores = keras.Input((LENGTH, LENGTH))
    mask = np.tril(np.ones((1, LENGTH, LENGTH), bool))
    model = keras.Model(scores, layers.Softmax(name="weights")(scores, mask=mask))
    stats = by_layer(il.propagate(model, variance=1e-6))["weights"]
    # Of t logits alike, each gets 1/t.
    expected = np.sum(1 / np.arange(1, LENGTH + 1)) / LENGTH**2
    assert stats.second_moment == pytest.approx(expected, rel=1e-3)


class Sorted(keras.layers.Layer):
    """Has an operation inside that no rule knows."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = keras.layers.Dense(8, name="dense")

    def call(self, x):
        x = self.dense(x)
        return x + ops.sort(x, axis=-1)


def test_where_an_operation_inside_fails_the_layer_is_run_as_a_whole(monkeypatch):
    inputs = keras.Input((8,))
    x = Sorted(name="odd")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(x))
    measure = monte_carlo.Sampler.measure

    def failing(sampler, operation, *rest):
        if type(operation).__name__ == "Sort":
            raise ValueError("no sample goes through")
        return measure(sampler, operation, *rest)

    monkeypatch.setattr(monte_carlo.Sampler, "measure", failing)
    stats = {one.layer: one for one in il.propagate(model)}
    assert stats["odd"].source == "measured"
    assert stats["head"].second_moment > 0
    assert "odd/dense" not in stats
    plan = il.rewrite_initializers(model, "variance", seed=0)
    assert any("no sample goes through" in line for line in plan.assumptions)


class Shifted(layers.Layer):
    """Adds what its kernel makes to numbers that are no symbols, from the left."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inner = layers.Dense(
            32, use_bias=False, kernel_initializer="he_normal", name="inner"
        )

    def call(self, x):
        return ops.ones((1, 1, 32)) + self.inner(x)


@pytest.mark.jax
@pytest.mark.torch
def test_numbers_stand_to_the_left_of_symbols():
    # JAX's arrays do not leave a sum to the symbol at its right.
    (inner, whole) = il.propagate(model_of(Shifted(name="shifted"), shape=(6, 16)))
    assert (inner.layer, whole.layer) == ("shifted/inner", "shifted")
    assert whole.source == "predicted"
    assert (whole.mean, whole.second_moment) == pytest.approx((1.0, 3.0))
    # Keras's refusal stands again.
    assert "__jax_array__" in vars(keras.KerasTensor)


def test_a_signal_keeps_its_rank():
    signal = Signal.independent((None, 4, 8))
    with pytest.raises(ValueError, match=r"as many axes as \(None, 4, 8\)"):
        signal.with_shape((4, 8))


def test_numbers_beside_a_signal_are_of_its_batch():
    signal = Signal.independent((32, 4, 8))
    assert constant(np.ones(8), signal).shape == (32, 4, 8)
    assert constant(np.ones(8), Signal.independent((None, 4, 8))).shape[0] is None


@pytest.mark.parametrize("batch", [None, 32])
def test_what_all_inputs_share_is_of_their_batch_in_a_sum(batch):
    table = Signal.independent((1, 4, 8), 0.0, 3.0)
    x = Signal.independent((batch, 4, 8), 0.0, 1.0)
    for signals in ([table, x], [x, table]):
        total = add(signals)
        assert total.shape == (batch, 4, 8)
        assert total.second == pytest.approx(4.0)
        # Of two inputs, the table is the same.
        assert total.pairs[0, 0, 1] == pytest.approx(3.0)


def test_a_signal_that_is_passed_twice_stays_one():
    class Twice(layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.inner = layers.Dense(16, name="inner")

        def call(self, x, also):
            ops.arange(ops.shape(x)[1])  # needs a length
            return self.inner(x - also)

    inputs = keras.Input((None, 16))
    x = layers.Dense(16)(inputs)
    model = keras.Model(inputs, Twice(name="twice")(x, x))
    assert by_layer(il.propagate(model))["twice/inner"].second_moment == 0.0


def test_an_array_among_the_arguments_of_an_opened_layer_is_what_it_is():
    class Weighed(layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.inner = layers.Dense(
                8, use_bias=False, kernel_initializer="he_normal", name="inner"
            )

        def call(self, x, factors=None):
            return self.inner(x) * factors

    class Outer(layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.weighed = Weighed(name="weighed")

        def call(self, x):
            return self.weighed(x, factors=np.full((8,), 3.0, "float32"))

    stats = by_layer(il.propagate(model_of(Outer(name="outer"), shape=(16,))))
    assert stats["outer/weighed/inner"].second_moment == pytest.approx(2.0)
    assert stats["outer/weighed"].second_moment == pytest.approx(18.0)


@pytest.mark.parametrize(
    ("compute", "shape", "sizes", "expected"),
    [
        (lambda x: ops.reshape(x, (None, -1, 2, 4)), (None, None, 8), (5, 6, 8), 4),
        (lambda x: ops.reshape(x, (None, None, 2, 4)), (None, None, 8), (5, 6, 8), 4),
        (lambda x: ops.reshape(x, (None, 3, None)), (None, 6, 4), (5, 6, 4), 3),
        (lambda x: ops.reshape(x, (-1, 8)), (None, 6, 8), (5, 6, 8), 2),
        (lambda x: ops.broadcast_to(x, (None, 6, 8)), (None, 1, 8), (5, 1, 8), 3),
        (lambda x: ops.slice(x, (0, 0), (None, 2)), (None, 8), (5, 8), 2),
    ],
)
def test_an_operation_that_recorded_open_sizes_runs(compute, shape, sizes, expected):
    (node,) = graph_of(
        keras.Model(x := keras.Input(batch_shape=shape), compute(x))
    ).calls
    signal, array = Signal.independent(shape), np.zeros(sizes, "float32")
    arguments = node.node.arguments.fill_in({id(x): signal})
    trial = monte_carlo.Trial(node.operation, arguments)
    (output,) = trial.run({signal.serial: array})
    recorded = node.node.outputs[0].shape
    assert len(recorded) == expected == output.ndim
    assert all(
        size in (None, own) for size, own in zip(recorded, output.shape, strict=True)
    )
    assert output.shape[0] == 5 or -1 in node.operation.newshape


def test_masks_leave_nothing_out():
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    padding = keras.Input((6,), dtype="int32", name="padding_mask")
    chosen = keras.Input((6,), dtype="bool", name="chosen")
    x = layers.Embedding(50, 8, embeddings_initializer="ones")(tokens)
    for mask in (padding, chosen):
        x = x * ops.expand_dims(ops.cast(mask, "float32"), -1)
    x = layers.Dense(4, use_bias=False, kernel_initializer="he_normal", name="end")(x)
    model = keras.Model([tokens, padding, chosen], x)
    assert by_layer(il.propagate(model))["end"].second_moment == pytest.approx(2.0)
    # As a user says of each input, they are.
    given = il.propagate(model, mean=[0.0, 0.5, 1.0], variance=[1.0, 0.25, 0.0])
    assert by_layer(given)["end"].second_moment == pytest.approx(1.0)
    notes = il.inspect(model).notes
    assert "nothing is masked: padding_mask, chosen." in notes


def test_training_is_not_passed_to_a_layer_that_does_not_take_it():
    """As Keras does not, whoever passes it."""

    class Plain(layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.inner = layers.Dense(8, kernel_initializer="he_normal", name="inner")

        def call(self, x):
            return self.inner(x)

    class Outer(layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.plain = Plain(name="plain")

        def call(self, x, training=None):
            return self.plain(x, training=training)

    model = model_of(Outer(name="outer"), shape=(16,))
    stats = by_layer(il.propagate(model))
    assert stats["outer/plain/inner"].second_moment == pytest.approx(2.0)
    report = il.calibrate(model, np.zeros((8, 16), "float32") + 1.0)
    assert report is not None


class Pooled(layers.Layer):
    """Attention of a learned probe to all positions, as in SigLIP's head."""

    def __init__(self, **options):
        super().__init__(**options)
        self.attention = layers.MultiHeadAttention(2, 8, name="attention")

    def build(self, shape):
        self.probe = self.add_weight(
            shape=(1, 1, shape[-1]), initializer="random_normal", name="probe"
        )
        self.attention.build((None, 1, shape[-1]), shape)

    def call(self, x):
        probe = ops.repeat(self.probe, ops.shape(x)[0], axis=0)
        return self.attention(probe, x)[:, 0]


def test_a_layer_of_keras_reads_a_weight_in_place_of_an_input():
    model = model_of(Pooled(name="pooled"), shape=(12, 16))
    stats = by_layer(il.propagate(model))
    assert stats["pooled/attention/value"].source == "predicted"
    # The probe's, of 16 entries: its scale is a matter of its own.
    probe = float(np.mean(keras.ops.convert_to_numpy(model.layers[0].probe) ** 2))
    query = stats["pooled/attention/query"].second_moment
    assert query == pytest.approx(
        probe * stats["pooled/attention/value"].second_moment, rel=1e-3
    )
    plan = il.rewrite_initializers(model, "variance", seed=0, dry_run=True)
    assert not [row.layer for row in plan if "out of the prediction" in row.note]
    (left,) = (row for row in plan.unlisted if row.weight == "probe")
    assert left.reason == "read by multi_head_attention, not multiplied"
