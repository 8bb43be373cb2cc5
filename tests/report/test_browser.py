"""Pages in a real browser, where there is one: how they look, and that none runs."""

import html
import json
import re
import shutil
import subprocess

import pytest

from tests.report import inspections
from tests.report.notebooks import NOTEBOOKS, cell

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
# A page whose title changes has run something.
NAMES = (
    "<script>document.title = 'ran'</script>",
    "<img src=x onerror=\"document.title = 'ran'\">",
    "</style></title><script>document.title = 'ran'</script>",
    "\"' onmouseover=x autofocus onfocus=\"document.title = 'ran'\" x='",
    "<svg onload=\"document.title = 'ran'\"></svg>",
)

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium"),
]


def opened(page, folder):
    """Return a page's title and text after it was opened."""
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={folder / 'profile'}",
            "--virtual-time-budget=2000",
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    return html.unescape(title[1]), html.unescape(done.stdout)


def test_no_name_runs(tmp_path):
    inspection = inspections.named(NAMES)
    title, shown = opened(inspection.html(), tmp_path)
    assert title == f"{inspection.model}: initlab inspection"
    for name in NAMES:
        assert name in shown


@pytest.mark.parametrize("name", [NAMES[0], NAMES[1]])
def test_names_that_were_not_escaped_would_run(name, tmp_path):
    page = f"<!DOCTYPE html><title>still</title><p>{name}</p>"
    assert opened(page, tmp_path)[0] == "ran"


@pytest.mark.parametrize("name", [NAMES[0], NAMES[1]])
def test_the_policy_stops_even_those(name, tmp_path):
    page = inspections.small().html().replace("</body>", f"<p>{name}</p></body>")
    assert opened(page, tmp_path)[0] == "net: initlab inspection"


def titles(pages, folder):
    """Return the titles, read as JSON, that pages of given widths give themselves."""
    frames = "".join(
        f'<iframe width="{width}" height="900" srcdoc="{html.escape(page)}"></iframe>'
        for page, width in pages
    )
    told = (
        "<script>onload = () => { document.title = JSON.stringify("
        "Array.from(frames).map((one) => one.document.title)) }</script>"
    )
    found = json.loads(opened(f"<title></title>{frames}{told}", folder)[0])
    return [json.loads(title) for title in found]


# How a table lies: its layout, how the heads of names and numbers are aligned, whether
# they have a line below, and in how many cells the text reaches out.
LOOK = """<script>
const cells = [...document.querySelectorAll("th, td")];
const style = (what) => getComputedStyle(document.querySelector(what));
document.title = JSON.stringify({
  layout: style("table").tableLayout,
  name: style("thead th:first-child").textAlign,
  number: style("thead th:nth-child(2)").textAlign,
  line: style("thead th").borderBottomWidth,
  outside: cells.filter((one) => one.scrollWidth > one.clientWidth + 1).length,
});
</script>"""


def test_no_column_covers_another_in_a_notebook(tmp_path):
    fragment = inspections.small()._repr_html_()
    pages = [(cell(name, fragment, LOOK), 1200) for name in NOTEBOOKS]
    bare = re.sub("<style>.*?</style>", "", fragment, flags=re.DOTALL)
    *found, without = titles([*pages, (cell("jupyter", bare, LOOK), 1200)], tmp_path)
    for look in found:
        assert look == {
            "layout": "auto",
            "name": "left",
            "number": "right",
            "line": "1px",
            "outside": 0,
        }
    # A table without a style of its own would be covered.
    assert (without["layout"], without["name"]) == ("fixed", "right")


# What is seen of a page: heads of columns, how many rows, which picture.
SEEN = """<script>
const right = (one) => one.getBoundingClientRect().right;
const box = right(document.querySelector(".initlab-scroll"));
const heads = [...document.querySelectorAll("thead th")];
const rows = [...document.querySelectorAll("tbody tr")];
document.title = JSON.stringify({
  heads: heads.filter((one) => right(one) <= box).map((one) => one.innerText),
  rows: rows.filter((one) => one.getClientRects().length).length,
  picture: document.querySelector("img").currentSrc.length,
});
</script>"""


def test_wide_and_narrow_pages_show_what_matters_first(tmp_path):
    page = inspections.blocks(26).html().replace("</body>", f"{SEEN}</body>")
    page = re.sub("<meta http-equiv[^>]*>", "", page)
    wide, narrow = titles([(page, 1300), (page, 400)], tmp_path)
    for name in ("variance", "gradient"):
        assert f"{name}\npredicted" in wide["heads"]
        assert f"{name}\nmeasured" in wide["heads"]
    assert narrow["heads"] == ["layer", "variance\nmeasured", "gradient\nmeasured"]
    # A picture of its own, with letters of a size to be read.
    assert narrow["picture"] != wide["picture"]
    # 6 layers a block, of which two have a kernel; one of the others has a finding.
    assert wide["rows"] == narrow["rows"] == 26 * 2 + 1
