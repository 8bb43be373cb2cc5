"""Figures as files to embed in a page."""

from __future__ import annotations

import io
import warnings
from typing import Any


def svg(figure: Any) -> bytes:
    """Return a figure as SVG, the same bytes each time.

    Names are kept as text: they can be searched, and the viewer has fonts for more
    languages than matplotlib ships.
    """
    import matplotlib

    settings = {"svg.fonttype": "none", "svg.hashsalt": "keras-initlab"}
    file = io.BytesIO()
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # That matters only where matplotlib draws the letters itself.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
