"""Training steps, optimizers and callbacks of users' own, beside the monitor."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_initlab.monitor import VarianceMonitor

from .models import BACKEND, data, fit, frozen


def network(last="softmax", model=keras.Sequential, deviation=1.0):
    return model(
        [
            keras.Input((6,)),
            layers.Dense(8, "relu", name="hidden"),
            layers.Dense(
                3,
                last,
                kernel_initializer=keras.initializers.RandomNormal(0, deviation, 3),
                name="out",
            ),
        ]
    )


def labels(count=70):
    return np.random.default_rng(2).integers(0, 3, count)


def weights_after(make, callbacks, epochs=2, **settings):
    keras.utils.set_random_seed(1)
    model = make()
    settings.setdefault("jit_compile", False if BACKEND == "torch" else "auto")
    settings.setdefault("optimizer", keras.optimizers.Adam(1e-2))
    model.compile(loss="sparse_categorical_crossentropy", **settings)
    fit(model, data(70)[0], labels(), callbacks, epochs=epochs)
    return model.get_weights()


def assert_same_training(make, monitor, **settings):
    alone = weights_after(make, [], **settings)
    if isinstance(settings.get("optimizer"), keras.optimizers.Optimizer):
        kind = type(settings["optimizer"])
        settings["optimizer"] = kind.from_config(settings["optimizer"].get_config())
    beside = weights_after(make, [monitor], **settings)
    for one, other in zip(alone, beside, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert [stats.layer for stats in monitor.stats] == ["hidden", "out"]


@pytest.mark.parametrize("deviation", [1.0, 60.0])
def test_losses_that_look_for_logits_find_them(deviation):
    monitor = VarianceMonitor(1, gradients=True, on_finding="ignore")
    assert_same_training(lambda: network(deviation=deviation), monitor)
    if deviation == 1 or BACKEND == "tensorflow":
        # Elsewhere probabilities of 0 and 1 are clipped, and pass no gradient.
        hidden, out = monitor.stats
        assert hidden.gradient_second_moment > 0
        assert out.weight_gradient_second_moment > 0


@pytest.mark.tensorflow
def test_slots_are_made_in_a_step_that_xla_compiles():
    monitor = VarianceMonitor(1, gradients=True)
    assert_same_training(network, monitor, jit_compile=True)


@pytest.mark.jax
def test_steps_may_count_and_map_the_variables():
    import jax

    class Skipping(keras.Sequential):
        def train_step(self, state, data):
            logs, new = super().train_step(state, data)
            assert len(new[1]) == len(self.non_trainable_variables)
            fine = jax.numpy.isfinite(logs["loss"])
            kept = jax.tree_util.tree_map(
                lambda a, b: jax.numpy.where(fine, a, b), new, state
            )
            return logs, kept

    monitor = VarianceMonitor(1, gradients=True)
    assert_same_training(lambda: network(model=Skipping), monitor)


@pytest.mark.jax
@pytest.mark.parametrize("gradients", [False, True])
def test_both_passes_of_a_step_are_measured(gradients):
    import jax

    class Twice(keras.Model):
        def __init__(self):
            super().__init__()
            self.a = layers.Dense(2, kernel_initializer="ones", name="a")
            self.b = layers.Dense(2, kernel_initializer="zeros", name="b")
            self.turn = 0

        def build(self, shape):
            self.a.build(shape)
            self.b.build(shape)
            self.built = True

        def call(self, x):
            return (self.a, self.b)[self.turn % 2](x)

        def train_step(self, state, data):
            trainable, fixed, slots, metrics = state
            x, y = data
            compute = jax.value_and_grad(self.compute_loss_and_updates, has_aux=True)
            for self.turn in (0, 1):
                (_, (loss, y_pred, *_)), grads = compute(
                    trainable,
                    fixed,
                    metrics,
                    x,
                    y,
                    None,
                    training=True,
                    optimizer_variables=slots,
                )
            trainable, slots = self.optimizer.stateless_apply(
                optimizer_variables=slots, grads=grads, trainable_variables=trainable
            )
            logs, metrics = self._update_metrics_variables(
                metrics, loss, x, y, y_pred, None
            )
            return logs, (trainable, fixed, slots, metrics)

    x, y = data(32)
    model = frozen(Twice())
    monitor = VarianceMonitor(1, gradients=gradients, on_finding="ignore")
    fit(model, x, y, [monitor])
    first, second = monitor.stats
    assert (first.layer, second.layer) == ("a", "b")
    np.testing.assert_allclose(first.variance, x.sum(axis=1).var(), rtol=1e-4)
    assert second.variance == 0
    assert (second.gradient_second_moment is None) != gradients


@pytest.mark.tensorflow
@pytest.mark.torch
def test_an_optimizer_may_take_more_arguments():
    class Scaled(keras.optimizers.SGD):
        def apply(self, grads, trainable_variables=None, scale=1.0):
            super().apply([scale * g for g in grads], trainable_variables)

        def apply_gradients(self, pairs):
            grads, variables = zip(*pairs, strict=True)
            self.apply(grads, variables, scale=2.0)

    monitor = VarianceMonitor(1, gradients=True)
    assert_same_training(network, monitor, optimizer=Scaled(0.01))


@pytest.mark.tensorflow
@pytest.mark.torch
@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_train_batch_end"])
def test_a_callback_may_compile_the_model_anew(hook):
    class Anew(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            setattr(self, hook, self.compile_once)
            self.done = False

        def compile_once(self, *args, **kwargs):
            if not self.done:
                self.done = True
                model = self.model
                model.compile(
                    keras.optimizers.SGD(0.5),
                    "sparse_categorical_crossentropy",
                    jit_compile=False,
                )
                model.make_train_function()

    alone = weights_after(network, [Anew()])
    beside = weights_after(network, [VarianceMonitor(2, gradients=True), Anew()])
    for one, other in zip(alone, beside, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_accumulated_gradients_over_epochs_of_any_length():
    model = network("linear")
    optimizer = keras.optimizers.SGD(0.05, gradient_accumulation_steps=4)
    model.compile(optimizer, "mse")
    x, _ = data(10 * 16)
    y = np.random.default_rng(0).normal(size=(160, 3)).astype("float32")
    monitor = VarianceMonitor(4, gradients=True)
    fit(model, x, y, [monitor], epochs=3)
    ratios = [r["update_ratio"] for r in monitor.records if r["layer"] == "out"]
    assert len(ratios) == 3
    assert all(ratio > 0 for ratio in ratios)


def test_quantized_layers_are_measured():
    if BACKEND == "jax":
        pytest.skip("Keras's own int8 layers have no gradients there")
    model = network("linear")
    model.quantize("int8")
    for layer in model.layers:
        layer.enable_lora(2)
    model.compile(
        keras.optimizers.SGD(0.01),
        "mse",
        jit_compile=False if BACKEND == "torch" else "auto",
    )
    monitor = VarianceMonitor(1)
    y = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    fit(model, data(32)[0], y, [monitor])
    assert [stats.layer for stats in monitor.stats] == ["hidden", "out"]


@pytest.mark.torch
def test_outputs_that_are_changed_in_place_are_named():
    class InPlace(layers.Layer):
        def call(self, x):
            return x.relu_()

    model = frozen(
        keras.Sequential(
            [keras.Input((6,)), layers.Dense(4, name="d"), InPlace(name="r")]
        )
    )
    monitor = VarianceMonitor(1)
    with pytest.warns(UserWarning, match=r"in place: d\."):
        fit(model, data(32)[0], np.zeros((32, 4), "float32"), [monitor])
    assert [stats.layer for stats in monitor.stats] == ["r"]


class Adversaries(keras.Model):
    """A generator and a discriminator, each with an optimizer, as in Keras's guides."""

    def __init__(self):
        super().__init__()
        self.generator = keras.Sequential(
            [keras.Input((6,)), layers.Dense(6, name="makes")], name="generator"
        )
        self.discriminator = keras.Sequential(
            [keras.Input((6,)), layers.Dense(1, name="judges")], name="discriminator"
        )
        self.built = True

    def compile(self, d_optimizer, g_optimizer):
        super().compile()
        self.d_optimizer, self.g_optimizer = d_optimizer, g_optimizer

    def losses_of(self, x):
        judged = self.discriminator(self.generator(x))
        real = self.discriminator(x)
        return keras.ops.mean(judged - real), -keras.ops.mean(judged)

    def train_step(self, data):
        x = data[0] if isinstance(data, tuple) else data
        pairs = (
            (self.d_optimizer, self.discriminator),
            (self.g_optimizer, self.generator),
        )
        for index, (optimizer, part) in enumerate(pairs):
            weights = part.trainable_weights
            if BACKEND == "torch":
                self.zero_grad()
                loss = self.losses_of(x)[index]
                loss.backward()
                optimizer.apply([weight.value.grad for weight in weights], weights)
            else:
                import tensorflow as tf

                with tf.GradientTape() as tape:
                    loss = self.losses_of(x)[index]
                optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


@pytest.mark.tensorflow
@pytest.mark.torch
def test_weights_of_several_optimizers_have_gradients():
    model = Adversaries()
    model.compile(keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.01))
    parts = {
        "discriminator/judges#0": (model.discriminator, 0.1),
        "generator/makes#0": (model.generator, 0.01),
    }
    sizes = {
        key: float(keras.ops.mean(keras.ops.square(part.layers[0].kernel)))
        for key, (part, _) in parts.items()
    }
    monitor = VarianceMonitor(1, gradients=True, on_finding="ignore")
    model.fit(data(32)[0], epochs=1, verbose=0, callbacks=[monitor])
    by_layer = {stats.layer: stats for stats in monitor.stats}
    for key, (_, rate) in parts.items():
        # One step of SGD moves weights by the gradient times the rate.
        gradient = by_layer[key].weight_gradient_second_moment
        expected = rate * (gradient / sizes[key]) ** 0.5
        assert by_layer[key].update_ratio == pytest.approx(expected, rel=1e-3)
