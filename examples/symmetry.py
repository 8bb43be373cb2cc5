"""Zeros and constants: all units of a layer learn the same. Randomness breaks it.

Units that start alike get the same gradient, and stay alike: a layer of 16 units is a
layer of one. Trains the same small network on handwritten digits from four starts and
compares the units of its first layer, whose weights can be looked at as images.

    python examples/symmetry.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from common import load, options, save
from matplotlib.figure import Figure

import keras_initlab as il

UNITS = 16
STARTS = {
    "zeros": "zeros",
    "constant 0.1": keras.initializers.Constant(0.1),
    "0.1 + N(0, 0.01²)": keras.initializers.RandomNormal(0.1, 0.01, seed=1),
    "initlab>auto": "initlab>auto",
}


def network(start: str | keras.Initializer) -> keras.Model:
    """Return a network with one hidden layer, both kernels drawn by one initializer."""
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(
                UNITS, activation="tanh", kernel_initializer=start, name="hidden"
            ),
            keras.layers.Dense(
                10, activation="softmax", kernel_initializer=start, name="head"
            ),
        ]
    )
    model.compile(
        keras.optimizers.Adam(3e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def spread(model: keras.Model) -> float:
    """Return the largest difference between two units' weights from one pixel."""
    kernel = keras.ops.convert_to_numpy(model.get_layer("hidden").kernel)
    return float(np.ptp(kernel, axis=1).max())


def faults(model: keras.Model) -> list[str]:
    """Return the codes of what `diagnose` finds wrong."""
    return [one.code for one in il.diagnose(model) if one.severity != "info"]


def picture(models: dict[str, keras.Model], scores: dict[str, float]) -> Figure:
    """Show each unit's weights as an image of 8 x 8 pixels, a row for each start."""
    figure = Figure(figsize=(11, 0.72 * len(models) + 0.5), layout="constrained")
    panels = figure.subplots(len(models), UNITS)
    for row, (name, model) in zip(panels, models.items(), strict=True):
        kernel = keras.ops.convert_to_numpy(model.get_layer("hidden").kernel)
        reach = max(float(np.abs(kernel).max()), 1e-6)
        for unit, axes in enumerate(row):
            image = kernel[:, unit].reshape(8, 8)
            axes.imshow(image, cmap="RdBu_r", vmin=-reach, vmax=reach)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(
            f"{name}\n{scores[name]:.0%} right",
            rotation=0,
            ha="right",
            va="center",
        )
    figure.suptitle("Weights of the 16 hidden units after training, as images")
    return figure


def main(arguments: Sequence[str] | None = None) -> dict[str, dict]:
    """Train from each start; return what became of the units, by start."""
    quick, out = options(__doc__, arguments)
    data = load("digits")
    results, models = {}, {}
    for name, start in STARTS.items():
        keras.utils.set_random_seed(0)
        model = models[name] = network(start)
        before, said = spread(model), faults(model)
        model.fit(data.x, data.y, batch_size=32, epochs=3 if quick else 15, verbose=0)
        accuracy = model.evaluate(data.x_test, data.y_test, verbose=0)[1]
        results[name] = {
            "before": before,
            "after": spread(model),
            "accuracy": float(accuracy),
            "faults_before": said,
            "faults_after": faults(model),
        }
        print(
            f"{name:<18} units differ by {before:.1e} before training, "
            f"{spread(model):.1e} after; {accuracy:.0%} of test digits right\n"
            f"{'':<18} diagnose says before: {', '.join(said) or 'nothing'}; "
            f"after: {', '.join(faults(model)) or 'nothing'}"
        )
    print(
        "\nFrom zeros and constants all 16 units are the same unit to the end: what "
        "they learn\nis what one unit can learn. From zeros not even that, as nothing "
        "reaches the head.\nA little noise is enough to break the tie; drawing by the "
        "layer's fans does it at once."
    )
    scores = {name: result["accuracy"] for name, result in results.items()}
    save(picture(models, scores), out / "symmetry.png")
    return results


if __name__ == "__main__":
    main()
