"""A shared weight has one gradient, of all calls together, whoever tells it."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_initlab as il

WIDTH, BATCH = 64, 1024
# Each of 4,096 entries has a gradient that is normal: five standard errors of their
# mean square. Where a signal meets a kernel twice, its draw shows.
SURE, DRAWN = 5 * np.sqrt(2 / WIDTH**2), 0.25


def shared(**settings):
    return layers.Dense(WIDTH, kernel_initializer="lecun_normal", **settings)


def two_inputs():
    """Inputs of variance 1 and 4: the shares are 1 and 4."""
    a, b = keras.Input((WIDTH,)), keras.Input((WIDTH,))
    layer = shared(name="shared")
    return keras.Model([a, b], [layer(a), layer(b)]), [1.0, 4.0], 5.0, SURE


def in_a_nested_model():
    a, b, inner = (keras.Input((WIDTH,)) for _ in range(3))
    encoder = keras.Model(inner, shared(name="shared")(inner), name="encoder")
    model = keras.Model([a, b], [encoder(a), encoder(b)])
    return model, [1.0, 4.0], 5.0, SURE


def without_a_gradient_at_one_call():
    a, b = keras.Input((WIDTH,)), keras.Input((WIDTH,))
    layer = shared(name="shared")
    stopped = ops.stop_gradient(layer(b))
    return keras.Model([a, b], [layer(a), stopped]), [1.0, 4.0], 1.0, SURE


def one_after_another():
    x = keras.Input((WIDTH,))
    layer = shared(name="shared")
    return keras.Model(x, layer(layer(layer(x)))), [1.0], 3.0, DRAWN


def one_call():
    x = keras.Input((WIDTH,))
    return keras.Model(x, shared(name="shared")(x)), [1.0], 1.0, SURE


CASES = [
    two_inputs,
    in_a_nested_model,
    without_a_gradient_at_one_call,
    one_after_another,
    one_call,
]


def of_weight(stats):
    """Return what is told at each call of the shared layer."""
    found = [s.weight_gradient_second_moment for s in stats if "shared" in s.layer]
    assert found
    return found


@pytest.mark.parametrize("make", CASES)
def test_predicted_measured_and_monitored_alike(make):
    model, variances, expected, tolerance = make()
    generator = np.random.default_rng(0)
    x = [
        np.sqrt(variance) * generator.normal(size=(BATCH, WIDTH)).astype("float32")
        for variance in variances
    ]
    predicted = of_weight(il.propagate(model, variance=variances))
    np.testing.assert_allclose(predicted, expected, rtol=1e-6)
    x = x if len(x) > 1 else x[0]
    measured = of_weight(il.measure(model, x))
    np.testing.assert_allclose(measured, expected, rtol=tolerance)
    assert len(predicted) == len(measured)

    # A loss of which the gradient at the outputs is what `measure` draws.
    def product(target, output):
        return ops.sum(target * output, axis=-1)

    targets = [
        generator.normal(size=(BATCH, WIDTH)).astype("float32") for _ in model.outputs
    ]
    model.compile("sgd", [product] * len(targets))
    monitor = il.VarianceMonitor(1, gradients=True, on_finding="ignore")
    targets = targets if len(targets) > 1 else targets[0]
    model.fit(x, targets, batch_size=BATCH, verbose=0, callbacks=[monitor])
    # Keras's loss is the mean over the batch.
    monitored = np.array(of_weight(monitor.stats)) * BATCH
    np.testing.assert_allclose(monitored, expected, rtol=tolerance)
    assert len(monitored) == len(measured)


def test_weights_of_layers_within_one_are_counted_once():
    x = keras.Input((6, WIDTH))
    timed = layers.TimeDistributed(shared(name="shared"), name="timed")
    stats = {one.layer: one for one in il.propagate(keras.Model(x, timed(x)))}
    for one in stats.values():
        if one.weight is not None:
            # Of six positions, whose gradients are independent.
            assert one.weight_gradient_second_moment == pytest.approx(6.0)
