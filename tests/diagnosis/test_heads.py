"""Outputs against losses and targets, of compiled models."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from tests.diagnosis.cases import alarms

CLASSES = np.arange(64) % 3
ONE_HOT = np.eye(3)[CLASSES]
BINARY = (np.arange(64) % 2).astype("float32")
VALUES = np.linspace(-2, 2, 64)


def network(*head, loss, outputs=3, activation=None, **options):
    """Return a compiled model of one hidden layer and an output."""
    keras.utils.set_random_seed(0)
    rows = [layers.Dense(8, "tanh"), layers.Dense(outputs, activation, name="head")]
    rows[-1] = layers.Dense(outputs, activation, name="head", **options)
    model = keras.Sequential([keras.Input((6,)), *rows, *head])
    model.compile("adam", loss)
    return model


def inputs():
    return np.random.default_rng(0).normal(size=(64, 6)).astype("float32")


SPARSE = "sparse_categorical_crossentropy"
LOGITS = {"from_logits": True}

# A row: the network, its targets, the severity, and what the evidence holds.
MISMATCHED = {
    "a softmax over one unit": (
        {"loss": "binary_crossentropy", "outputs": 1, "activation": "softmax"},
        BINARY,
        ("error", "softmax over one unit"),
    ),
    "a softmax and a loss of logits": (
        {
            "loss": keras.losses.SparseCategoricalCrossentropy(**LOGITS),
            "activation": "softmax",
        },
        CLASSES,
        ("warning", "from_logits=True"),
    ),
    "no softmax": (
        {"loss": SPARSE},
        CLASSES,
        ("error", "expects probabilities, and the output's activation is linear"),
    ),
    "no sigmoid": (
        {"loss": "binary_crossentropy", "outputs": 1},
        BINARY,
        ("error", "activation is linear"),
    ),
    "a sigmoid for one class of several": (
        {"loss": "categorical_crossentropy", "activation": "sigmoid"},
        ONE_HOT,
        ("warning", "add up to 1"),
    ),
    "one-hot targets for a sparse loss": (
        {"loss": SPARSE, "activation": "softmax"},
        ONE_HOT,
        ("error", "one-hot"),
    ),
    "classes from 1": (
        {"loss": SPARSE, "activation": "softmax"},
        CLASSES + 1,
        ("error", "from 1 to 3, and 3 units stand for classes 0 to 2"),
    ),
    "class numbers for a binary loss": (
        {"loss": "binary_crossentropy", "outputs": 1, "activation": "sigmoid"},
        CLASSES.astype("float32"),
        ("error", "from 0 to 1, and they go from 0 to 2"),
    ),
    "targets of -1 and 1 for a sigmoid": (
        {"loss": "binary_crossentropy", "outputs": 1, "activation": "sigmoid"},
        2 * BINARY - 1,
        ("error", "they go from -1 to 1"),
    ),
    "a ReLU before negative targets": (
        {"loss": "mse", "outputs": 1, "activation": "relu"},
        VALUES,
        ("error", "relu gives nothing below 0"),
    ),
    "a sigmoid before larger targets": (
        {"loss": "mean_absolute_error", "outputs": 1, "activation": "sigmoid"},
        VALUES,
        ("error", "sigmoid gives 0 to 1"),
    ),
}


@pytest.mark.parametrize("name", MISMATCHED)
def test_a_head_that_does_not_go_with_its_loss_comes_first(name):
    options, y, (severity, evidence) = MISMATCHED[name]
    finding = il.diagnose(network(**options), inputs(), y)[0]
    assert (finding.code, finding.severity) == ("head-loss-mismatch", severity)
    assert finding.layer == "head"
    assert evidence in finding.evidence


def test_two_softmaxes_in_a_row():
    model = network(layers.Softmax(), loss=SPARSE, activation="softmax")
    finding = il.diagnose(model)[0]
    assert finding.code == "head-loss-mismatch"
    assert "two softmaxes in a row" in finding.evidence


SOUND = {
    "softmax": ({"loss": SPARSE, "activation": "softmax"}, CLASSES),
    "one-hot": ({"loss": "categorical_crossentropy", "activation": "softmax"}, ONE_HOT),
    "logits": (
        {"loss": keras.losses.SparseCategoricalCrossentropy(**LOGITS)},
        CLASSES,
    ),
    "several at once": (
        {"loss": "binary_crossentropy", "activation": "sigmoid"},
        ONE_HOT,
    ),
    "one unit": (
        {"loss": "binary_crossentropy", "outputs": 1, "activation": "sigmoid"},
        BINARY,
    ),
    "numbers": ({"loss": "mse", "outputs": 1}, VALUES),
    "positive numbers": (
        {"loss": "mse", "outputs": 1, "activation": "softplus"},
        np.abs(VALUES),
    ),
    "a head of zeros": (
        {"loss": SPARSE, "activation": "softmax", "kernel_initializer": "zeros"},
        CLASSES,
    ),
    "a loss of one's own": (
        {"loss": lambda y, p: keras.ops.mean((y - p) ** 2, axis=-1), "outputs": 1},
        VALUES,
    ),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_head_that_goes_with_its_loss_is_not_named(name):
    options, y = SOUND[name]
    assert not alarms(il.diagnose(network(**options), inputs(), y))


@pytest.mark.parametrize(
    ("y", "code", "evidence"),
    [
        (1e8 + 1e7 * VALUES, "target-scale", "mean 10⁸ and deviation 1.2·10⁷"),
        (1e-6 * VALUES, "target-scale", "deviation 1.2·10⁻⁶"),
        (np.full(64, 3.0), "target-scale", "All targets are 3"),
        (np.where(VALUES > 1.9, np.nan, VALUES), "nonfinite", "of the targets are NaN"),
    ],
)
def test_targets_that_nothing_can_be_learned_of(y, code, evidence):
    finding = il.diagnose(network(loss="mse", outputs=1), inputs(), y)[0]
    assert finding.code == code
    assert evidence in finding.evidence


def test_an_untrained_head_that_is_sure_already():
    keras.utils.set_random_seed(0)
    wide = keras.initializers.RandomUniform(-8, 8)
    rows = [layers.Dense(512, "relu", kernel_initializer="he_normal")]
    rows += [layers.Dense(10, "softmax", kernel_initializer=wide, name="head")]
    model = keras.Sequential([keras.Input((6,)), *rows])
    model.compile("adam", SPARSE)
    finding = il.diagnose(model, inputs())[0]
    assert (finding.code, finding.layer) == ("saturated-head", "head")


def test_a_dead_output():
    model = network(
        loss="mse", outputs=1, activation="relu", bias_initializer=_minus_fifty()
    )
    finding = il.diagnose(model, inputs(), np.abs(VALUES))[0]
    assert (finding.code, finding.severity, finding.layer) == (
        "dead-units",
        "error",
        "head",
    )


def _minus_fifty():
    return keras.initializers.Constant(-50.0)


def test_each_output_has_its_own_loss_and_targets():
    keras.utils.set_random_seed(0)
    x = keras.Input((6,))
    hidden = layers.Dense(8, "tanh")(x)
    heads = {
        "kind": layers.Dense(3, "softmax", name="kind")(hidden),
        "size": layers.Dense(1, "sigmoid", name="size")(hidden),
    }
    model = keras.Model(x, heads)
    model.compile("adam", {"kind": SPARSE, "size": "mse"})
    y = {"kind": CLASSES, "size": VALUES}
    findings = il.diagnose(model, inputs(), y)
    assert [(one.code, one.layer) for one in findings] == [
        ("head-loss-mismatch", "size")
    ]


def test_the_monitor_names_a_head_too():
    model = network(layers.Softmax(), loss=SPARSE, activation="softmax")
    monitor = il.VarianceMonitor(1, on_finding="ignore")
    model.fit(inputs(), CLASSES, epochs=1, verbose=0, callbacks=[monitor])
    assert monitor.findings[0].code == "head-loss-mismatch"


def test_targets_go_with_a_model():
    with pytest.raises(TypeError, match="goes with a model"):
        il.diagnose([], None, VALUES)


class Batches(keras.utils.PyDataset):
    """The inputs in batches of 32, with targets from 1 on."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        rows = slice(32 * index, 32 * (index + 1))
        return inputs()[rows], CLASSES[rows] + 1


def test_targets_come_out_of_data_that_hold_them():
    model = network(loss=SPARSE, activation="softmax")
    for finding in (
        il.diagnose(model, Batches())[0],
        il.inspect(model, Batches()).findings[0],
    ):
        assert (finding.code, finding.layer) == ("head-loss-mismatch", "head")


def two_values(**options):
    keras.utils.set_random_seed(0)
    x = keras.Input((6,))
    hidden = layers.Dense(8, "tanh")(x)
    heads = {name: layers.Dense(1, name=name)(hidden) for name in ("small", "large")}
    model = keras.Model(x, heads)
    model.compile("adam", dict.fromkeys(heads, "mse"), **options)
    return model


@pytest.mark.parametrize(("size", "told"), [(300, ["large"]), (30, [])])
def test_a_loss_that_drowns_another_is_told(size, told):
    y = {"small": VALUES, "large": size * VALUES}
    findings = il.diagnose(two_values(), inputs(), y)
    assert [one.layer for one in findings if one.code == "target-scale"] == told
    weighed = two_values(loss_weights={"small": 1.0, "large": 1e-5})
    assert not alarms(il.diagnose(weighed, inputs(), y))


def test_class_numbers_for_a_categorical_loss_take_the_sparse_one():
    model = network(loss="categorical_crossentropy", activation="softmax")
    finding = il.diagnose(model, inputs(), CLASSES)[0]
    assert 'loss="sparse_categorical_crossentropy"' in finding.remedy


def test_a_class_that_the_loss_leaves_out_is_none():
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=255)
    model = network(loss=loss, activation="softmax")
    y = np.where(np.arange(64) % 8, CLASSES, 255)
    assert not alarms(il.diagnose(model, inputs(), y))
