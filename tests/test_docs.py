"""The code in the documentation runs, and prints what stands there."""

import doctest

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
