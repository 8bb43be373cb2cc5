"""What an index shows of the package, and what its repository holds for others."""

import configparser
import importlib.util

import pytest

import keras_initlab
from tests.helpers import ROOT

pytestmark = pytest.mark.once

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def build_release():
    spec = importlib.util.spec_from_file_location(
        "build_release", ROOT / ".ci" / "build_release.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def declared():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config["metadata"], config["options"]


def test_the_metadata_say_who_what_and_for_which_python():
    about, options = declared()
    assert about["author"] == "keras-initlab developers"
    assert {"keras", "weight initialization", "jax"} <= {
        word.strip() for word in about["keywords"].split(",")
    }
    for minor in (11, 12, 13):
        assert f"Programming Language :: Python :: 3.{minor}" in about["classifiers"]
    assert options["python_requires"] == ">=3.11"
    for file in about["license_files"].split():
        assert (ROOT / file).exists()


def test_pictures_and_links_of_the_readme_have_addresses_on_the_index(build_release):
    paths = build_release.paths(README)
    assert {"docs/quickstart.png", "docs/rewrite.md"} <= set(paths)
    for path in paths:
        assert (ROOT / path).exists(), path
    shown = build_release.for_index(README, "https://example.org/v1")
    assert build_release.paths(shown) == []
    assert 'src="https://example.org/v1/docs/quickstart.png"' in shown


def test_one_version_everywhere():
    assert f"version: {keras_initlab.__version__}\n" in (
        ROOT / "CITATION.cff"
    ).read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {keras_initlab.__version__} " in changes


@pytest.mark.parametrize("file", ["run", "versions"])
def test_scripts_of_the_gate_name_files_that_are_there(file):
    words = (ROOT / ".ci" / file).read_text(encoding="utf-8").split()
    for word in words:
        if word.startswith("tests/") and word.endswith(".py"):
            assert (ROOT / word).exists(), word
