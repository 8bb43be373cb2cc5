"""The initialisation as a hyperparameter: a search with KerasTuner.

A plain GELU network for handwritten digits: is it the learning rate, or the
initialisation, that has to be tuned? Searches both on validation data.

    python examples/keras_tuner_search.py [--quick] [--out FOLDER]
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

try:
    import keras_tuner
except ImportError:
    raise SystemExit(
        "This example needs KerasTuner. Install it with: pip install keras-tuner"
    ) from None

STARTS = ("as Keras draws it", "activation", "variance", "isometric")
RATES = (0.003, 0.03, 0.3)


def builder(depth: int, starts: Sequence[str], rates: Sequence[float]):
    """Return a function that builds a model for what KerasTuner has chosen."""

    def build(choices: keras_tuner.HyperParameters) -> keras.Model:
        keras.utils.set_random_seed(0)
        hidden = [keras.layers.Dense(64, activation="gelu") for _ in range(depth)]
        head = keras.layers.Dense(10, activation="softmax")
        model = keras.Sequential([keras.Input((64,)), *hidden, head])
        start = choices.Choice("start", list(starts))
        if start != starts[0]:
            il.rewrite_initializers(model, scheme=start, seed=0)
        model.compile(
            keras.optimizers.SGD(choices.Choice("learning_rate", list(rates))),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        return model

    return build


def main(arguments: Sequence[str] | None = None) -> dict[tuple[str, float], float]:
    """Search; return validation accuracies by start and learning rate."""
    quick, out = options(__doc__, arguments)
    starts = STARTS[::3] if quick else STARTS
    rates = RATES[1:2] if quick else RATES
    depth, epochs = (8, 3) if quick else (8, 6)
    data = load("digits")
    tuner = keras_tuner.GridSearch(
        builder(depth, starts, rates),
        objective="val_accuracy",
        directory=out / "keras_tuner",
        project_name="digits",
        overwrite=True,
    )
    tuner.search(
        data.x,
        data.y,
        validation_split=0.2,
        epochs=epochs,
        batch_size=32,
        verbose=0,
    )
    scores = {
        (
            trial.hyperparameters.get("start"),
            trial.hyperparameters.get("learning_rate"),
        ): float(trial.score)
        for trial in tuner.oracle.trials.values()
    }
    print(f"Validation accuracy after {epochs} epochs of SGD, {depth} GELU layers\n")
    print(f"  {'start':<20}" + "".join(f"{f'rate {rate}':>12}" for rate in rates))
    table = np.array([[scores[start, rate] for rate in rates] for start in starts])
    for start, row in zip(starts, table, strict=True):
        print(f"  {start:<20}" + "".join(f"{score:>12.0%}" for score in row))
    best = tuner.get_best_hyperparameters()[0].values
    print(f"\nThe best: {best['start']}, learning rate {best['learning_rate']}.")

    figure = Figure(figsize=(7, 1 + 0.5 * len(starts)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(table, cmap="Blues", vmin=0, vmax=1.2, aspect="auto")
    for (row, column), score in np.ndenumerate(table):
        color = "white" if score > 0.6 else "black"
        axes.text(column, row, f"{score:.0%}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(rates)), [f"learning rate {rate}" for rate in rates])
    axes.set_yticks(range(len(starts)), starts)
    axes.set_title(f"Validation accuracy, {depth} GELU layers, SGD", loc="left")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    save(figure, out / "keras_tuner_search.png")
    return scores


if __name__ == "__main__":
    main()
