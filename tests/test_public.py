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


def test_all_is_sorted_and_complete():
    public = {
        name
        for name in dir(il)
        if not name.startswith("_") and not inspect.ismodule(getattr(il, name))
    }
    # What any module may hold from __future__ and typing is not the package's.
    assert public - {"annotations", "TYPE_CHECKING", "Any"} == set(il.__all__) - {
        "__version__"
    }
    assert sorted(il.__all__) == list(il.__all__)


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
