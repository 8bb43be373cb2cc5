"""Every example runs, in its quick form."""

import os
import subprocess
import sys

import keras
import pytest

from tests.helpers import ROOT

EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path):
    in_jax = path.stem.startswith(("depth", "architectures"))
    if in_jax and keras.backend.backend() != "jax":
        pytest.skip("trains in JAX and PyTorch, whatever the backend: once is enough")
    many = path.stem.startswith(("diagnosis", "fans", "propagation", "zoo"))
    if many and keras.backend.backend() != "torch":
        pytest.skip("models by the dozen: elsewhere they would be compiled")
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
