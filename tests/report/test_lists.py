"""Lists of findings and of stats: lists as any, which a notebook shows as HTML."""

import pickle

import pytest

from keras_initlab.report import Findings
from keras_initlab.stats import LayerStats, Stats
from tests.report.inspections import EVIL, finding, inspection
from tests.report.test_html import ALLOWED, Page

pytestmark = pytest.mark.once

STATS = [
    LayerStats("a", shape=(None, 3), variance=10**-55.5, source="measured"),
    LayerStats(EVIL, shape=(None, 3), variance=2.0, nonfinite=0, source="measured"),
]
LISTS = [Findings([finding("a"), finding(EVIL)]), Stats(STATS)]


@pytest.mark.parametrize("one", LISTS, ids=["findings", "stats"])
def test_they_are_lists(one):
    assert isinstance(one, list)
    assert one == list(one)
    assert pickle.loads(pickle.dumps(one)) == one
    assert repr(one) == repr(list(one))


@pytest.mark.parametrize("one", [*LISTS, Findings(), Stats()])
def test_their_html_is_as_harmless_as_a_report(one):
    page = Page(one._repr_html_())
    assert set(page.tags) <= ALLOWED
    if one:
        assert EVIL in page.text


def test_so_does_an_inspection_with_its_findings():
    one = inspection(findings=LISTS[0])
    assert isinstance(one.findings, tuple)
    assert one.findings == tuple(LISTS[0])
    assert hash(one) == hash(inspection(findings=LISTS[0]))
    assert pickle.loads(pickle.dumps(one)) == one
    assert one.findings._repr_html_() == LISTS[0]._repr_html_()


def test_what_they_show():
    assert "3.16·10⁻⁵⁶" in Page(Stats(STATS)._repr_html_()).text
    assert Page(Stats(STATS)._repr_html_()).tags.count("tr") == 3
    # Of what nothing is known there is no column.
    assert "update" not in Page(Stats(STATS)._repr_html_()).text
    assert "2 errors" in Page(LISTS[0]._repr_html_()).text
    assert "No findings" in Page(Findings()._repr_html_()).text
