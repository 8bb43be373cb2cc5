"""The map: what is public is importable, documented, and nothing else is exported."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import keras_initlab as il
from tests.helpers import ROOT

pytestmark = pytest.mark.once


@pytest.mark.parametrize("name", il.__all__)
def test_every_public_name_exists_and_is_documented(name):
    value = getattr(il, name)
    if name != "__version__":
        assert inspect.getdoc(value)


def test_dir_shows_what_is_public_and_nothing_else():
    assert dir(il) == sorted(il.__all__) == list(il.__all__)
    assert set(il._LATER) == set(il.__all__) - {"__version__"}


def test_a_name_that_is_not_there_names_the_nearest():
    with pytest.raises(AttributeError, match="Did you mean 'VarianceMonitor'"):
        il.VarianceMonitr  # noqa: B018
    assert not hasattr(il, "__wrapped__")


def test_import_contracts():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [lint, "--config", "setup.cfg", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_grows_past_500_lines():
    for folder in ("keras_initlab", "tests", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            lines = len(path.read_text().splitlines())
            assert lines <= 500, f"{path}: {lines} lines"
