"""How tensors reach a layer: the walk through a graph."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_initlab.propagation import propagate
from tests.propagation.rules.test_operations import TABLE
from tests.propagation.simulation import simulated


class Scaled(layers.Layer):
    """Takes a second tensor by name only."""

    def call(self, x, *, by=None):
        return x if by is None else x * by


def seconds(model, **kwargs):
    return {one.layer: one.second_moment for one in propagate(model, **kwargs)}


def test_tensors_given_by_name():
    x, y = keras.Input((512,), name="x"), keras.Input((512,), name="y")
    model = keras.Model([x, y], Scaled(name="scaled")(x, by=y))
    (stat,) = propagate(model, variance={"x": 2.0, "y": 3.0})
    assert stat.source == "predicted"
    assert stat.second_moment == pytest.approx(6.0)


def test_arrays_among_the_tensors_of_a_merge():
    x = keras.Input((4, 6))
    model = keras.Model(x, layers.Add(name="sum")([x, ops.convert_to_tensor(TABLE)]))
    assert seconds(model)["sum"] == pytest.approx(1 + np.mean(TABLE**2), rel=1e-5)


def test_inputs_in_a_dict_and_outputs_in_one():
    inputs = {"b": keras.Input((6,), name="b"), "a": keras.Input((6,), name="a")}
    joined = layers.Concatenate(name="both")([inputs["a"], inputs["b"]])
    outputs = {
        "sum": layers.Identity(name="sum")(inputs["a"] + inputs["b"]),
        "both": joined,
    }
    model = keras.Model(inputs, outputs)
    found = seconds(model, variance={"a": 1.0, "b": 3.0})
    assert found == {"both": pytest.approx(2.0), "sum": pytest.approx(4.0)}
    outer = {"a": keras.Input((6,)), "b": keras.Input((6,))}
    nested = keras.Model(outer, model(outer)["sum"])
    found = seconds(nested, variance=[1.0, 3.0])
    assert found[f"{model.name}/sum"] == pytest.approx(4.0)


def test_an_output_that_is_used_twice():
    x = keras.Input((6,))
    hidden = layers.Dense(6, kernel_initializer="lecun_normal", name="dense")(x)
    left, right = layers.ReLU(name="left")(hidden), layers.ReLU(name="right")(-hidden)
    model = keras.Model(x, [layers.Add(name="sum")([left, right]), hidden])
    stats = {one.layer: one for one in propagate(model)}
    assert stats["sum"].second_moment == pytest.approx(1.0, rel=1e-4)  # |z|
    # One from the output itself, one through |z|.
    assert stats["dense"].gradient_second_moment == pytest.approx(2.0, rel=1e-4)


def test_an_input_that_is_an_output():
    x = keras.Input((6,))
    model = keras.Model(x, [x, layers.Identity(name="same")(x)])
    assert seconds(model, variance=3.0) == {"same": pytest.approx(3.0)}


def test_a_shared_model_is_walked_at_each_call():
    inside = keras.Input((6,))
    tower = keras.Model(inside, layers.Rescaling(2.0, name="double")(inside), name="t")
    x, y = keras.Input((6,)), keras.Input((6,))
    model = keras.Model([x, y], layers.Subtract(name="gap")([tower(x), tower(y)]))
    found = seconds(model, variance=[1.0, 2.0])
    assert list(found.values()) == [pytest.approx(v) for v in (4.0, 8.0, 12.0)]


def test_what_is_one_signal_stays_one():
    x = keras.Input((6,))
    model = keras.Model(x, layers.Identity(name="gap")(layers.ReLU()(x) - ops.relu(x)))
    assert seconds(model)["gap"] == pytest.approx(0.0, abs=1e-12)


class Heads(layers.Layer):
    """Attention by hand: one kernel for all three, heads, a mask."""

    def __init__(self, mask, **kwargs):
        super().__init__(**kwargs)
        self.mask = mask
        self.all = layers.Dense(192, kernel_initializer="lecun_normal", name="all")

    def call(self, x):
        def heads(one):
            return ops.transpose(ops.reshape(one, (-1, 12, 4, 16)), (0, 2, 1, 3))

        query, key, value = map(heads, ops.split(self.all(x), 3, axis=-1))
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / 4.0
        if self.mask is not None:
            scores = self.mask(scores)
        made = ops.matmul(ops.softmax(scores), value)
        return ops.reshape(ops.transpose(made, (0, 2, 1, 3)), (-1, 12, 64))


def added(shown, low):
    """Return the mask that adds `low` to the scores of what is not shown."""
    away = (1.0 - shown.astype("float32")) * low
    return lambda scores: ops.add(scores, away)


CAUSAL, WINDOWS = np.tri(12) > 0, np.kron(np.eye(2), np.ones((6, 6)))
MASKS = {
    "none": None,
    "causal": lambda scores: ops.where(CAUSAL, scores, -1e9),
    "causal, added": added(CAUSAL, -1e9),
    # As windows that are shifted have them (Swin).
    "windows, added -100": added(WINDOWS, -100.0),
    "causal, added -100": added(CAUSAL, -100.0),
}


@pytest.mark.parametrize("mask", MASKS)
def test_attention_by_hand(mask):
    inputs = keras.Input((12, 64))
    model = keras.Model(inputs, Heads(MASKS[mask], name="heads")(inputs))
    stats = {one.layer: one for one in propagate(model)}
    rows = simulated(model, (2,), draws=12, batch=16)[:, 1]
    assert stats["heads/all"].source == "predicted"
    assert stats["heads"].second_moment == pytest.approx(rows.mean(), rel=0.08)


def test_a_gradient_through_logits_that_a_mask_moved():
    """It is the same, however far the mask moves them."""
    inputs = keras.Input((12, 64))
    models = [
        keras.Model(inputs, Heads(added(CAUSAL, low), name="heads")(inputs))
        for low in (-100.0, -1e4, -1e9)
    ]
    found = [propagate(one)[0].weight_gradient_second_moment for one in models]
    assert found == pytest.approx([found[0]] * 3, rel=0.05)


class Listed(keras.Model):
    def __init__(self):
        super().__init__()
        self.left, self.right = layers.Dense(4, name="l"), layers.Dense(4, name="r")

    def call(self, given):
        one, two = given.values() if isinstance(given, dict) else given
        return self.left(one) + self.right(two)


@pytest.mark.parametrize(
    "form", [list, lambda both: dict(zip("ab", both, strict=True))]
)
def test_a_subclassed_model_of_several_tensors(form):
    model = Listed()
    model(form([np.zeros((2, 6), "float32"), np.zeros((2, 3), "float32")]))
    stats = propagate(model, variance=[2.0, 0.0])
    assert [(s.layer, s.second_moment > 0) for s in stats] == [
        ("l", True),
        ("r", False),
    ]


class Opaque(keras.Model):
    """Does what no symbol can go through."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(6, kernel_initializer="lecun_normal")

    def call(self, x):
        if not ops.is_tensor(x):
            raise TypeError("values, please")
        return self.dense(x)

    def compute_output_spec(self, x, **kwargs):
        return keras.KerasTensor(x.shape, dtype=x.dtype)


def test_a_model_that_cannot_be_opened_is_measured_as_a_whole():
    model = Opaque(name="whole")
    model(np.zeros((2, 6), "float32"))
    (stat,) = propagate(model)
    assert (stat.layer, stat.source) == ("whole", "measured")
    inputs = keras.Input((6,))
    stats = propagate(keras.Model(inputs, layers.ReLU(name="after")(model(inputs))))
    assert [(s.layer, s.source) for s in stats] == [
        ("whole", "measured"),
        ("after", "predicted"),
    ]


def test_configs_are_read_of_layers_that_may_be_alike_alone(monkeypatch):
    # On PyTorch and JAX the first `get_config` makes Keras import TensorFlow.
    read = []
    config_of = keras.layers.Layer.get_config

    def counted(layer):
        read.append(layer.name)
        return config_of(layer)

    x = keras.Input((8,))
    first, same = (keras.layers.ReLU(name=name)(x) for name in ("first", "same"))
    other = keras.layers.ReLU(name="other")(keras.layers.Dense(8)(x))
    model = keras.Model(x, keras.layers.Add()([first, same, other]))
    monkeypatch.setattr(keras.layers.Layer, "get_config", counted)
    stats = {row.layer: row for row in propagate(model, mean=0.0)}
    assert sorted(read) == ["first", "same"]
    # Twice one signal, and one that shares its mean alone.
    assert stats["first"].second_moment == stats["same"].second_moment == 0.5


class Masked(layers.Layer):
    """Multiplies with a mask that its caller holds; may hold weights and layers."""

    def __init__(self, holds, **options):
        super().__init__(**options)
        self.holds = holds
        self.inner = layers.Dense(8, kernel_initializer="lecun_normal", name="inner")
        if holds != "a layer":
            self.inner = None
        if holds == "a weight":
            self.table = self.add_weight(shape=(1, 8), initializer="zeros")

    def build(self, shape):
        if self.inner is not None:
            self.inner.build(shape)

    def call(self, x, mask=None):
        x = x if self.inner is None else self.inner(x)
        x = x + self.table if self.holds == "a weight" else x
        return x * ops.cast(mask, x.dtype)


class Window(layers.Layer):
    """Calls a layer with a mask, as a shifted window of attention does."""

    def __init__(self, holds, kind, **options):
        super().__init__(**options)
        self.masked = Masked(holds, name="masked")
        values = np.repeat([[0.0], [0.0], [1.0], [1.0], [1.0]], 8, 1).astype("float32")
        if kind == "variable":
            self.mask = self.add_weight(shape=(5, 8), trainable=False)
            self.mask.assign(values)
        else:
            self.mask = values if kind == "array" else ops.convert_to_tensor(values)

    def build(self, shape):
        self.masked.build(shape)

    def call(self, x):
        return self.masked(x, mask=self.mask)


@pytest.mark.parametrize("kind", ["variable", "array", "tensor"])
@pytest.mark.parametrize("holds", ["nothing", "a weight", "a layer"])
def test_an_own_layer_may_be_called_with_a_mask_of_another(holds, kind):
    model = keras.Sequential([keras.Input((5, 8)), Window(holds, kind, name="window")])
    assert seconds(model)["window/masked"] == pytest.approx(3 / 5)
    assert seconds(model)["window"] == pytest.approx(3 / 5)
