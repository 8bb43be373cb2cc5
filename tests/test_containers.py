"""Models without a call, trained by a `train_step`: VAEs, GANs, world models."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_initlab as il
from keras_initlab.model.containers import parts_of
from tests.helpers import kernels

X = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
LAYERS = ["encoder/hidden", "encoder/code", "decoder/hidden", "decoder/out"]


def plain(width, outputs, first="hidden", last="out"):
    return [
        keras.Input((width,)),
        layers.Dense(32, "relu", name=first),
        layers.Dense(outputs, name=last),
    ]


class Autoencoder(keras.Model):
    """As keras.io writes its VAE: two models, and a training step around them."""

    def __init__(self, build=True, **options):
        super().__init__(**options)
        encoder = plain(8, 2, last="code")
        self.encoder = keras.Sequential(
            encoder if build else encoder[1:], name="encoder"
        )
        self.decoder = keras.Sequential(plain(2, 8), name="decoder")
        self.tracker = keras.metrics.Mean("loss")

    def train_step(self, *args):
        raise NotImplementedError


class Alternating(keras.Model):
    """A GAN by its parts, in a list and a container of its own."""

    def __init__(self):
        super().__init__(name="gan")
        self.inner = Autoencoder(name="inner")
        self.critics = [
            keras.Sequential(plain(8, 1), name=f"critic_{i}") for i in range(2)
        ]
        self.prior = layers.Dense(3, name="prior")
        self.prior.build((None, 4))


def state(model):
    return [
        (id(one), one.built, len(one.weights), one.name)
        for one in (model, *model.layers)
    ]


@pytest.fixture
def model():
    return Autoencoder(name="vae")


def test_what_a_container_holds_is_found():
    parts = parts_of(Alternating())
    assert [part.path for part in parts] == [
        "inner/encoder",
        "inner/decoder",
        "critic_0",
        "critic_1",
    ]
    assert parts[0].outside("hidden#1") == "inner/encoder/hidden#1"


def test_models_inside_others_are_walked_there():
    model = Autoencoder(name="vae")
    code = keras.Input((8,))
    model.whole = keras.Model(code, model.decoder(model.encoder(code)), name="whole")
    assert [part.path for part in parts_of(model)] == ["whole"]
    assert [one.layer for one in il.propagate(model)] == LAYERS


@pytest.mark.parametrize("scheme", ["activation", "variance", "isometric"])
def test_each_model_inside_is_rewritten_for_itself(model, scheme):
    before, known = state(model), kernels(model)
    plan = il.rewrite_initializers(model, scheme, seed=0, dry_run=True)
    assert state(model) == before
    plan = il.rewrite_initializers(model, scheme, seed=0)
    assert [row.layer for row in plan] == LAYERS
    assert all(row.changed for row in plan)
    assert any("encoder, decoder" in line for line in plan.assumptions)
    assert state(model) == before
    for one, other in zip(known, kernels(model), strict=True):
        assert not np.array_equal(one, other)
    # As if each had been rewritten alone, up to the seeds.
    alone = il.rewrite_initializers(Autoencoder().encoder, scheme, seed=0)
    assert [row.gain for row in plan][:2] == pytest.approx([row.gain for row in alone])


def test_each_kernel_has_a_draw_of_its_own():
    model = Alternating()
    plan = il.rewrite_initializers(model, "variance", seed=0)
    first, second = (model.critics[i].layers[0].kernel for i in range(2))
    assert not np.array_equal(ops.convert_to_numpy(first), ops.convert_to_numpy(second))
    seeds = [row.after.seed for row in plan]
    assert len(set(seeds)) == len(seeds)
    (prior,) = (row for row in plan if row.layer == "prior")
    assert "in none of the models" in prior.note


def test_models_and_layers_inside_can_be_skipped(model):
    plan = il.rewrite_initializers(model, seed=0, skip=["encoder", "decoder/out"])
    assert [row.layer for row in plan if row.changed] == ["decoder/hidden"]


def test_signals_are_predicted_in_each_model(model):
    before = state(model)
    found = il.propagate(model)
    assert [one.layer for one in found] == LAYERS
    alone = il.propagate(model.decoder)
    assert [one.second_moment for one in found[2:]] == [
        one.second_moment for one in alone
    ]
    assert state(model) == before
    with pytest.raises(ValueError, match=r"numbers for a model without a call"):
        il.propagate(model, variance=[1.0, 2.0])


@pytest.mark.parametrize("call", [il.measure, il.diagnose, il.inspect])
def test_a_batch_has_no_way_through(model, call):
    before = state(model)
    with pytest.raises(ValueError, match=r"must have a `call`.*'encoder', 'decoder'"):
        call(model, X)
    assert state(model) == before
    assert il.propagate(model)


def test_each_model_inside_is_diagnosed(model):
    before = state(model)
    model.decoder.layers[0].kernel.assign(ops.zeros((2, 32)))
    model.encoder.layers[0].kernel.assign(ops.ones((8, 32)))
    found = {(one.code, one.layer) for one in il.diagnose(model)}
    assert ("constant-kernel", "decoder/hidden") in found
    assert ("constant-kernel", "encoder/hidden") in found
    severities = [one.severity for one in il.diagnose(model)]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)
    assert state(model) == before


def test_each_model_inside_is_inspected(model):
    before = state(model)
    found = il.inspect(model)
    assert [one.layer for one in found.layers] == LAYERS
    assert [one.fan_in for one in found.layers] == [8, 32, 2, 32]
    assert found.layers[0].predicted.layer == "encoder/hidden"
    assert any("vae has no call" in note for note in found.notes)
    assert "encoder/hidden" in str(found)
    assert found.json()
    assert state(model) == before


@pytest.mark.parametrize(
    "call", [il.rewrite_initializers, il.propagate, il.diagnose, il.inspect]
)
def test_a_model_inside_that_is_not_built_is_named(call):
    model = Autoencoder(build=False)
    before = state(model)
    with pytest.raises(ValueError, match=r"encoder.*not built"):
        call(model)
    assert state(model) == before


def test_initializers_can_be_set_before_anything_is_built():
    model = Autoencoder(build=False)
    plan = il.rewrite_initializers(model, only_unbuilt=True)
    assert [row.layer for row in plan if row.changed] == LAYERS[:2]


def test_a_container_of_layers_alone_says_so():
    class Bare(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = layers.Dense(4, name="inner")

    with pytest.raises(ValueError, match="'inner' is not"):
        il.rewrite_initializers(Bare())
    with pytest.raises(ValueError, match=r"these models: none"):
        il.measure(Bare(), X)
    assert il.propagate(Bare()) == []


class Failing(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = layers.Dense(4, name="inner")

    def call(self, x):
        raise RuntimeError("never")


@pytest.mark.parametrize("call", [il.measure, il.diagnose, il.inspect])
def test_a_call_that_fails_leaves_the_model_unbuilt(call):
    model = Failing()
    with pytest.raises(RuntimeError, match="never"):
        call(model, X)
    assert not model.built
    with pytest.raises(ValueError, match="not built"):
        il.propagate(model)
    model.inner = layers.Dense(5, name="again")  # not locked, either


def trained(model_kind):
    """Return a container with a training step for the backend in use."""
    backend = keras.backend.backend()

    class Trained(model_kind):
        def __init__(self, **options):
            super().__init__(**options)
            # Without it `fit` calls a model that has no call, but on TensorFlow.
            self.built = True

        def reconstructed(self, x):
            return self.decoder(self.encoder(x, training=True), training=True)

        def loss_of(self, x):
            return ops.mean(ops.square(self.reconstructed(x) - x))

        if backend == "tensorflow":

            def train_step(self, data):
                import tensorflow as tf

                with tf.GradientTape() as tape:
                    loss = self.loss_of(data)
                gradients = tape.gradient(loss, self.trainable_weights)
                self.optimizer.apply_gradients(
                    zip(gradients, self.trainable_weights, strict=True)
                )
                self.tracker.update_state(loss)
                return {"loss": self.tracker.result()}

        elif backend == "torch":

            def train_step(self, data):
                import torch

                self.zero_grad()
                loss = self.loss_of(data)
                loss.backward()
                weights = self.trainable_weights
                with torch.no_grad():
                    self.optimizer.apply([v.value.grad for v in weights], weights)
                self.tracker.update_state(loss)
                return {"loss": self.tracker.result()}

        @property
        def metrics(self):
            return [self.tracker]

    return Trained(name="vae")


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_the_monitor_measures_what_the_training_step_calls(backend):
    if keras.backend.backend() != backend:
        pytest.skip("a training step of another backend")
    model = trained(Autoencoder)
    model.compile(optimizer="adam")
    monitor = il.VarianceMonitor(every=1, gradients=True)
    model.fit(X, epochs=2, verbose=0, callbacks=[monitor])
    assert [one.layer for one in monitor.stats] == LAYERS
    assert all(one.gradient_second_moment > 0 for one in monitor.stats)
    assert il.propagate(model)
    assert [row.layer for row in il.rewrite_initializers(model)] == LAYERS


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_the_monitor_finds_what_is_wrong_in_a_model_inside(backend):
    if keras.backend.backend() != backend:
        pytest.skip("a training step of another backend")
    model = trained(Autoencoder)
    for layer in model.encoder.layers:
        layer.kernel.assign(ops.zeros_like(layer.kernel))
    model.compile(optimizer="adam")
    monitor = il.VarianceMonitor(every=1, on_finding="ignore")
    model.fit(X, epochs=1, verbose=0, callbacks=[monitor])
    found = {(one.code, one.layer) for one in monitor.findings}
    assert ("constant-kernel", "encoder/hidden") in found
