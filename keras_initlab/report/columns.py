"""The columns that the text and the page show of each layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keras_initlab import numerals
from keras_initlab.markup import Heading
from keras_initlab.stats import LayerStats

if TYPE_CHECKING:
    from keras_initlab.report.record import InspectedLayer

Cell = Callable[["InspectedLayer"], str | None]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        heading: its head, and what it says.
        cell: the text for a layer; None for a missing value.
        rank: columns of high rank are left out first.
        place: on a page, columns of high place are the last to the right: what is
            wider than the window is cut off there.
        long: whether its texts may need more room than a line has.
    """

    heading: Heading
    cell: Cell
    rank: int
    place: int
    long: bool = False


def number(value: float | None) -> str | None:
    """Return a figure as text.

    >>> number(0.12345), number(float("nan")), number(None)
    ('0.123', 'nan', None)
    """
    return None if value is None else numerals.number(value)


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
    return None if value is None else format(value, ".10g")


def _signal(name: str, source: str, about: str) -> Heading:
    how = {
        "predicted": "as predicted from the weights",
        "measured": "as measured on the batch",
    }
    return Heading(f"{name}\n{source}", number=True, about=f"{about}, {how[source]}.")


_VARIANCE = "E[(x - E[x])²] of the layer's output, over inputs and units"
_GRADIENT = (
    "E[(dL/dx)²] at the layer's output, from a gradient of 1 at the model's outputs"
)
COLUMNS = (
    Column(
        Heading("layer", about="The layer's path in the model; #0, #1 are its calls."),
        lambda layer: layer.layer,
        rank=0,
        place=0,
        long=True,
    ),
    Column(
        Heading("kind", about="The layer's class."),
        lambda layer: layer.kind,
        rank=7,
        place=11,
    ),
    Column(
        Heading("output shape", code=True, about="None stands for the batch."),
        output_shape,
        rank=8,
        place=12,
    ),
    Column(
        Heading("kernel", code=True, about="The kernel's shape."),
        lambda layer: shape(layer.kernel_shape),
        rank=10,
        place=8,
    ),
    Column(
        Heading("fan_in", number=True, about="How many inputs a unit sums."),
        lambda layer: _fan(layer.fan_in),
        rank=9,
        place=9,
    ),
    Column(
        Heading("fan_out", number=True, about="How many units an input reaches."),
        lambda layer: _fan(layer.fan_out),
        rank=11,
        place=10,
    ),
    Column(
        Heading(
            "nonlinearity",
            code=True,
            about="What the kernel's output meets next; linear for nothing.",
        ),
        lambda layer: layer.nonlinearity,
        rank=5,
        place=6,
    ),
    Column(
        Heading(
            "initializer", code=True, about="What draws the kernel, but for its seed."
        ),
        lambda layer: layer.initializer,
        rank=6,
        place=7,
        long=True,
    ),
    Column(
        _signal("variance", "predicted", _VARIANCE),
        _figure("predicted", "variance"),
        rank=2,
        place=3,
    ),
    Column(
        _signal("variance", "measured", _VARIANCE),
        _figure("measured", "variance"),
        rank=1,
        place=1,
    ),
    Column(
        _signal("E[x²]", "predicted", "The output's second moment"),
        _figure("predicted", "second_moment"),
        rank=12,
        place=5,
    ),
    Column(
        _signal("gradient", "predicted", _GRADIENT),
        _figure("predicted", "gradient_second_moment"),
        rank=4,
        place=4,
    ),
    Column(
        _signal("gradient", "measured", _GRADIENT),
        _figure("measured", "gradient_second_moment"),
        rank=3,
        place=2,
    ),
)

# From left to right on a page.
ON_PAGE = tuple(sorted(COLUMNS, key=lambda column: column.place))


@dataclass(frozen=True)
class Grid:
    """The columns that are not empty, and each layer's cells."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str | None, ...], ...]


def grid(layers: Sequence[InspectedLayer], columns: Sequence[Column] = COLUMNS) -> Grid:
    """Return the columns that are not empty for `layers`, and their cells."""
    cells = [[column.cell(layer) for layer in layers] for column in columns]
    filled = [
        i for i, column in enumerate(cells) if any(cell is not None for cell in column)
    ]
    # The column of names stays even if there are no layers.
    filled = filled or [0]
    rows = zip(*(cells[i] for i in filled), strict=True)
    return Grid(tuple(columns[i] for i in filled), tuple(rows))
