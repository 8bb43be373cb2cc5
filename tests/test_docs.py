"""The code in the documentation runs, and what it says is what the package does."""

import doctest
import importlib
import re
import warnings

import pytest

import keras_initlab as il
from keras_initlab import cli
from tests.helpers import ROOT

pytestmark = pytest.mark.once

DOCS = ROOT / "docs"
PAGES = {path.stem: path.read_text() for path in sorted(DOCS.glob("*.md"))}


def blocks(text):
    """Return the Python that stands in a page."""
    return re.findall(r"```python\n(.*?)```", text, re.S)


@pytest.mark.parametrize(
    ("page", "least"), [("architecture.md", 20), ("calibrate.md", 5)]
)
def test_code_of_a_page_prints_what_it_says(page, least):
    done = doctest.testfile(
        str(DOCS / page),
        module_relative=False,
        optionflags=doctest.NORMALIZE_WHITESPACE,
    )
    assert done.attempted > least
    assert done.failed == 0


@pytest.mark.parametrize(
    "page", [page for page, text in PAGES.items() if "```python\n>>>" not in text]
)
def test_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    code = blocks(PAGES[page])
    if not code:
        pytest.skip("no code")
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in code:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            exec(compile(block, page, "exec"), namespace)
    # A plan that a page shows is one that its code prints.
    plans = [words(str(v)) for v in namespace.values() if isinstance(v, il.Plan)]
    for shown in re.findall(r"```text\n(.*?)```", PAGES[page], re.S):
        assert words(shown) in plans


def words(plan):
    """Return the lines of a printed plan, without the model's name and the spaces."""
    return [line.split() for line in plan.splitlines()[1:] if "─" not in line]


def test_the_table_of_depths_is_that_of_the_results(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "examples" / "benchmarks")
    report = importlib.import_module("depth_report")
    assert report.main(["--markdown", "--out", str(DOCS)]) == 0
    table = capsys.readouterr().out.strip()
    assert table.count("\n") > 10
    assert table in PAGES["depth"]


def test_the_tables_of_costs_are_those_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples" / "benchmarks")
    report = importlib.import_module("monitor_report")
    steps, *others = report.tables(report.read(DOCS))
    assert steps.count("\n") == 10
    for table in (steps, *others):
        assert table in PAGES["cost"]


def test_the_table_of_activations_is_what_the_command_prints(capsys):
    assert cli.main(["gains", "--format", "markdown"]) == 0
    assert capsys.readouterr().out.strip() in PAGES["activations"]


def test_every_public_name_is_in_the_reference():
    shown = set(re.findall(r"^::: keras_initlab\.(\S+)$", PAGES["reference"], re.M))
    assert set(il.__all__) - {"__version__"} <= shown


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES:
        assert f" {page}.md" in menu


def test_the_gallery_shows_every_figure_and_each_is_small():
    page = (ROOT / "docs" / "gallery.md").read_text()
    shown = re.findall(r"\]\(figures/(\w+)\.png\)", page)
    figures = sorted((ROOT / "docs" / "figures").glob("*.png"))
    assert sorted(shown) == [figure.stem for figure in figures]
    for name in shown:
        assert f"examples/{name}.py" in page
        assert (ROOT / "examples" / f"{name}.py").is_file()
    assert max(figure.stat().st_size for figure in figures) < 60_000
