"""Schemes as objects: what they hold, refuse and print; names that stand for them."""

import copy
import dataclasses
import math
import pickle

import keras
import numpy as np
import pytest
from keras import layers

import keras_initlab as il
from tests.helpers import as_numpy, kernels


def net():
    inputs = keras.Input((16,))
    x = layers.Dense(16, "relu", name="stem")(inputs)
    y = layers.Dense(16, "gelu", name="in")(x)
    x = layers.Add()([x, layers.Dense(16, name="out")(y)])
    return keras.Model(inputs, layers.Dense(4, name="head")(x), name="net")


SCHEMES = {
    "Activation()": ("activation", {}),
    "Variance()": ("variance", {}),
    "Variance(target=2.0)": ("variance", {"target": 2.0}),
    "Variance(target=0.5, residual='zero', criterion='balanced')": (
        "variance",
        {"target": 0.5, "residual": "zero", "criterion": "balanced"},
    ),
    "Variance(mean=0.5, variance=(2.0,))": (
        "variance",
        {"mean": 0.5, "variance": (2.0,)},
    ),
    "Variance(head=0.5)": ("variance", {"head": 0.5}),
    "AutoScheme()": ("auto", {}),
    "Isometric()": ("isometric", {}),
    "Isometric(q=0.1, residual='keep', mean=0.0, variance=2.0)": (
        "isometric",
        {"q": 0.1, "residual": "keep", "mean": 0.0, "variance": 2.0},
    ),
}


def scheme_of(text):
    """Return the scheme that is written like this."""
    return eval(f"il.{text}", {"il": il})


@pytest.mark.parametrize("text", SCHEMES)
def test_it_prints_as_it_is_typed(text):
    assert repr(scheme_of(text)) == text


@pytest.mark.parametrize("text", SCHEMES)
def test_copies_and_pickles_are_equal_and_hash_alike(text):
    scheme = scheme_of(text)
    for twin in (
        scheme_of(text),
        copy.deepcopy(scheme),
        dataclasses.replace(scheme),
        pickle.loads(pickle.dumps(scheme)),
    ):
        assert twin == scheme
        assert hash(twin) == hash(scheme)
    assert sum(scheme == scheme_of(other) for other in SCHEMES) == 1


@pytest.mark.parametrize("text", SCHEMES)
def test_a_name_with_options_stands_for_the_object(text):
    name, options = SCHEMES[text]
    by_name, by_object = net(), net()
    plans = [
        il.rewrite_initializers(by_name, scheme=name, seed=3, **options),
        il.rewrite_initializers(by_object, scheme=scheme_of(text), seed=3),
    ]
    assert str(plans[0]) == str(plans[1])
    for a, b in zip(kernels(by_name), kernels(by_object), strict=True):
        np.testing.assert_array_equal(a, b)


def test_options_cannot_be_set_afterwards():
    with pytest.raises(dataclasses.FrozenInstanceError):
        il.Variance().target = 2.0


def test_numbers_of_other_types_become_floats():
    scheme = il.Variance(
        target=np.float32(0.5), mean=np.int64(1), variance=[1, np.float64(2)]
    )
    assert scheme == il.Variance(target=0.5, mean=1.0, variance=(1.0, 2.0))
    assert repr(scheme) == "Variance(target=0.5, mean=1.0, variance=(1.0, 2.0))"
    assert type(il.Isometric(q=1).q) is float


def test_moments_by_the_inputs_names_are_kept_apart_from_the_users_dict():
    variances = {"x": 1, "y": 4.0}
    scheme = il.Variance(variance=variances)
    variances["x"] = 9.0
    assert scheme == il.Variance(variance={"x": 1.0, "y": 4.0})
    assert hash(scheme) == hash(il.Variance(variance={"x": 1.0, "y": 4.0}))
    assert repr(scheme) == "Variance(variance={'x': 1.0, 'y': 4.0})"


MOMENTS = [
    ({"mean": math.nan}, ValueError, "`mean` must be finite. Received: mean=nan"),
    ({"mean": [0.0, math.inf]}, ValueError, "`mean` must be finite"),
    ({"variance": -1.0}, ValueError, "`variance` must be finite and not negative"),
    ({"variance": {"x": -1}}, ValueError, "Received: variance=-1"),
    ({"variance": "1"}, TypeError, "`variance` must be a number, or one for each"),
    ({"mean": True}, TypeError, "Received: True of type bool"),
    ({"mean": np.zeros(2)}, TypeError, "of type ndarray"),
    ({"residual": "half"}, ValueError, "must be 'scaled' or 'zero' or 'keep'"),
    ({"residual": None}, ValueError, "Leave it out for 'scaled'"),
]
REFUSED = [
    *[(il.Variance, *case) for case in MOMENTS],
    *[(il.Isometric, *case) for case in MOMENTS],
    (il.Variance, {"criterion": "both"}, ValueError, "'forward' or 'balanced'"),
    *[
        (kind, {name: value}, ValueError, f"`{name}` must be a finite number above 0")
        for kind, name in (
            (il.Variance, "target"),
            (il.Variance, "head"),
            (il.Isometric, "q"),
        )
        for value in (0, -1.0, math.inf, math.nan, True, "1", 1j)
    ],
    (il.Variance, {"target": None}, ValueError, "Received: target=None"),
]


@pytest.mark.parametrize(("kind", "options", "error", "message"), REFUSED)
def test_what_cannot_be_meant_is_refused(kind, options, error, message):
    with pytest.raises(error, match="Received") as caught:
        kind(**options)
    assert message in str(caught.value)
    model = net()
    before = kernels(model)
    with pytest.raises(error, match="Received"):
        il.rewrite_initializers(model, scheme=kind.__name__.lower(), **options)
    for was, now in zip(before, kernels(model), strict=True):
        np.testing.assert_array_equal(was, now)


def test_options_are_given_by_name():
    with pytest.raises(TypeError, match="positional"):
        il.Variance(2.0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'q'"):
        il.Variance(q=0.1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"scheme": il.Variance(), "target": 2.0},
            ValueError,
            "Received: target=2.0 with scheme=Variance(). Give them to Variance.",
        ),
        ({"scheme": il.Activation(), "q": None}, ValueError, "Received: q=None"),
        ({"scheme": il.Variance}, TypeError, "Pass an object, Variance(), instead"),
        ({"scheme": 3}, TypeError, "Received: scheme=3 of type int"),
        ({"scheme": None}, TypeError, "Received: scheme=None"),
        ({"scheme": "variance", "tagret": 2.0}, TypeError, "Received: tagret=2.0"),
        (
            {"scheme": il.Variance(), "only_unbuilt": True},
            ValueError,
            "Received: scheme=Variance()",
        ),
        (
            {"scheme": "isometric", "only_unbuilt": True},
            ValueError,
            "`only_unbuilt` belongs to scheme='activation': a signal can be followed "
            "through built layers alone. Received: scheme='isometric'. Build the ",
        ),
        (
            {"mean": 0.0},
            ValueError,
            "`mean` belongs to scheme='variance' or scheme='isometric'. Received: "
            "mean=0.0 with scheme='activation'. Leave it out, or pass "
            "scheme='variance' or scheme='isometric'.",
        ),
        ({"variance": np.ones(2)}, ValueError, "`variance` belongs to"),
        (
            {"scheme": il.Variance(variance={"z": 1.0})},
            ValueError,
            "`variance` as a dict must have a number for each",
        ),
    ],
)
def test_a_rewrite_refuses_what_does_not_fit_together(arguments, error, message):
    model = net()
    before = [as_numpy(weight) for weight in model.weights]
    with pytest.raises(error, match="Received") as caught:
        il.rewrite_initializers(model, **arguments)
    assert message in str(caught.value)
    for was, now in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(was, as_numpy(now))


def test_another_schemes_option_may_be_spelt_out_as_left_out():
    plain = il.rewrite_initializers(net(), seed=0)
    spelt = il.rewrite_initializers(
        net(),
        seed=0,
        target=1,
        residual="scaled",
        criterion="forward",
        mean=None,
        variance=None,
        q=None,
    )
    assert str(plain) == str(spelt)
