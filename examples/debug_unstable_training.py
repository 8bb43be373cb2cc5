"""A network that does not learn: find out why with `diagnose`, mend it, train it.

Three faults that each look innocent: raw measurements as inputs, kernels drawn from
N(0, 1), and outputs without the softmax that the loss expects. The data are scikit-
learn's chemical analyses of 178 wines, of which one of thirteen figures is near 1,000.

    python examples/debug_unstable_training.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from common import Data, load, options, over_depth, save
from matplotlib.figure import Figure

import keras_initlab as il


def network(kernel: str, output: str | None) -> keras.Model:
    """Return a network for three kinds of wine."""
    keras.utils.set_random_seed(0)
    hidden = [
        keras.layers.Dense(
            32, activation="relu", kernel_initializer=kernel, name=f"hidden_{index}"
        )
        for index in range(1, 6)
    ]
    head = keras.layers.Dense(
        3, activation=output, kernel_initializer=kernel, name="head"
    )
    model = keras.Sequential([keras.Input((13,)), *hidden, head])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def examine(model: keras.Model, data: Data) -> list[str]:
    """Print what is wrong; return the codes of errors and warnings."""
    findings = [
        one
        for one in il.diagnose(model, data.x, data.y)
        if one.severity in ("error", "warning")
    ]
    for one in findings:
        print(f"  {one.severity}: {one}")
    return [one.code for one in findings]


def main(arguments: Sequence[str] | None = None) -> dict[str, dict]:
    """Mend one fault after the other; return findings and results by step."""
    quick, out = options(__doc__, arguments)
    epochs = 15 if quick else 40
    raw, standardised = load("wine", standardised=False), load("wine")
    keras.utils.set_random_seed(0)
    wide = keras.initializers.RandomNormal(stddev=1.0)
    steps = {
        "as it was": (wide, None, raw),
        "inputs standardised": (wide, None, standardised),
        "and kernels by initlab>auto": ("initlab>auto", None, standardised),
        "and softmax outputs": ("initlab>auto", "softmax", standardised),
    }
    results = {}
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (name, (kernel, output, data)) in enumerate(steps.items()):
        print(f"\n{number}. {name}: diagnose(model, x, y)")
        model = network(kernel, output)
        codes = examine(model, data)
        if not codes:
            print("  nothing is wrong")
        stats = il.measure(model, data.x)
        history = model.fit(
            data.x, data.y, batch_size=16, epochs=epochs, verbose=0
        ).history
        accuracy = float(model.evaluate(data.x_test, data.y_test, verbose=0)[1])
        print(
            f"  trained for {epochs} epochs: loss {history['loss'][0]:.3g} to "
            f"{history['loss'][-1]:.3g}, {accuracy:.0%} of test wines right"
        )
        results[name] = {
            "codes": codes,
            "loss": history["loss"],
            "accuracy": accuracy,
            "variance": [one.variance for one in stats],
        }
    for panel, key in ((left, "loss"), (right, "variance")):
        over_depth(panel, {name: one[key] for name, one in results.items()})
    left.set_title("Loss by epoch", loc="left")
    left.set_xlabel("epoch")
    right.set_title("Variance of each layer's output, untrained", loc="left")
    right.set_xlabel("layer")
    right.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    save(figure, out / "debug_unstable_training.png")
    return results


if __name__ == "__main__":
    main()
