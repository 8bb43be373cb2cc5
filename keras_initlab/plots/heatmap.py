"""The variance of layers' outputs during training, as a heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_initlab.plots import canvas

# Decades that the colours reach above and below white at least: a factor of 10 is pale.
LEAST = 2.0


def variance_heatmap(
    history: Mapping[str, Sequence[float]],
    epochs: Sequence[int],
    figure: Any = None,
    decades: float | None = None,
    *,
    relative: bool | None = None,
    starts: Sequence[float] | None = None,
    xlabel: str = "epoch",
) -> Any:
    """Return a figure of log10 of the variance, layers down and epochs across.

    White is the variance of the first layer in the first epoch, blue a signal that
    vanishes over depth or epochs, and red one that explodes. Grey has no logarithm (0,
    NaN, infinite, or not measured in that epoch).

    Args:
        history: variances by layer, one per epoch.
        epochs: the epochs' numbers, without gaps. Ignored if `starts` is given.
        figure: a matplotlib Figure or SubFigure to draw on; None makes a new one.
        decades: how far the colours reach above and below white; None for the data's
            range, and at least 2.
        relative: True makes the first layer's variance white, False a variance of 1.
            None is True, and False where `decades` is given: then figures of different
            networks have one scale.
        starts: where each window begins on the x axis, ascending, for windows other
            than whole epochs. For windows of a number of steps: epoch + step / steps
            per epoch. A column reaches to the next, or has the usual width before a
            gap.
        xlabel: what the x axis counts.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: `starts` do not ascend, or differ in number from the values.
    """
    figure = canvas.open_figure(figure, 7.5, canvas.rows_height(len(history)))
    import matplotlib as mpl
    from matplotlib.colors import CenteredNorm

    values = canvas.log10(np.array([history[key] for key in history], dtype=float))
    layers = len(history)
    axes = figure.add_subplot()
    colors = mpl.colormaps["RdBu_r"].with_extremes(bad=canvas.UNKNOWN)
    white = _first(values) if relative or (relative is None and not decades) else 0.0
    spread = np.abs(values - white).filled(0.0)
    norm = CenteredNorm(
        white, decades or max(LEAST, float(np.max(spread, initial=0.0)))
    )
    if starts is None:
        image = axes.imshow(
            values,
            aspect="auto",
            interpolation="nearest",
            cmap=colors,
            norm=norm,
            extent=(epochs[0] - 0.5, epochs[-1] + 0.5, layers - 0.5, -0.5),
        )
    else:
        canvas.check_lengths(history, starts, "starts")
        edges, columns = _columns(np.asarray(starts, dtype=float))
        cells = np.ma.array(np.zeros((layers, len(columns))), mask=True)
        cells[:, columns] = values
        image = axes.pcolormesh(
            edges,
            np.arange(layers + 1) - 0.5,
            cells,
            cmap=colors,
            norm=norm,
            rasterized=True,
        )
        axes.set_ylim(layers - 0.5, -0.5)
    canvas.name_rows(axes, figure, list(history))
    canvas.count_epochs(axes, epochs if starts is None else starts)
    axes.set_xlabel(xlabel)
    axes.set_title("Variance of each layer's output", loc="left", fontsize=canvas.TITLE)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    origin = "the first layer's" if white else "1"
    bar.set_label(f"log10 variance\nwhite: {origin}", fontsize=canvas.LABEL)
    bar.outline.set_visible(False)
    return figure


def _first(values: Any) -> float:
    """Return the first value in the first epoch that has one, 0 where none has."""
    for epoch in values.T:
        present = epoch.compressed()
        if len(present):
            return float(present[0])
    return 0.0


def _columns(starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns' edges, and which columns are windows, not gaps."""
    steps = np.diff(starts)
    if not (np.isfinite(starts).all() and (steps > 0).all()):
        raise ValueError(
            "`starts` must be finite and ascend: where each window begins on the x "
            f"axis. Received: {starts.tolist()!r}. Use epoch + step / steps per epoch."
        )
    usual = float(np.median(steps)) if len(steps) else 1.0
    gaps = np.flatnonzero(steps > 1.5 * usual)
    edges = np.insert(starts, gaps + 1, starts[gaps] + usual)
    is_window = np.insert(np.ones(len(starts), bool), gaps + 1, False)
    return np.append(edges, edges[-1] + usual), is_window
