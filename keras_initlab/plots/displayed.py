"""A figure that a notebook shows as it is. Imports matplotlib: import it late."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class DisplayedFigure(Figure):
    """A matplotlib figure that draws itself where it is the last line of a cell.

    A notebook knows how to draw a plain one only after `%matplotlib inline`. After
    that, what it draws goes by the class and comes before this method: one picture
    either way.
    """

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", bbox_inches="tight")
        return file.getvalue()
