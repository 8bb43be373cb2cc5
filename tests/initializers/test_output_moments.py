"""On unit-variance input every layer's kernel gives the second moment it is asked for.

The cases are those of `examples/benchmarks/fans.py`, which measures Keras's own beside.
"""

import importlib.util
import sys

import keras
import pytest

import keras_initlab as il
from tests.helpers import ROOT

spec = importlib.util.spec_from_file_location(
    "benchmark_fans", ROOT / "examples" / "benchmarks" / "fans.py"
)
fans = importlib.util.module_from_spec(spec)
sys.modules["benchmark_fans"] = fans  # dataclasses look their module up
spec.loader.exec_module(fans)


@pytest.mark.parametrize("name", fans.CASES)
def test_output_second_moment(name):
    for distribution in fans.DISTRIBUTIONS:
        initializer = il.Scaled(1.0, "fan_in", distribution, seed=1)
        found, error = fans.measure(fans.CASES[name], initializer)
        # Separable layers multiply two draws.
        error *= 2 if name.startswith("Separable") else 1
        assert abs(found - 1) < 5 * error, distribution


GAIN = {"he_normal": 2, "he_uniform": 2, "lecun_normal": 1, "lecun_uniform": 1}


@pytest.mark.parametrize("rule", GAIN)
@pytest.mark.parametrize(
    "name",
    [
        "Dense",
        "Conv2D groups 4",
        "Conv2DTranspose strides 2",
        "DepthwiseConv2D",
        "LSTM kernel",
        "MultiHeadAttention query",
    ],
)
def test_classics_by_name(name, rule):
    keras.utils.set_random_seed(1)
    found, error = fans.measure(fans.CASES[name], f"initlab>{rule}")
    assert abs(found / GAIN[rule] - 1) < 5 * error


@pytest.mark.parametrize(
    "name", [name for name in fans.CASES if not name.startswith("Separable")]
)
def test_orthogonal_has_the_same_second_moment(name):
    found, error = fans.measure(fans.CASES[name], il.Orthogonal(seed=1))
    assert abs(found - 1) < 5 * error


@pytest.mark.parametrize(
    "name", ["Dense", "Conv2D", "DepthwiseConv2D", "GRU recurrent kernel"]
)
def test_sparse_has_the_same_second_moment(name):
    found, error = fans.measure(fans.CASES[name], il.Sparse(0.7, seed=1))
    # As if there were fewer weights, with heavier tails for their zeros.
    assert abs(found - 1) < 5 * error / (1 - 0.7) ** 0.5


def test_kerass_own_is_wrong_where_the_readme_says_so():
    """A test of the measurement: it must be able to say no."""
    for name, factor in {
        "DepthwiseConv2D": 1 / 128,
        "Conv2DTranspose strides 2": 1 / 8,
        "Conv1DTranspose strides 2": 1 / 4,
    }.items():
        found, _ = fans.measure(fans.CASES[name], fans.keras_lecun("normal"))
        assert found == pytest.approx(factor, rel=0.15)
