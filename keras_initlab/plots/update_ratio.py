"""How far a training step moves the weights, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_initlab.plots import canvas

# The rule of thumb, and the usual range.
GOOD, USUAL = 1e-3, (1e-4, 1e-2)
# Up to so many layers are named in a legend, more by the colour bar.
FEW = 10
# The end of viridis is a yellow that is hard to see on white.
DEEPEST = 0.88
BAND = "0.9"


def updates(
    history: Mapping[str, Sequence[float]],
    epochs: Sequence[float],
    figure: Any = None,
) -> Any:
    """Return a figure of the update ratios ‖Δw‖ / ‖w‖ over the epochs.

    Each layer has a line, coloured by depth, on a log scale. Grey marks the usual
    range, 1e-4 to 1e-2, and the rule of thumb, 1e-3: far below it, a layer hardly
    learns; far above it, training is unstable. A ratio of 0 is marked at the lower edge
    and an infinite one at the upper edge; NaN (not measured) is a gap.

    From Karpathy, CS231n, "Neural networks part 3", ratio of weights:updates.

    Args:
        history: ratios by layer in call order, one per epoch.
        epochs: the epochs' numbers, or other positions on the x axis.
        figure: a matplotlib Figure or SubFigure to draw on; None makes a new one.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: `history` is empty, or a layer does not have one ratio per epoch.
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

    shades = mpl.colormaps["viridis"](np.linspace(0, DEEPEST, 256))
    colors = LinearSegmentedColormap.from_list("depth", shades)
    axes = figure.add_subplot()
    usual = _mark_usual(axes)
    lines = _draw_ratios(axes, history, np.asarray(epochs, dtype=float), colors)
    canvas.plain(axes)
    canvas.count_epochs(axes, epochs)
    if len(epochs) == 1:
        axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
    axes.set_xlabel("epoch")
    axes.set_ylabel("‖Δw‖ / ‖w‖ of one step")
    axes.set_title("Update ratio of each layer", loc="left", fontsize=canvas.TITLE)
    # Above the axes, where it covers no line.
    above = axes.legend(
        handles=usual,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=2,
        frameon=False,
        fontsize=canvas.LABEL,
        borderaxespad=0.2,
    )
    if len(history) <= FEW:
        axes.add_artist(above)
        canvas.legend(axes, lines)
    else:
        _bar(figure, axes, colors, list(history))
    return figure


def _draw_ratios(
    axes: Any, history: Mapping[str, Sequence[float]], x: np.ndarray, colors: Any
) -> list[Any]:
    """Draw a line for each layer on a log scale; return the lines."""
    few = len(history) <= FEW
    lines = []
    for i, (name, ratios) in enumerate(history.items()):
        color = colors(i / max(1, len(history) - 1))
        values = np.asarray(ratios, dtype=float)
        usable = np.ma.masked_where(canvas.log10(values).mask, values)
        lines += axes.plot(
            x,
            usable,
            label=canvas.shorten(name),
            color=color,
            linewidth=1.6 if few else 0.8,
            marker="o",
            markersize=3.5,
            markevery=None if few else canvas.alone(usable),
        )
        measured = ~np.isnan(values)
        canvas.mark_edges(axes, x[measured], values[measured], color)
    axes.set_yscale("log")
    return lines


def _mark_usual(axes: Any) -> list[Any]:
    """Mark the usual range and the rule of thumb; return handles for a legend."""
    from matplotlib.patheffects import withStroke

    band = axes.axhspan(*USUAL, color=BAND, linewidth=0, zorder=0)
    band.set_label("usual: 1e-4 to 1e-2")
    # Above the lines, on white, as many lines would hide it.
    rule = axes.axhline(GOOD, color=canvas.QUIET, linewidth=1, linestyle=":", zorder=3)
    rule.set_path_effects([withStroke(linewidth=2, foreground="white")])
    rule.set_label("rule of thumb: 1e-3")
    return [band, rule]


def _bar(figure: Any, axes: Any, colors: Any, names: list[str]) -> None:
    """Add a colour bar, with the first layer on top as in the other plots."""
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
