"""Biases: zero, or a small constant. Large ones drown the signal, or silence units.

Trains the same ReLU network on handwritten digits with biases that start at 0, 0.01,
1, 10 and -1. Then one bias for which there is more to say than zero: that of the head
where one class is rare.

    python examples/biases.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from common import COLORS, Data, load, options, plain, save
from matplotlib.figure import Figure

import keras_initlab as il

STARTS = {
    "0": "zeros",
    "0.01": il.ConstantBias(0.01),
    "1": il.ConstantBias(1.0),
    "10": il.ConstantBias(10.0),
    "-1": il.ConstantBias(-1.0),
}


def network(bias: str | keras.Initializer, depth: int) -> keras.Model:
    """Return a plain ReLU network with kernels by `initlab>auto`."""
    hidden = [
        keras.layers.Dense(
            64,
            activation="relu",
            kernel_initializer=il.Auto(seed=1),
            bias_initializer=bias,
            name=f"hidden_{index}",
        )
        for index in range(1, depth + 1)
    ]
    head = keras.layers.Dense(10, activation="softmax", name="head")
    model = keras.Sequential([keras.Input((64,)), *hidden, head])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def compare_constants(data: Data, depth: int, epochs: int) -> dict[str, dict]:
    """Measure and train with each bias; return figures by bias."""
    print(
        f"{depth} ReLU layers: bias   dead units   cosine between two inputs'"
        f"   test accuracy after\n{'':<28}in the last layer    last outputs"
        f"{'1 epoch':>18}{f'{epochs} epochs':>11}"
    )
    results = {}
    for name, bias in STARTS.items():
        keras.utils.set_random_seed(0)
        model = network(bias, depth)
        last = il.measure(model, data.x[:256])[-2]
        scores = []
        for more in (1, epochs - 1):
            model.fit(data.x, data.y, batch_size=32, epochs=more, verbose=0)
            scores.append(model.evaluate(data.x_test, data.y_test, verbose=0)[1])
        results[name] = {
            "dead": last.dead_fraction,
            "cosine": last.input_cosine,
            "accuracy": scores,
        }
        cosine = "none left" if last.input_cosine is None else last.input_cosine
        print(
            f"{name:>20}{last.dead_fraction:>16.0%}"
            f"{cosine if isinstance(cosine, str) else format(cosine, '.4f'):>20}"
            f"{scores[0]:>18.0%}{scores[1]:>11.0%}"
        )
    return results


def rare_class(data: Data) -> dict[str, list[float]]:
    """Train "is it an 8?" with two head biases; return the losses by bias."""
    is_eight = (data.y == 8).astype("float32")
    starts = {
        "zeros": "zeros",
        "class prior": il.ClassPriorBias(np.bincount(data.y == 8)),
    }
    losses = {}
    for name, bias in starts.items():
        keras.utils.set_random_seed(0)
        head = keras.layers.Dense(
            1,
            activation="sigmoid",
            kernel_initializer=il.Scaled(0.1, seed=1),
            bias_initializer=bias,
        )
        model = keras.Sequential([keras.Input((64,)), head])
        model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
        first = model.evaluate(data.x, is_eight, verbose=0)
        history = model.fit(data.x, is_eight, epochs=8, batch_size=32, verbose=0)
        losses[name] = [float(first), *history.history["loss"]]
    return losses


def picture(results: dict[str, dict], losses: dict[str, list[float]]) -> Figure:
    """Show accuracies by bias, and the losses of the rare class."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = np.arange(len(results))
    for shift, when, color in ((-0.2, 0, COLORS[5]), (0.2, 1, COLORS[0])):
        heights = [result["accuracy"][when] for result in results.values()]
        label = "after one epoch" if when == 0 else "after all"
        left.bar(places + shift, heights, 0.38, color=color, label=label)
    left.set_title("Test accuracy by the biases' start", loc="left")
    for (name, values), color in zip(losses.items(), COLORS, strict=False):
        right.plot(values, color=color, label=f"head's bias: {name}", marker="o")
    right.set_title('Loss of "is it an 8?" by epoch (0: untrained)', loc="left")
    right.set_ylim(0)
    right.set_xlabel("epoch")
    left.set_ylim(0, 1.18)
    left.set_yticks(np.arange(0, 1.1, 0.2))
    for axes in (left, right):
        plain(axes)
        axes.legend(frameon=False, ncols=2, loc="upper right")
    left.set_xticks(places, [f"bias {name}" for name in results])
    return figure


def main(arguments: Sequence[str] | None = None) -> dict[str, dict]:
    """Show both; return the figures of the biases, and the rare class's losses."""
    quick, out = options(__doc__, arguments)
    data = load("digits")
    results = compare_constants(data, *((4, 3) if quick else (6, 10)))
    print(
        "\n0 and 0.01 do the same. A larger bias adds the same number for every "
        "input: inputs look\nmore alike to the last layer (a cosine of 1 is: the same)."
        " 1 still trains; 10 drowns\nthe signal. -1 keeps ReLU below its threshold: "
        "units are dead, and learn nothing."
    )
    losses = rare_class(data)
    print(
        "\nWhere one digit in ten is an 8, the head's bias can start at the log of "
        f"the odds:\nthe first loss is {losses['class prior'][0]:.2f} instead of "
        f"{losses['zeros'][0]:.2f}, without a step of training."
    )
    save(picture(results, losses), out / "biases.png")
    return {**results, "losses": losses}


if __name__ == "__main__":
    main()
