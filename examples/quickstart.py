"""A deep plain network on real data: Keras's default against `initlab>auto`.

Trains the same 40-layer ReLU network (no normalisation, no skips) twice on
scikit-learn's bundled handwritten digits, watches every layer's variance, plots it,
and saves and loads the model.

    python examples/quickstart.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_initlab as il

DEPTH, WIDTH, EPOCHS = 40, 128, 10


def digits() -> tuple[np.ndarray, ...]:
    """Return standardised training and test images (n, 64) and their labels."""
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        x.astype("float32"), y, test_size=360, stratify=y, random_state=0
    )
    mean, std = x_train.mean(), x_train.std()
    return (x_train - mean) / std, (x_test - mean) / std, y_train, y_test


def network(kernel_initializer: str, depth: int) -> keras.Model:
    """Return a plain ReLU network whose kernels are all drawn by one initializer."""
    hidden = [
        keras.layers.Dense(
            WIDTH,
            activation="relu",
            kernel_initializer=kernel_initializer,
            name=f"hidden_{index:02}",
        )
        for index in range(1, depth + 1)
    ]
    head = keras.layers.Dense(
        10, activation="softmax", kernel_initializer=kernel_initializer, name="head"
    )
    return keras.Sequential([keras.Input((64,)), *hidden, head])


def train(
    kernel_initializer: str, depth: int, epochs: int, x: np.ndarray, y: np.ndarray
) -> tuple[keras.Model, il.VarianceMonitor]:
    """Train a network under the monitor, printing a line an epoch."""
    keras.utils.set_random_seed(1)
    model = network(kernel_initializer, depth)
    model.compile(
        keras.optimizers.Adam(3e-4),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    monitor = il.VarianceMonitor(every=10)

    def show(epoch: int, logs: dict[str, float]) -> None:
        print(
            f"  epoch {epoch + 1:2}/{epochs}   accuracy {logs['accuracy']:6.1%}   "
            f"smallest variance of a layer {logs['variance_min']:.1e}",
            flush=True,
        )

    progress = keras.callbacks.LambdaCallback(on_epoch_end=show)
    model.fit(
        x, y, epochs=epochs, batch_size=32, verbose=0, callbacks=[monitor, progress]
    )
    return model, monitor


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """Return the share of labels that the model gets right."""
    return float(np.mean(model.predict(x, verbose=0).argmax(axis=1) == y))


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few layers and epochs")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write")
    arguments = parser.parse_args()
    depth, epochs = (12, 2) if arguments.quick else (DEPTH, EPOCHS)
    arguments.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()

    x_train, x_test, y_train, y_test = digits()
    print(
        f"{len(x_train)} handwritten digits, a plain network of {depth} ReLU layers, "
        f"Keras {keras.version()} on {keras.backend.backend()}."
    )
    picture = Figure(figsize=(11, 2 + 0.16 * depth), layout="constrained")
    halves = picture.subfigures(1, 2)
    scores = {}
    for half, (name, initializer) in zip(
        halves,
        {"Keras's default": "glorot_uniform", "initlab>auto": "initlab>auto"}.items(),
        strict=True,
    ):
        print(f"\n{name}: kernel_initializer={initializer!r}")
        model, monitor = train(initializer, depth, epochs, x_train, y_train)
        scores[name] = accuracy(model, x_test, y_test)
        half.suptitle(f"{name}: {scores[name]:.0%} test accuracy")
        # The same colours in both halves.
        monitor.plot(figure=half, decades=7)
    plot = arguments.out / "variance.png"
    picture.savefig(plot, dpi=120)

    print(f"\nWhat the monitor saw with initlab>auto:\n\n{monitor}")

    path = arguments.out / "digits.keras"
    model.save(path)
    loaded = accuracy(keras.saving.load_model(path), x_test, y_test)

    print("\nTest accuracy")
    for name, score in scores.items():
        print(f"  {name:<16} {score:6.1%}")
    print(f"  {'saved and loaded':<16} {loaded:6.1%}")
    assert loaded == scores["initlab>auto"], "the loaded model predicts otherwise"
    print(f"\nVariance by layer and epoch: {plot}")
    print(f"Model: {path}. Took {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
