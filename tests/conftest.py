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


def pytest_collection_modifyitems(items):
    backend = keras.backend.backend()
    for item in items:
        markers = {m.name for m in item.iter_markers()}
        wanted = {"tensorflow", "jax", "torch"} & markers
        if "once" in markers:
            wanted = {"tensorflow"}
        if wanted and backend not in wanted:
            reason = f"for {' and '.join(sorted(wanted))} only"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _repeatable():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
