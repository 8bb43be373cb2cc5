"""What the documentation tells to type into a shell."""

import os
import re
import subprocess
import sys

import pytest

from tests.helpers import ROOT


# Python is started six times: on JAX that takes half as long as elsewhere.
@pytest.mark.slow
@pytest.mark.jax
def test_the_block_for_the_shell_runs_as_it_stands(tmp_path):
    [block] = re.findall(
        r"```shell\n(.*?)```", (ROOT / "docs" / "diagnose.md").read_text(), re.S
    )
    scripts = tmp_path / "bin"
    scripts.mkdir()
    # What is installed, and not what else is on this machine.
    for name, call in {"python": "", "keras-initlab": "-m keras_initlab"}.items():
        script = scripts / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {call} "$@"\n')
        script.chmod(0o755)
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "13 of 13 kernels rewritten" in done.stdout
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "better.keras").exists()
