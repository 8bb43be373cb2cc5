"""Tables of layers to try: what a row says, and how it is checked."""

from dataclasses import dataclass, field

import keras
import pytest
from keras import layers as L

from tests.propagation.simulation import complaints, measured, model_of, predicted

normal, constant = keras.initializers.RandomNormal, keras.initializers.Constant
uniform = keras.initializers.RandomUniform

# Layers are finite: what is said of wide ones is off by some 1/width.
FINITE = 0.012
DEFAULT = dict.fromkeys(
    ("second", "mean", "cosine", "batch", "places", "places_cosine"), FINITE
) | {"profile": 0.03}


@dataclass
class Case:
    """A stack of layers, or what makes an output of an input, and how it is tried."""

    name: str
    shape: tuple
    layers: object
    mean: float = 0.0
    variance: float = 1.0
    training: bool = True
    draws: int = 16
    batch: int = 32
    # Where mean-field theory is approximate: by how much, and `because`.
    allowed: dict = field(default_factory=dict)
    because: str = ""

    def build(self):
        return model_of(
            self.shape, self.layers, "int32" if self.name[0] == "#" else None
        )


def dense(units=64, activation=None, **rest):
    rest.setdefault("kernel_initializer", "he_normal")
    return L.Dense(units, activation, **rest)


def conv(filters=48, activation="relu", size=3, **rest):
    rest.setdefault("kernel_initializer", "he_normal")
    rest.setdefault("padding", "same")
    return L.Conv2D(filters, size, activation=activation, **rest)


def random_bias(mean=0.2, deviation=0.5):
    return {"bias_initializer": normal(mean, deviation)}


def check(case):
    model = case.build()
    signal = predicted(model, case.mean, case.variance, case.training)
    assert not signal.origin.measured
    options = {"draws": case.draws, "batch": case.batch}
    found = measured(
        model, signal.units, case.mean, case.variance, case.training, **options
    )
    # Where the cosine is off, so is all that goes with it.
    cosine = max(case.allowed.get("cosine", 0.0), FINITE)
    allowed = dict.fromkeys(("batch", "places", "places_cosine"), cosine)
    off = complaints(signal, found, {**DEFAULT, **allowed, **case.allowed})
    assert not off, off


def table(cases, every=None):
    """Parametrize over cases: all of them on TensorFlow, a share elsewhere.

    The rules are NumPy alone and the same on every backend: what differs is what a
    layer does. JAX compiles each operation for each shape.
    """
    every = every or {"tensorflow": 1, "torch": 2, "jax": 5}
    step = every.get(keras.backend.backend(), 1)
    rows = [
        pytest.param(
            case,
            id=case.name,
            marks=pytest.mark.slow if getattr(case, "slow", False) else (),
        )
        for case in cases[::step]
    ]
    return pytest.mark.parametrize("case", rows)
