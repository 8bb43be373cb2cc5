"""The code in the documentation runs, and prints what stands there."""

import doctest
import re

import pytest

from tests.helpers import ROOT

pytestmark = pytest.mark.once


@pytest.mark.parametrize("page", ["architecture.md"])
def test_code_of_a_page_prints_what_it_says(page):
    done = doctest.testfile(
        str(ROOT / "docs" / page),
        module_relative=False,
        optionflags=doctest.NORMALIZE_WHITESPACE,
    )
    assert done.attempted > 20
    assert done.failed == 0


def test_the_gallery_shows_every_figure_and_each_is_small():
    page = (ROOT / "docs" / "gallery.md").read_text()
    shown = re.findall(r"\]\(figures/(\w+)\.png\)", page)
    figures = sorted((ROOT / "docs" / "figures").glob("*.png"))
    assert sorted(shown) == [figure.stem for figure in figures]
    for name in shown:
        assert f"examples/{name}.py" in page
        assert (ROOT / "examples" / f"{name}.py").is_file()
    assert max(figure.stat().st_size for figure in figures) < 60_000
