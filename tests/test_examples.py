"""Every example runs, in its quick form."""

import os
import subprocess
import sys

import keras
import pytest

from tests.helpers import ROOT

EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))

# Where benchmarks run, by how their names begin: what trains in JAX and PyTorch
# whatever the backend; models by the dozen, which elsewhere would be compiled; the rest
# by turns.
ON = {
    "architectures": "jax",
    "depth": "jax",
    "convergence": "jax",
    "diagnosis": "torch",
    "draws": "tensorflow",
    "fans": "torch",
    "monitor_memory": "tensorflow",
    "monitor_overhead": "jax",
    "monitor_twin": "torch",
    "propagation": "torch",
    "zoo": "torch",
}


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path):
    here = keras.backend.backend()
    backend = next((ON[name] for name in ON if path.stem.startswith(name)), here)
    if here != backend:
        pytest.skip(f"runs on {backend}: once is enough")
    done = subprocess.run(
        [sys.executable, path, "--quick", "--out", tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
    if path.stem == "quickstart":
        assert {one.suffix for one in tmp_path.iterdir()} == {".png", ".keras"}
        assert "saved and loaded" in done.stdout
