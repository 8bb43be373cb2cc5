"""Plots of layers' signals; matplotlib is imported only where one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Inches for a row with a readable name, and the figure's least and greatest height.
ROW, LOW, HIGH = 0.24, 2.6, 13.0
# Inches that a name needs at the least, and those that the rest of the figure takes.
TIGHT_ROW, FRAME = 0.15, 1.3
LONGEST_NAME = 32


def variance_heatmap(
    history: Mapping[str, Sequence[float]],
    epochs: Sequence[int],
    figure: Any = None,
    decades: float | None = None,
) -> Any:
    """Return a figure of log10 of the variance, layers down and epochs across.

    White is a variance of 1; blue vanishes, red explodes; grey has no logarithm (0,
    NaN, infinite, or not measured in that epoch).

    Args:
        history: variances by layer, one per epoch.
        epochs: the epochs' numbers, without gaps.
        figure: a matplotlib Figure or SubFigure to draw on; None makes a new one.
        decades: how far the colours reach from 0, up and down; None goes by the data.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        import matplotlib as mpl
        from matplotlib.colors import CenteredNorm
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ImportError(
            'Plots need matplotlib. Install it with: pip install "keras-initlab[plots]"'
        ) from error

    values = log10(np.array([history[key] for key in history], dtype=float))
    layers = len(history)
    if figure is None:
        height = float(np.clip(FRAME + ROW * layers, LOW, HIGH))
        # Not pyplot's: a library must not leave figures in the user's window manager.
        figure = Figure(figsize=(7.5, height), layout="constrained")
    axes = figure.add_subplot()
    colors = mpl.colormaps["RdBu_r"].with_extremes(bad="0.75")
    reach = decades or max(1.0, float(np.max(np.abs(values.filled(0.0)), initial=0.0)))
    image = axes.imshow(
        values,
        aspect="auto",
        interpolation="nearest",
        cmap=colors,
        norm=CenteredNorm(0.0, reach),
        extent=(epochs[0] - 0.5, epochs[-1] + 0.5, layers - 0.5, -0.5),
    )
    # Names thin out where the figure cannot grow any further.
    every = int(np.ceil(layers * TIGHT_ROW / (HIGH - FRAME)))
    shown = range(0, layers, every)
    names = [_shorten(key) for key in history]
    axes.set_yticks(shown, [names[i] for i in shown], fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    axes.set_xlabel("epoch")
    axes.set_title("Variance of each layer's output", loc="left", fontsize=11)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label("log10 variance")
    bar.outline.set_visible(False)
    return figure


def log10(values: np.ndarray) -> Any:
    """Return the logarithm of `values`, masked where there is none."""
    usable = np.isfinite(values) & (values > 0)
    return np.ma.array(np.log10(np.where(usable, values, 1.0)), mask=~usable)


def _shorten(name: str) -> str:
    # The end tells layers of one block apart.
    return name if len(name) <= LONGEST_NAME else "…" + name[1 - LONGEST_NAME :]
