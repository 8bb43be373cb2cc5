"""What a monitor knows of the data that `fit` is given."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_initlab as il
from keras_initlab.monitor.data import NUMBERS, ROWS, data_of_fit

LOSS = "sparse_categorical_crossentropy"


def net(loss="mse", units=1, activation=None, body=(), shape=(6,)):
    rows = [*body, layers.Dense(16, "relu"), layers.Dense(units, activation)]
    model = keras.Sequential([keras.Input(shape), *rows])
    model.compile("adam", loss)
    return model


def inputs(rows=512):
    return np.random.default_rng(0).standard_normal((rows, 6)).astype("float32")


class Look(keras.callbacks.Callback):
    """Keep what is known when the training begins."""

    def on_train_begin(self, logs=None):
        """Look."""
        self.data = data_of_fit(self.model)


def known(model, x, y=None, **options):
    look = Look()
    model.fit(x, y, epochs=1, verbose=0, callbacks=[look], **options)
    return look.data


def watched(model, x, y, fails=False):
    monitor = il.VarianceMonitor(1, gradients=True, on_finding="ignore")
    if fails:
        with pytest.raises(Exception, match="between 0 and 1"):
            model.fit(x, y, verbose=0, callbacks=[monitor])
    else:
        model.fit(x, y, epochs=1, verbose=0, callbacks=[monitor])
    told = [one for one in monitor.findings if one.severity != "info"]
    return [(one.code, one.layer) for one in told]


def test_some_rows_are_drawn_and_more_of_small_targets():
    x, y = known(net(), inputs(1000), np.zeros((1000, 1)))
    assert (x.shape, y.shape) == ((ROWS, 6), (1000, 1))
    assert len(np.unique(x[:, 0])) == ROWS
    assert NUMBERS > 1000


def test_a_missing_value_is_among_them():
    values = inputs(4000)
    values[3999, 5] = np.nan
    x, _ = known(net(), values, np.zeros((4000, 1)))
    assert np.isnan(x).sum() == 1


def test_of_batches_that_are_drawn_nothing_is_known():
    x, y = inputs(64), np.zeros((64, 1), "float32")
    batches = ((x[i : i + 32], y[i : i + 32]) for i in (0, 32))
    assert known(net(), batches) == (None, None)


class Own(keras.Sequential):
    """A model with a loss of its own."""

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Return a loss without targets."""
        return ops.mean(y_pred**2)


def test_targets_may_mean_anything_where_the_loss_is_the_models_own():
    model = Own([keras.Input((6,)), layers.Dense(1)])
    model.compile("adam", "mse")
    x, y = known(model, inputs(64), np.zeros((64, 1)))
    assert x is not None
    assert y is None


@pytest.mark.torch
@pytest.mark.parametrize(
    ("data", "told"),
    [
        (lambda x: (1000 * x, x[:, :1]), ("input-scale", "x")),
        (lambda x: (x, 1e8 * x[:, :1]), ("target-scale", "head")),
        (lambda x: (np.where(x > 3, np.nan, x), x[:, :1]), ("nonfinite", "x")),
    ],
)
def test_a_fault_of_the_data_is_told(data, told):
    model = net()
    model.layers[-1].name = "head"
    assert watched(model, *data(inputs()))[0] == told


@pytest.mark.torch
def test_classes_from_one_are_told():
    model = net(LOSS, 4, "softmax")
    y = np.arange(512) % 3 + 1
    assert watched(model, inputs(), y) == []
    model = net(LOSS, 3, "softmax")
    y = np.arange(512) % 3
    assert watched(model, inputs(), y) == []


class Scale(layers.Layer):
    """A layer of one's own that scales."""

    def call(self, x):
        """Return x / 1000."""
        return x / 1000


@pytest.mark.torch
@pytest.mark.parametrize(
    "scale", [Scale, lambda: layers.Rescaling(1e-3), layers.BatchNormalization]
)
def test_data_that_the_model_scales_are_no_fault(scale):
    x = inputs()
    assert watched(net(body=[scale()]), 1000 * x, x[:, :1]) == []


@pytest.mark.torch
def test_a_fit_that_breaks_at_once_is_looked_into():
    root = layers.Lambda(lambda x: ops.sqrt(x - 5.0), name="root")
    model = net("binary_crossentropy", 1, "sigmoid", body=[root])
    y = (inputs()[:, :1] > 0).astype("float32")
    assert watched(model, inputs(), y, fails=True) == [("nonfinite", "root")]
