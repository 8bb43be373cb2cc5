"""Xavier for tanh, He for ReLU, LeCun for SELU; normal or uniform; and the sigmoid.

Xavier (Glorot) draws kernels of variance 2 / (fan_in + fan_out), He 2 / fan_in, LeCun
1 / fan_in. Which of them keeps the signal and the gradient depends on the activation.
Predicts both for a plain network, then trains it on handwritten digits.

    python examples/xavier_vs_he.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from common import COLORS, Data, load, options, plain, save
from matplotlib.figure import Figure

import keras_initlab as il

DEPTH, WIDTH = 8, 64
ACTIVATIONS = ("relu", "tanh", "sigmoid", "selu")
STARTS = {
    "Xavier normal": il.GlorotNormal(seed=1),
    "Xavier uniform": il.GlorotUniform(seed=1),
    "He normal": il.HeNormal(seed=1),
    "He uniform": il.HeUniform(seed=1),
    "LeCun normal": il.LecunNormal(seed=1),
    "isometric": il.Isometric(),
}


def network(activation: str, start: keras.Initializer | il.Isometric) -> keras.Model:
    """Return a plain network with kernels drawn by an initializer or a scheme."""
    is_scheme = isinstance(start, il.Isometric)
    # An int seed gives each layer a draw of its own: one object serves for all.
    kernel = "glorot_uniform" if is_scheme else start
    hidden = [
        keras.layers.Dense(WIDTH, activation=activation, kernel_initializer=kernel)
        for _ in range(DEPTH)
    ]
    head = keras.layers.Dense(10, activation="softmax", kernel_initializer=kernel)
    model = keras.Sequential([keras.Input((64,)), *hidden, head])
    if is_scheme:
        il.rewrite_initializers(model, scheme=start, seed=1)
    return model


def examine(model: keras.Model, data: Data, epochs: int) -> dict[str, float | list]:
    """Return factors of signal and gradient from end to end, and test accuracies."""
    first, *_, last = il.propagate(model)[:-1]
    model.compile(
        keras.optimizers.SGD(0.02, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    history = model.fit(
        data.x,
        data.y,
        batch_size=32,
        epochs=epochs,
        validation_data=(data.x_test, data.y_test),
        verbose=0,
    ).history
    return {
        "signal": last.second_moment / first.second_moment,
        "gradient": first.gradient_second_moment / last.gradient_second_moment,
        "accuracy": history["val_accuracy"],
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, dict]]:
    """Compare the starts; return figures by activation and start."""
    quick, out = options(__doc__, arguments)
    epochs = 1 if quick else 6
    starts = {
        name: start
        for name, start in STARTS.items()
        if not quick or name not in ("Xavier uniform", "LeCun normal")
    }
    data = load("digits")
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    panels = figure.subplots(1, len(ACTIVATIONS), sharey=True)
    results: dict[str, dict[str, dict]] = {}
    print(
        f"{DEPTH} layers; predicted change over them, and test accuracy after each of "
        f"{epochs} epochs\n{'':<26}{'of E[x²]':>10}{'of E[(dL/dx)²]':>16}"
    )
    for axes, activation in zip(panels, ACTIVATIONS, strict=True):
        results[activation] = {}
        for color, (name, start) in zip(COLORS, starts.items(), strict=False):
            keras.utils.set_random_seed(0)
            model = network(activation, start)
            figures = results[activation][name] = examine(model, data, epochs)
            print(
                f"  {activation:<9}{name:<15}{figures['signal']:>10.2g}"
                f"{figures['gradient']:>16.2g}   "
                + " ".join(f"{score:>4.0%}" for score in figures["accuracy"]),
                flush=True,
            )
            style = "--" if "uniform" in name else "-"
            epoch = range(1, epochs + 1)
            axes.plot(
                epoch,
                figures["accuracy"],
                style,
                color=color,
                label=name,
                marker="o",
                markersize=3,
            )
        axes.set_title(activation, loc="left")
        axes.set(xlabel="epoch", xlim=(0.8, epochs + 0.2), ylim=(0, 1))
        plain(axes)
    panels[0].set_ylabel("test accuracy")
    panels[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    print(
        "\nReLU: Xavier halves the signal in each layer, and training is slow to "
        "start. He keeps it.\ntanh has a slope of 1 at 0: with Xavier signal and "
        "gradient shrink a little, with He\n  gradients grow, the more the deeper. At "
        "this depth both train.\nSELU: LeCun, the same as Xavier where fan_in = "
        "fan_out, keeps both. He is twice too much.\nsigmoid: its slope is 1/4 at most."
        " With Xavier each layer takes 15/16 of the gradient, with\n  He 7/8. "
        "Textbooks say Xavier, but at this depth neither trains; isometric does.\n"
        "Normal or uniform: the same variance, so the same prediction. What differs is "
        "the draw."
    )
    save(figure, out / "xavier_vs_he.png")
    return results


if __name__ == "__main__":
    main()
