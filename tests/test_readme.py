"""What the README shows runs, and what it tells to type is there."""

import os
import re
import subprocess
import sys
import warnings

import pytest

from tests.helpers import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def test_code_runs_in_the_order_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) >= 3
    namespace = {}
    for block in BLOCKS:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            exec(compile(block, "README.md", "exec"), namespace)
    # The plan that the README shows is the one that its code prints.
    for line in str(namespace["plan"]).splitlines()[1:]:
        assert line in README


@pytest.mark.slow
@pytest.mark.torch
def test_the_block_for_the_shell_runs_as_it_stands(tmp_path):
    [block] = re.findall(r"```shell\n(.*?)```", README, re.S)
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


@pytest.mark.once
def test_the_two_commands_are_one_line_each():
    commands = [line for line in README.splitlines() if line.startswith("python3 ")]
    assert len(commands) == 2
    assert "examples/quickstart.py" in commands[0]
    assert "pytest" in commands[1]


@pytest.mark.once
def test_the_table_of_depths_is_that_of_the_results():
    script = ROOT / "examples" / "benchmarks" / "depth_report.py"
    done = subprocess.run(
        [sys.executable, script, "--markdown", "--out", ROOT / "docs"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    table = done.stdout.strip()
    assert table.count("\n") > 10
    assert table in README


@pytest.mark.once
@pytest.mark.parametrize(
    "target", re.findall(r"\]\((?!https?:)([^)#]+)\)|src=\"([^\"]+)\"", README)
)
def test_links_into_the_repository_lead_somewhere(target):
    assert (ROOT / "".join(target)).exists()
