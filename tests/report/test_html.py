import base64
import builtins
import functools
import hashlib
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html import escape, unescape
from html.parser import HTMLParser

import pytest

from keras_initlab.report import InspectedLayer, Origin
from keras_initlab.stats import LayerStats
from tests.report import inspections
from tests.report.inspections import EVIL, NAMES, bare, inspection

pytestmark = pytest.mark.once

CASES = {
    "small": inspections.small,
    "deep": inspections.deep,
    "named": inspections.named,
    "empty": lambda: inspection(data=None),
}
VOID = {"meta", "img", "source", "br", "wbr"}
ALLOWED = set(
    "html head meta title style body div h1 h2 p ul li section span a code details "
    "summary table thead tbody tr th td br wbr img picture source dl dt dd".split()
)


class Page(HTMLParser):
    """A page's tags, attributes and text; every tag that is opened must be closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *one) for one in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self):
        return "".join(self.texts)


FORMS = {"page": lambda one: one.html(), "notebook": lambda one: one._repr_html_()}


@functools.cache
def made(case, form="page"):
    """Return a case's HTML; it is drawn once."""
    return FORMS[form](CASES[case]())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_nothing_runs_and_nothing_is_loaded(case, form):
    text = made(case, form)
    page = Page(text)
    assert set(page.tags) <= ALLOWED
    assert "<script" not in text.lower()
    assert not re.search(r"https?://|@import|url\(", text)
    for _, name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "srcset", "href"):
            assert value.startswith(("data:image/svg+xml;base64,", "#"))
    assert ("style", "id") not in {(tag, name) for tag, name, _ in page.attributes}


@pytest.mark.parametrize("form", FORMS)
def test_names_are_escaped_and_shown(form):
    text = made("named", form)
    assert EVIL not in text
    assert escape(EVIL) in text
    shown = Page(text).text
    for name in NAMES[:-1]:
        assert name in shown
    assert "\x1b" not in text


def test_the_policy_allows_the_page_its_own_style_and_pictures_alone():
    text = made("small")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert dict(one.split(" ", 1) for one in policy.split("; ")) == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    # It would block a style that stands at an element.
    assert not any(name == "style" for _, name, _ in Page(text).attributes)


def test_a_page_is_whole_and_a_notebook_gets_a_part():
    page, part = made("small"), made("small", "notebook")
    assert page.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert '<meta charset="utf-8">' in page
    outer = {"html", "head", "body", "meta", "title", "h1", "h2"}
    assert not outer & set(Page(part).tags)
    assert outer < set(Page(page).tags)


def test_the_style_in_a_notebook_speaks_of_the_report_alone():
    style = re.search(r"<style>(.*?)</style>", made("small", "notebook"), re.S)
    rules = re.sub(r"/\*.*?\*/", "", style[1], flags=re.DOTALL)
    rules = re.sub(r"@media[^{]*\{", "", rules)
    selectors = re.findall(r"([^{}]+)\{", rules)
    assert len(selectors) > 20
    for one in ",".join(selectors).split(","):
        assert ".initlab-report:not(#_)" in one


def test_light_and_dark():
    assert "prefers-color-scheme: dark" in made("small")


def test_the_table_has_a_row_a_layer_and_marks_what_was_found():
    page = Page(made("deep"))
    assert page.tags.count("tr") == 301
    marked = [
        value for tag, name, value in page.attributes if (tag, name) == ("tr", "class")
    ]
    assert marked.count("initlab-error") == 1
    assert marked.count("initlab-warning") == 249


def test_links_lead_to_layers():
    page = Page(made("deep"))
    places = {value for _, name, value in page.attributes if name == "id"}
    links = [value for _, name, value in page.attributes if name == "href"]
    assert len(places) == 300
    assert len(links) == 251
    assert {one.removeprefix("#") for one in links} <= places
    # Two reports in one notebook must not share ids.
    notebook = Page(made("deep", "notebook"))
    assert not any(name in ("id", "href") for _, name, _ in notebook.attributes)


def test_a_remedy_is_shown_as_code():
    text = made("small")
    code = escape('il.rewrite_initializers(model, scheme="isometric")')
    assert f"Call <code>{code}</code> before training." in text


def test_the_plot_is_well_formed_and_holds_the_names():
    text = made("named")
    pictures = re.findall(r'(?:src|srcset)="data:image/svg\+xml;base64,([^"]*)"', text)
    assert len(pictures) == 2
    for data in pictures:
        svg = base64.b64decode(data).decode()
        shown = "".join(ElementTree.fromstring(svg).itertext())
        for name in NAMES[:6]:
            assert name in shown
        assert "<script" not in svg


def test_the_same_inspection_makes_the_same_page():
    assert inspections.small().html() == inspections.small().html()


def test_where_there_is_nothing_to_plot_there_is_no_plot():
    assert "<img" not in inspection(bare("a")).html()


def test_without_matplotlib_the_page_says_how_to_get_it(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    page = Page(inspections.small().html())
    assert "img" not in page.tags
    assert 'pip install "keras-initlab[plots]"' in page.text


def test_save(tmp_path):
    path = tmp_path / "report.html"
    one = inspection(bare("half \ud800 a pair"))
    one.save_html(path)
    assert path.read_text(encoding="utf-8") == one.html()
    one.save_html(str(path))


def test_the_top_says_what_was_inspected_and_with_what():
    origin = Origin(
        "2026-11-28T19:20+00:00", "jax", {"keras": "3.12.0", "jax": "0.5.0"}
    )
    one = replace(
        inspections.small(), parameters=1234567, file="<net>.keras", origin=origin
    )
    for html in (one.html(), one._repr_html_()):
        top = unescape(html[: html.index("<section")])
        for part in (
            "1,234,567 parameters",
            "<net>.keras",
            "2026-11-28 19:20 UTC",
            "Keras 3.12.0",
            "backend jax 0.5.0",
        ):
            assert part in top


def test_every_column_has_a_sentence():
    page = Page(made("small"))
    told = [
        value for tag, name, value in page.attributes if (tag, name) == ("th", "title")
    ]
    assert len(told) == page.tags.count("dt") == page.tags.count("dd") == 13
    assert all(sentence.endswith(".") for sentence in told)


def test_shapes_and_initializers_are_code():
    html = made("small")
    assert "<code>(64, 64)</code>" in html
    assert "<code>initlab&gt;auto(" in html


def test_rows_without_a_kernel_can_be_folded_and_are_in_a_long_table():
    def fold(one):
        return re.findall(
            r'<details class="initlab-fold"( open)?><summary>(\d+) layers?', one.html()
        )

    # The input of the small one has a finding: it stays.
    assert fold(inspections.small()) == [(" open", "1")]
    # So does the last of the 156, which is none of the 52 kernels.
    assert fold(inspections.blocks(26)) == [("", "103")]
    assert fold(inspection(bare("a"), bare("b"))) == []


def test_small_numbers_are_powers_of_ten():
    stats = LayerStats("a", variance=10**-55.5, source="measured")
    one = inspection(InspectedLayer("a", "Dense", measured=stats))
    assert "3.16·10⁻⁵⁶" in Page(one.html()).text
