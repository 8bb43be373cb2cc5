"""A notebook that is run: what its cells show."""

import sys

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbclient")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient")
pytest.importorskip("ipykernel", reason="needs ipykernel")

pytestmark = [pytest.mark.slow, pytest.mark.once]

FIRST = """
import keras, numpy as np
import keras_initlab as il
x = np.random.default_rng(0).normal(size=(32, 16)).astype("float32")
model = keras.Sequential([keras.Input((16,)), *(
    keras.layers.Dense(16, "sigmoid") for _ in range(9)
), keras.layers.Dense(4, "softmax")])
model.compile("sgd", "sparse_categorical_crossentropy")
monitor = il.VarianceMonitor(every=1, on_finding="ignore")
model.fit(x, np.arange(32) % 4, epochs=2, verbose=0, callbacks=[monitor]);
"""
# What each cell shows, richest first, and a text that must be in it.
CELLS = {
    "monitor.plot()": ("image/png", None),
    "il.inspect(model, x).plot()": ("image/png", None),
    "il.inspect(model, x)": ("text/html", "measured on x of shape (32, 16)"),
    "monitor": ("text/html", "epoch 1"),
    "monitor.stats": ("text/html", "<table>"),
    "il.measure(model, x)": ("text/html", "<table>"),
    "il.propagate(model)": ("text/html", "<table>"),
    "il.diagnose(model, x)": ("text/html", "vanishing-signal"),
    "il.rewrite_initializers(model, dry_run=True)": (
        "text/html",
        "to rewrite (dry run)",
    ),
    "il.Mirrored(gain=1.4, q=0.05)": ("text/plain", "Mirrored(gain=1.4, q=0.05)"),
    "%matplotlib inline\nmonitor.plot()": ("image/png", None),
}


@pytest.fixture(scope="module")
def outputs():
    """Return what the cells show, by their source."""
    cells = [nbformat.v4.new_code_cell(source) for source in (FIRST, *CELLS)]
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "", "language": "python"}
    }
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    client = nbclient.NotebookClient(notebook, timeout=300)
    # This Python, whichever kernels are installed.
    manager = client.create_kernel_manager()
    manager.kernel_spec.argv[0] = sys.executable
    client.execute()
    return {
        cell.source: [one for one in cell.outputs if one.output_type != "stream"]
        for cell in notebook.cells
    }


@pytest.mark.parametrize("source", CELLS)
def test_a_cell_shows_it_once(source, outputs):
    kind, text = CELLS[source]
    # One output: a picture is not shown a second time.
    (output,) = outputs[source]
    assert kind in output.data
    assert text is None or text in output.data[kind]
    if kind != "image/png":
        assert "image/png" not in output.data
