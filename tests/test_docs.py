"""The code in the documentation runs, and prints what stands there."""

import doctest

import pytest

from tests.helpers import ROOT

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("page", "least"), [("architecture.md", 20), ("calibrate.md", 5)]
)
def test_code_of_a_page_prints_what_it_says(page, least):
    done = doctest.testfile(
        str(ROOT / "docs" / page),
        module_relative=False,
        optionflags=doctest.NORMALIZE_WHITESPACE,
    )
    assert done.attempted > least
    assert done.failed == 0
