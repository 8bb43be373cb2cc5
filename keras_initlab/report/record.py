"""The records that reports are made from: a model, layer by layer."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_initlab.diagnosis import Finding
from keras_initlab.files import write_text
from keras_initlab.report import html, jsonform, markdown, picture, text
from keras_initlab.report.cards import FixedFindings
from keras_initlab.stats import LayerStats


@dataclass(frozen=True)
class InspectedLayer:
    """One call of one layer.

    Values that are not known, or that the layer does not have, are None.

    Attributes:
        layer: its path in the model, as in `LayerStats`.
        kind: the layer's class.
        weight: the name of its kernel, which the next five describe.
        kernel_shape: the kernel's shape.
        fan_in, fan_out: see `keras_initlab.model.fans`.
        nonlinearity: name of the one that follows the kernel ("linear" for none).
        initializer: the kernel's, as text.
        predicted: the signal at the layer's output, from `propagate`.
        measured: the signal there, from `measure` on a batch.
    """

    layer: str
    kind: str
    weight: str | None = None
    kernel_shape: tuple[int, ...] | None = None
    fan_in: float | None = None
    fan_out: float | None = None
    nonlinearity: str | None = None
    initializer: str | None = None
    predicted: LayerStats | None = None
    measured: LayerStats | None = None


@dataclass(frozen=True)
class Origin:
    """When and with what an inspection was made.

    Attributes:
        created: date and time with the offset from UTC, as ISO 8601 writes them.
        backend: Keras's, such as "tensorflow".
        versions: by name, such as {"keras-initlab": "0.1.0", "keras": "3.12.0"}.
    """

    created: str
    backend: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Inspection:
    """A model's layers, and what is wrong with it.

    `print` it, show it in a notebook, or convert it: `text`, `html`, `save_html`,
    `markdown`, `json`, `to_dict`, `records`, `plot`.

    Attributes:
        model: the model's name.
        layers: in call order.
        findings: errors first.
        data: the batch measured on, such as "x of shape (64, 784)"; None without one.
        notes: sentences on how the figures came about, such as a prediction's
            assumptions.
        parameters: how many numbers the model's weights hold.
        file: the saved model that was inspected, as it was named; None for a model
            in memory.
        origin: when and with what the inspection was made. It does not count where
            two inspections are compared.
    """

    model: str
    layers: tuple[InspectedLayer, ...]
    findings: tuple[Finding, ...]
    data: str | None = None
    notes: tuple[str, ...] = ()
    parameters: int | None = None
    file: str | None = None
    origin: Origin | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        # A notebook shows them as cards; they are a tuple as any.
        object.__setattr__(self, "findings", FixedFindings(self.findings))

    def __str__(self) -> str:
        # As wide as the terminal, if there is one: a table whose lines wrap cannot be
        # read.
        columns = shutil.get_terminal_size((0, 0)).columns
        return self.text(max(columns, text.NARROWEST) if columns else None)

    def __repr__(self) -> str:
        return (
            f"<Inspection of {self.model!r}: {len(self.layers)} layers, "
            f"{len(self.findings)} findings; print it>"
        )

    def text(self, width: int | None = None, color: bool = False) -> str:
        """Return a table of the layers, then the findings and the notes.

        Empty columns are left out. If `width` is given, so are the least important
        columns that do not fit, with a line that names them.

        Args:
            width: characters in a line, 30 or more; None for as many as it needs.
            color: mark severities with terminal colours.

        Raises:
            ValueError: `width` is not an int, or too small.

        >>> stats = LayerStats("dense", variance=2.0, source="predicted")
        >>> dense = InspectedLayer("dense", "Dense", fan_in=4.0, predicted=stats)
        >>> print(Inspection("net", (dense,), ()).text())
        net: 1 layer, nothing measured; no findings
                                   variance
         layer   kind    fan_in   predicted
        ────────────────────────────────────
         dense   Dense        4           2
        """
        return text.as_text(self, width, color)

    def html(self) -> str:
        """Return a self-contained page of HTML.

        It loads nothing and runs no script. It holds plots if matplotlib is installed,
        and is light or dark as the reader's system is.
        """
        return html.as_page(self)

    def save_html(self, path: str | Path) -> None:
        """Write `html` to a file, in place of what is there, whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        write_text(path, self.html())

    def _repr_html_(self) -> str:
        return html.as_fragment(self)

    def markdown(self) -> str:
        """Return a short account, to paste into an issue or to hand to an assistant.

        What the model is, the findings with evidence and remedy, and the layers that
        matter: those of the findings, the first and the last kernel, and those with
        the smallest and largest figures.

        >>> print(Inspection("net", (), (), parameters=1000).markdown())
        # Inspection of `net`
        <BLANKLINE>
        0 layers, nothing measured; no findings. 1,000 parameters.
        """
        return markdown.as_markdown(self)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as dicts, lists, strings and numbers, as `json` writes it.

        NaN and infinities are the strings "NaN", "Infinity" and "-Infinity"; unknown
        values are None. `schema` is the version of the form, which is described in
        `keras_initlab/report/inspection.schema.json`.
        """
        return jsonform.as_dict(self)

    def json(self, indent: int | None = 2) -> str:
        """Return `to_dict` as strict JSON, on one line if `indent` is None."""
        return jsonform.as_json(self, indent)

    @property
    def records(self) -> list[dict[str, Any]]:
        """A flat dict for each layer, all with the same keys: rows of a data frame.

        Figures are named after their source, such as `predicted_variance` and
        `measured_variance`. Shapes are strings; `findings` are a layer's codes.
        """
        return jsonform.records(self)

    def plot(self, figure: Any = None) -> Any:
        """Return a matplotlib figure of variance and gradient over depth.

        Args:
            figure: a matplotlib Figure or SubFigure to draw on; None makes a new one.

        Raises:
            ImportError: matplotlib is missing.
            ValueError: no variance and no gradient of any layer is known.
        """
        return picture.draw(self, figure)
