"""How far each training step moves the weights, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_initlab.plots import canvas

# The rule of thumb, and around it what is usual.
GOOD, USUAL = 1e-3, (1e-4, 1e-2)
# So many layers are named in a legend, more by the colour bar.
FEW = 10
# Viridis ends in a yellow that is hard to see on white.
DEEPEST = 0.88
BAND = "0.9"


def updates(
    history: Mapping[str, Sequence[float]],
    epochs: Sequence[float],
    figure: Any = None,
) -> Any:
    """Return a figure of the update ratios ‖Δw‖ / ‖w‖ over the epochs.

    A line for each layer, coloured by depth, on a log scale. Grey marks what is usual,
    1e-4 to 1e-2, and the rule of thumb, 1e-3: far below, a layer hardly learns; far
    above, it is torn about. A ratio of 0 is marked at the lower edge and an infinite
    one at the upper edge; NaN (not measured) is a gap.

    From Karpathy, CS231n, "Neural networks part 3", ratio of weights:updates.

    Args:
        history: ratios by layer in call order, one per epoch.
        epochs: the epochs' numbers, or other places on the x axis.
        figure: a matplotlib Figure or SubFigure to draw on; None makes a new one.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: `history` is empty, or has not one ratio per epoch.
    """
    if not history:
        raise ValueError(
            "There is nothing to plot: `history` must hold the ratios of at least one "
            "layer. Received: none. Monitor with gradients=True."
        )
    canvas.check_lengths(history, epochs, "epochs")
    figure = canvas.open_figure(figure, 8.5, 4.5)
    import matplotlib as mpl
    from matplotlib.colors import LinearSegmentedColormap

    layers = len(history)
    shades = mpl.colormaps["viridis"](np.linspace(0, DEEPEST, 256))
    colors = LinearSegmentedColormap.from_list("depth", shades)
    axes = figure.add_subplot()
    usual = _mark_usual(axes)
    x = np.asarray(epochs, dtype=float)
    lines = []
    for i, (name, ratios) in enumerate(history.items()):
        color = colors(i / max(1, layers - 1))
        values = np.asarray(ratios, dtype=float)
        usable = np.ma.masked_where(canvas.log10(values).mask, values)
        lines += axes.plot(
            x,
            usable,
            label=canvas.shorten(name),
            color=color,
            linewidth=1.6 if layers <= FEW else 0.8,
            marker="o",
            markersize=3.5,
            markevery=None if layers <= FEW else canvas.alone(usable),
        )
        seen = ~np.isnan(values)
        canvas.mark_edges(axes, x[seen], values[seen], color)
    axes.set_yscale("log")
    canvas.plain(axes)
    canvas.count_epochs(axes, epochs)
    if len(x) == 1:
        axes.set_xlim(x[0] - 0.5, x[0] + 0.5)
    axes.set_xlabel("epoch")
    axes.set_ylabel("‖Δw‖ / ‖w‖ of one step")
    axes.set_title("Update ratio of each layer", loc="left", fontsize=canvas.TITLE)
    # Above, where no line is covered.
    above = axes.legend(
        handles=usual,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=2,
        frameon=False,
        fontsize=canvas.LABEL,
        borderaxespad=0.2,
    )
    if layers <= FEW:
        axes.add_artist(above)
        canvas.legend(axes, lines)
    else:
        _bar(figure, axes, colors, list(history))
    return figure


def _mark_usual(axes: Any) -> list[Any]:
    from matplotlib.patheffects import withStroke

    band = axes.axhspan(*USUAL, color=BAND, linewidth=0, zorder=0)
    band.set_label("usual: 1e-4 to 1e-2")
    # Over the lines, on white: many of them would bury it.
    rule = axes.axhline(GOOD, color=canvas.QUIET, linewidth=1, linestyle=":", zorder=3)
    rule.set_path_effects([withStroke(linewidth=2, foreground="white")])
    rule.set_label("rule of thumb: 1e-3")
    return [band, rule]


def _bar(figure: Any, axes: Any, colors: Any, names: list[str]) -> None:
    """Explain the colours, with the first layer on top as in the other plots."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(0, len(names) - 1), colors)
    bar = figure.colorbar(scale, ax=axes, pad=0.02, aspect=30)
    bar.ax.invert_yaxis()
    bar.outline.set_visible(False)
    shown = np.unique(np.linspace(0, len(names) - 1, FEW).round().astype(int))
    bar.set_ticks(shown, labels=[canvas.shorten(names[i]) for i in shown])
    bar.ax.tick_params(labelsize=canvas.LABEL)
    bar.set_label("layer, in call order")
