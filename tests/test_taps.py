import keras
import numpy as np
import pytest
from keras import layers

from keras_initlab.taps import accumulate, backends, figures
from keras_initlab.taps.accumulate import Accumulator, combined
from keras_initlab.taps.outputs import of_outputs
from keras_initlab.taps.patches import Patches
from keras_initlab.taps.recorder import Output
from keras_initlab.taps.request import FORWARD, Request

PASSES = backends.load("test").passes


def vector(batches, request=None):
    """Return layout and vector of one step; `batches` are outputs by their keys."""
    outputs = [
        Output(key, keras.ops.convert_to_tensor(x), layers.Layer(), key)
        for key, x in batches.items()
    ]
    parts = of_outputs(outputs, request or Request(), PASSES)
    layout = figures.Layout.of(outputs, *parts)
    packed = figures.packed(layout, 0.0, *parts)
    return layout, keras.ops.convert_to_numpy(packed).astype("float64")


def merged(batches):
    pairs = [vector({"x": batch}) for batch in batches]
    rows = combined(pairs[0][0], np.stack([row for _, row in pairs]))
    return as_read((pairs[0][0], rows))["x"]


@pytest.mark.parametrize(
    ("mean", "deviation", "dtype", "tolerance"),
    [
        (0.0, 1.0, "float32", 1e-5),
        (1000.0, 0.1, "float32", 1e-3),
        (0.0, 1e-12, "float32", 1e-5),
        (0.0, 1e12, "float32", 1e-5),
        # Against the values as float16 and bfloat16 hold them.
        (0.5, 200.0, "float16", 1e-5),
        (3.0, 1.0, "bfloat16", 1e-5),
    ],
)
def test_moments_over_unequal_batches(mean, deviation, dtype, tolerance):
    rng = np.random.default_rng(0)
    draw = rng.normal(mean, deviation, (500, 8))
    x = keras.ops.cast(keras.ops.convert_to_tensor(draw, "float32"), dtype)
    held = keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")).astype("float64")
    found = merged([x[:64], x[64:400], x[400:401], x[401:]])
    scale = max(abs(mean), deviation)
    np.testing.assert_allclose(found["mean"], held.mean(), atol=1e-5 * scale)
    np.testing.assert_allclose(found["variance"], held.var(), rtol=tolerance)


def as_read(*pairs):
    return accumulate.figures_of(dict(pairs))


def test_steps_that_call_other_layers_share_what_they_share():
    rng = np.random.default_rng(0)
    x, y, z = rng.normal(size=(3, 6, 4)).astype("float32")
    found = as_read(vector({"a": x, "b": y}), vector({"b": z, "c": x}))
    both = np.concatenate([y, z])
    np.testing.assert_allclose(found["b"]["variance"], both.var(), rtol=1e-5)
    for key in "ac":
        np.testing.assert_allclose(found[key]["variance"], x.var(), rtol=1e-5)


def test_an_empty_batch_changes_nothing():
    x = np.arange(6.0, dtype="float32").reshape(3, 2)
    assert vector({"x": x[:0]})[0].figures == ()
    assert as_read(vector({"x": x}), vector({"x": x[:0]})) == as_read(vector({"x": x}))


@pytest.mark.parametrize("chosen", ["dead_fraction", "samples"])
def test_ends_of_the_vector(chosen):
    settings = {"samples": True} if chosen == "samples" else {"statistics": (chosen,)}
    request = Request(**settings)
    x = np.array([[0, 1, 0], [0, 0, 0]], "float32")
    layout, first = vector({"a": x, "b": x}, request=request)
    _, second = vector({"a": x[:, ::-1], "b": -x}, request=request)
    read = as_read((layout, combined(layout, np.stack([first, second]))))
    if chosen == "samples":
        assert set(read["a"]["sample"]) == {0, 1}
        assert set(read["b"]["sample"]) == {0, -1}
    else:
        assert read["a"]["dead_fraction"] == pytest.approx(2 / 3)
        assert read["b"]["dead_fraction"] == pytest.approx(2 / 3)


def test_windows_do_not_pile_up_on_the_device():
    rng = np.random.default_rng(0)
    batches = rng.normal(size=(500, 4, 2)).astype("float32")
    layout, _ = vector({"x": batches[0]})
    accumulator = Accumulator([layout])
    for index, batch in enumerate(batches):
        accumulator.add(index // 100, vector({"x": batch})[1])
        assert len(accumulator._waiting) < 2 * accumulate.LAG
    windows = accumulator.windows()
    assert [*windows] == [0, 1, 2, 3, 4]
    for index, window in windows.items():
        part = batches[100 * index : 100 * index + 100]
        assert window.calls == {"x": ("x", (None, 2))}
        found = window.figures["x"]
        np.testing.assert_allclose(found["variance"], part.var(), rtol=1e-5)
        np.testing.assert_allclose(found["mean"], part.mean(), rtol=1e-4, atol=1e-6)


def test_what_has_no_share_does_not_count_even_if_it_is_nan():
    layout = figures.Layout((), (("x", "mean"), ("x", "update_ratio")), (), "float64")
    rows = np.array([[0, 1.0, np.nan, 4, 0], [0, 2.0, 7.0, 4, 1]])
    np.testing.assert_array_equal(combined(layout, rows), [0, 1.5, 7.0, 8, 1])
    rows[0, -1] = 1
    assert np.isnan(combined(layout, rows)[2])


def test_alike_outputs_are_measured_as_if_alone():
    rng = np.random.default_rng(0)
    outputs = {
        name: np.maximum(rng.normal(index, 1 + index, shape), 0).astype("float32")
        for index, (name, shape) in enumerate(
            [("a", (6, 4)), ("b", (6, 2, 2)), ("c", (6, 4)), ("d", (6, 2, 2))]
        )
    }
    # As a permutation leaves it: no tensor of its own in memory.
    outputs["e"] = keras.ops.swapaxes(keras.ops.convert_to_tensor(outputs["d"]), 1, 2)
    request = Request(statistics=FORWARD, samples=True)
    together = as_read(vector(outputs, request=request))
    assert together["d"]["variance"] == pytest.approx(outputs["d"].var(), rel=1e-5)
    for name, x in outputs.items():
        alone = as_read(vector({name: x}, request=request))[name]
        assert alone.keys() == together[name].keys() > {"input_cosine", "sample"}
        for statistic, value in alone.items():
            np.testing.assert_allclose(together[name][statistic], value, rtol=1e-5)


def test_groups_are_bounded():
    many = [np.zeros((256, 256), "float32")] * 40 + [np.zeros((257, 256), "float32")]
    found = figures.stacks(many, keras.ops.convert_to_tensor)
    sizes = [tuple(one.x.shape) for one in found]
    assert sizes == [(16, 256, 256)] * 2 + [(8, 256, 256), (1, 257, 256)]


@pytest.mark.parametrize("shape", [(512, 512), (784, 512), (300, 200), (3, 3, 64, 96)])
def test_samples_of_a_weight_are_even_over_its_columns(shape):
    columns = np.broadcast_to(np.arange(shape[-1], dtype="float32"), shape)
    found = figures.sampled(keras.ops.convert_to_tensor(np.array(columns)))
    counts = np.bincount(
        keras.ops.convert_to_numpy(found).ravel().astype(int), minlength=shape[-1]
    )
    assert counts.sum() > figures.SAMPLED_ENTRIES / 2
    assert counts.min() > 0.7 * counts.mean()


def test_patches_restore_what_was_there_and_what_was_not():
    layer = layers.Dense(1)
    layer.__dict__["call"] = mine = object()
    before = set(layer.__dict__)
    patches = Patches()
    patches.add(layer, "call", lambda was: ("call", was))
    patches.add(layer, "get_config", lambda was: ("get_config", was))
    for _ in range(2):
        with patches.applied():
            with patches.applied():
                assert layer.__dict__["call"] == ("call", mine)
            assert layer.__dict__["get_config"][0] == "get_config"
        assert layer.__dict__["call"] is mine
        assert set(layer.__dict__) == before
