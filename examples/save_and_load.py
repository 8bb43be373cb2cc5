"""What a rewrite chose is saved with the model: .keras, JSON, clones.

Rewrites a network for its activations, trains it on breast cancer and saves it. Loaded,
it predicts the same. A clone, and a model made from its JSON, have weights of their
own, drawn by the same rule; one built afresh in code does not know of the rewrite.

    python examples/save_and_load.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from common import COLORS, load, options, plain, save
from matplotlib.figure import Figure

# Before loading, too: it registers the initlab> names.
import keras_initlab as il


def network() -> keras.Model:
    """Return a network of several activations, with Keras's default kernels."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((30,)),
            layers.Dense(128, activation="relu", name="relu"),
            layers.Dense(128, activation="gelu", name="gelu"),
            layers.Dense(128, activation="selu", name="selu"),
            layers.Dense(128, activation="tanh", name="tanh"),
            layers.Dense(1, activation="sigmoid", name="sigmoid"),
        ]
    )


def variances(model: keras.Model) -> list[float]:
    """Return fan_in · Var(w) of every kernel."""
    kernels = [keras.ops.convert_to_numpy(layer.kernel) for layer in model.layers]
    return [float(len(kernel) * kernel.var()) for kernel in kernels]


def main(arguments: Sequence[str] | None = None) -> dict[str, object]:
    """Save, load and clone; return the variances and the loaded model's difference."""
    quick, out = options(__doc__, arguments)
    data = load("breast_cancer")
    keras.utils.set_random_seed(0)
    model = network()
    il.rewrite_initializers(model, seed=0)
    drawn = {"rewritten": variances(model)}

    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    model.fit(data.x, data.y, epochs=3 if quick else 15, verbose=0)
    expected = model.predict(data.x_test, verbose=0)
    right = np.mean((expected[:, 0] > 0.5) == data.y_test)
    print(f"Trained: {right:.1%} of test tumours told apart.")

    path = out / "tumours.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    difference = float(np.abs(loaded.predict(data.x_test, verbose=0) - expected).max())
    print(f"Saved as {path} and loaded: predictions differ by {difference:.1g}.")

    drawn["cloned"] = variances(keras.models.clone_model(model))
    drawn["from JSON"] = variances(keras.models.model_from_json(model.to_json()))
    drawn["loaded, cloned"] = variances(keras.models.clone_model(loaded))
    drawn["built in code"] = variances(network())

    print("\nfan_in · Var(w) of fresh weights, by the activation that follows")
    names = [layer.name for layer in model.layers]
    print(f"  {'':<15}" + "".join(f"{name:>9}" for name in names))
    for name, values in drawn.items():
        print(f"  {name:<15}" + "".join(f"{value:>9.2f}" for value in values))
    print(
        "\nReLU is drawn with 2, GELU with more, SELU with 1: the rule is in the "
        "layers' config, and\nso in the file, the JSON and the clone. Built in code, "
        'the network is Keras\'s again:\nuse `kernel_initializer="initlab>auto"` '
        "there, or rewrite it after building."
    )

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(drawn)
    for index, (name, values) in enumerate(drawn.items()):
        places = np.arange(len(names)) + (index - 2) * width
        axes.bar(places, values, 0.9 * width, color=COLORS[index], label=name)
    axes.set_title("fan_in · Var(w) of fresh weights, by activation", loc="left")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    plain(axes)
    axes.set_xticks(range(len(names)), names)
    save(figure, out / "save_and_load.png")
    return {"drawn": drawn, "difference": difference}


if __name__ == "__main__":
    main()
