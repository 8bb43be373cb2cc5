"""Every example runs, in its quick form.

Those that teach are held to what they say in `test_teaching.py`.
"""

import re
import runpy
import subprocess
import sys

import keras
import pytest

from tests.helpers import ROOT
from tests.test_teaching import TAUGHT

# What others import, and so run.
PARTS = {
    "convergence_networks",
    "convergence_tables",
    "convergence_training",
    "depth_averages_tables",
    "depth_convolutions",
    "depth_starts",
    "depth_training",
    "diagnosis_rivals",
}
# What only prints tables of results that are there.
REPORTS = {"monitor_report"}
# `fans` runs with the command that runs them all.
ELSEWHERE = {*TAUGHT, *PARTS, *REPORTS, "common", "figures", "fans", "__main__"}
EXAMPLES = [
    path
    for path in sorted((ROOT / "examples").rglob("*.py"))
    if path.stem not in ELSEWHERE
]

# Where benchmarks run, by how their names begin: what trains in JAX and PyTorch
# whatever the backend; models by the dozen, which elsewhere would be compiled; the rest
# by turns.
ON = {
    "architectures": "jax",
    "calibrate": "torch",
    "depth": "jax",
    "convergence": "jax",
    "diagnosis": "torch",
    "distributed": "jax",
    "draws": "tensorflow",
    "monitor_memory": "torch",
    "monitor_overhead": "torch",
    "monitor_twin": "torch",
    "propagation": "torch",
    "reset": "torch",
    "seed_sweep": "tensorflow",
    "zoo": "torch",
}


# What leaves its process other than it was: devices, memory, rules. The others run in
# the test's: starting Python takes longer than most of them.
APART = {"distributed", "monitor_overhead", "zoo"}


@pytest.fixture
def printed_by(monkeypatch, capsys):
    """Return a function that runs a script and returns what it prints."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def apart(path, *arguments):
        done = subprocess.run(
            [sys.executable, path, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(path, *arguments):
        if path.stem in APART:
            return apart(path, *arguments)
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        monkeypatch.syspath_prepend(path.parent)
        code = 0
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            code = end.code
        assert not code
        return capsys.readouterr().out

    return run


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path, printed_by):
    here = keras.backend.backend()
    backend = next((ON[name] for name in ON if path.stem.startswith(name)), here)
    if here != backend:
        pytest.skip(f"runs on {backend}: once is enough")
    printed = printed_by(path, "--quick", "--out", str(tmp_path))
    assert printed
    if path.stem == "quickstart":
        assert {one.suffix for one in tmp_path.iterdir()} == {".png", ".keras"}
        assert "saved and loaded" in printed
    if path.stem == "distributed":
        worst = re.search(r"differ by (\S+) of their size", printed)
        assert float(worst[1]) < 1e-4


@pytest.mark.slow
@pytest.mark.torch
def test_benchmarks_run_in_one_command(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "examples.benchmarks"),
            *("--quick", "--only", "fans", "--out", tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "benchmarks.md").read_text()
    assert "## fans.py, torch: done" in page
    # Of what has been measured, figures for the README.
    assert "| 0.96 | `fans.py` |" in page
