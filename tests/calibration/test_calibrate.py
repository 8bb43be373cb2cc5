"""After one call every kernel's output has the target, on that batch."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from tests.calibration.models import (
    MODELS,
    LateFirst,
    Unseen,
    convolutions,
    residual,
    second_moments,
    uniform,
)
from tests.helpers import as_numpy


def plain(depth=5, **dense):
    return keras.Sequential(
        [
            keras.Input((16,)),
            *[layers.Dense(32, activation="relu", **dense) for _ in range(depth)],
            layers.Dense(10, name="head"),
        ]
    )


def values(model):
    return {variable.path: as_numpy(variable) for variable in model.variables}


def assert_same(before, after):
    assert before.keys() == after.keys()
    for path, value in before.items():
        np.testing.assert_array_equal(value, after[path], err_msg=path)


# JAX compiles each operation of an eager pass: there the kinds that differ by backend.
BY_BACKEND = ("recurrent", "own")
KINDS = [
    kind
    if kind in BY_BACKEND
    else pytest.param(kind, marks=(pytest.mark.tensorflow, pytest.mark.torch))
    for kind in MODELS
]


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_have_the_target_and_nothing_else_changes(kind):
    build, x = MODELS[kind]
    model = build()
    model(x)
    before = values(model)
    report = il.calibrate(model, x)
    measured, compared = second_moments(model, x), 0
    for row in report:
        if row.changed:
            assert row.after == pytest.approx(row.target, rel=0.01)
        if row.changed and row.weight == "kernel" and (row.layer, row.gate) in measured:
            found = measured[row.layer, row.gate]
            assert found == pytest.approx(row.target, rel=0.01), row
            compared += 1
    assert compared >= (1 if kind == "own" else 2)
    after = values(model)
    changed = {path for path in before if (before[path] != after[path]).any()}
    assert len(changed) == len({(r.layer, r.weight) for r in report if r.changed})
    assert all(path.endswith(("kernel", "/w", "/gate")) for path in changed)


@pytest.mark.torch
@pytest.mark.parametrize("kind", MODELS)
def test_a_second_call_changes_nothing(kind):
    build, x = MODELS[kind]
    model = build()
    il.calibrate(model, x)
    for row in il.calibrate(model, x):
        assert row.factor == pytest.approx(1, abs=5e-3), row


@pytest.mark.torch
def test_one_pass_whatever_the_depth():
    calls = []

    class Counted(layers.Layer):
        def call(self, inputs):
            calls.append(1)
            return inputs

    model = keras.Sequential([keras.Input((16,)), Counted(), *plain(50).layers])
    calls.clear()
    report = il.calibrate(model, uniform(64, 16))
    assert (len(calls), report.passes) == (1, 1)


@pytest.mark.torch
def test_on_a_fresh_batch_within_sampling_error():
    model = plain(8)
    il.calibrate(model, uniform(512, 16))
    fresh = uniform(512, 16, seed=1)
    for layer in model.layers:
        kernel, bias = (as_numpy(weight) for weight in layer.weights)
        x = fresh if layer is model.layers[0] else x  # noqa: F821
        made = x @ kernel + bias
        each = np.square(made).mean(axis=1)
        # The batch that was calibrated on is as large, and has an error alike.
        assert abs(each.mean() - 1) < 5 * np.sqrt(2 / 512) * each.std()
        x = np.maximum(made, 0)


@pytest.mark.torch
def test_rows_stand_in_the_order_of_calls_with_what_was_not_called():
    model = LateFirst()
    report = il.calibrate(model, uniform(64, 20))
    paths = [row.layer.split("/")[-1] for row in report]
    names = [model.first.layers[0].name, model.hidden.name, model.head.name]
    assert paths == [*names, model.unused.name]
    assert report[-1].note == "never called on this batch"
    assert not report[-1].changed


@pytest.mark.torch
def test_branches_and_heads_by_their_roles():
    report = il.calibrate(residual(), uniform(256, 32))
    by_layer = {row.layer: row for row in report}
    for number in range(4):
        assert by_layer[f"end_{number}"].target == 0.25
        assert "residual branch" in by_layer[f"end_{number}"].note
    assert by_layer["head"].target == 1


@pytest.mark.torch
def test_variance_is_that_over_units_and_inputs():
    model, x = plain(2), uniform(256, 16)
    il.calibrate(model, x, target=2.0, statistic="variance")
    kernel, bias = (as_numpy(weight) for weight in model.layers[0].weights)
    assert (x @ kernel + bias).var() == pytest.approx(2, rel=1e-3)


@pytest.mark.torch
@pytest.mark.parametrize("level", [0.5, -0.5, 3.0])
def test_biases_that_are_not_zero(level):
    model, x = plain(3, bias_initializer=keras.initializers.Constant(level)), None
    x = uniform(256, 16)
    report = il.calibrate(model, x)
    measured = second_moments(model, x)
    for row in report[:3]:
        if level == 3.0:
            assert "its bias alone has 9" in row.note
        else:
            assert measured[row.layer, None] == pytest.approx(1, rel=1e-3)


def test_biases_centre_each_unit():
    model, x = convolutions(), uniform(64, 12, 12, 3)
    report = il.calibrate(model, x, biases=True)
    conv = model.get_layer("conv")
    made = as_numpy(keras.ops.conv(x, conv.kernel.value)) + as_numpy(conv.bias)
    np.testing.assert_allclose(made.mean((0, 1, 2)), 0, atol=1e-5)
    assert np.square(made).mean() == pytest.approx(1, rel=1e-3)
    measured = second_moments(model, x)
    for row in report:
        if (row.layer, None) in measured:
            assert measured[row.layer, None] == pytest.approx(row.target, rel=0.01)


@pytest.mark.torch
def test_orthonormal_kernels_first():
    model, x = plain(3), uniform(256, 16)
    il.calibrate(model, x, orthogonal=True, seed=0)
    kernel = as_numpy(model.layers[1].kernel)
    product = kernel.T @ kernel
    np.testing.assert_allclose(product, product[0, 0] * np.eye(32), atol=1e-5)
    twin = plain(3)
    il.calibrate(twin, x, orthogonal=True, seed=0)
    np.testing.assert_array_equal(kernel, as_numpy(twin.layers[1].kernel))


def test_own_layer_that_cannot_be_opened_goes_by_its_output():
    model = keras.Sequential([Unseen(), layers.Dense(4)])
    x = uniform(64, 20)
    report = il.calibrate(model, x, target=0.5)
    assert "by its layer's output" in report[0].note
    assert np.square(as_numpy(model.layers[0](x))).mean() == pytest.approx(
        0.5, rel=0.01
    )


def test_a_compiled_model_predicts_with_what_was_set():
    model, x = plain(), uniform(64, 16)
    model.compile("sgd", "mse")
    model.predict(x, verbose=0)
    il.calibrate(model, x)
    after = model.predict(x, verbose=0)
    assert np.square(after).mean() == pytest.approx(1, rel=0.01)
    model.fit(x, after, verbose=0)


@pytest.mark.torch
@pytest.mark.tensorflow
@pytest.mark.parametrize("scale", [1e-12, 1e6, 1e22])
def test_data_of_any_size(scale):
    model = plain(2)
    report = il.calibrate(model, (uniform(64, 16) * scale).astype("float32"))
    assert [row.after for row in report] == pytest.approx([1, 1, 1], rel=0.01)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "mixed_float16"])
def test_low_precision(policy):
    keras.config.set_dtype_policy(policy)
    model, x = plain(3), uniform(64, 16)
    il.calibrate(model, x)
    kernel = as_numpy(model.layers[0].kernel)
    assert np.square(x @ kernel).mean() == pytest.approx(1, rel=0.02)


@pytest.mark.torch
def test_report_is_printed_and_listed():
    report = il.calibrate(plain(1), uniform(64, 16))
    assert isinstance(report, il.CalibrationReport)
    text = str(report)
    assert "2 of 2 kernels calibrated in 1 forward pass" in text
    assert "E x² before" in text
    record = report.records[0]
    assert {"layer", "weight", "before", "after", "factor", "note"} <= record.keys()
    factor = (record["target"] / record["before"]) ** 0.5
    assert record["factor"] == pytest.approx(factor)
