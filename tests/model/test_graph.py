import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from keras_initlab.model import graph
from keras_initlab.model.following import following_nonlinearity


def chain(model):
    """Return the keys of a model's calls, in order."""
    return [call.key for call in graph.graph_of(model).calls]


def inner(name):
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(4, name="dense")(inputs), name=name)


def test_nested_models_are_opened():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            inner("one"),
            keras.Sequential([keras.Input((4,)), inner("two")], name="row"),
            layers.ReLU(name="bend"),
        ]
    )
    assert chain(model) == ["one/dense", "row/two/dense", "bend"]


def test_tensors_connect_through_nested_models():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.ReLU(name="bend")(inner("one")(inputs)))
    walked = graph.graph_of(model)
    dense, bend = walked.calls
    assert dense.inputs == walked.inputs
    assert dense.outputs == bend.inputs
    assert bend.outputs == walked.outputs
    assert walked.consumers[dense.outputs[0]] == (bend,)


def test_shared_layers_are_numbered_by_call():
    one, two = keras.Input((4,)), keras.Input((4,))
    shared = layers.Dense(4, name="shared")
    model = keras.Model([one, two], layers.Add(name="add")([shared(one), shared(two)]))
    assert chain(model) == ["shared#0", "shared#1", "add"]
    assert len(graph.graph_of(model).calls_of(shared)) == 2


def test_a_shared_model_is_opened_at_each_call():
    one, two = keras.Input((4,)), keras.Input((4,))
    tower = inner("tower")
    model = keras.Model([one, two], layers.Add(name="add")([tower(one), tower(two)]))
    assert chain(model) == ["tower/dense#0", "tower/dense#1", "add"]


def test_calls_outside_the_model_do_not_count():
    inputs = keras.Input((4,))
    hidden = layers.Dense(4, name="hidden")(inputs)
    layers.ReLU()(hidden)  # a branch of no model
    model = keras.Model(inputs, layers.Activation("tanh", name="bend")(hidden))
    assert chain(model) == ["hidden", "bend"]


def test_a_model_cut_from_another_starts_at_its_inputs():
    inputs = keras.Input((4,))
    hidden = layers.Dense(4, name="hidden")(inputs)
    outputs = layers.Dense(4, name="top")(hidden)
    assert chain(keras.Model(hidden, outputs)) == ["top"]


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)


class Named(keras.Model):
    """Functional, with a call of its own: what the graph says need not hold."""

    def call(self, x):
        return -super().call(x)


def test_models_without_a_graph():
    assert not graph.has_graph(Own())
    assert not graph.has_graph(layers.Dense(3))
    assert not graph.has_graph(keras.Sequential([layers.Dense(3)]))
    inputs = keras.Input((4,))
    assert not graph.has_graph(Named(inputs, layers.Dense(3)(inputs)))
    with pytest.raises(ValueError, match="Received: Own"):
        graph.graph_of(Own())


def test_a_subclassed_model_inside_is_one_call():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.ReLU(name="bend")(Own()(inputs)))
    assert chain(model)[1:] == ["bend"]


def test_a_thousand_layers_are_walked():
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)  # Keras recurses to make the model; the walk does not
    try:
        inputs = x = keras.Input((2,))
        for _ in range(1500):
            x = layers.Identity()(x)
        model = keras.Model(inputs, layers.ReLU()(x))
    finally:
        sys.setrecursionlimit(limit)
    walked = graph.graph_of(model)
    assert len(walked.calls) == 1501
    assert np.array_equal(walked.inputs, walked.calls[0].inputs)
    assert following_nonlinearity(walked, walked.inputs).nonlinearity is not None


class Asking(layers.Layer):
    """Asks for the values of a tensor, which a symbol does not have."""

    def __init__(self, error=None, **options):
        super().__init__(**options)
        self.inner = layers.Dense(4, name="inner")
        self.error = error

    def build(self, input_shape):
        self.inner.build(input_shape)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 4)

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            raise self.error
        return self.inner(x)


def open_up(layer):
    layer.build((None, 3))
    return graph.opened(layer, ((keras.KerasTensor((None, 3)),), {}), training=False)


def test_a_layer_without_sublayers_has_nothing_to_open():
    assert open_up(layers.Dense(4)) is None


@pytest.mark.parametrize(
    "error",
    [TypeError("no\n values"), IndexError("no values"), RuntimeError("no values")],
    ids=lambda error: type(error).__name__,
)
def test_why_a_call_has_no_graph_is_kept(error):
    layer = Asking(error)
    kind = type(error).__name__
    with pytest.raises(graph.NoGraph, match=rf"\({kind}: no values\)") as caught:
        open_up(layer)
    assert caught.value.__cause__ is error


def test_what_is_no_refusal_is_not_taken_for_one():
    class Mistake(Exception):
        pass

    with pytest.raises(Mistake):
        open_up(Asking(Mistake()))


def test_outputs_that_do_not_come_from_the_inputs_are_no_graph():
    class Apart(Asking):
        def call(self, x):
            return self.inner(keras.Input((3,)))

    with pytest.raises(graph.NoGraph, match="ValueError"):
        open_up(Apart())


def asking_model():
    layer = Asking(TypeError("no values here"), name="asking")
    return keras.Sequential([keras.Input((3,)), layer, layers.Dense(2, name="head")])


def test_plans_and_inspections_and_errors_say_why_a_layer_was_not_opened():
    model = asking_model()
    expected = (
        "asking is measured as a whole: its call cannot be followed on symbols "
        "(TypeError: no values here)"
    )
    plan = il.rewrite_initializers(model, scheme="variance", seed=0)
    assert expected in plan.assumptions
    assert f"{expected}." in il.inspect(model).notes
    assert il.propagate(model)[0].source == "measured"


def test_an_error_says_why_a_layer_was_not_opened():
    class Failing(Asking):
        def call(self, x):
            if isinstance(x, keras.KerasTensor):
                return super().call(x)
            raise ValueError("never")

    inputs = keras.Input((3,))
    layer = Failing(TypeError("no values here"), name="asking")
    model = keras.Model(inputs, layer(inputs))
    with pytest.raises(ValueError, match=r"never.*run as a whole: .*no values here"):
        il.propagate(model)
