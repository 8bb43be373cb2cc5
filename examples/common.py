"""What the examples share: the command line, the data, and lines over depth."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn import datasets
from sklearn.model_selection import train_test_split

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "0.4")


class Data(NamedTuple):
    """Training and test data, standardised: inputs of shape (n, features)."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def options(doc: str, arguments: Sequence[str] | None = None) -> tuple[bool, Path]:
    """Return what the command line says: whether to be quick, and a folder to write."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few layers and epochs")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write")
    known = parser.parse_args(arguments)
    known.out.mkdir(parents=True, exist_ok=True)
    return known.quick, known.out


def load(name: str, standardised: bool = True) -> Data:
    """Return one of scikit-learn's bundled data sets, a fifth of it for tests.

    Args:
        name: "digits", "breast_cancer", "wine" or "diabetes".
        standardised: whether training inputs have mean 0 and variance 1, feature by
            feature; pixels all together, as some are white in every image.
    """
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    labels = None if name == "diabetes" else y
    x, x_test, y, y_test = train_test_split(
        x.astype("float32"), y, test_size=0.2, stratify=labels, random_state=0
    )
    if standardised:
        axis = None if name == "digits" else 0
        mean, deviation = x.mean(axis=axis), x.std(axis=axis)
        x, x_test = (x - mean) / deviation, (x_test - mean) / deviation
    return Data(x, y, x_test, y_test)


def over_depth(
    axes: Axes, lines: Mapping[str, Sequence[float]], decades: float | None = None
) -> None:
    """Draw a line for each name, a value for each layer, on a log scale.

    The last line is dashed, so that one below it shows. `decades` cuts the axis off at
    so many powers of ten above and below 1.
    """
    for (name, values), color in zip(lines.items(), COLORS, strict=False):
        shown = np.ma.masked_less_equal(np.asarray(values, dtype=float), 0)
        style = "--" if name == [*lines][-1] else "-"
        layers = range(1, len(values) + 1)
        axes.plot(layers, shown, style, color=color, label=name, linewidth=2)
    axes.set_yscale("log")
    if decades is not None:
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 10**-decades), min(high, 10**decades))
    plain(axes)


def plain(axes: Axes) -> None:
    """Leave out what carries no data, count in whole numbers, add a faint grid."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Write a picture and say where it is."""
    figure.savefig(path, dpi=110)
    print(f"\nPicture: {path}")
