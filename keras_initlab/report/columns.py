"""The columns that the text and the page show of each layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keras_initlab.stats import LayerStats

if TYPE_CHECKING:
    from keras_initlab.report.record import InspectedLayer

Cell = Callable[["InspectedLayer"], str | None]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        header: in one line or two.
        cell: the text for a layer; None for a missing value.
        rank: columns of high rank are left out first.
        number: whether its cells are numbers, aligned to the right.
        long: whether its texts may need more room than a line has.
    """

    header: str
    cell: Cell
    rank: int
    number: bool = False
    long: bool = False

    @property
    def name(self) -> str:
        """The header in one line."""
        return self.header.replace("\n", ", ")


def number(value: float | None, style: str = ".3g") -> str | None:
    """Return a figure as text.

    >>> number(0.12345), number(float("nan")), number(None)
    ('0.123', 'nan', None)
    """
    return None if value is None else format(value, style)


def shape(sizes: Sequence[int | None] | None) -> str | None:
    """Return a shape as `model.summary()` writes it.

    >>> shape([None, 64])
    '(None, 64)'
    """
    return None if sizes is None else str(tuple(sizes))


def _figure(source: str, field: str) -> Cell:
    def cell(layer: InspectedLayer) -> str | None:
        stats: LayerStats | None = getattr(layer, source)
        return number(getattr(stats, field, None))

    return cell


def output_shape(layer: InspectedLayer) -> str | None:
    """Return the shape of a layer's output as text, measured or predicted."""
    shapes = (stats.shape for stats in (layer.measured, layer.predicted) if stats)
    return shape(next((sizes for sizes in shapes if sizes is not None), None))


def _fan(value: float | None) -> str | None:
    # Fans are integers, unless a layer's positions see different numbers of inputs.
    return number(value, ".10g")


COLUMNS = (
    Column("layer", lambda layer: layer.layer, 0, long=True),
    Column("kind", lambda layer: layer.kind, 7),
    Column("output shape", output_shape, 8),
    Column("kernel", lambda layer: shape(layer.kernel_shape), 10),
    Column("fan_in", lambda layer: _fan(layer.fan_in), 9, True),
    Column("fan_out", lambda layer: _fan(layer.fan_out), 11, True),
    Column("nonlinearity", lambda layer: layer.nonlinearity, 5),
    Column("initializer", lambda layer: layer.initializer, 6, long=True),
    Column("variance\npredicted", _figure("predicted", "variance"), 2, True),
    Column("variance\nmeasured", _figure("measured", "variance"), 1, True),
    Column("E[x²]\npredicted", _figure("predicted", "second_moment"), 12, True),
    Column(
        "gradient\npredicted", _figure("predicted", "gradient_second_moment"), 4, True
    ),
    Column(
        "gradient\nmeasured", _figure("measured", "gradient_second_moment"), 3, True
    ),
)


@dataclass(frozen=True)
class Grid:
    """The columns that are not empty, and each layer's cells."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str | None, ...], ...]


def grid(layers: Sequence[InspectedLayer]) -> Grid:
    """Return the columns that are not empty for `layers`, and their cells."""
    cells = [[column.cell(layer) for layer in layers] for column in COLUMNS]
    filled = [
        i for i, column in enumerate(cells) if any(cell is not None for cell in column)
    ]
    # The column of names stays even if there are no layers.
    filled = filled or [0]
    rows = zip(*(cells[i] for i in filled), strict=True)
    return Grid(tuple(COLUMNS[i] for i in filled), tuple(rows))
