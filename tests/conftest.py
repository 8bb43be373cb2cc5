"""Settings for every test: the backend's markers, a clean state, repeatable draws."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")

import hypothesis
import keras
import pytest

import keras_initlab  # noqa: F401  (registers the initlab> names)

# The same examples each time, however busy the machine.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


# What these look at are symbols and NumPy's figures, the same on every backend. They
# run on PyTorch, the quickest by far, unless their marks say otherwise; with
# `--everywhere` on the others, too.
NEUTRAL = (
    "activations/test_odd_part.py",
    "activations/test_periodic.py",
    "activations/test_properties.py",
    "bench/test_comparison.py",
    "diagnosis/",
    "initializers/test_output_moments.py",
    "model/",
    "propagation/",
    "schemes/",
)
# Of those, what meets a backend: scopes, private names, layers run on samples.
ON_EVERY_BACKEND = (
    "model/test_construction.py",
    "model/test_keras_internals.py",
    "propagation/test_propagate.py",
    "propagation/test_walk.py",
    "schemes/test_variance.py",
)


def _is_neutral(path):
    within = path.relative_to(pathlib.Path(__file__).parent).as_posix()
    return within.startswith(NEUTRAL) and within not in ON_EVERY_BACKEND


def pytest_addoption(parser):
    parser.addoption(
        "--everywhere",
        action="store_true",
        help="run on this backend what every backend says alike",
    )


def pytest_collection_modifyitems(config, items):
    backend = keras.backend.backend()
    everywhere = config.getoption("--everywhere")
    for item in items:
        markers = {m.name for m in item.iter_markers()}
        wanted = {"tensorflow", "jax", "torch"} & markers
        if "once" in markers:
            wanted = {"tensorflow"}
        if _is_neutral(item.path) and not wanted and not everywhere:
            wanted = {"torch"}
        if wanted and backend not in wanted:
            reason = f"for {' and '.join(sorted(wanted))} only"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _repeatable():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
