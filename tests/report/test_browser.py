"""The page in a real browser, where there is one: no name in it ever runs."""

import html
import re
import shutil
import subprocess

import pytest

from tests.report import inspections

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
