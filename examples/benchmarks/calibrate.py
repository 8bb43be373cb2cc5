"""What `calibrate` costs, and what it does for inputs that nobody standardised.

Time: ratios of medians, interleaved in one run, against one eager forward pass of the
same model and batch, against LSUV layer by layer written plainly, and against the
package `lsuv` on an equal PyTorch model where that is installed (`pip install lsuv`).
Accuracy: epochs until a validation accuracy is reached, on scikit-learn's bundled
digits in [0, 1]: Keras's default, `rewrite_initializers`, and `calibrate` on top.

    python examples/benchmarks/calibrate.py [--quick] [--out FOLDER] [--parts time]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_initlab as il
from keras_initlab.tables import render_table

WIDTH, BATCH = 256, 256
DEPTHS, QUICK_DEPTHS = (10, 100, 200, 400), (4, 8)
# The runs that go through the model for each layer, and how deep they are measured.
LOOPS, DEEPEST_LOOP = ("plain loop", "lsuv package"), 100
ACCURACY, EPOCHS, SEEDS = 0.95, 30, 3
STARTS = ("keras", "activation", "variance")


# Time.


def network(depth: int) -> keras.Model:
    """Return a plain ReLU network."""
    hidden = [
        layer
        for _ in range(depth)
        for layer in (keras.layers.Dense(WIDTH), keras.layers.ReLU())
    ]
    return keras.Sequential([keras.Input((WIDTH,)), *hidden])


def lsuv_plainly(model: keras.Model, x: np.ndarray) -> None:
    """Scale layer after layer to unit variance, each by running the model up to it."""
    for layer in model.layers:
        if not isinstance(layer, keras.layers.Dense):
            continue
        up_to = keras.Model(model.inputs[0], layer.output)
        for _ in range(10):
            std = float(np.std(keras.ops.convert_to_numpy(up_to(x))))
            if abs(std - 1) < 0.1:  # the tolerance of Mishkin & Matas
                break
            layer.kernel.assign(layer.kernel / std)


def lsuv_package(depth: int, x: np.ndarray) -> Callable[[], Any] | None:
    """Return a run of the package `lsuv` on an equal PyTorch model, if it is there."""
    try:
        import torch
        from lsuv import lsuv_with_singlebatch
    except ImportError:
        return None
    layers = [
        layer
        for _ in range(depth)
        for layer in (torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU())
    ]
    model, batch = torch.nn.Sequential(*layers), torch.as_tensor(x)
    return lambda: lsuv_with_singlebatch(
        model, batch, do_orthonorm=False, verbose=False
    )


def seconds(run: Callable[[], Any]) -> float:
    """Return how long a run takes."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def time_at(depth: int, repeats: int) -> dict[str, Any]:
    """Return medians in seconds at one depth, and their ratios."""
    x = np.random.default_rng(0).uniform(size=(BATCH, WIDTH)).astype("float32")
    model = network(depth)
    start = model.get_weights()

    def forward() -> None:
        keras.ops.convert_to_numpy(model(x, training=True))

    runs: dict[str, Callable[[], Any]] = {
        "forward": forward,
        "calibrate": lambda: il.calibrate(model, x),
        "plain loop": lambda: lsuv_plainly(model, x),
    }
    package = lsuv_package(depth, x)
    if package is not None:
        runs["lsuv package"] = package
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            # The loops are quadratic, and take minutes where they take any time.
            if name in LOOPS and (depth > DEEPEST_LOOP or repeat * depth >= 200):
                continue
            model.set_weights(start)
            if name == "lsuv package":
                package = lsuv_package(depth, x)
                assert package is not None
                run = package
            times[name].append(seconds(run))
    # The first is for warming up, where there are others.
    medians: dict[str, float | None] = dict.fromkeys(("forward", "calibrate", *LOOPS))
    for name, some in times.items():
        if some:
            medians[name] = statistics.median(some[1:] or some)
    own, once = medians["calibrate"], medians["forward"]
    assert own is not None
    assert once is not None
    row: dict[str, Any] = {"depth": depth, **medians, "calibrate / forward": own / once}
    for name in LOOPS:
        loop = medians[name]
        row[f"{name} / calibrate"] = None if loop is None else loop / own
    print(row, flush=True)
    return row


def show_times(rows: list[dict[str, Any]]) -> str:
    """Return the times as a table."""
    columns: list[tuple[str, Any]] = [(name, "right") for name in rows[0]]
    cells = [[_cell(name, value) for name, value in row.items()] for row in rows]
    title = (
        f"Seconds at {WIDTH} units and {BATCH} inputs, {keras.backend.backend()}; "
        "ratios of medians"
    )
    return render_table(title, columns, cells)


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name == "depth":
        return str(value)
    return f"{value:.2f}" if "/" in name else f"{value:.4f}"


# Accuracy.


def digits() -> tuple[np.ndarray, ...]:
    """Return images (n, 8, 8, 1) in [0, 1] and labels, for training and validation."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).reshape(-1, 8, 8, 1).astype("float32")
    return tuple(train_test_split(x, y, test_size=360, stratify=y, random_state=0))


def dense(depth: int) -> keras.Model:
    """Return a plain network of Dense layers, without normalisation."""
    hidden = [keras.layers.Dense(128, activation="relu") for _ in range(depth)]
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            *hidden,
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


MODELS: dict[str, tuple[Callable[[int], keras.Model], int]] = {
    "dense, 10 layers": (dense, 10),
    "dense, 30 layers": (dense, 30),
}


class Reached(keras.callbacks.Callback):
    """Stops when the validation accuracy is reached."""

    epochs: int | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note the epoch."""
        if (logs or {})["val_accuracy"] >= ACCURACY:
            self.epochs = epoch + 1
            self.model.stop_training = True


def epochs_to(
    build: Callable[[int], keras.Model],
    depth: int,
    start: str,
    calibrated: bool,
    seed: int,
    epochs: int,
) -> int | None:
    """Return the epochs until the accuracy is reached; None if it is not."""
    keras.utils.set_random_seed(seed)
    model = build(depth)
    x, x_val, y, y_val = digits()
    if start != "keras":
        il.rewrite_initializers(model, start, seed=seed)
    if calibrated:
        il.calibrate(model, x[:256])
    reached = Reached()
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(
        x,
        y,
        batch_size=64,
        epochs=epochs,
        validation_data=(x_val, y_val),
        verbose=0,
        callbacks=[reached, keras.callbacks.TerminateOnNaN()],
    )
    return reached.epochs


def compare_accuracy(quick: bool) -> list[dict[str, Any]]:
    """Return the epochs of every model, start and seed."""
    models = {"dense, 3 layers": (dense, 3)} if quick else MODELS
    starts = STARTS[:2] if quick else STARTS
    rows = []
    for name, (build, depth) in models.items():
        for start in starts:
            for calibrated in (False, True):
                epochs = [
                    epochs_to(
                        build, depth, start, calibrated, seed, 2 if quick else EPOCHS
                    )
                    for seed in range(1 if quick else SEEDS)
                ]
                rows.append(
                    {
                        "model": name,
                        "start": start,
                        "calibrated": calibrated,
                        "epochs": epochs,
                    }
                )
                print(rows[-1], flush=True)
    return rows


def show_accuracy(rows: list[dict[str, Any]], most: int) -> str:
    """Return the epochs as a table: medians over seeds, or that it was not reached."""

    def cell(model: str, start: str, calibrated: bool) -> str:
        for row in rows:
            if (row["model"], row["start"], row["calibrated"]) == (
                model,
                start,
                calibrated,
            ):
                known = [most + 1 if one is None else one for one in row["epochs"]]
                median = statistics.median(known)
                return f"> {most}" if median > most else f"{median:g}"
        return "-"

    columns: list[tuple[str, Any]] = [
        ("model", "left"),
        *[
            (f"{start}{' + calibrate' * calibrated}", "right")
            for start in STARTS
            for calibrated in (False, True)
        ],
    ]
    cells = [
        [name, *(cell(name, start, done) for start in STARTS for done in (False, True))]
        for name in dict.fromkeys(row["model"] for row in rows)
    ]
    title = (
        f"Epochs to a validation accuracy of {ACCURACY:.0%} on digits in [0, 1], "
        "median over seeds"
    )
    return render_table(title, columns, cells)


def main() -> None:
    """Measure, print, and write the figures to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, to see it run")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the files")
    parser.add_argument(
        "--parts", nargs="+", choices=("time", "accuracy"), default=("time", "accuracy")
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"backend": keras.backend.backend()}
    if "time" in options.parts:
        depths = QUICK_DEPTHS if options.quick else DEPTHS
        rows = [time_at(depth, 2 if options.quick else 3) for depth in depths]
        results["time"] = rows
        print(show_times(rows), flush=True)
    if "accuracy" in options.parts:
        results["accuracy"] = compare_accuracy(options.quick)
        most = 2 if options.quick else EPOCHS
        print(show_accuracy(results["accuracy"], most))
    path = options.out / "calibrate.json"
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
