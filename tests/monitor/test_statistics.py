"""Every statistic against NumPy, on the same batches, in every setting."""

import math
import re

import keras
import numpy as np
import pytest
from keras import layers

from keras_initlab.monitor import VarianceMonitor
from keras_initlab.taps.request import BACKWARD, FORWARD

from .models import BACKEND, data, fit, frozen, nested_and_shared

BATCH, RATE = 16, 0.05
SETTINGS = {
    "default": {},
    "no_jit": {"jit_compile": False},
    "eager": {"run_eagerly": True},
    "steps_4": {"steps_per_execution": 4},
}


def network():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(12, activation="relu", name="hidden"),
            layers.Dense(5, activation="tanh", name="bent"),
            layers.Dense(2, name="out"),
        ]
    )


def twin(model, x, y):
    """Train by NumPy in float64 as Keras's SGD does; yield each step's arrays."""
    values = [w.astype("float64") for w in model.get_weights()]
    kernels, biases = values[::2], values[1::2]
    for start in range(0, len(x), BATCH):
        rows, wanted = x[start : start + BATCH], y[start : start + BATCH]
        hidden = np.maximum(rows @ kernels[0] + biases[0], 0)
        bent = np.tanh(hidden @ kernels[1] + biases[1])
        out = bent @ kernels[2] + biases[2]
        back_out = 2 * (out - wanted) / out.size
        back_bent = back_out @ kernels[2].T
        before_bent = back_bent * (1 - bent**2)
        back_hidden = before_bent @ kernels[1].T
        before_hidden = back_hidden * (hidden > 0)
        slopes = [
            rows.T @ before_hidden,
            hidden.T @ before_bent,
            bent.T @ back_out,
        ]
        sums = [one.sum(axis=0) for one in (before_hidden, before_bent, back_out)]
        ratios = [
            RATE * np.linalg.norm(slope) / np.linalg.norm(kernel)
            for slope, kernel in zip(slopes, kernels, strict=True)
        ]
        yield {
            "hidden": (hidden, back_hidden, slopes[0], ratios[0]),
            "bent": (bent, back_bent, slopes[1], ratios[1]),
            "out": (out, back_out, slopes[2], ratios[2]),
        }
        kernels = [k - RATE * one for k, one in zip(kernels, slopes, strict=True)]
        biases = [b - RATE * one for b, one in zip(biases, sums, strict=True)]


def cosine(rows):
    rows = rows[np.linalg.norm(rows, axis=1) > 0]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    count = len(unit)
    return ((unit @ unit.T).sum() - count) / (count * (count - 1)), count * (count - 1)


def by_definition(batches, layer):
    """Every figure of a layer over the batches measured."""
    outputs = [one[layer][0] for one in batches]
    sizes = [one.size for one in outputs]
    every = np.concatenate(outputs)
    pairs = [cosine(one) for one in outputs]
    figures = {
        "mean": every.mean(),
        "variance": every.var(),
        "second_moment": np.mean(every**2),
        "batch_variance": np.average(
            [one.var(axis=0).mean() for one in outputs], weights=sizes
        ),
        "input_cosine": np.average(
            [value for value, _ in pairs], weights=[count for _, count in pairs]
        ),
        "zero_fraction": np.mean(every == 0),
        "dead_fraction": np.mean((every == 0).all(axis=0)),
        "nonfinite": 0,
        "gradient_second_moment": np.average(
            [np.mean(one[layer][1] ** 2) for one in batches], weights=sizes
        ),
        "weight_gradient_second_moment": np.mean(
            [np.mean(one[layer][2] ** 2) for one in batches]
        ),
        "update_ratio": np.mean([one[layer][3] for one in batches]),
    }
    if layer == "bent":
        figures["saturated_fraction"] = np.mean(np.abs(every) > 0.98)
    return figures


def with_a_dead_unit(model):
    kernel, bias = model.layers[0].get_weights()
    bias[3] = -100.0
    model.layers[0].set_weights([3 * kernel, bias])
    return model


def assert_figures(monitor, batches, rtol=2e-4):
    for stats in monitor.stats:
        expected = by_definition(batches, stats.layer)
        for name in (*FORWARD, *BACKWARD):
            value = getattr(stats, name)
            if name not in expected:
                assert value is None, (stats.layer, name)
                continue
            np.testing.assert_allclose(
                value,
                expected[name],
                rtol=rtol,
                atol=1e-6,
                err_msg=f"{stats.layer}: {name}",
            )


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("setting", SETTINGS)
def test_equals_numpy(setting, every):
    if BACKEND == "torch" and setting not in ("default", "eager"):
        pytest.skip("the same on PyTorch, or compiled")
    if BACKEND == "jax" and setting != "default" and every == 1:
        pytest.skip("slow, and every third step is measured as well")
    if BACKEND == "jax" and setting == "no_jit":
        pytest.skip("as eager, and slow")
    model = with_a_dead_unit(network())
    model.compile(keras.optimizers.SGD(RATE), "mse", **SETTINGS[setting])
    x, y = data(70)
    steps = list(twin(model, x, y))
    monitor = VarianceMonitor(every, gradients=True)
    fit(model, x, y, [monitor])
    assert [stats.layer for stats in monitor.stats] == ["hidden", "bent", "out"]
    assert {stats.weight for stats in monitor.stats} == {"kernel"}
    assert monitor.stats[0].dead_fraction == pytest.approx(1 / 12)
    # Of steps that are executed together, the last one is measured.
    assert_figures(monitor, steps[3:] if setting == "steps_4" else steps[::every])


@pytest.mark.parametrize("size", [2, 3])
def test_windows_of_steps(size):
    model = network()
    model.compile(keras.optimizers.SGD(RATE), "mse")
    x, y = data(7 * BATCH)
    steps = list(twin(model, x, y))
    monitor = VarianceMonitor(1, gradients=True, window=size)
    history = fit(model, x, y, [monitor], epochs=2)
    starts = list(range(0, 7, size))
    assert monitor.steps == starts * 2
    assert monitor.epochs == [0] * len(starts) + [1] * len(starts)
    assert {len(values) for values in monitor.history.values()} == {2 * len(starts)}
    for index, start in enumerate(starts):
        for layer in ("hidden", "bent", "out"):
            expected = by_definition(steps[start : start + size], layer)
            (record,) = [
                one
                for one in monitor.records
                if (one["epoch"], one["step"], one["layer"]) == (0, start, layer)
            ]
            assert monitor.history[layer][index] == record["variance"]
            for name in ("variance", "update_ratio", "gradient_second_moment"):
                np.testing.assert_allclose(record[name], expected[name], rtol=2e-4)
    assert len(history.history["variance_min"]) == 2


def test_more_windows_than_wait_on_the_device():
    model = frozen(network())
    x, y = data(150 * 2)
    monitor = VarianceMonitor(1, window=1, histograms=True)
    model.fit(x, y, batch_size=2, verbose=0, shuffle=False, callbacks=[monitor])
    assert monitor.steps == list(range(150))
    outputs = model.predict(x, verbose=0).reshape(150, -1)
    np.testing.assert_allclose(monitor.history["out"], outputs.var(axis=1), rtol=1e-3)
    samples = np.unique(monitor.samples["out"])
    np.testing.assert_allclose(samples, np.unique(outputs[-1]), rtol=1e-4)


def test_large_means_and_collapsed_inputs():
    rng = np.random.default_rng(0)
    x = (1000 + rng.normal(0, 0.1, (320, 50))).astype("float32")
    model = keras.Sequential([keras.Input((50,)), layers.Activation("linear")])
    model.add(layers.Dense(1))
    monitor = VarianceMonitor(1)
    fit(frozen(model), x, x[:, :1], [monitor])
    expected = [one.astype("float64").var(axis=0).mean() for one in np.split(x, 20)]
    stats = monitor.stats[0]
    np.testing.assert_allclose(stats.batch_variance, np.mean(expected), rtol=1e-3)
    np.testing.assert_allclose(stats.variance, x.astype("float64").var(), rtol=1e-3)
    # All inputs nearly alike: what is left is told from what is common to them.
    same = (rng.normal(size=(1, 50)) + 1e-4 * rng.normal(size=(320, 50))).astype("f4")
    fit(frozen(model), same, x[:, :1], [monitor])
    expected = [one.astype("float64").var(axis=0).mean() for one in np.split(same, 20)]
    stats = monitor.stats[0]
    np.testing.assert_allclose(stats.batch_variance, np.mean(expected), rtol=1e-2)
    assert stats.input_cosine == pytest.approx(1.0, abs=1e-6)


def test_the_cosine_of_what_is_next_to_0_is_right_or_not_known():
    # Each layer makes ten times less of it, from where float32 squares it without loss
    # to where nothing is left.
    rng = np.random.default_rng(0)
    x = (1e-14 * rng.normal(1, 1, (16, 50))).astype("float32")
    model = keras.Sequential([keras.Input((50,))])
    for index in range(26):
        model.add(layers.Rescaling(0.1, name=f"times_{index}"))
    model.add(layers.Dense(1))
    monitor = VarianceMonitor(1, on_finding="ignore")
    fit(frozen(model), x, x[:, :1], [monitor])
    rows = x / np.linalg.norm(x.astype("float64"), axis=1, keepdims=True)
    expected = (np.square(rows.sum(axis=0)).sum() - 16) / (16 * 15)
    known = [one.input_cosine for one in monitor.stats[:-1]]
    known = [one for one in known if one is not None and not math.isnan(one)]
    np.testing.assert_allclose(known, expected, atol=1e-3)
    assert 2 <= len(known) < 10


def test_units_of_images_are_channels():
    model = keras.Sequential(
        [
            keras.Input((5, 5, 2)),
            layers.Conv2D(4, 3, activation="relu", name="images"),
            layers.Flatten(name="flat"),
            layers.Dense(2),
        ]
    )
    kernel, bias = model.layers[0].get_weights()
    bias[1] = -100.0
    model.layers[0].set_weights([kernel, bias])
    x, y = data(32, (5, 5, 2))
    monitor = VarianceMonitor(1)
    fit(frozen(model), x, y, [monitor])
    by_layer = {stats.layer: stats for stats in monitor.stats}
    assert by_layer["images"].dead_fraction == 0.25
    assert by_layer["flat"].dead_fraction >= 0.25


def test_nonfinite_values_are_counted():
    x, y = data(32)
    x[3, 2], x[20, 1] = np.nan, np.inf
    model = keras.Sequential([keras.Input((6,)), layers.Activation("linear")])
    model.add(layers.Dense(2))
    monitor = VarianceMonitor(1, on_finding="ignore")
    fit(frozen(model), x, y, [monitor])
    assert monitor.stats[0].nonfinite == 2
    assert math.isnan(monitor.stats[0].variance)
    assert monitor.findings[0].code == "nonfinite"


def test_functions_of_the_output():
    def peak(outputs):
        return keras.ops.max(keras.ops.abs(outputs))

    model = frozen(network())
    x, y = data(32)
    monitor = VarianceMonitor(1, statistics=["variance", peak])
    fit(model, x, y, [monitor])
    outputs = model.predict(x, verbose=0)
    expected = np.mean([np.abs(outputs[:16]).max(), np.abs(outputs[16:]).max()])
    (record,) = [one for one in monitor.records if one["layer"] == "out"]
    np.testing.assert_allclose(record["peak"], expected, rtol=1e-5)
    assert "input_cosine" not in record


def test_histograms_keep_values_of_the_last_batch():
    model = frozen(network())
    x, y = data(48)
    monitor = VarianceMonitor(1, gradients=True, histograms=True)
    fit(model, x, y, [monitor])
    (last,) = list(twin(model, x[32:], y[32:]))
    for layer in ("hidden", "bent", "out"):
        values, back = last[layer][:2]
        found = monitor.samples[layer]
        assert len(found) == 1024
        # Fewer than there is room for: all are there, some twice.
        places = np.linspace(0, values.size - 1, 1024).round().astype(int)
        expected = values.ravel()[places]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        found = monitor.gradient_samples[layer]
        np.testing.assert_allclose(np.sort(found)[-1], back.max(), rtol=1e-4)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ("bent", {"bent"}),
        (["hidden", "out"], {"hidden", "out"}),
        (re.compile("^(bent|out)$"), {"bent", "out"}),
        (layers.Dense, {"hidden", "bent", "out"}),
        (lambda layer: layer.units > 4, {"hidden", "bent"}),
    ],
)
def test_layers_that_are_chosen(chosen, names):
    monitor = VarianceMonitor(1, layers=chosen)
    fit(frozen(network()), *data(32), [monitor])
    assert set(monitor.history) == names


def test_paths_of_nested_layers_are_chosen():
    monitor = VarianceMonitor(1, layers="encoder/dense", gradients=True)
    fit(frozen(nested_and_shared()), *data(32), [monitor])
    assert set(monitor.history) == {"encoder/dense#0", "encoder/dense#1"}
    first, second = monitor.stats
    assert first.weight_gradient_second_moment == second.weight_gradient_second_moment
    assert first.variance != second.variance


@pytest.mark.torch
def test_no_layer_chosen_is_refused():
    model = frozen(network())
    with pytest.raises(ValueError, match=r"none of: hidden, bent, out"):
        fit(model, *data(32), [VarianceMonitor(layers="hiden")])
    assert not any("call" in layer.__dict__ for layer in model.layers)


def test_frozen_layers_have_no_gradients():
    model = network()
    model.layers[0].trainable = False
    model.compile(keras.optimizers.SGD(RATE), "mse")
    monitor = VarianceMonitor(1, gradients=True)
    fit(model, *data(32), [monitor])
    hidden, bent, out = monitor.stats
    assert hidden.weight_gradient_second_moment is hidden.update_ratio is None
    if BACKEND != "tensorflow":  # whose tape goes further back than it has to
        assert hidden.gradient_second_moment is None
    assert bent.update_ratio > 0
    assert out.gradient_second_moment > 0


@pytest.mark.parametrize("scale", ["static", "dynamic"])
def test_the_loss_scale_is_divided_out(scale):
    model = network()
    if scale == "static":
        optimizer = keras.optimizers.SGD(RATE, loss_scale_factor=1024.0)
    else:
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE))
    model.compile(optimizer, "mse")
    x, y = data(48)
    steps = list(twin(model, x, y))
    monitor = VarianceMonitor(1, gradients=True)
    fit(model, x, y, [monitor])
    assert_figures(monitor, steps)


def test_accumulated_gradients():
    x, y = data(64)
    model = network()
    model.compile(keras.optimizers.SGD(RATE, gradient_accumulation_steps=2), "mse")
    before = model.get_weights()
    first, second = (next(twin(model, x[i:], y[i:])) for i in (0, 16))
    monitor = VarianceMonitor(4, gradients=True)
    fit(model, x, y, [monitor])
    # Step 1 is measured, the first that updates the weights, and no other.
    for index, layer in enumerate(("hidden", "bent", "out")):
        step = RATE * (first[layer][2] + second[layer][2]) / 2
        ratio = np.linalg.norm(step) / np.linalg.norm(before[2 * index])
        stats = monitor.stats[index]
        np.testing.assert_allclose(stats.update_ratio, ratio, rtol=1e-4)
        expected = np.mean(second[layer][2] ** 2)
        found = stats.weight_gradient_second_moment
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_large_weights_are_sampled():
    # 60,000 entries, whose steps differ from row to row.
    model = keras.Sequential([keras.Input((300,)), layers.Dense(200, name="wide")])
    model.compile(keras.optimizers.SGD(RATE), "mse")
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(16, 300)) * rng.uniform(0.5, 2, 300)).astype("float32")
    y = rng.normal(size=(16, 200)).astype("float32")
    before = model.get_weights()[0]
    monitor = VarianceMonitor(1, gradients=True)
    fit(model, x, y, [monitor])
    step = np.linalg.norm(model.get_weights()[0] - before)
    (stats,) = monitor.stats
    ratio = step / np.linalg.norm(before)
    np.testing.assert_allclose(stats.update_ratio, ratio, rtol=0.1)


def test_gradients_of_large_weights_are_whole():
    # 90,000 entries, whose gradients differ from row to row.
    model = keras.Sequential([keras.Input((300,)), layers.Dense(300, name="wide")])
    model.compile(keras.optimizers.SGD(RATE, loss_scale_factor=8.0), "mse")
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(32, 300)) * rng.uniform(0.1, 3, 300)).astype("float32")
    y = rng.normal(size=(32, 300)).astype("float32")
    monitor = VarianceMonitor(2, gradients=True)
    kernel, bias = model.get_weights()
    fit(model, x, y, [monitor])
    out = x[:16].astype("float64") @ kernel + bias
    slope = x[:16].T @ (2 * (out - y[:16]) / out.size)
    found = monitor.stats[0].weight_gradient_second_moment
    np.testing.assert_allclose(found, np.mean(slope**2), rtol=1e-4)
