"""Small weights vanish, large ones explode or saturate: signals and gradients by depth.

After the figures of Glorot & Bengio, "Understanding the difficulty of training deep
feedforward neural networks" (AISTATS 2010): the variance of each layer's output, and
of the gradient on its way back, in untrained networks on handwritten digits.

    python examples/vanishing_exploding.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from common import load, options, over_depth, save
from matplotlib.figure import Figure

import keras_initlab as il

WIDTH = 100
STARTS = {
    "0.01·N(0, 1)": lambda: keras.initializers.RandomNormal(stddev=0.01, seed=1),
    "N(0, 1)": lambda: keras.initializers.RandomNormal(stddev=1.0, seed=1),
    "Glorot (Xavier)": lambda: il.GlorotNormal(seed=1),
    "He": lambda: il.HeNormal(seed=1),
    "initlab>auto": lambda: il.Auto(seed=1),
}


def network(activation: str, start: str, depth: int) -> keras.Model:
    """Return a plain network whose hidden kernels are all drawn in one way."""
    hidden = [
        keras.layers.Dense(
            WIDTH,
            activation=activation,
            # A new object for each layer: one with a seed draws the same each time.
            kernel_initializer=STARTS[start](),
            name=f"hidden_{index:02}",
        )
        for index in range(1, depth + 1)
    ]
    head = keras.layers.Dense(10, kernel_initializer=il.Auto(seed=1), name="head")
    return keras.Sequential([keras.Input((64,)), *hidden, head])


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, list]]:
    """Measure each start; return the hidden layers' stats by activation and start."""
    quick, out = options(__doc__, arguments)
    depth = 8 if quick else 20
    batch = load("digits").x[:256]
    activations = ("relu", "tanh")
    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    results: dict[str, dict[str, list]] = {}
    for (signal, gradient), activation in zip(panels.T, activations, strict=True):
        results[activation] = {}
        print(
            f"\n{depth} layers of {WIDTH} {activation} units    variance of the output"
            f"     of the gradient    saturated"
            f"\n{'':<22}{'layer 1':>12}{f'layer {depth}':>12}"
            f"{f'layer {depth}':>12}{'layer 1':>10}{f'layer {depth}':>13}"
        )
        for start in STARTS:
            model = network(activation, start, depth)
            stats = il.measure(model, batch)[:-1]
            results[activation][start] = stats
            first, last = stats[0], stats[-1]
            print(
                f"  {start:<20}{first.variance:>12.1e}{last.variance:>12.1e}"
                f"{last.gradient_second_moment:>12.1e}"
                f"{first.gradient_second_moment:>10.0e}"
                f"{last.saturated_fraction or 0:>13.0%}"
            )
        measured = results[activation]
        over_depth(
            signal,
            {k: [s.variance for s in v] for k, v in measured.items()},
            decades=12,
        )
        over_depth(
            gradient,
            {k: [s.gradient_second_moment for s in v] for k, v in measured.items()},
            decades=12,
        )
        signal.set_title(f"{activation}: variance of each layer's output", loc="left")
        gradient.set_title(
            f"{activation}: second moment of the gradient there", loc="left"
        )
        gradient.set_xlabel("layer")
    panels[0, 1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    print(
        "\n0.01·N(0, 1): each layer multiplies the variance by about 100 · 0.0001 = "
        "0.01 (tanh)\n  or half of that (ReLU): it vanishes, and so does the gradient, "
        "from the other end."
        "\nN(0, 1): by about 100 (tanh) or 50. With ReLU signal and gradient explode. "
        "tanh cannot\n  explode: it saturates, at ±1, where its slope is nearly 0; "
        "what gradient is left explodes."
        "\nGlorot: tanh's signal and gradient shrink slowly, as tanh bends. ReLU lets "
        "half through,\n  and both are halved in each layer."
        "\nHe makes up for that half: right for ReLU. With tanh the gradient grows."
        "\ninitlab>auto chooses by the activation."
    )
    save(figure, out / "vanishing_exploding.png")
    return results


if __name__ == "__main__":
    main()
