"""The distribution of layers' outputs, and of the gradients there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_initlab.plots import canvas
from keras_initlab.plots.sample import Sample, edges_for, smallest_size

# Up to so many layers, each one has a readable histogram.
FEW = 24
# Inches of a histogram's row; in rows, the height of its peak and where its floor is.
STRIP, TALLEST, FLOOR = 0.42, 0.85, 0.45
# Bins of a histogram, and of a heat map's row.
BINS, CELLS = 81, 121
# Room for the ends of a row's range beside its bars, as a share of their width.
ROOM = 0.18
END = {
    "va": "center",
    "textcoords": "offset points",
    "fontsize": canvas.LABEL,
    "color": canvas.QUIET,
}
ZERO = {"color": "0.1", "linewidth": 0.8, "linestyle": ":", "zorder": 3}


def histograms(
    samples: Mapping[str, np.ndarray],
    gradients: Mapping[str, np.ndarray] | None = None,
    figure: Any = None,
) -> Any:
    """Return a figure of the distribution of values, layers down and values across.

    After Glorot and Bengio (2010), "Understanding the difficulty of training deep
    feedforward neural networks", figures 6 and 7, but with the layers below each other
    instead of overlaid, each scaled to its own peak. Up to 24 layers have a histogram
    each, with mean and standard deviation beside it; more become the rows of a heat
    map. All share one linear axis of values. If the layers' scales differ too much for
    that (20-fold), each histogram has its own range, whose ends are written beside it,
    and the heat map's axis is linear around 0 and logarithmic further out, with bins of
    equal width on that scale.

    Zeros are counted separately, unless all values are 0: those of a ReLU would dwarf
    all other values. NaN and infinite values are counted separately, too.

    Args:
        samples: some values of each layer's output, by layer in call order.
        gradients: some values of dL/dx there, drawn in a second column.
        figure: a matplotlib Figure or SubFigure to draw on; None makes a new one.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: there is no layer in `samples`.
    """
    if not samples:
        raise ValueError(
            "There is nothing to plot: `samples` must hold the values of at least one "
            "layer. Received: none. Monitor with histograms=True."
        )
    names = [*samples, *(name for name in gradients or () if name not in samples)]
    columns = [("Output of each layer", samples, canvas.OUTPUT)]
    if gradients:
        columns.append(("Gradient at each layer's output", gradients, canvas.GRADIENT))
    few = len(names) <= FEW
    height = (
        canvas.FRAME + STRIP * len(names) if few else canvas.rows_height(len(names))
    )
    width = 7.5 if len(columns) == 1 else 12.0
    figure = canvas.open_figure(figure, width, max(height, canvas.LOW))
    samples_of_columns = [
        [Sample.of(values.get(name)) for name in names] for _, values, _ in columns
    ]
    if few:
        panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axes, layers, (_, _, color) in zip(
            panels, samples_of_columns, columns, strict=True
        ):
            _strips(axes, layers, color)
    else:
        panels = _densities(figure, samples_of_columns)
    canvas.name_rows(panels[0], figure, names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    for axes, (title, _, _) in zip(panels, columns, strict=True):
        axes.set_title(title, loc="left", fontsize=canvas.TITLE)
        axes.tick_params(labelsize=canvas.LABEL)
        if axes is not panels[0]:
            axes.tick_params(axis="y", length=0)
    return figure


def _strips(axes: Any, layers: list[Sample], color: str) -> None:
    """Draw a histogram for each layer, one below the other."""
    separate = smallest_size(layers) is not None
    shared = edges_for(layers, BINS)
    for i, layer in enumerate(layers):
        floor = i + FLOOR
        axes.axhline(floor, color=canvas.LINE, linewidth=0.8, zorder=0)
        canvas.note(axes, 1.0, i, layer.note, offset=(4, 0))
        if not layer.values.size:
            continue
        edges = edges_for([layer], BINS) if separate else shared
        # With separate ranges, each is drawn as wide as the axes, from 0 to 1.
        places = np.linspace(0, 1, len(edges)) if separate else shared
        tops = floor - TALLEST * layer.shares(edges)
        axes.stairs(tops, places, baseline=floor, fill=True, color=color)
        zero = np.interp(0.0, edges, places, left=np.nan, right=np.nan)
        axes.plot([zero, zero], [floor, floor - TALLEST], **ZERO)
        if separate:
            for place, side, gap in ((0, "right", -3), (1, "left", 3)):
                end = edges[-place]
                axes.annotate(f"{end:.2g}", (place, i), xytext=(gap, 0), ha=side, **END)
    if separate:
        axes.set_xlim(-ROOM, 1 + ROOM)
        axes.set_xticks([])
        axes.set_xlabel("value, each layer on a range of its own")
    else:
        axes.set_xlim(shared[0], shared[-1])
        axes.set_xlabel("value")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _densities(figure: Any, columns: list[list[Sample]]) -> list[Any]:
    """Draw heat maps, with strips for the rows' ranges and the shares of zeros."""
    import matplotlib as mpl

    separate = [smallest_size(layers) is not None for layers in columns]
    striped = [
        any(layer.zeros or layer.nonfinite for layer in layers) for layers in columns
    ]
    widths = [
        width
        for ranged, strip in zip(separate, striped, strict=True)
        for width in (1.0, *([0.25] if ranged else []), *([0.12] if strip else []))
    ]
    panels = figure.subplots(
        1, len(widths), sharey=True, squeeze=False, width_ratios=widths
    )[0]
    colors = mpl.colormaps["Blues"].with_extremes(bad=canvas.UNKNOWN)
    maps, free = [], iter(panels)
    for layers, ranged, strip in zip(columns, separate, striped, strict=True):
        axes = next(free)
        maps.append(axes)
        image = _heat_map(axes, layers, ranged, colors)
        if ranged:
            _strip_of_ranges(next(free), layers)
        if strip:
            _strip_of_shares(next(free), layers)
    bar = figure.colorbar(image, ax=list(panels), pad=0.02, aspect=40)
    bar.set_label("values in a bin, as a share of the layer's fullest bin")
    bar.outline.set_visible(False)
    return maps


def _heat_map(axes: Any, layers: list[Sample], separate: bool, colors: Any) -> Any:
    """Draw the layers' histograms as rows of a heat map, on one range or their own."""
    shared = edges_for(layers, CELLS)
    count = len(shared) - 1
    ranges = [layer.around_zero(count) if separate else shared for layer in layers]
    places = np.linspace(0, 1, count + 1) if separate else shared
    rows = np.ma.array(
        [layer.shares(edges) for layer, edges in zip(layers, ranges, strict=True)]
    )
    rows[[not layer.values.size for layer in layers]] = np.ma.masked
    image = axes.pcolormesh(
        places,
        np.arange(len(layers) + 1) - 0.5,
        rows,
        cmap=colors,
        vmin=0,
        vmax=1,
        rasterized=True,
    )
    axes.set_xlim(places[0], places[-1])
    axes.spines[:].set_visible(False)
    axes.set_xlabel("value, each layer on a range of its own" if separate else "value")
    if separate:
        axes.set_xticks([])
        zeros = [np.interp(0.0, edges, places) for edges in ranges]
        axes.plot(zeros, np.arange(len(layers)), **ZERO)
    return image


def _strip_of_ranges(axes: Any, layers: list[Sample]) -> None:
    """Draw how far each layer's row reaches from 0, on a logarithmic scale."""
    from matplotlib.ticker import NullLocator

    reaches = np.array([x.reach if x.values.size else np.nan for x in layers])
    reaches = np.where(reaches > 0, reaches, np.nan)
    axes.plot(reaches, np.arange(len(layers)), color=canvas.OUTPUT, linewidth=1.2)
    axes.set_xscale("log")
    # Whole decades, so that there are two ticks that can be read.
    low = 10.0 ** np.floor(np.log10(np.nanmin(reaches)))
    high = 10.0 ** np.ceil(np.log10(np.nanmax(reaches)))
    axes.set_xlim(low, high)
    axes.set_xticks([low, high])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("range, ±", fontsize=canvas.LABEL)
    axes.tick_params(labelsize=canvas.LABEL, left=False)
    axes.spines[["top", "right"]].set_visible(False)


def _strip_of_shares(axes: Any, layers: list[Sample]) -> None:
    """Draw the shares of each layer's values that are 0 or not finite."""
    edges = np.arange(len(layers) + 1) - 0.5
    zeros = np.array([layer.zeros for layer in layers])
    total = zeros + [layer.nonfinite for layer in layers]
    for low, high, label, color in (
        (0.0, zeros, "0", canvas.QUIET),
        (zeros, total, "NaN, inf", canvas.PREDICTED),
    ):
        if np.any(high > low):
            axes.stairs(
                high,
                edges,
                baseline=low,
                orientation="horizontal",
                fill=True,
                color=color,
                label=label,
            )
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 1], ["0", "1"])
    axes.set_xlabel("share", fontsize=canvas.LABEL)
    axes.tick_params(labelsize=canvas.LABEL, left=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        frameon=False,
        fontsize=canvas.LABEL,
        handlelength=0.8,
        borderaxespad=0.1,
    )
