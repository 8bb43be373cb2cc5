"""Published bugs fail to train, are named first, and are mended by their remedies.

PyTorch, which compiles nothing, does all of them; other backends two.
"""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops
from sklearn.datasets import load_digits

import keras_initlab as il
from tests.diagnosis import published
from tests.diagnosis import published_further as further
from tests.diagnosis.cases import alarms, batch, fit, found
from tests.diagnosis.published import skill, trained_skill
from tests.diagnosis.published_data import cancer_of_signs, digits, shuffled
from tests.diagnosis.published_further import EVERY

BACKEND = keras.backend.backend()
ELSEWHERE = ("softmax before a value", "a line through features as they were measured")
CHOSEN = [
    pytest.param(one, id=one.faulty.name.replace(" ", "-"))
    for one in EVERY
    if BACKEND == "torch" or one.faulty.name in ELSEWHERE
]


class Trained:
    """A version of a program, trained under a monitor once for all that is asked."""

    def __init__(self, case):
        self.case, self.data = case, case.data()
        self.model = case.build()
        self.monitor = il.VarianceMonitor(1, gradients=True, on_finding="ignore")
        try:
            fit(self.model, *self.data, case.epochs, [self.monitor])
        except Exception:
            # Each backend has its own words for targets that do not fit.
            assert self.monitor.findings
            assert case.phase != "training"
            self.skill = -1.0
        else:
            self.skill = skill(self.model, *self.data)

    @functools.cached_property
    def found(self):
        """Return all findings, of every severity, as `cases.found` does."""
        if self.case.phase != "training":
            return found(self.case)
        x, y = map(batch, self.data)
        shown = y if self.case.targets else None
        return [*self.monitor.findings, *il.diagnose(self.model, x, shown)]

    @property
    def watched(self):
        """Return what the monitor says, alarms alone."""
        return [one for one in self.monitor.findings if one.severity != "info"]


class Pair:
    """A published program and its repair, each trained when it is first asked for."""

    def __init__(self, one):
        self.name = one.faulty.name
        self.cases = one

    @functools.cached_property
    def faulty(self):
        """Return the program as it was published."""
        return Trained(self.cases.faulty)

    @functools.cached_property
    def sound(self):
        """Return its repair."""
        return Trained(self.cases.sound)


# Tests of one pair run one after the other: it is trained once for them.
@pytest.fixture(scope="module", params=CHOSEN)
def pair(request):
    return Pair(request.param)


def test_a_bug_keeps_a_program_from_what_its_repair_learns(pair):
    assert pair.sound.skill > 0.25
    assert pair.faulty.skill < 0.5 * pair.sound.skill


def test_a_bug_is_named_first(pair):
    case, findings = pair.cases.faulty, pair.faulty.found
    texts = [str(finding) for finding in findings]
    assert findings, "nothing was said"
    assert findings[0].severity in ("error", "warning"), texts
    assert findings[0].code in (*case.codes, *case.close), texts


def test_its_repair_raises_no_alarm(pair):
    findings = pair.sound.found
    assert not alarms(findings), [str(finding) for finding in findings]


# The monitor alone --------------------------------------------------------------------


def test_the_monitor_alone_names_a_bug_first(pair):
    case, findings = pair.cases.faulty, pair.faulty.watched
    assert findings, "nothing was said"
    assert findings[0].code in (*case.codes, *case.close), [*map(str, findings)]


# Of these, what is told of the repaired program, too: 25 of its 32 units die.
DYING = {"ReLU at the output that is 0 throughout": {"dead-units"}}


def test_the_monitor_raises_no_alarm_of_its_repair(pair):
    findings = pair.sound.watched
    told = {finding.code for finding in findings} - DYING.get(pair.name, set())
    assert not told, [str(finding) for finding in findings]


# Remedies by their own words ----------------------------------------------------------


def standardised_inputs(model, x, y):
    return model, (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-7), y


def undivided(model, x, y):
    x, y = shuffled(load_digits)
    return model, ((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-7))[:1024], y[:1024]


def sigmoid_at_the_output(model, x, y):
    return published.binary("sigmoid")(), x, (y + 1) / 2


def unfrozen(model, x, y):
    model.trainable = True
    model.compile(keras.optimizers.Adam(0.003), model.loss)
    return model, x, y


def rewritten(**options):
    def cure(model, x, y):
        il.rewrite_initializers(model, **options)
        return model, x, y

    return cure


def targets_from_0_to_1(model, x, y):
    return model, x, (y - y.min()) / (y.max() - y.min())


def with_a_larger_epsilon(model, x, y):
    model.compile(keras.optimizers.Adam(epsilon=1e-4), "mse")
    return model, x, y


def instead(build):
    return lambda model, x, y: (build(), x, y)


def relu(depth, **options):
    return instead(published.seeded(published.plain, "relu", depth, **options))


# What the remedy says, and that done.
CURES = {
    "classes from 1": ("y = y - 1", lambda model, x, y: (model, x, y - 1)),
    "a line through features as they were measured": (
        "x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-7)",
        standardised_inputs,
    ),
    "targets up to 1e8": (
        "y = (y - y.mean()) / y.std()",
        lambda model, x, y: (model, x, (y - y.mean()) / y.std()),
    ),
    "divided by a deviation of zero": ("Divide by x.std(axis=0) + 1e-7", undivided),
    "root of a distance of zero": (
        "ops.sqrt(x + 1e-7)",
        instead(published.siamese(1e-7)),
    ),
    "flat targets for a loss of one's own": (
        "y = y[:, None]",
        lambda model, x, y: (model, x, y[:, None]),
    ),
    "softmax before a value": (
        "Dense(1) for a number",
        instead(published.regression(published.dense(1))),
    ),
    "tanh before a binary cross-entropy": ("y = (y + 1) / 2", sigmoid_at_the_output),
    "a softmax and a loss of logits": (
        "Leave the activation out",
        instead(published.logits(twice=False)),
    ),
    "kernels of zeros": ("il.rewrite_initializers(model)", rewritten()),
    "four layers of sigmoids": (
        'il.rewrite_initializers(model, scheme="isometric")',
        rewritten(scheme="isometric"),
    ),
    "no change after the first epoch": (
        "a learning rate 100 times smaller",
        relu(3, rate=0.003),
    ),
    "a rate that is far too small": (
        "1e-2 for SGD",
        relu(2, optimizer="sgd", rate=0.01),
    ),
    "always the same class": (
        "x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-7)",
        standardised_inputs,
    ),
    "all layers frozen": ("model.trainable = True", unfrozen),
    "a schedule that decays at every step": (
        "decay_steps is to be multiplied by the steps of an epoch",
        instead(published.scheduled(16)),
    ),
    "ReLU at the output that is 0 throughout": (
        "Leave the activation of the last layer out",
        instead(published.positive("linear")),
    ),
}
CURES |= {
    "categorical cross-entropy of one unit": (
        'Use Dense(1, "sigmoid") with loss="binary_crossentropy"',
        instead(further.of_cells("binary_crossentropy")),
    ),
    "sigmoid before negative values": (
        "Leave the activation of the last layer out",
        instead(further.program(further.dense(1), shape=(1,), loss="mse")),
    ),
    "VGG by Keras's default": ("il.rewrite_initializers(model)", rewritten()),
    "standardised images to be restored by a sigmoid": (
        "y = (y - y.min()) / (y.max() - y.min())",
        targets_from_0_to_1,
    ),
    "weights of float16 and Adam": ("epsilon=1e-4", with_a_larger_epsilon),
    # Of inputs and targets alike: the second finding's remedy is for the inputs.
    "bytes to be restored by a sigmoid": (
        "y = (y - y.min()) / (y.max() - y.min())",
        lambda model, x, y: targets_from_0_to_1(*standardised_inputs(model, x, y)),
    ),
    "weights from 0 to 1": (
        'il.rewrite_initializers(model, scheme="variance")',
        rewritten(scheme="variance"),
    ),
}
# Where no line of code can be named: what is to be looked at.
LOOK = {
    "arguments of a loss in the wrong order": "what the loss computes: the logarithm",
    "pixels divided as integers": "how the batch is made",
    "root of an error of zero": "root or quotient of a number that may be 0",
}


def test_its_remedy_lets_it_train_or_says_what_to_look_at(pair):
    case, remedy = pair.cases.faulty, pair.faulty.found[0].remedy
    if pair.name in LOOK:
        assert LOOK[pair.name] in remedy
        return
    words, cure = CURES[pair.name]
    assert words in remedy
    cured = trained_skill(case, *cure(case.build(), *case.data()))
    assert cured > 0.8 * pair.sound.skill


def test_all_have_a_source_and_a_remedy():
    names = [one.faulty.name for one in EVERY]
    assert sorted(names) == sorted([*CURES, *LOOK])
    assert set(names) >= set(ELSEWHERE)
    assert all(one.source.startswith("https://") for one in EVERY)
    assert len(np.unique([one.source for one in EVERY])) == len(EVERY)


# Sound programs that are near to these ------------------------------------------------


class Reshaped(keras.losses.Loss):
    """Mean of squares that brings both to one shape itself."""

    def call(self, y_true, y_pred):
        """Return (y - p)² of what was made flat."""
        return ops.square(ops.reshape(y_true, (-1,)) - ops.reshape(y_pred, (-1,)))


def squares(y_true, y_pred):
    return ops.square(y_true - y_pred)


@pytest.mark.parametrize("loss", [Reshaped, squares, "mse"])
def test_flat_targets_are_fine_where_the_loss_takes_them(loss):
    loss = loss() if loss is Reshaped else loss
    model = published.regression(published.dense(1), loss=loss)()
    x, y = published.flat_diabetes()
    assert not alarms(il.diagnose(model, batch(x), batch(y)))


def test_a_frozen_body_under_a_head_that_learns_is_fine():
    model = published.seeded(published.plain, "relu", 2)()
    x, y = digits()
    for layer in model.layers[:-1]:
        layer.trainable = False
    model.compile("adam", "sparse_categorical_crossentropy")
    assert not alarms(il.diagnose(model, batch(x), batch(y)))


def test_a_frozen_model_that_is_only_looked_at_is_fine():
    model = published.seeded(published.plain, "relu", 2, then=published.frozen)()
    assert not alarms(il.diagnose(model, batch(digits()[0])))


def test_a_rate_that_falls_to_zero_after_learning_is_fine():
    cosine = keras.optimizers.schedules.CosineDecay(0.05, 48)
    optimizer = keras.optimizers.SGD(cosine, momentum=0.9)
    model = published.seeded(published.plain, "relu", 2, optimizer=optimizer)()
    monitor = il.VarianceMonitor(1, gradients=True, on_finding="ignore")
    fit(model, *digits(), 8, [monitor])
    assert not alarms(monitor.findings)


def test_a_single_missing_value_is_no_scaling_by_zero():
    x, _ = digits()
    x = x.copy()
    x[3, 5] = np.nan
    finding = il.diagnose(published.seeded(published.plain, "relu", 2)(), batch(x))[0]
    assert "x.std" not in finding.remedy
    assert "missing values" in finding.remedy


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ((1, 2, 3), "y = y - 1"),
        ((-1, 0, 1), "y = y + 1"),
        ((0, 1, 2, 3), "Dense(4)"),
        ((0, 1, 5), "Dense(6)"),
    ],
)
def test_class_numbers_are_brought_to_units(classes, words):
    y = np.resize(classes, 128)
    x = published.wine()[0][:128]
    assert words in il.diagnose(published.CLASSIFIER(), x, y)[0].remedy


@pytest.mark.torch
def test_a_fit_that_fails_at_its_first_step_has_its_head_named():
    monitor = il.VarianceMonitor(1, gradients=True, on_finding="ignore")
    x, y = cancer_of_signs()
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        published.binary("tanh")().fit(x, y, verbose=0, callbacks=[monitor])
    assert monitor.findings[0].code == "head-loss-mismatch"


def test_a_root_of_what_is_never_zero_is_fine():
    rows = [layers.Dense(8, "softplus"), layers.Lambda(ops.sqrt), layers.Dense(1)]
    model = keras.Sequential([keras.Input((10,)), *rows])
    model.compile("adam", "mse")
    monitor = il.VarianceMonitor(1, gradients=True, on_finding="ignore")
    fit(model, *published.diabetes(), 2, [monitor])
    assert not alarms(monitor.findings)
