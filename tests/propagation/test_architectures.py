"""Whole networks: the cases of examples/benchmarks/propagation.py, layer by layer."""

import importlib.util

import numpy as np
import pytest

from tests.helpers import ROOT

# What is predicted is NumPy's on every backend; building and running whole networks
# again and again takes long enough on one.

_path = ROOT / "examples" / "benchmarks" / "propagation.py"
_spec = importlib.util.spec_from_file_location("benchmark_propagation", _path)
benchmark = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(benchmark)

DRAWS = 4
# One draw of a network of 32 to 256 units a layer is off by 10 to 30 % at its end, the
# mean of four by up to 15 %, and twice that is seen now and then.
ALLOWED = 1.5
UNSTABLE = [name for name in benchmark.CASES if "depth 50" in name]


@pytest.mark.parametrize("name", sorted(set(benchmark.CASES) - set(UNSTABLE)))
def test_every_layer_is_as_predicted(name):
    found = benchmark.compare(benchmark.CASES[name], DRAWS)
    assert found["layers"] == len(found["seconds"])
    off = {
        layer: (found["all_predicted"][layer], second)
        for layer, second in found["seconds"].items()
        if abs(np.log(found["all_predicted"][layer] / second)) > np.log(ALLOWED)
    }
    assert not off


def test_tanh_is_held_at_any_depth():
    found = benchmark.compare(benchmark.CASES["tanh, depth 50"], 2)
    assert 0.8 < found["worst_ratio"] < 1.25
