"""Shared by all plots: figures, colours, names on axes, values without a logarithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# Okabe and Ito's colours, which colour-blind readers can tell apart.
OUTPUT, GRADIENT, PREDICTED = "#0072B2", "#009E73", "#D55E00"
UNKNOWN, LINE, QUIET = "0.75", "0.9", "0.35"
TITLE, LABEL = 11, 8
# Inches for a row with a readable name; the figure's smallest and largest height.
ROW, LOW, HIGH = 0.24, 2.6, 13.0
# Inches that a name needs at least, and those that the rest of the figure takes.
TIGHT_ROW, FRAME = 0.15, 1.3
LONGEST_NAME = 32


def open_figure(figure: Any, width: float, height: float) -> Any:
    """Return `figure`, or, if it is None, a new one of this size in inches.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        import matplotlib.figure  # noqa: F401  (what the next line needs)
    except ImportError as error:
        raise ImportError(
            'Plots need matplotlib. Install it with: pip install "keras-initlab[plots]"'
        ) from error

    if figure is not None:
        return figure
    from keras_initlab.plots.displayed import DisplayedFigure

    # Not through pyplot, which would keep the figure open in the user's session.
    return DisplayedFigure(figsize=(width, height), layout="constrained")


def rows_height(layers: int) -> float:
    """Return the height in inches of a figure with one row for each layer."""
    return float(np.clip(FRAME + ROW * layers, LOW, HIGH))


def thinned(count: int, inches: float, row: float = TIGHT_ROW) -> range:
    """Return which of `count` names are shown within `inches`."""
    room = max(1, int(inches / row))
    return range(0, count, max(1, -(-count // room)))


def name_rows(axes: Any, figure: Any, names: Sequence[str]) -> None:
    """Write the layers' names down the side, as many as can be read."""
    height = figure.bbox.height / figure.dpi
    shown = thinned(len(names), height - FRAME)
    labels = [shorten(names[i]) for i in shown]
    axes.set_yticks(shown, labels, fontsize=LABEL, parse_math=False)


def shorten(name: str) -> str:
    """Return a name without control characters, cut to its end if it is long.

    Draw it with `parse_math=False`: it may hold dollar signs.
    """
    # Control characters would make an SVG invalid.
    name = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for character in name
    )
    # The end distinguishes the layers of a block.
    return name if len(name) <= LONGEST_NAME else "…" + name[1 - LONGEST_NAME :]


def log10(values: np.ndarray) -> Any:
    """Return the decimal logarithm of `values`, masked where there is none."""
    usable = np.isfinite(values) & (values > 0)
    return np.ma.array(np.log10(np.where(usable, values, 1.0)), mask=~usable)


def alone(values: Any) -> list[int]:
    """Return the indices of values between two gaps, which a line does not show."""
    present = np.concatenate([[False], ~np.ma.getmaskarray(values), [False]])
    return np.flatnonzero(present[1:-1] & ~present[:-2] & ~present[2:]).tolist()


def mark_edges(axes: Any, x: np.ndarray, values: np.ndarray, color: Any) -> list[Any]:
    """Mark values without a logarithm at the axes' edges; return the marks.

    0 is marked below, infinite and NaN above.
    """
    marks = []
    for name, where, edge, marker in (
        ("0", values <= 0, 0.0, "v"),
        ("infinite", np.isposinf(values), 1.0, "^"),
        ("NaN", np.isnan(values), 1.0, "x"),
    ):
        if where.any():
            marks += axes.plot(
                x[where],
                np.full(int(where.sum()), edge),
                linestyle="",
                marker=marker,
                color=color,
                markersize=5,
                clip_on=False,
                zorder=3,
                label=name,
                transform=axes.get_xaxis_transform(),
            )
    return marks


def plain(axes: Any) -> None:
    """Remove what carries no data, and add a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=LABEL)


def note(
    axes: Any, x: float, y: float, text: str, offset: tuple[float, float], **more: Any
) -> None:
    """Write a remark: `x` is a share of the axes' width, `y` a value on their axis."""
    axes.annotate(
        text,
        (x, y),
        xycoords=axes.get_yaxis_transform(),
        xytext=offset,
        textcoords="offset points",
        **{"va": "center", "fontsize": LABEL, "color": QUIET, **more},
    )


def count_epochs(axes: Any, places: Sequence[float]) -> None:
    """Number the x axis, with fractions of epochs only if fewer than two are shown."""
    from matplotlib.ticker import MaxNLocator

    whole = all(float(place).is_integer() for place in places)
    least = 1 if whole else 2
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12, min_n_ticks=least))


def legend(axes: Any, handles: list[Any]) -> None:
    """Add a legend beside the axes, where it covers nothing."""
    box = axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=LABEL,
        borderaxespad=0,
    )
    for text in box.get_texts():
        text.set_parse_math(False)  # a layer's name may hold dollar signs


def check_lengths(values: Any, x: Sequence[float], name: str) -> None:
    """Raise if a layer has more or fewer values than the x axis has places."""
    for layer, row in values.items():
        if len(row) != len(x):
            raise ValueError(
                f"Each layer must have one value for each of `{name}`, NaN where "
                f"nothing was measured. Received: {len(row)} values of {layer!r} for "
                f"{len(x)} of `{name}`. Pass as many of them as there are values."
            )
