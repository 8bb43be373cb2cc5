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
    "bench/",
    "calibration/test_applications.py",
    "calibration/test_bad_input.py",
    "diagnosis/",
    "initializers/test_output_moments.py",
    "model/",
    "propagation/",
    "schemes/",
    "test_inspection.py",
    "test_rewrite.py",
)
# Of those, what meets a backend: scopes, private names, layers run on samples, weights
# that are set.
ON_EVERY_BACKEND = (
    "model/test_construction.py",
    "model/test_keras_internals.py",
    "propagation/test_propagate.py",
    "propagation/test_walk.py",
    "schemes/test_variance.py",
    "test_inspection.py::test_all_forms_of_a_real_inspection",
    "test_inspection.py::test_figures_with_a_batch_are_measured_as_well",
    "test_rewrite.py::test_a_seed_repeats_and_differs_by_layer",
    "test_rewrite.py::test_frozen_kernels_and_lora_are_left_alone",
    "test_rewrite.py::test_only_unbuilt_leaves_loaded_weights_and_sets_the_rest",
    "test_rewrite.py::test_quantised_kernels_are_left_working",
    "test_rewrite.py::test_recurrent_kernels_of_cells_are_reached",
    "test_rewrite.py::test_the_model_trains_on_after_a_rewrite",
)


def _is_neutral(item):
    within = item.path.relative_to(pathlib.Path(__file__).parent).as_posix()
    chosen = {within, f"{within}::{item.originalname}"} & set(ON_EVERY_BACKEND)
    return within.startswith(NEUTRAL) and not chosen


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
        if _is_neutral(item) and not wanted and not everywhere:
            wanted = {"torch"}
        if wanted and backend not in wanted:
            reason = f"for {' and '.join(sorted(wanted))} only"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _repeatable():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
