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
# The distance between ticks of the heat map, as a share of the axis.
ROOM = 0.12
BOX = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.7}
END = {"va": "bottom", "bbox": BOX}
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
            low, high = f"{edges[0]:.3g}", f"{edges[-1]:.3g}"
            canvas.note(axes, 0.0, floor, low, offset=(1, 2), **END)
            canvas.note(axes, 1.0, floor, high, offset=(-1, 2), ha="right", **END)
    if separate:
        axes.set_xlim(0, 1)
        axes.set_xticks([])
        axes.set_xlabel("value, each layer on a range of its own")
    else:
        axes.set_xlim(shared[0], shared[-1])
        axes.set_xlabel("value")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _densities(figure: Any, columns: list[list[Sample]]) -> list[Any]:
    """Draw heat maps, with a strip for the share of zeros where there are any."""
    import matplotlib as mpl

    striped = [
        any(layer.zeros or layer.nonfinite for layer in layers) for layers in columns
    ]
    widths = [width for strip in striped for width in ([1.0, 0.12] if strip else [1.0])]
    panels = figure.subplots(
        1, len(widths), sharey=True, squeeze=False, width_ratios=widths
    )[0]
    colors = mpl.colormaps["Blues"].with_extremes(bad=canvas.UNKNOWN)
    maps, free = [], iter(panels)
    for layers, strip in zip(columns, striped, strict=True):
        axes = next(free)
        maps.append(axes)
        edges = _value_axis(axes, layers)
        rows = np.ma.array([layer.shares(edges) for layer in layers])
        rows[[not layer.values.size for layer in layers]] = np.ma.masked
        image = axes.pcolormesh(
            edges,
            np.arange(len(layers) + 1) - 0.5,
            rows,
            cmap=colors,
            vmin=0,
            vmax=1,
            rasterized=True,
        )
        axes.spines[:].set_visible(False)
        if strip:
            _strip_of_shares(next(free), layers)
    bar = figure.colorbar(image, ax=list(panels), pad=0.02, aspect=40)
    bar.set_label("values in a bin, as a share of the layer's fullest bin")
    bar.outline.set_visible(False)
    return maps


def _value_axis(axes: Any, layers: list[Sample]) -> np.ndarray:
    """Give the axes a scale that shows all layers; return the edges of bins."""
    size = smallest_size(layers)
    if size is not None:
        axes.set_xscale("asinh", linear_width=size)
    scale = axes.xaxis.get_transform()
    edges = edges_for(layers, CELLS, scale)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel("value")
    if size is not None:
        ticks = _powers_of_ten(edges, scale, size)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    return edges


def _powers_of_ten(edges: np.ndarray, scale: Any, size: float) -> list[float]:
    """Return 0 and the positive and negative powers of ten that fit, largest first."""
    highest = np.floor(np.log10(np.abs(edges).max()))
    powers = 10.0 ** np.arange(highest, np.floor(np.log10(size)), -1)
    low, high = scale.transform(edges[[0, -1]])
    ticks: list[float] = []
    places: list[float] = []
    for tick in [0.0, *(sign * power for power in powers for sign in (1, -1))]:
        place = (scale.transform(tick) - low) / (high - low)
        if 0 <= place <= 1 and all(abs(place - taken) > ROOM for taken in places):
            ticks.append(float(tick))
            places.append(place)
    return ticks


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
    axes.set_xlabel("share")
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
