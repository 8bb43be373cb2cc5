import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from tests.helpers import as_numpy


def head(activation, units, counts):
    layer = layers.Dense(units, activation, bias_initializer=il.ClassPriorBias(counts))
    layer.build((None, 3))
    return as_numpy(keras.activations.get(activation)(layer.bias))


def test_softmax_head_starts_from_the_shares():
    found = head("softmax", 3, np.bincount([0, 0, 0, 1, 1, 2]))
    np.testing.assert_allclose(found, [1 / 2, 1 / 3, 1 / 6], rtol=1e-6)


def test_sigmoid_head_starts_from_the_share_of_positives():
    np.testing.assert_allclose(head("sigmoid", 1, [90, 10]), [0.1], rtol=1e-6)


def test_multi_label_head():
    found = head("sigmoid", 2, [[90, 10], [25, 75]])
    np.testing.assert_allclose(found, [0.1, 0.75], rtol=1e-6)


def test_a_head_of_logits_is_taken_for_softmax():
    layer = layers.Dense(2, bias_initializer=il.ClassPriorBias([3, 1]))
    layer.build((None, 3))
    found = as_numpy(keras.ops.softmax(layer.bias))
    np.testing.assert_allclose(found, [0.75, 0.25], rtol=1e-6)


def test_a_class_never_seen_counts_as_half_a_sample():
    found = head("softmax", 3, [10, 0, 10])
    np.testing.assert_allclose(found, np.array([10, 0.5, 10]) / 20.5, rtol=1e-6)


@pytest.mark.parametrize(
    "counts",
    [
        [-1, 2],
        [0, 0],
        [[0, 0], [1, 2]],
        [],
        [5],
        3,
        "ab",
        None,
        [[1, 2, 3]],
        [1, np.nan],
        [1, np.inf],
        [[1], [2, 3]],
    ],
)
def test_bad_counts_are_refused(counts):
    with pytest.raises(ValueError, match="`counts` must be numbers of labels") as error:
        il.ClassPriorBias(counts)
    assert "Received: counts=" in str(error.value)


@pytest.mark.parametrize(
    ("activation", "units", "counts"),
    [
        ("softmax", 3, [1, 2]),
        ("softmax", 1, [1, 2, 3]),
        ("sigmoid", 2, [1, 2]),
        ("sigmoid", 3, [[1, 2], [1, 2]]),
    ],
)
def test_counts_that_do_not_fit_the_head_are_refused(activation, units, counts):
    layer = layers.Dense(units, activation, bias_initializer=il.ClassPriorBias(counts))
    with pytest.raises(ValueError, match="Received: counts of shape"):
        layer.build((None, 3))


def lstm_bias(**arguments):
    layer = layers.LSTM(2, **arguments)
    layer.build((None, 3, 4))
    return as_numpy(layer.cell.bias).tolist()


def test_forget_gate():
    given = {"bias_initializer": il.ForgetGateBias(2.0)}
    assert lstm_bias(unit_forget_bias=False, **given) == [0, 0, 2, 2, 0, 0, 0, 0]
    # Keras's own way, which is the default, sets ones.
    assert lstm_bias(**given) == [0, 0, 1, 1, 0, 0, 0, 0]
    assert lstm_bias() == [0, 0, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("layer", [layers.GRU(4), layers.SimpleRNN(4), layers.Dense(4)])
def test_only_an_lstm_has_a_forget_gate(layer):
    config = layer.get_config() | {"bias_initializer": il.ForgetGateBias()}
    layer = type(layer).from_config(config)
    with pytest.raises(ValueError, match="needs the bias of an LSTM"):
        layer.build((None, 3, 4))


def test_five_values_are_no_four_gates():
    with pytest.raises(ValueError, match="Received: shape="):
        il.ForgetGateBias()((5,))


def test_constant():
    np.testing.assert_allclose(as_numpy(il.ConstantBias()((3,))), 0.01, rtol=1e-6)


@pytest.mark.parametrize("cls", [il.ConstantBias, il.ForgetGateBias])
@pytest.mark.parametrize(
    ("value", "error"),
    [("1", TypeError), (None, TypeError), (True, TypeError), (np.inf, ValueError)],
)
def test_bad_values_are_refused(cls, value, error):
    with pytest.raises(error, match=r"finite number\. Received: value="):
        cls(value)
