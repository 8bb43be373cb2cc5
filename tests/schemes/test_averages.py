"""Before a global average: outputs leave their pairs by an angle, and q is larger."""

import importlib

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from keras_initlab import activations
from keras_initlab.activations.quadrature import gaussian_expectation
from keras_initlab.schemes.averages import averaged_q, averaged_theta
from keras_initlab.schemes.isometric import default_q
from tests.helpers import ROOT, as_numpy

from .test_isometric import net, plain, rewrite, sides


def maps(activation, *rows, depth=4, width=16, head=None):
    head = layers.GlobalAveragePooling2D() if head is None else head
    return net(
        *(
            layers.Conv2D(width, 3, padding="same", activation=activation, name=f"c{i}")
            for i in range(depth)
        ),
        *rows,
        head,
        layers.Dense(10, name="head"),
        shape=(8, 8, 3),
    )


def angles(rows):
    return [
        row.after.theta for row in rows.values() if isinstance(row.after, il.Mirrored)
    ]


def theta_of(name, depth):
    nonlinearity = activations.resolve(name)
    return averaged_theta(nonlinearity, depth, averaged_q(nonlinearity, depth))


def test_before_an_average_outputs_leave_their_pairs():
    """With a larger q, and every output's second moment what the plan says."""
    model = maps("softplus", width=64)  # what units have in common is 1 / width
    rows = rewrite(model)
    assert angles(rows) == [theta_of("softplus", 4)] * 4 + [0.0]
    q = averaged_q(activations.resolve("softplus"), 4)
    assert q > default_q(activations.resolve("softplus"), 4)
    x = np.random.default_rng(0).standard_normal((32, 8, 8, 3)).astype("float32")
    for layer in model.layers[:4]:
        z = as_numpy(keras.ops.conv(x, layer.kernel, padding="same"))
        assert rows[layer.name].predicted_after == pytest.approx(q, rel=1e-6)
        assert (z**2).mean() == pytest.approx(q, rel=0.15), layer.name
        x = layer(x)


def test_where_positions_are_told_apart_pairs_stay_exact():
    for model in (
        maps("relu", head=layers.Flatten()),
        maps("relu", head=layers.GlobalMaxPooling2D()),
        maps("relu", layers.BatchNormalization()),
        maps("relu", layers.Reshape((4, 16, 16))),
    ):
        assert not any(angles(rewrite(model)))
        q = rewrite(maps("relu", head=layers.Flatten()))["c1"].target
        assert q == default_q(activations.resolve("relu"), 4)


@pytest.mark.parametrize("name", ["relu", "gelu", "softplus", "elu", "tanh", "sigmoid"])
def test_the_angle_and_q_before_an_average_by_depth(name):
    """Angles shrink with depth, and gradients grow alike."""
    depths = (1, 4, 16, 50, 1000)
    nonlinearity = activations.resolve(name)
    thetas = [theta_of(name, depth) for depth in depths]
    assert thetas == sorted(thetas, reverse=True)
    assert thetas[0] == pytest.approx(np.pi / 4)
    for depth in depths[1:]:
        q = averaged_q(nonlinearity, depth)
        assert q >= default_q(nonlinearity, max(depth, 50))
        at = activations.moments(activations.odd_part(nonlinearity), variance=q)
        assert (q * at.derivative_second_moment / at.second_moment) ** depth < 2.75


@pytest.mark.parametrize("depth", [16, 50])
def test_the_more_linear_an_activation_is_the_larger_the_angle(depth):
    """The network bends alike whatever the activation."""

    def bend(name):
        phi = activations.resolve(name)
        q = averaged_q(phi, depth)
        # The least squares line through φ, by its residual.
        mean = activations.moments(phi, variance=q).mean
        slope = gaussian_expectation(lambda x: x * phi.function(x), variance=q) / q
        rest = gaussian_expectation(
            lambda x: (phi.function(x) - mean - slope * x) ** 2, variance=q
        )
        share = rest / activations.moments(phi, variance=q).variance
        return share * np.sin(theta_of(name, depth)) ** 2

    names = ("relu", "softplus", "gelu", "silu", "leaky_relu")
    thetas = [theta_of(name, depth) for name in names]
    assert thetas == sorted(thetas)
    for name in names:
        assert bend(name) == pytest.approx(bend("relu"), rel=1e-6), name


@pytest.mark.parametrize(
    ("depth", "mixing"), [(2, 1 / 2), (8, 2 / 8), (16, 2 / 16), (50, 32 / 50**2)]
)
def test_the_angle_of_relu(depth, mixing):
    assert np.sin(theta_of("relu", depth)) ** 2 == pytest.approx(mixing)


@pytest.mark.parametrize("depth", [8, 16, 50])
@pytest.mark.parametrize("name", ["tanh", "softsign", "sigmoid"])
def test_an_odd_part_that_bends_leaves_the_angle_to_depth_alone(name, depth):
    assert np.sin(theta_of(name, depth)) ** 2 == pytest.approx(2 / depth)


def test_the_angle_of_elu_goes_by_depth_alone_when_its_odd_part_sets_q():
    assert theta_of("elu", 16) == pytest.approx(np.pi / 4)
    assert theta_of("elu", 100) == theta_of("tanh", 100)


def test_the_angle_of_what_nothing_is_known_of_goes_by_depth_alone():
    softmax = activations.resolve("softmax")
    assert averaged_theta(softmax, 50, 1.0) == theta_of("tanh", 50)


def test_an_even_function_before_an_average():
    assert averaged_q(activations.resolve(keras.ops.square), 10) > 0


@pytest.mark.parametrize("depth", [8, 16, 50])
@pytest.mark.parametrize("name", ["softplus", "log_sigmoid"])
def test_a_mean_that_is_most_of_a_signal_makes_q_larger(name, depth):
    """Until it has as much of the second moment as ReLU's mean, or nearly."""
    nonlinearity = activations.resolve(name)

    def share(q):
        at = activations.moments(nonlinearity, variance=q)
        return at.mean**2 / at.second_moment

    q = averaged_q(nonlinearity, depth)
    assert share(q) <= 0.375 < share(q / 1.1)
    assert share(0.25) > 0.5


def test_a_mean_makes_q_no_larger_than_gradients_allow():
    """The sigmoid's is four fifths of what it gives, but its odd part saturates."""
    sigmoid = activations.resolve("sigmoid")
    q = averaged_q(sigmoid, 16)
    at = activations.moments(sigmoid, variance=q)
    assert at.mean**2 / at.second_moment > 0.7
    odd = activations.moments(activations.odd_part(sigmoid), variance=1.1 * q)
    assert 16 * (1.1 * q * odd.derivative_second_moment / odd.second_moment - 1) > 1
    # Where it stays most of the signal, q is not raised without end.
    assert 16 <= averaged_q(activations.resolve("squareplus"), 16) < 18


def test_an_angle_of_ones_own():
    assert angles(rewrite(maps("relu"), theta=0.5)) == [0.5] * 4 + [0.0]
    assert angles(rewrite(maps("relu"), theta=0)) == [0.0] * 5
    assert angles(rewrite(plain("relu", 2), theta=0.5)) == [0.5, 0.5, 0.0]
    assert repr(il.Isometric(theta=0.5)) == "Isometric(theta=0.5)"
    with pytest.raises(ValueError, match="between 0 and π / 2"):
        il.Isometric(theta=2.0)
    with pytest.raises(ValueError, match="`theta` belongs to scheme='isometric'"):
        il.rewrite_initializers(plain("relu", 2), scheme="variance", theta=0.5)


def test_pairs_by_an_angle_are_read_behind_every_pooling():
    model = net(
        layers.Conv2D(16, 3, padding="same", activation="relu", name="one"),
        layers.MaxPooling2D(2),
        layers.Conv2D(16, 3, padding="same", activation="gelu", name="two"),
        layers.AveragePooling2D(2),
        layers.Conv2D(16, 3, padding="same", name="three"),
        layers.MaxPooling2D(2),
        layers.ReLU(),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10, name="head"),
        shape=(16, 16, 3),
    )
    rows = rewrite(model)
    assert [sides(row) for row in rows.values()] == [
        (False, True),
        (True, True),
        (True, True),
        (True, False),
    ]
    names = ("relu", "gelu", "relu")
    assert angles(rows) == [*(theta_of(name, 3) for name in names), 0.0]


def test_an_average_by_an_operation():
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(16, 3, padding="same", activation="relu", name="one")(x)
    y = layers.Conv2D(16, 3, padding="same", activation="relu", name="two")(y)
    model = keras.Model(x, layers.Dense(4, name="head")(keras.ops.mean(y, axis=(1, 2))))
    assert rewrite(model)["one"].after.theta == theta_of("relu", 2)


@pytest.mark.once
def test_the_page_shows_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples" / "benchmarks")
    tables = importlib.import_module("depth_averages_tables")
    results = tables.report.Results(ROOT / "docs", tables.FILE)
    page = (ROOT / "docs" / "depth_averages.md").read_text()
    assert results.of(tables.PART)
    assert tables.table(results) in page
    assert tables.reach(results) in page
