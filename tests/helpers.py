"""What several test files share."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np

ROOT = Path(__file__).resolve().parent.parent


def as_numpy(tensor):
    """Return a tensor or variable as float64 NumPy, whatever its dtype."""
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")).astype(
        "float64"
    )


def kernels(model):
    """Return every kernel of a model as NumPy, in order."""
    return [as_numpy(v) for v in model.weights if "kernel" in v.name]


def assert_std(values, expected, sigmas=5.0):
    """Assert the standard deviation of a draw, within `sigmas` standard errors.

    The standard error of a sample's deviation is at most σ/√(2n) for the normal,
    truncated and uniform distributions used here (their kurtosis is at most 3).
    """
    tolerance = sigmas * expected / np.sqrt(2 * values.size)
    assert abs(values.std() - expected) < tolerance, (values.std(), expected)


def run_python(code, backend=None, **environment):
    """Run code in a fresh Python; return its standard output, fail on an error."""
    return finish(start_python(code, backend=backend, **environment))


def xla_devices(count):
    """Return XLA's flags for that many devices, those that are set already included."""
    flags = f"--xla_force_host_platform_device_count={count}"
    return f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()


def start_python(code, *arguments, backend=None, **environment):
    """Start code in a fresh Python; return the process."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    variables["KERAS_BACKEND"] = backend or keras.backend.backend()
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, timeout=None):
    """Return what a process printed when it has ended, fail on an error."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 0, err
    return out


def triple(found):
    """Return a GaussianMoments as a tuple."""
    return (found.mean, found.second_moment, found.derivative_second_moment)
