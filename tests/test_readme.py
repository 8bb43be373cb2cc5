"""What the README shows runs, and what it tells to type is there."""

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
            # NumPy's whole numbers are int64, on which JAX 0.12 remarks within Keras.
            warnings.filterwarnings("ignore", "Explicitly requested dtype int64")
            exec(compile(block, "README.md", "exec"), namespace)


@pytest.mark.once
def test_the_two_commands_are_one_line_each():
    commands = [line for line in README.splitlines() if line.startswith("python3 ")]
    assert len(commands) == 2
    assert "examples/quickstart.py" in commands[0]
    assert "pytest" in commands[1]


@pytest.mark.once
@pytest.mark.parametrize(
    "target", re.findall(r"\]\((?!https?:)([^)#]+)\)|src=\"([^\"]+)\"", README)
)
def test_links_into_the_repository_lead_somewhere(target):
    assert (ROOT / "".join(target)).exists()


@pytest.mark.once
def test_it_is_short():
    assert len(README.split()) <= 1200


@pytest.mark.once
def test_its_figures_are_those_of_the_results():
    done = subprocess.run(
        [sys.executable, "-m", "examples.benchmarks", "--table"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("\n") > 5
    assert done.stdout in README
