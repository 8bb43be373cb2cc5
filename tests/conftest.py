"""Settings for every test: the backend's markers, a clean state, repeatable draws."""

import os

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
    "propagation/algebra/",
    "propagation/rules/",
    "propagation/test_coverage.py",
    "propagation/test_deep.py",
    "propagation/test_figures.py",
    "propagation/test_gradients.py",
    "propagation/test_mirrors.py",
    "schemes/test_isometric.py",
    "schemes/test_left_alone.py",
    "schemes/test_preprocessing.py",
    "schemes/test_sines.py",
    "schemes/test_small_starts.py",
    "model/test_elementwise.py",
    "model/test_own_kernels.py",
    "model/test_roles.py",
    "bench/test_comparison.py",
)


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
        neutral = any(f"/tests/{part}" in item.path.as_posix() for part in NEUTRAL)
        if neutral and not wanted and not everywhere:
            wanted = {"torch"}
        if wanted and backend not in wanted:
            reason = f"for {' and '.join(sorted(wanted))} only"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _repeatable():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
