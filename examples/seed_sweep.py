"""Cross-validation and a sweep of seeds with one compiled model.

`reset_weights` draws every weight again in place: no new model, no new compilation, no
second set of variables for each run. On scikit-learn's bundled handwritten digits it
tells apart what the seed of the weights changes of the accuracy, and what the choice of
the test images does.

    python examples/seed_sweep.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold

import keras_initlab as il


def network() -> keras.Model:
    """Return a compiled classifier of images of 64 pixels, standardised or not."""
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(96, kernel_initializer="initlab>auto"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(96, "relu", kernel_initializer="initlab>auto"),
            keras.layers.Dense(10, "softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def score(
    model: keras.Model,
    seed: int,
    train: np.ndarray,
    test: np.ndarray,
    data: tuple[np.ndarray, np.ndarray],
    epochs: int,
) -> float:
    """Return the test accuracy of the model trained from the weights of a seed."""
    x, y = data
    il.reset_weights(model, seed=seed, optimizer=True)
    keras.utils.set_random_seed(0)  # the order of the batches: the same in each run
    model.fit(x[train], y[train], epochs=epochs, batch_size=64, verbose=0)
    return float(model.evaluate(x[test], y[test], batch_size=256, verbose=0)[1])


def shown(title: str, scores: list[float]) -> None:
    """Print mean and spread of the runs."""
    spread = np.std(scores, ddof=1)
    each = " ".join(f"{one:.1%}" for one in scores)
    print(f"{title:<28} {np.mean(scores):6.2%} ± {spread:.2%}   ({each})", flush=True)


def main() -> None:
    """Run the cross-validation and the sweep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few runs and epochs")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write")
    arguments = parser.parse_args()
    folds, seeds, epochs = (3, 2, 1) if arguments.quick else (5, 8, 10)
    arguments.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()

    x, y = load_digits(return_X_y=True)
    data = (x.astype("float32") / 16, y)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=0)
    splits = list(splitter.split(x, y))
    keras.utils.set_random_seed(0)
    model = network()
    print(
        f"{len(x)} handwritten digits, {epochs} epochs a run, one compiled model, "
        f"Keras {keras.version()} on {keras.backend.backend()}."
    )
    by_fold = [score(model, 0, *split, data, epochs) for split in splits]
    shown(f"{folds} folds, one seed:", by_fold)
    by_seed = [score(model, seed, *splits[0], data, epochs) for seed in range(seeds)]
    shown(f"{seeds} seeds, one fold:", by_seed)
    again = score(model, 0, *splits[0], data, epochs)
    print(f"seed 0 of fold 0 once more: {again:.1%} (first: {by_seed[0]:.1%})")

    path = arguments.out / "seed_sweep.json"
    path.write_text(json.dumps({"folds": by_fold, "seeds": by_seed}))
    print(f"Scores: {path}. Took {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
