"""Time of `reset_weights`: against drawing the variables, and against a new model.

The model is ResNet50 (`--quick`: a small convolutional network). "draw" calls each
variable's initializer once; "draw and assign" sets the variables, too, which is the
least that anything in place can do; "clone and compile" makes a new model. "first step"
is one training step behind it, which a new model has to be traced and compiled for.
CPU time of the process, the least of several rounds; and what ten resets leave in
memory.

    python examples/benchmarks/reset.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_initlab as il
from keras_initlab.tables import render_table


def small() -> keras.Model:
    """Return a convolutional network of some 20 layers."""
    convolutions = [
        layer
        for width in (32, 64, 128)
        for layer in (
            keras.layers.Conv2D(width, 3, padding="same"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(),
        )
    ]
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((32, 32, 3)), *convolutions, *head])


def resnet() -> keras.Model:
    """Return ResNet50 for small images, as Keras draws it."""
    return keras.applications.ResNet50(
        weights=None, input_shape=(32, 32, 3), classes=10, classifier_activation=None
    )


def compiled(model: keras.Model) -> keras.Model:
    """Return the model, compiled to be trained."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    return model


def initializers(model: keras.Model) -> list[tuple[Any, Any]]:
    """Return each weight with what Keras draws it by."""
    by_name = {"kernel": "glorot_uniform", "gamma": "ones", "moving_variance": "ones"}
    return [
        (weight, keras.initializers.get(by_name.get(weight.name, "zeros")))
        for weight in model.weights
    ]


def waited(tensors: list[Any]) -> list[Any]:
    """Return tensors, once they are there."""
    if keras.backend.backend() == "jax":
        import jax

        jax.block_until_ready(tensors)
    return tensors


def seconds(work: Callable[[], Any]) -> float:
    """Return the process's CPU time for some work."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def first_step(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """Return the seconds of one training step."""
    return seconds(lambda: model.train_on_batch(x, y))


def resident() -> float:
    """Return the process's resident memory in MiB, on Linux; 0 elsewhere."""
    gc.collect()
    status = Path("/proc/self/statm")
    if not status.exists():
        return 0.0
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measured(model: keras.Model, rounds: int) -> dict[str, float]:
    """Return the seconds of each way, the least of the rounds, and MiB left behind."""
    pairs = initializers(model)

    def draw() -> list[Any]:
        return waited([draws(w.shape, dtype=w.dtype) for w, draws in pairs])

    def draw_and_assign() -> None:
        for (weight, _), value in zip(pairs, draw(), strict=True):
            weight.assign(value)
        waited([weight.value for weight in model.weights])

    def reset() -> None:
        il.reset_weights(model, seed=0)
        waited([weight.value for weight in model.weights])

    ways = {
        "draw": draw,
        "draw and assign": draw_and_assign,
        "reset_weights": reset,
        "clone and compile": lambda: compiled(keras.models.clone_model(model)),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        order = list(ways.items())
        for name, work in order if number % 2 else reversed(order):
            if name != "clone and compile" or number < 2:
                times[name].append(seconds(work))
    figures = {name: min(found) for name, found in times.items()}

    x = np.zeros((4, 32, 32, 3), "float32")
    y = np.zeros(4, "int32")
    model.train_on_batch(x, y)
    reset()
    figures["first step after reset_weights"] = first_step(model, x, y)
    figures["first step after clone"] = first_step(
        compiled(keras.models.clone_model(model)), x, y
    )
    before = resident()
    for _ in range(10):
        reset()
    figures["MiB after ten resets"] = resident() - before
    return figures


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = compiled(small() if arguments.quick else resnet())
    figures = measured(model, 3 if arguments.quick else 9)
    backend = keras.backend.backend()
    parameters = model.count_params()
    rows = []
    for name, value in figures.items():
        is_time = "MiB" not in name
        ratio = f"{figures['reset_weights'] / value:.2f}" if is_time else ""
        shown = f"{1000 * value:.1f} ms" if is_time else f"{value:.1f}"
        rows.append([name, shown, ratio])
    title = (
        f"{model.name}, {parameters:,} parameters, Keras {keras.version()}, {backend}"
    )
    columns = [("", "left"), ("", "right"), ("reset_weights / this", "right")]
    print(render_table(title, columns, rows))
    path = arguments.out / f"reset_{backend}.json"
    path.write_text(json.dumps({"parameters": parameters, **figures}, indent=1))
    print(f"Figures: {path}")


if __name__ == "__main__":
    main()
