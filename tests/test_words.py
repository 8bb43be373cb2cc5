"""What users type wrongly, and what they are told."""

import inspect
import typing

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from keras_initlab import initializers, rewrite
from keras_initlab.initializers.misspelled import meanings
from keras_initlab.monitor import options
from keras_initlab.schemes import options as scheme_options

pytestmark = pytest.mark.torch


def model():
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, name="d")], name="net")


WRONG = {
    "isometric": lambda: il.rewrite_initializers(model(), "isometirc"),
    "residual": lambda: il.rewrite_initializers(model(), "variance", residul="zero"),
    "scaled": lambda: il.Variance(residual="scale"),
    "forward": lambda: il.Variance(criterion="foward"),
    "layers": lambda: il.VarianceMonitor(log="layer"),
    "warn": lambda: il.VarianceMonitor(on_finding="wran"),
    "variance": lambda: il.VarianceMonitor(statistics=["varience"]),
    "fan_in": lambda: il.Scaled(mode="fanin"),
    "truncated_normal": lambda: il.Auto(distribution="truncated"),
    "orthogonal": lambda: il.Mirrored(base="ortogonal"),
    "relu": lambda: il.Auto(activation="rellu"),
    "initlab>he_normal' or 'initlab>he_uniform": lambda: layers.Dense(
        3, kernel_initializer="initlab>he"
    ),
    "initlab>glorot_uniform": lambda: keras.initializers.get("initlab>xavier_uniform"),
    "initlab>delta_orthogonal": lambda: keras.initializers.get(
        {"class_name": "initlab>DeltaOrthogonal", "config": {}}
    ),
    "initlab>bias_class_prior": lambda: layers.Dense(
        3, bias_initializer="initlab>ClassPriorBias"
    ),
}


@pytest.mark.parametrize("meant", WRONG)
def test_a_wrong_word_is_answered_with_the_nearest(meant):
    with pytest.raises(
        (ValueError, TypeError), match=f"Did you mean '{meant}'"
    ) as told:
        WRONG[meant]()
    assert "Received: " in str(told.value)


def test_of_a_plot():
    monitor = il.VarianceMonitor()
    with pytest.raises(ValueError, match="Did you mean 'histograms'"):
        monitor.plot("histogram")


def test_a_word_like_none_gets_no_guess():
    with pytest.raises(ValueError, match=r"Received: 'xyz'\.$"):
        il.VarianceMonitor(log="xyz")


def test_right_names_are_not_refused():
    kinds = [getattr(initializers, name) for name in initializers.__all__]
    wrong = {f"initlab>{name}" for name in meanings(kinds)}
    assert {"initlab>he", "initlab>HeNormal", "initlab>henormal"} < wrong
    for kind in kinds:
        right = keras.saving.get_registered_name(kind)
        assert right not in wrong
        assert keras.saving.get_registered_object(right) is kind


@pytest.mark.parametrize(
    ("function", "argument", "words"),
    [
        (il.rewrite_initializers, "scheme", rewrite.SCHEMES),
        (il.Variance, "residual", scheme_options.RESIDUALS),
        (il.Variance, "criterion", scheme_options.CRITERIA),
        (il.VarianceMonitor, "log", options.LOGS),
        (il.VarianceMonitor, "on_finding", options.ON_FINDING),
        (il.VarianceMonitor, "window", ("epoch",)),
        (il.VarianceMonitor.plot, "kind", options.PLOTS),
    ],
)
def test_a_type_checker_knows_the_words(function, argument, words):
    owner = function.__init__ if inspect.isclass(function) else function
    annotated = typing.get_type_hints(owner)[argument]
    choices = [annotated, *typing.get_args(annotated)]
    literals = [one for one in choices if typing.get_origin(one) is typing.Literal]
    assert [typing.get_args(one) for one in literals] == [tuple(words)]


def branches(structure):
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    inputs = {"a": left, "b": right} if structure is dict else [left, right]
    return keras.Model(
        inputs, layers.Dense(3)(layers.Concatenate()([left, right])), name="net"
    )


X = np.ones((8, 4), "float32")


@pytest.mark.parametrize("function", [il.measure, il.diagnose, il.inspect])
@pytest.mark.parametrize(
    ("structure", "keys", "missing"),
    [(dict, ["a"], "b"), (list, ["left"], "right"), (list, ["left", "rihgt"], "right")],
)
def test_a_missing_key_of_a_dict_of_inputs(function, structure, keys, missing):
    with pytest.raises(ValueError, match=f"without '{missing}'") as told:
        function(branches(structure), dict.fromkeys(keys, X))
    assert "A dict of inputs for 'net' must have the keys" in str(told.value)
    assert ("Is it 'rihgt'?" in str(told.value)) == ("rihgt" in keys)


@pytest.mark.parametrize("keys", [["a", "b"], ["a", "b", "more"]])
@pytest.mark.filterwarnings("ignore:The structure of `inputs`")
def test_all_keys_are_there(keys):
    assert il.measure(branches(dict), dict.fromkeys(keys, X))


@pytest.mark.parametrize(
    "function",
    [
        il.rewrite_initializers,
        il.propagate,
        il.diagnose,
        il.inspect,
        lambda optimizer: il.measure(optimizer, X),
    ],
)
def test_an_optimizer_in_place_of_a_model(function):
    with pytest.raises(TypeError, match=r"[Mm]odel.*Received:.*of type SGD"):
        function(keras.optimizers.SGD())


def test_the_monitor_and_the_inspection_hold_the_same_kind_of_finding():
    net = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, kernel_initializer="zeros"),
            layers.Dense(3),
        ]
    )
    net.compile("sgd", "mse")
    monitor = il.VarianceMonitor(every=1, on_finding="ignore")
    net.fit(X * np.nan, X[:, :3], epochs=2, verbose=0, callbacks=[monitor])
    assert monitor.findings
    assert {type(one) for one in monitor.findings} == {il.Finding}
    assert {type(one) for one in il.inspect(net).findings} == {il.Finding}
    assert all(isinstance(one.epoch, int) for one in monitor.findings)
    assert all(one.epoch is None for one in il.inspect(net).findings)


def numbers(value):
    """Yield every number in records, dicts and lists, however nested."""
    if isinstance(value, dict):
        value = list(value.values())
    if hasattr(value, "__dataclass_fields__"):
        value = list(vars(value).values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from numbers(one)
    elif isinstance(value, int | float | np.generic):
        yield value


def test_figures_are_pythons_numbers():
    net = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(3, activation="sigmoid"),
        ]
    )
    x = np.random.default_rng(0).normal(size=(16, 8, 8, 2)).astype("float32")
    plan = il.rewrite_initializers(net, "variance", seed=0)
    net.compile("sgd", "mse")
    monitor = il.VarianceMonitor(every=1, gradients=True, log="layers")
    logs = net.fit(x, np.ones((16, 3)), verbose=0, callbacks=[monitor])
    shown = {
        "plan": [*plan],
        "plan.records": plan.records,
        "propagate": il.propagate(net),
        "measure": il.measure(net, x),
        "history": monitor.history,
        "stats": monitor.stats,
        "records": monitor.records,
        "epochs": [monitor.epochs, monitor.steps],
        "logs": logs.history,
        "inspect": il.inspect(net, x),
        "inspect.records": il.inspect(net, x).records,
        "fans": [*vars(il.kernel_fans((3, 3, 2, 4), net.layers[0])).values()],
    }
    assert all([*numbers(value)] for value in shown.values())
    odd = {
        name: {type(one).__name__ for one in numbers(value)} - {"int", "float", "bool"}
        for name, value in shown.items()
    }
    assert not {name: kinds for name, kinds in odd.items() if kinds}
