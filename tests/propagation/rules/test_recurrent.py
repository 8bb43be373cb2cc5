"""Recurrent layers and wrappers against simulation."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_initlab.measurement import measure
from keras_initlab.model.kernels import kernels_of
from keras_initlab.propagation import propagate
from keras_initlab.propagation.algebra.along_axis import turned
from keras_initlab.propagation.algebra.gradients import gradients
from keras_initlab.propagation.propagate import run_forward
from keras_initlab.propagation.signal import Gradient
from keras_initlab.propagation.weights import WeightMoments
from tests.helpers import as_numpy
from tests.propagation.sequences import (
    COMMON,
    INDEPENDENT,
    SHIFTED,
    STEADY,
    Law,
    check,
    predicted,
    simulated,
)

# What is predicted is NumPy's on every backend; what it is compared with takes a
# compilation for each shape on JAX.

STEPS, FEATURES, UNITS = 8, 64, 96

# Predictions are those of infinitely wide layers; what is missing at 96 units is of the
# order of steps / units, as chance correlations add up from step to step.
WIDTH = 0.05


def sequence_model(layer, shape=(STEPS, FEATURES)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


def cells(**options):
    both = {"return_sequences": True, "return_state": True}
    return {
        "simple": layers.SimpleRNN(UNITS, **both),
        "lstm": layers.LSTM(UNITS, **both),
        "gru": layers.GRU(UNITS, **both),
        "gru, reset before": layers.GRU(UNITS, reset_after=False, **both),
        "gru, biases": layers.GRU(UNITS, bias_initializer="ones", **both),
        "lstm, great": layers.LSTM(
            UNITS,
            kernel_initializer=keras.initializers.VarianceScaling(2.0),
            recurrent_initializer=keras.initializers.Orthogonal(2.0),
            **both,
        ),
        "gru, great": layers.GRU(
            UNITS, recurrent_initializer=keras.initializers.Orthogonal(3.0), **both
        ),
        "stacked": layers.RNN(
            [layers.LSTMCell(64), layers.GRUCell(80), layers.SimpleRNNCell(UNITS)],
            **both,
        ),
    }


@pytest.mark.parametrize("name", cells())
def test_cells(name):
    # All steps, last state and last carry in one model, compiled once.
    model = sequence_model(cells()[name])
    for law in (INDEPENDENT, SHIFTED, STEADY, COMMON):
        signals = predicted(model, [law.signal((STEPS, FEATURES))])
        rows = simulated(model, [law], signals)
        check(signals, rows, WIDTH, f"{name}, {vars(law)}")


def test_three_layers():
    inputs = keras.Input((STEPS, FEATURES))
    one = layers.LSTM(UNITS, return_sequences=True)(inputs)
    two = layers.GRU(UNITS, return_sequences=True)(one)
    three = layers.LSTM(UNITS)(two)
    model = keras.Model(inputs, [one, two, three])
    signals = predicted(model, [INDEPENDENT.signal((STEPS, FEATURES))])
    check(signals, simulated(model, [INDEPENDENT], signals), WIDTH)


def test_steps_are_uneven():
    model = sequence_model(layers.LSTM(UNITS, return_sequences=True))
    (out,) = predicted(model, [INDEPENDENT.signal((STEPS, FEATURES))])
    x = INDEPENDENT.draw(np.random.default_rng(0), 64, (STEPS, FEATURES))
    measured = (as_numpy(model.predict_on_batch(x)) ** 2).mean(axis=(0, 2))
    assert measured[-1] > 2 * measured[0]
    np.testing.assert_allclose(out.second * out.profile[1], measured, rtol=0.15)


def test_convolutional():
    layer = layers.ConvLSTM1D(
        48, 3, padding="same", return_sequences=True, return_state=True
    )
    model = sequence_model(layer, (4, 20, 32))
    for law in (INDEPENDENT, SHIFTED):
        signals = predicted(model, [law.signal((4, 20, 32))])
        rows = simulated(model, [law], signals, draws=10, batch=8)
        # Borders count on average over all places only.
        check(signals, rows, 2 * WIDTH, str(vars(law)))


def test_initial_state():
    inputs, state, carry = (keras.Input(s) for s in ((STEPS, 64), (UNITS,), (UNITS,)))
    layer = layers.LSTM(UNITS, return_sequences=True)
    model = keras.Model(
        [inputs, state, carry], layer(inputs, initial_state=[state, carry])
    )
    laws = [Law(variance=0.1), Law(), Law(variance=4.0)]
    shapes = [(STEPS, 64), (UNITS,), (UNITS,)]
    given = [law.signal(shape) for law, shape in zip(laws, shapes, strict=True)]
    (out,) = predicted(model, given)
    check([out], simulated(model, laws, [out]), WIDTH)
    (without,) = predicted(
        sequence_model(layers.LSTM(UNITS, return_sequences=True)), given[:1]
    )
    assert out.second > 2 * without.second
    found = gradients([out], Gradient(1.0))
    assert all(found[one.serial].second > 0 for one in given)


@pytest.mark.parametrize("kind", [layers.SimpleRNN, layers.LSTM])
def test_dropout_is_the_same_at_every_step(kind):
    layer = kind(UNITS, dropout=0.4, recurrent_dropout=0.5, return_sequences=True)
    model = sequence_model(layer)
    law = Law(mean=0.5, variance=0.2)
    given = law.signal((STEPS, FEATURES))
    signals = predicted(model, [given], training=True)
    rows = simulated(model, [law], signals, run=lambda x: model(x, training=True))
    check(signals, rows, WIDTH)
    (kept,) = predicted(model, [given], training=False)
    assert signals[0].second > 1.1 * kept.second


def test_backwards_in_time():
    x = INDEPENDENT.signal((STEPS, FEATURES))
    options = {"return_sequences": True}
    layer = layers.GRU(UNITS, **options)
    (ahead,) = predicted(sequence_model(layer), [x])
    (behind,) = predicted(
        sequence_model(layers.GRU(UNITS, go_backwards=True, **options)), [x]
    )
    # Keras leaves the steps of such a layer in the order in which it took them.
    np.testing.assert_allclose(behind.profile[1], ahead.profile[1])
    uneven = x.evolve(profile={1: np.linspace(0.25, 1.75, STEPS)})
    last = [
        predicted(sequence_model(layers.GRU(UNITS, go_backwards=back)), [one])[0].second
        for back, one in ((True, uneven), (False, turned(uneven, 1)))
    ]
    assert last[0] == pytest.approx(last[1], rel=1e-9)
    model = sequence_model(layers.Bidirectional(layer, merge_mode=None))
    signals = predicted(model, [x])
    np.testing.assert_allclose(signals[1].profile[1], ahead.profile[1][::-1])
    draw = INDEPENDENT.draw(np.random.default_rng(0), 64, x.shape[1:])
    made = model.predict_on_batch(draw)
    for signal, values in zip(signals, made, strict=True):
        seconds = (as_numpy(values) ** 2).mean(axis=(0, 2))
        np.testing.assert_allclose(
            signal.second * signal.profile[1], seconds, rtol=0.15
        )


def test_open_and_long_sequences():
    made = {}
    for steps in (None, 40, 200, 1500):
        model = sequence_model(layers.LSTM(UNITS, return_sequences=True), (steps, 64))
        (made[steps],) = predicted(model, [Law(mean=0.5).signal((steps, 64))])
    # The first steps count less and less.
    assert made[40].second < made[200].second < made[1500].second < made[None].second
    assert made[1500].second == pytest.approx(made[None].second, rel=5e-3)
    assert made[1500].profile[1].shape == (1500,)
    model = sequence_model(layers.LSTM(UNITS, return_sequences=True), (40, 64))
    signals = [made[40]]
    check(signals, simulated(model, [Law(mean=0.5)], signals, draws=8), 2 * WIDTH)


def test_weights_count_by_their_own_values():
    generator = np.random.default_rng(0)
    layer = layers.LSTM(48, return_sequences=True)
    model = sequence_model(layer, (24, 32))
    kernel = as_numpy(layer.cell.recurrent_kernel)
    layer.cell.recurrent_kernel.assign(2 * kernel + np.tile(np.eye(48), 4))
    layer.cell.bias.assign(generator.normal(0.3, 1.0, 192).astype("float32"))
    (stats,) = propagate(model, from_weights=True)
    x = INDEPENDENT.draw(generator, 128, (24, 32))
    (seen,) = measure(model, x, gradients=False)
    # What the input kernel does is predicted for any draw of it: 32 inputs are few.
    assert stats.second_moment == pytest.approx(seen.second_moment, rel=0.1)
    assert stats.mean == pytest.approx(seen.mean, abs=0.05)


def test_what_explodes_stays_a_number():
    great = keras.initializers.Orthogonal(30.0)
    layer = layers.SimpleRNN(16, "relu", recurrent_initializer=great)
    (stats,) = propagate(sequence_model(layer, (200, 16)))
    figures = (stats.second_moment, stats.weight_gradient_second_moment)
    assert all(1e30 < figure < np.inf for figure in figures)


def test_turned_neighbours_share_as_much_as_before():
    model = sequence_model(layers.LSTM(8, return_sequences=True), (100, 8))
    (out,) = predicted(model, [Law(mean=0.5).signal((100, 8))])
    twice = turned(turned(out, 1), 1)
    # The last few are of the first steps alone, whose levels differ most.
    np.testing.assert_allclose(twice.near[1][:90], out.near[1][:90])
    np.testing.assert_allclose(twice.pairs, out.pairs)
    gradient = Gradient(1.0, 0.3, {1: np.linspace(0.0, 2.0, 100)})
    back = gradients([twice], gradient)[out.serial]
    assert back.position == pytest.approx(gradient.position)
    np.testing.assert_allclose(back.profile[1], gradient.profile[1], atol=1e-12)


def test_one_step():
    model = sequence_model(layers.LSTM(UNITS, return_sequences=True), (1, FEATURES))
    (out,) = predicted(model, [INDEPENDENT.signal((1, FEATURES))])
    check([out], simulated(model, [INDEPENDENT], [out], draws=8), WIDTH)


def test_bias_of_the_forget_gate():
    def second(**options):
        layer = layers.LSTM(UNITS, **options)
        return predicted(sequence_model(layer), [x])[0].second

    x = INDEPENDENT.signal((STEPS, FEATURES))
    own = second(unit_forget_bias=False, bias_initializer="initlab>bias_forget_gate")
    assert own == pytest.approx(second(), rel=1e-9)
    assert second(unit_forget_bias=False) < 0.9 * own


def test_designers_choose_the_cell_s_kernel():
    asked = []

    def designer(layer, weight, response, known):
        asked.append((layer, weight, response))
        return WeightMoments(0.0, 1 / response)

    model = keras.Sequential([keras.Input((STEPS, 50)), layers.LSTM(UNITS)])
    designed = run_forward(model, variance=3.0, designer=designer).outputs[0]
    ((layer, weight, response),) = asked
    (kernel,) = [one for one in kernels_of(model) if one.weight == "kernel"]
    assert layer is kernel.layer
    assert weight == "kernel"
    assert response == pytest.approx(3.0 * 50)
    unit = keras.initializers.RandomNormal(stddev=(1 / 150) ** 0.5)
    as_drawn = keras.Sequential(
        [keras.Input((STEPS, 50)), layers.LSTM(UNITS, kernel_initializer=unit)]
    )
    (same,) = run_forward(as_drawn, variance=3.0).outputs
    assert designed.second == pytest.approx(same.second)


class Echo(layers.Layer):
    """A cell that adds its input to its state."""

    state_size = output_size = 16

    def call(self, inputs, states):
        made = inputs + 0.5 * states[0]
        return made, [made]


class OwnLSTMCell(layers.LSTMCell):
    def call(self, inputs, states, training=False):
        made, states = super().call(inputs, states, training)
        return 2 * made, states


UNKNOWN = {
    "cell": lambda: layers.RNN(Echo()),
    "subclass": lambda: layers.RNN(OwnLSTMCell(16)),
    "identity": lambda: layers.SimpleRNN(16, "relu", recurrent_initializer="identity"),
    "softmax": lambda: layers.SimpleRNN(16, "softmax"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_cells_are_measured(name):
    model = keras.Sequential([keras.Input((4, 16)), UNKNOWN[name]()])
    (stats,) = propagate(model)
    assert stats.source == "measured"
    assert stats.second_moment > 0


@pytest.mark.parametrize("last_only", [False, True])
def test_gradients(last_only):
    # Three models in one, so that all is compiled once.
    kinds = (layers.SimpleRNN, layers.LSTM, layers.GRU)
    inputs = [keras.Input((STEPS, 128)) for _ in kinds]
    outputs = []
    for start, kind in zip(inputs, kinds, strict=True):
        start = layers.Activation("linear", name=f"before_{kind.__name__}")(start)
        made = kind(256, return_sequences=not last_only, name=kind.__name__)
        outputs.append(made(start))
    model = keras.Model(inputs, outputs)
    found = {one.layer: one for one in propagate(model, mean=0.5)}
    generator = np.random.default_rng(0)
    x = [Law(mean=0.5).draw(generator, 16, (STEPS, 128)) for _ in kinds]
    measured = {one.layer: one for one in measure(model, x)}
    for kind in kinds:
        name = kind.__name__
        # One draw of 256 units and 16 inputs, and what is missing of infinite width.
        assert found[f"before_{name}"].gradient_second_moment == pytest.approx(
            measured[f"before_{name}"].gradient_second_moment, rel=0.1
        )
        assert found[name].weight == measured[name].weight == "kernel"
        assert found[name].weight_gradient_second_moment == pytest.approx(
            measured[name].weight_gradient_second_moment, rel=0.2
        )


def test_bidirectional():
    model = sequence_model(
        layers.Bidirectional(layers.LSTM(64, return_sequences=True, return_state=True))
    )
    signals = predicted(model, [SHIFTED.signal((STEPS, FEATURES))])
    assert [one.shape[-1] for one in signals] == [128, 64, 64, 64, 64]
    check(signals, simulated(model, [SHIFTED], signals), 1.5 * WIDTH)


def test_merge_modes():
    x = SHIFTED.signal((STEPS, FEATURES))
    made = {
        mode: predicted(
            sequence_model(layers.Bidirectional(layers.GRU(48), merge_mode=mode)), [x]
        )
        for mode in ("concat", "sum", "ave", "mul", None)
    }
    one, two = made[None]
    assert one.second == pytest.approx(two.second)
    assert made["concat"][0].pairs[0, 0] == pytest.approx(one.pairs[0, 0])
    assert made["sum"][0].second == pytest.approx(2 * one.second)
    assert made["ave"][0].second == pytest.approx(one.second / 2)
    assert made["mul"][0].second == pytest.approx(one.second * two.second)


def test_time_distributed_dense_is_dense():
    x = SHIFTED.signal((STEPS, FEATURES))
    rnn = layers.GRU(UNITS, return_sequences=True)
    made = {}
    for name, layer in (
        ("plain", layers.Dense(UNITS, activation="relu")),
        ("wrapped", layers.TimeDistributed(layers.Dense(UNITS, activation="relu"))),
    ):
        inputs = keras.Input((STEPS, FEATURES))
        model = keras.Model(inputs, layer(rnn(inputs)))
        (made[name],) = predicted(model, [x])
    assert made["wrapped"].shape == made["plain"].shape
    assert made["wrapped"].mean == pytest.approx(made["plain"].mean, rel=0.02)
    np.testing.assert_allclose(
        made["wrapped"].pairs, made["plain"].pairs, rtol=0.05, atol=1e-9
    )
    np.testing.assert_allclose(
        made["wrapped"].profile[1], made["plain"].profile[1], rtol=0.1
    )
    found = [gradients([one], Gradient(1.0))[x.serial].second for one in made.values()]
    assert found[0] == pytest.approx(found[1], rel=0.05)


def test_time_distributed_model():
    step = keras.Sequential(
        [
            keras.Input((10, 10, 3)),
            layers.Conv2D(48, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
        ]
    )
    model = sequence_model(layers.TimeDistributed(step), (4, 10, 10, 3))
    signals = predicted(model, [SHIFTED.signal((4, 10, 10, 3))])
    rows = simulated(model, [SHIFTED], signals, draws=10, batch=8)
    check(signals, rows, WIDTH)


@pytest.mark.parametrize("iterations", [1, 15])
def test_spectral_normalization(iterations):
    layer = layers.SpectralNormalization(
        layers.Dense(240, kernel_initializer="he_normal"), power_iterations=iterations
    )
    model = sequence_model(layer, (STEPS, 360))
    given = INDEPENDENT.signal((STEPS, 360))
    signals = predicted(model, [given], training=True)
    x = INDEPENDENT.draw(np.random.default_rng(0), 64, (STEPS, 360))
    measured = (as_numpy(model(x, training=True)) ** 2).mean()
    # One draw: the stretch found varies by some 3 %, as (rows · columns)^(-1/4) / 2.
    assert signals[0].second == pytest.approx(measured, rel=0.1)
    # Marchenko-Pastur: m₂ / m₁, and the upper edge, which 15 iterations come near.
    expected = {1: 360 / 600, 15: 360 / (360**0.5 + 240**0.5) ** 2}[iterations]
    assert signals[0].second == pytest.approx(expected, rel=0.07)
    (as_drawn,) = predicted(model, [given], training=False)
    assert as_drawn.second == pytest.approx(2.0)


def test_calls_are_recorded_as_they_are_measured():
    model = keras.Sequential(
        [
            keras.Input((4, 12)),
            layers.Bidirectional(layers.LSTM(8, return_sequences=True), name="both"),
            layers.TimeDistributed(keras.Sequential([layers.Dense(6)]), name="each"),
            layers.SpectralNormalization(layers.Dense(6), name="flat"),
            layers.RNN([layers.LSTMCell(5), layers.GRUCell(4)], name="stack"),
        ]
    )
    x = np.random.default_rng(0).standard_normal((4, 4, 12)).astype("float32")
    found, measured = propagate(model), measure(model, x, gradients=False)
    for key in ("layer", "shape"):
        assert [getattr(one, key) for one in found] == [
            getattr(one, key) for one in measured
        ]
    assert not any(one.gradient_second_moment is None for one in found)
    assert [one.weight for one in found] == ["kernel", "kernel", None, *["kernel"] * 4]
