"""The notebook runs, and shows what its sentences say."""

import json
import os
import re

import pytest

from tests.helpers import ROOT

NOTEBOOK = ROOT / "examples" / "tour.ipynb"


@pytest.mark.once
def test_the_notebook_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    assert not any(cell.get("execution_count") for cell in cells)


@pytest.mark.slow
@pytest.mark.torch
def test_the_notebook_shows_what_it_says(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    # Where `%matplotlib inline` has its way.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), path]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [output.get("data", {}) for output in outputs]
    assert sum("image/png" in data for data in shown) == 3
    # The inspection, as a page.
    assert any("hidden_12" in data.get("text/html", "") for data in shown)
    printed = "".join(output.get("text", "") for output in outputs)
    default, mended = map(float, re.findall(r"Test accuracy .*: ([\d.]+)", printed))
    assert default < 0.2
    assert mended > 0.85
    assert "13 of 13 kernels rewritten" in printed
    assert "initializer-mismatch" in printed or "vanishing-" in printed
    assert any(data.get("text/plain") == "[]" for data in shown)
