"""Windows against Keras's own convolutions, and against loops."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers as L

from keras_initlab.propagation.algebra.windows import Window, distinct

SLIDING = [
    (length, size, stride, dilation, padding)
    for length, size, stride, dilation in [
        (7, 3, 1, 1),
        (8, 3, 2, 1),
        (7, 4, 3, 1),
        (5, 5, 1, 1),
        (2, 5, 1, 1),
        (9, 3, 1, 2),
        (3, 1, 2, 1),
    ]
    for padding in ("same", "valid", "causal")
    if padding != "valid" or length >= size
]
TRANSPOSED = [
    (5, size, stride, padding, extra)
    for size, stride in [(3, 1), (3, 2), (4, 2), (2, 3), (5, 3)]
    for padding in ("same", "valid")
    for extra in (None, *range(min(stride, 2) if stride > 1 and size % 2 else 0))
]


def taps_seen(layer, length):
    """Return how many taps each output sees of an input of ones."""
    layer.build((None, length, 1))
    layer.kernel.assign(np.ones(layer.kernel.shape, "float32"))
    made = layer(np.ones((1, length, 1), "float32"))
    return keras.ops.convert_to_numpy(made)[0, :, 0]


@pytest.mark.parametrize(("length", "size", "stride", "dilation", "padding"), SLIDING)
def test_outputs_see_what_keras_lets_them_see(length, size, stride, dilation, padding):
    window = Window(length, size, stride, dilation, padding)
    layer = L.Conv1D(
        1, size, strides=stride, dilation_rate=dilation, padding=padding, use_bias=False
    )
    expected = taps_seen(layer, length)
    assert window.output_length == len(expected)
    mean, _, profile = window.forward(None)
    seen = np.full(len(expected), mean) if profile is None else mean * profile
    assert seen * size == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("length", "size", "stride", "padding", "extra"), TRANSPOSED)
def test_so_do_those_of_transposed_windows(length, size, stride, padding, extra):
    if (keras.backend.backend(), padding, extra) == ("torch", "same", 0):
        pytest.skip("on PyTorch Keras cuts another end off than on the other backends")
    window = Window(length, size, stride, padding=padding, transposed=True, extra=extra)
    layer = L.Conv1DTranspose(
        1, size, strides=stride, padding=padding, output_padding=extra, use_bias=False
    )
    expected = taps_seen(layer, length)
    assert window.output_length == len(expected)
    mean, _, profile = window.forward(None)
    seen = np.full(len(expected), mean) if profile is None else mean * profile
    assert seen * size == pytest.approx(expected, abs=1e-6)


def edges(window):
    """Yield each input, tap and output that are connected, by a loop."""
    wide = window.output_length if window.transposed else window.length
    narrow = window.length if window.transposed else window.output_length
    front = window.pads[0]
    for place in range(narrow):
        for tap in range(window.size):
            other = place * window.stride - front + tap * window.dilation
            if 0 <= other < wide:
                pair = (place, other) if window.transposed else (other, place)
                yield pair[0], tap, pair[1]


@st.composite
def windows(draw):
    size, stride = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    transposed = draw(st.booleans())
    padding = draw(st.sampled_from(["same", "valid"]))
    dilation = 1 if transposed else draw(st.integers(1, 2))
    reach = (size - 1) * dilation + 1
    low = 1 if transposed or padding == "same" else reach
    length = draw(st.integers(low, low + 7))
    return Window(length, size, stride, dilation, padding, transposed=transposed)


def profiles(length, seed):
    values = np.random.default_rng(seed).uniform(0.1, 2.0, length)
    return values / values.mean()


@given(windows(), st.integers(0, 100))
def test_both_ways_against_loops(window, seed):
    inputs, outputs = window.length, window.output_length
    signal, gradient = profiles(inputs, seed), profiles(outputs, seed + 1)
    seen, got = np.zeros(outputs), np.zeros(inputs)
    roots = np.zeros((window.size, 2))
    every, met = np.zeros(outputs), np.zeros((window.size, 2))
    for i, tap, o in edges(window):
        seen[o] += signal[i] / window.size
        got[i] += gradient[o] / window.size
        roots[tap] += np.sqrt(signal[i]) / outputs, np.sqrt(gradient[o]) / inputs
        every[o] += np.sqrt(signal[i])
        both = signal[i] * gradient[o]
        met[tap] += both / outputs, np.sqrt(both) / outputs
    for (mean, cross, profile), expected, root in (
        (window.forward(signal), seen, roots[:, 0]),
        (window.backward(gradient), got, roots[:, 1]),
    ):
        assert mean == pytest.approx(expected.mean())
        assert cross == pytest.approx((root**2).mean())
        own = np.full(len(expected), mean) if profile is None else mean * profile
        assert own == pytest.approx(expected, abs=1e-9)
    assert window.sums(signal) == pytest.approx(((every**2).mean(), every.mean() ** 2))
    assert window.meetings(signal, gradient) == pytest.approx(
        (met[:, 0].mean(), (met[:, 1] ** 2).mean())
    )


def test_an_unknown_length_is_that_of_a_long_axis():
    for stride in (1, 2):
        for transposed in (False, True):
            rest = {"padding": "same", "transposed": transposed}
            known = Window(3000, 3, stride, **rest)
            unknown = Window(None, 3, stride, **rest)
            assert unknown.forward(None)[:2] == pytest.approx(
                known.forward(None)[:2], rel=2e-3
            )
            assert unknown.backward(None)[:2] == pytest.approx(
                known.backward(None)[:2], rel=2e-3
            )
            assert unknown.sums(None) == pytest.approx(known.sums(None), rel=0.3)


def test_a_centred_kernel_misses_nothing():
    window = Window(4, 3, padding="same", centred=True)
    assert window.forward(None) == (1.0, 1.0, None)


def test_neighbours_miss_the_same_taps():
    window = Window(4, 3, padding="same")
    # Two next to each other both see the middle tap, and both others 2 times of 3.
    assert window.neighbours(None)[0] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_distinct_leaves_a_position_with_itself_out():
    values = np.random.default_rng(0).normal(size=5)
    every = np.outer(values, values)
    alone = (every.sum() - np.trace(every)) / 20
    found = distinct(every.mean(), np.trace(every) / 5, 5)
    assert found == pytest.approx(max(alone, 0.0))
