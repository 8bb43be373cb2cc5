import io
import math
import warnings

import keras
import numpy as np
import pytest
from keras import layers

from keras_initlab.monitor import VarianceMonitor
from keras_initlab.stats import LayerStats
from tests.report.test_html import Page

from .models import (
    BACKEND,
    BuildsItsLayers,
    Subclassed,
    busy,
    data,
    fit,
    frozen,
    mlp,
    nested_and_shared,
    outputs_by_numpy,
    sequence_model,
    two_ways,
)

SETTINGS = {
    "default": {},
    "no_jit": {"jit_compile": False},
    "jit": {"jit_compile": True},
    "eager": {"run_eagerly": True},
    "steps_4": {"steps_per_execution": 4},
    "steps_4_no_jit": {"steps_per_execution": 4, "jit_compile": False},
}


def assert_matches(monitor, expected, rtol=1e-4):
    assert [stats.layer for stats in monitor.stats] == list(expected)
    for stats in monitor.stats:
        values = expected[stats.layer]
        scale = np.abs(values).max()
        np.testing.assert_allclose(stats.mean, values.mean(), atol=1e-5 * scale)
        np.testing.assert_allclose(stats.variance, values.var(), rtol=rtol)
        np.testing.assert_allclose(
            stats.second_moment, np.mean(values**2), rtol=rtol, err_msg=stats.layer
        )


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("setting", SETTINGS)
def test_equals_numpy_on_the_same_batches(setting, every):
    if BACKEND == "torch" and setting not in ("default", "eager"):
        pytest.skip("one step at a time; compiled in a test of its own")
    if BACKEND == "jax" and setting == "jit":
        pytest.skip("the default on JAX")
    if BACKEND == "jax" and setting != "default" and every == 1:
        pytest.skip("slow, and every third step is measured as well")
    if BACKEND == "jax" and setting in ("eager", "no_jit"):
        pytest.skip("eager in test_statistics.py, and slow")
    model = frozen(mlp(), **SETTINGS[setting])
    x, y = data(70)
    monitor = VarianceMonitor(every)
    fit(model, x, y, [monitor], epochs=2)
    named = {layer.name: layer.output for layer in model.layers}
    # Five batches, the last one short. Of those that are executed together, the last.
    steps = [3, 4] if "steps_4" in setting else range(0, 5, every)
    expected = outputs_by_numpy(model, named, x, steps)
    assert_matches(monitor, expected)
    for key, variances in monitor.history.items():
        np.testing.assert_allclose(variances, [expected[key].var()] * 2, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.torch
def test_equals_numpy_where_pytorch_compiles():
    model = frozen(mlp(), jit_compile=True)
    x, y = data(64)
    monitor = VarianceMonitor(3)
    fit(model, x, y, [monitor], epochs=2)
    named = {layer.name: layer.output for layer in model.layers}
    assert_matches(monitor, outputs_by_numpy(model, named, x, [0, 3]))


def test_shared_and_nested_layers_have_a_key_for_each_call():
    model = frozen(nested_and_shared())
    x, y = data(70)
    monitor = VarianceMonitor(2)
    fit(model, x, y, [monitor])
    named = {
        "shared#0": model.get_layer("shared")._inbound_nodes[0].outputs[0],
        "shared#1": model.get_layer("shared")._inbound_nodes[1].outputs[0],
        "encoder/dense#0": model.get_layer("add").input[0],
        "encoder/dense#1": model.get_layer("add").input[1],
        "add": model.get_layer("add").output,
        "out": model.output,
    }
    assert {stats.layer for stats in monitor.stats} == set(named)
    expected = outputs_by_numpy(model, named, x, range(0, 5, 2))
    # The order of the two encoder calls is Keras's.
    by_key = {stats.layer: stats for stats in monitor.stats}
    for key, values in expected.items():
        np.testing.assert_allclose(by_key[key].variance, values.var(), rtol=1e-4)


@pytest.mark.parametrize(
    "eager",
    [
        pytest.param(False, id="compiled"),
        # JAX compiles each operation.
        pytest.param(
            True, id="eager", marks=(pytest.mark.tensorflow, pytest.mark.torch)
        ),
    ],
)
@pytest.mark.parametrize("built", [False, True], ids=["unbuilt", "built"])
@pytest.mark.parametrize(
    ("make", "keys"),
    [
        (Subclassed, ["block_0", "block_1", "head"]),
        (BuildsItsLayers, ["block/dense", "block", "head"]),
    ],
)
def test_subclassed_models(make, keys, built, eager):
    x, y = data(48)
    model = make()
    if built:
        model(x[:1])
    frozen(model, run_eagerly=eager)
    monitor = VarianceMonitor(1)
    fit(model, x, y, [monitor])
    assert [stats.layer for stats in monitor.stats] == keys
    assert monitor.stats[0].shape == (None, 5)
    prediction = model.predict(x, verbose=0)
    np.testing.assert_allclose(monitor.stats[-1].variance, prediction.var(), rtol=1e-4)
    np.testing.assert_allclose(
        monitor.stats[-1].mean, prediction.mean(), atol=1e-5 * np.abs(prediction).max()
    )


def test_recurrent_attention_and_wrapper_layers():
    model = frozen(sequence_model())
    x, y = data(48, (4, 6))
    monitor = VarianceMonitor(1)
    fit(model, x, y, [monitor])
    outputs = ["both", "attention", "timed", "joined", "out"]
    named = {name: model.get_layer(name).output for name in outputs}
    named["lstm"] = model.get_layer("lstm").output[0]
    expected = outputs_by_numpy(model, named, x, range(3))
    by_key = {stats.layer: stats for stats in monitor.stats}
    for key, values in expected.items():
        np.testing.assert_allclose(by_key[key].variance, values.var(), rtol=1e-3)
    assert {"attention/query", "attention/attention_output"} <= set(by_key)
    assert not any("cell" in key or key.startswith("timed/") for key in by_key)


def test_several_inputs_and_outputs():
    model = two_ways()
    frozen(model, run_eagerly=False)
    x, y = data(32)
    monitor = VarianceMonitor(1)
    fit(model, [x, x], [y[:, :1], y[:, 1:]], [monitor])
    assert {stats.layer for stats in monitor.stats} == {"joined", "left", "right"}
    by_key = {stats.layer: stats for stats in monitor.stats}
    np.testing.assert_allclose(by_key["joined"].variance, x.var(), rtol=1e-5)


def test_large_mean_and_small_deviation():
    rng = np.random.default_rng(0)
    x = rng.normal(1000.0, 0.1, (320, 50)).astype("float32")
    model = keras.Sequential([keras.Input((50,)), layers.Activation("linear")])
    model.add(layers.Dense(1))
    frozen(model)
    monitor = VarianceMonitor(1)
    fit(model, x, x[:, :1], [monitor])
    np.testing.assert_allclose(monitor.stats[0].variance, 0.01, rtol=0.02)
    np.testing.assert_allclose(monitor.stats[0].variance, x.astype(float).var(), 1e-3)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_dtypes(policy):
    keras.config.set_dtype_policy(policy)
    model = frozen(mlp())
    x, y = data(70)
    monitor = VarianceMonitor(1)
    fit(model, 30 * x, y, [monitor])
    named = {layer.name: layer.output for layer in model.layers}
    expected = outputs_by_numpy(model, named, 30 * x, range(5))
    # Compiled and single calls round bfloat16 in different places.
    rtol = {"mixed_bfloat16": 2e-2, "mixed_float16": 5e-3, "float64": 1e-4}[policy]
    for stats in monitor.stats:
        np.testing.assert_allclose(stats.variance, expected[stats.layer].var(), rtol)


def test_layers_without_floats_are_left_out():
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            layers.Lambda(lambda i: i + 1, name="whole", dtype="int32"),
            layers.Embedding(9, 2, name="embedding"),
            layers.Flatten(name="flat"),
            layers.Dense(2, name="out"),
        ]
    )
    frozen(model)
    x = np.random.default_rng(0).integers(0, 7, (32, 3))
    monitor = VarianceMonitor(1)
    fit(model, x, x[:, :2].astype("float32"), [monitor])
    assert [stats.layer for stats in monitor.stats] == ["embedding", "flat", "out"]


def test_what_is_validated_is_not_measured():
    x, y = data(48)
    alone, beside = VarianceMonitor(2), VarianceMonitor(2)
    model = frozen(mlp())
    fit(model, x, y, [alone], epochs=2)
    fit(model, x, y, [beside], epochs=2, validation_data=(100 * x, y))
    assert beside.history == alone.history


@pytest.mark.torch
def test_only_the_summary_is_new_in_the_logs():
    x, y = data(48)
    monitor = VarianceMonitor(1)
    history = fit(frozen(mlp()), x, y, [monitor], epochs=2, validation_data=(x, y))
    assert set(history.history) == {"loss", "val_loss", "variance_min", "variance_max"}
    for epoch in range(2):
        variances = [values[epoch] for values in monitor.history.values()]
        assert history.history["variance_min"][epoch] == min(variances)
        assert history.history["variance_max"][epoch] == max(variances)


@pytest.mark.torch
def test_stats_records_and_history_say_the_same():
    x, y = data(48)
    monitor = VarianceMonitor(1)
    fit(frozen(mlp()), x, y, [monitor], epochs=3, initial_epoch=1)
    assert monitor.epochs == [1, 2]
    assert [type(stats) for stats in monitor.stats] == [LayerStats] * 3
    assert {stats.source for stats in monitor.stats} == {"monitored"}
    assert [stats.shape for stats in monitor.stats] == [(None, 8), (None, 8), (None, 2)]
    assert len(monitor.records) == 6
    keys = {"epoch", "step", "layer", "mean", "variance", "second_moment"}
    keys |= {"batch_variance", "input_cosine", "zero_fraction", "dead_fraction"}
    assert all(set(record) == keys | {"nonfinite"} for record in monitor.records)
    for record in monitor.records:
        variance = monitor.history[record["layer"]][record["epoch"] - 1]
        assert record["variance"] == variance
        assert record["second_moment"] == pytest.approx(variance + record["mean"] ** 2)


def test_each_fit_begins_anew_with_its_own_period():
    x, y = data(64)
    model = frozen(mlp())
    monitor = VarianceMonitor(1)
    fit(model, x, y, [monitor], epochs=2)
    first = monitor.stats
    fit(model, x, y, [monitor])
    assert monitor.epochs == [0]
    assert monitor.stats == first
    seldom = VarianceMonitor(4)
    fit(model, x, y, [seldom])
    named = {layer.name: layer.output for layer in model.layers}
    assert_matches(seldom, outputs_by_numpy(model, named, x, [0]))


def test_a_layer_that_is_skipped_in_an_epoch_has_no_figure_there():
    class Sometimes(keras.Model):
        def __init__(self):
            super().__init__()
            self.always = layers.Dense(2, name="always")
            self.late = layers.Dense(2, name="late")
            self.on = True

        def call(self, x):
            x = self.always(x)
            return self.late(x) if self.on else x

    x, y = data(32)
    model = Sometimes()
    model(x[:1])
    frozen(model, run_eagerly=True)
    monitor = VarianceMonitor(1)
    switch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: setattr(model, "on", epoch != 1)
    )
    fit(model, x, y, [switch, monitor], epochs=3)
    late = monitor.history["late"]
    assert [math.isnan(value) for value in late] == [False, True, False]
    assert not np.isnan(monitor.history["always"]).any()
    assert len(monitor.records) == 5


@pytest.mark.torch
def test_evaluate_and_predict_take_it_and_do_nothing():
    x, y = data(32)
    model = frozen(mlp())
    monitor = VarianceMonitor(1)
    model.evaluate(x, y, verbose=0, callbacks=[monitor])
    model.predict(x, verbose=0, callbacks=[monitor])
    assert monitor.history == {}
    assert monitor.stats == monitor.records == []


def test_training_step_of_its_own():
    class Own(keras.Sequential):
        def train_step(self, *args):
            return super().train_step(*args)

    model = frozen(Own([keras.Input((6,)), layers.Dense(2, name="out")]))
    monitor = VarianceMonitor(1)
    fit(model, *data(32), [monitor])
    assert set(monitor.history) == {"out"}


@pytest.mark.torch
def test_nothing_measured_is_said_once():
    class Blind(keras.Model):
        def __init__(self):
            super().__init__()
            self.w = self.add_weight(shape=(6, 2))

        def call(self, x):
            return keras.ops.matmul(x, self.w)

    monitor = VarianceMonitor(1)
    x, y = data(32)
    with pytest.warns(UserWarning, match="measured nothing") as caught:
        history = fit(frozen(Blind()), x, y, [monitor], epochs=3)
    assert sum("measured nothing" in str(w.message) for w in caught) == 1
    assert "variance_min" not in history.history
    assert monitor.history == {}


@pytest.mark.parametrize("setting", ["default", "eager"])
def test_layers_in_an_inner_trace_are_named_and_left_out(setting):
    class Mapped(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = layers.Dense(6, name="inner")

        def build(self, input_shape):
            self.inner.build(input_shape)

        def call(self, x):
            return keras.ops.vectorized_map(lambda row: self.inner(row[None])[0], x)

    if BACKEND == "torch" or (BACKEND == "tensorflow" and setting == "eager"):
        pytest.skip("no trace of its own, or none that gradients pass")
    model = keras.Sequential([keras.Input((6,)), Mapped(name="mapped")])
    model.add(layers.Dense(2, name="out"))
    frozen(model, **SETTINGS[setting])
    monitor = VarianceMonitor(1)
    with pytest.warns(UserWarning, match="mapped/inner"):
        fit(model, *data(32), [monitor])
    assert set(monitor.history) == {"mapped", "out"}


def test_rematerialised_layers_are_measured_from_outside():
    if BACKEND == "tensorflow":
        pytest.skip("Keras's own rematerialisation fails in a compiled step")
    with keras.RematScope(mode="full"):
        dense = layers.Dense(6, name="again")
    x, y = data(32)
    inputs = keras.Input((6,))
    model = frozen(keras.Model(inputs, layers.Dense(2, name="out")(dense(inputs))))
    monitor = VarianceMonitor(1)
    fit(model, x, y, [monitor])
    expected = outputs_by_numpy(
        model, {"again": dense.output, "out": model.output}, x, range(2)
    )
    assert_matches(monitor, expected)


def test_a_model_that_hides_its_metrics_is_measured():
    class Hiding(keras.Sequential):
        @property
        def metrics(self):
            return [self._loss_tracker]

    model = frozen(Hiding([keras.Input((6,)), layers.Dense(2, name="out")]))
    monitor = VarianceMonitor(1)
    history = fit(model, *data(32), [monitor])
    assert np.isfinite(history.history["loss"]).all()
    assert set(monitor.history) == {"out"}


@pytest.mark.torch
@pytest.mark.parametrize(
    ("every", "error"),
    [
        (0, ValueError),
        (-3, ValueError),
        (2.5, TypeError),
        (True, TypeError),
        ("x", TypeError),
        (None, TypeError),
    ],
)
def test_bad_periods_are_refused(every, error):
    with pytest.raises(error, match=r"positive int.*Received: every=.*Use every=10"):
        VarianceMonitor(every=every)


def test_two_monitors_in_one_fit_are_refused_and_leave_no_trace():
    model = frozen(mlp())
    with pytest.raises(ValueError, match="one VarianceMonitor at a time"):
        fit(model, *data(32), [VarianceMonitor(1), VarianceMonitor(2)])
    assert not any("call" in layer.__dict__ for layer in model.layers)
    monitor = VarianceMonitor(1)
    fit(model, *data(32), [monitor])
    assert monitor.stats


@pytest.mark.torch
def test_print_and_plot_ask_for_a_fit_first():
    monitor = VarianceMonitor()
    assert "fit" in str(monitor)
    assert "<code>model.fit(" in monitor._repr_html_()
    with pytest.raises(ValueError, match="fit"):
        monitor.plot()


@pytest.mark.torch
def test_table_and_plot():
    monitor = VarianceMonitor(1)
    fit(frozen(mlp()), *data(32), [monitor], epochs=2)
    table = str(monitor)
    assert "epoch 0" in table
    assert "epoch 1" in table
    for key, values in monitor.history.items():
        line = next(line for line in table.splitlines() if line.split()[:1] == [key])
        assert line.split() == [key, *(f"{value:.3g}" for value in values)]
    page = Page(monitor._repr_html_())
    assert page.tags.count("tr") == 1 + len(monitor.history)
    assert "epoch 1" in page.text
    assert repr(monitor).startswith("<VarianceMonitor(every=1): 2 windows of 3 layers")
    monitor.plot().savefig(io.BytesIO())


@pytest.mark.torch
def test_a_long_table_leaves_out_the_middle():
    monitor = VarianceMonitor(1)
    monitor.epochs = list(range(100))
    monitor.history = {"a": [float(i) for i in range(100)]}
    header, row = (str(monitor).splitlines()[i] for i in (1, 3))
    assert "epoch 3   …   epoch 96" in header
    assert row.split() == ["a", "0", "1", "2", "3", "…", "96", "97", "98", "99"]


def test_no_warning_in_an_ordinary_fit():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="keras_initlab")
        warnings.filterwarnings("error", message=".*VarianceMonitor.*")
        fit(frozen(busy()), *data(32), [VarianceMonitor()])


@pytest.mark.jax
def test_a_release_of_jax_that_hides_outputs_is_named(monkeypatch):
    import jax

    monkeypatch.setattr(jax, "__version_info__", (0, 6, 2))
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    monitor = VarianceMonitor(1)
    with pytest.warns(UserWarning, match="needs JAX 0.7 or later"):
        model.fit(np.ones((8, 4)), np.ones(8), verbose=0, callbacks=[monitor])
    assert monitor.records == []
