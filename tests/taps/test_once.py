"""One pass: the gradients are right, and nothing is left behind."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_initlab.monitor import VarianceMonitor
from keras_initlab.taps import once

from ..helpers import as_numpy
from ..monitor.models import BACKEND, BuildsItsLayers, busy, data, fit, frozen


def pull(model, x, weights=(), training=True):
    """Return outputs, gradients by key, weights' gradients, cotangents."""
    rng, drawn = np.random.default_rng(1), []

    def cotangent(shape):
        drawn.append(rng.normal(size=shape))
        return drawn[-1]

    once.build(model, x)
    found = once.run(model, x, training=training, weights=weights, cotangent=cotangent)
    outputs = {call.key: as_numpy(call.output) for call in found.calls}
    gradients = {
        call.key: None if call.gradient is None else as_numpy(call.gradient)
        for call in found.calls
    }
    of_weights = [None if g is None else as_numpy(g) for g in found.weight_gradients]
    return outputs, gradients, of_weights, drawn


def test_gradients_of_an_mlp_are_those_of_back_propagation_by_hand():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, name="a"),
            layers.ReLU(name="b"),
            layers.Dense(3, name="c"),
        ]
    )
    x = data(10)[0]
    kernels = [model.layers[0].kernel, model.layers[2].kernel]
    outputs, gradients, of_kernels, (r,) = pull(model, x, kernels)
    first, last = map(as_numpy, kernels)
    assert list(outputs) == ["a", "b", "c"]
    np.testing.assert_allclose(outputs["a"], x @ first, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradients["c"], r, rtol=1e-6)
    np.testing.assert_allclose(gradients["b"], r @ last.T, rtol=1e-4, atol=1e-6)
    at_a = (r @ last.T) * (outputs["a"] > 0)
    np.testing.assert_allclose(gradients["a"], at_a, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(of_kernels[0], x.T @ at_a, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(of_kernels[1], outputs["b"].T @ r, rtol=1e-4, atol=1e-4)


def test_euler_holds_at_every_layer_of_a_chain():
    # Of a function of degree 1, Σ x·df/dx = f: ReLU and no biases, whatever stands
    # between a layer's output, or a kernel, and the end.
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, use_bias=False, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.EinsumDense("ab,bc->ac", (3,), name="end"),
        ]
    )
    weights = [model.layers[0].kernel, model.layers[-1].kernel]
    outputs, gradients, of_weights, (r,) = pull(model, data(4, (6, 6, 2))[0], weights)
    end = (r * outputs["end"]).sum()
    assert abs(end) > 0.01
    found = [(outputs[key] * gradients[key]).sum() for key in outputs]
    found += [(as_numpy(w) * g).sum() for w, g in zip(weights, of_weights, strict=True)]
    np.testing.assert_allclose(found, [end] * 7, rtol=1e-4)


def test_an_identity_layer_sees_its_own_branch_only():
    x = keras.Input((6,))
    h = layers.Dense(6, name="a")(x)
    same = layers.Identity(name="same")(h)
    undropped = layers.Dropout(0.5, name="undropped")(h)
    y = layers.Add(name="y")([h, same])
    model = keras.Model(x, [y, undropped])
    _, gradients, _, drawn = pull(model, data(5)[0], training=False)
    by_output = dict(zip(["y", "undropped"], drawn, strict=True))
    np.testing.assert_allclose(gradients["same"], by_output["y"], rtol=1e-6)
    np.testing.assert_allclose(gradients["undropped"], by_output["undropped"], 1e-6)
    total = 2 * by_output["y"] + by_output["undropped"]
    np.testing.assert_allclose(gradients["a"], total, rtol=1e-5, atol=1e-6)


def test_an_rnn_that_returns_one_tensor_twice_keeps_the_two_apart():
    x = keras.Input((3, 2))
    out, state = layers.SimpleRNN(2, return_state=True, name="rnn")(x)
    model = keras.Model(x, [3.0 * out, layers.Identity(name="state")(state)])
    _, gradients, _, (r_out, r_state) = pull(model, data(4, (3, 2))[0])
    np.testing.assert_allclose(gradients["rnn"], 3 * r_out, rtol=1e-5)
    np.testing.assert_allclose(gradients["state"], r_state, rtol=1e-5)


class Branches(keras.Model):
    """Python that looks at values, ends that lead nowhere, outputs of all kinds."""

    def __init__(self):
        super().__init__()
        for name in ("a", "dead", "cut", "out", "never"):
            setattr(self, name, layers.Dense(3, name=name))

    def call(self, x):
        h = self.a(x)
        self.dead(h)
        cut = ops.stop_gradient(self.cut(h))
        h = self.out(h + cut) if ops.max(h) < 1e9 else self.never(h)
        return {"scores": h, "classes": ops.argmax(h, axis=-1)}


def test_what_does_not_reach_the_outputs_has_no_gradient():
    model = Branches()
    x = data(4)[0]
    once.build(model, x)
    weights = [model.a.kernel, model.dead.kernel, model.cut.kernel, model.out.kernel]
    outputs, gradients, of_weights, drawn = pull(model, x, weights)
    assert list(outputs) == ["a", "dead", "cut", "out"]
    assert len(drawn) == 1
    assert [g is None for g in gradients.values()] == [False, True, True, False]
    assert [g is None for g in of_weights] == [False, True, True, False]


def test_a_zero_gradient_is_not_none():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(3, name="a"), layers.Rescaling(0.0, name="b")]
    )
    _, gradients, of_weights, _ = pull(model, data(4)[0], [model.layers[0].kernel])
    assert np.all(gradients["a"] == 0)
    assert np.all(of_weights[0] == 0)


class MasksInside(layers.Layer):
    """Says nothing of masks itself: its output has that of the layer within."""

    def __init__(self):
        super().__init__()
        self.masking = layers.Masking(name="masking")

    def call(self, x):
        return self.masking(x)


def test_masks_pass_the_taps():
    x = data(4, (5, 3))[0]
    x[:, 3:] = 0.0
    model = keras.Sequential(
        [keras.Input((5, 3)), MasksInside(), layers.SimpleRNN(2, name="rnn")]
    )
    outputs, _, _, _ = pull(model, x)
    expected = as_numpy(model(x))
    np.testing.assert_allclose(outputs["rnn"], expected, rtol=1e-4, atol=1e-6)
    # The masked steps, all zeros, would have changed it.
    unmasked = as_numpy(model.layers[-1](x))
    assert np.abs(unmasked - expected).max() > 1e-3


def test_a_rematerialised_layer_has_gradients():
    with keras.RematScope(mode="full"):
        again = layers.Dense(5, activation="tanh", name="again")
    x = data(4)[0]
    model = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="a"), again])
    plain = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(6, name="a"),
            layers.Dense(5, activation="tanh", name="again"),
        ]
    )
    plain.set_weights(model.get_weights())
    _, found, of_weights, _ = pull(model, x, [model.layers[0].kernel, again.kernel])
    kernels = [layer.kernel for layer in plain.layers]
    _, expected, of_plain, _ = pull(plain, x, kernels)
    np.testing.assert_allclose(found["a"], expected["a"], rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(of_weights, of_plain, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_layers_under_a_vmap_are_named_and_left_out():
    class Mapped(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = layers.Dense(3, name="inner")
            self.outer = layers.Dense(2, name="outer")

        def call(self, x):
            return self.outer(
                ops.vectorized_map(lambda row: self.inner(row[None])[0], x)
            )

    with pytest.warns(UserWarning, match="measure does not measure.* inner"):
        outputs, gradients, _, _ = pull(Mapped(), data(4)[0])
    assert list(outputs) == ["outer"]
    assert gradients["outer"] is not None


class Everything(layers.Layer):
    """Keeps state of every kind."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(3)
        self.mean = keras.metrics.Mean()
        self.counter = self.add_weight(shape=(), trainable=False, name="counter")

    def call(self, x):
        self.counter.assign_add(1.0)
        self.mean.update_state(ops.stop_gradient(x))
        self.add_loss(ops.mean(x))
        return x + keras.random.normal(ops.shape(x), seed=self.seeds)


class Fails(layers.Layer):
    """Raises what it is given, once it has been given something."""

    def call(self, x):
        if "error" in vars(self):
            raise self.error
        return x


def busier():
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(4, 2, 6)),
            layers.SimpleRNN(6, stateful=True),
            Everything(),
            *busy().layers,
            Fails(name="fails"),
        ]
    )
    model.compile("adam", "mse", metrics=["mae"])
    model(data(4, (2, 6))[0], training=True)  # with losses and states of its own
    return model


def state(model):
    """Return what must not change: values, attributes, the backend's generator."""
    variables = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    generator = None
    if BACKEND == "torch":
        import torch

        generator = torch.get_rng_state().tolist()
    attributes = [
        {name: id(value) for name, value in vars(layer).items()}
        for layer in model._flatten_layers()
    ]
    losses = [
        ([*map(id, layer._losses)], set(layer._loss_ids), vars(layer).get("_called"))
        for layer in model._flatten_layers()
    ]
    values = [np.array(ops.convert_to_numpy(v)) for v in variables]
    return values, attributes, losses, generator


def assert_same(model, before):
    after = state(model)
    for old, new in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(old, new)
    assert before[1:] == after[1:]


@pytest.mark.parametrize("gradients", [True, False], ids=["gradients", "forward"])
def test_the_model_is_as_before(gradients):
    model = busier()
    before = state(model)
    assert any(losses for losses, _, _ in before[2])
    draw = np.random.default_rng(0).standard_normal if gradients else None
    x = data(4, (2, 6))[0]
    weights = [model.layers[2].kernel]
    once.run(model, x, training=True, weights=weights, cotangent=draw)
    assert_same(model, before)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_model_is_as_before_when_a_layer_fails(error):
    model = busier()
    before = state(model)
    failing = vars(model.get_layer("fails"))
    failing["error"] = error("stop")
    with pytest.raises(error, match="stop"):
        pull(model, data(4, (2, 6))[0])
    del failing["error"]
    assert_same(model, before)


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_epoch_end"])
def test_training_goes_on_to_the_bit_as_without(hook):
    x, y = data(32)
    found = []

    class Measures(keras.callbacks.Callback):
        def _measure(self, *args, **kwargs):
            # Not `self.model`, which has Keras bring the state home first.
            outputs, _, _, _ = pull(self._model, x[:8], training=False)
            found.append(list(outputs))

    setattr(Measures, hook, Measures._measure)

    def trained(callbacks):
        keras.utils.set_random_seed(1)
        model = frozen(busy())
        model.optimizer.learning_rate = 0.1
        monitor = VarianceMonitor(1)
        fit(model, x, y, [monitor, *callbacks], epochs=2)
        return model, monitor

    model, monitor = trained([Measures()])
    plain, expected = trained([])
    assert len(found[-1]) == len(set(found[-1])) == 5
    assert found[-1] == [stats.layer for stats in monitor.stats]
    variances = [list(m.history.values()) for m in (monitor, expected)]
    np.testing.assert_array_equal(*variances)
    for ours, theirs in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


def test_an_unbuilt_model_is_built_first():
    model = BuildsItsLayers()
    x = data(4)[0]
    outputs, _, _, _ = pull(model, x)
    assert list(outputs) == ["block/dense", "block", "head"]
    assert model.built
    # The weights that were measured are those that stay.
    np.testing.assert_allclose(outputs["head"], as_numpy(model(x)), rtol=1e-4)


@pytest.mark.torch
def test_wrapped_pytorch_modules_are_as_before():
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4))
    wrapper = layers.TorchModuleWrapper(module.eval(), name="wrapped")
    model = keras.Sequential([wrapper, layers.Dense(2, name="out")])
    x = data(8)[0]
    once.build(model, x)
    module.eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    weight = wrapper.trainable_variables[0]
    _, gradients, (of_weight,), _ = pull(model, x, [weight])
    assert of_weight.shape == (4, 6)
    assert gradients["wrapped"] is not None
    assert not module.training
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key]), key
