"""An architecture of one's own: what can be found out about it, and mended.

Two layers that no library has a rule for: a gated product of two kernels, held under
names of their own, and a nonlinearity in NumPy's terms. Finds the kernels, predicts the
signal, gives the second layer a rule, rewrites, and watches it learn breast cancer.

    python examples/custom_architecture.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from common import load, options, over_depth, save
from matplotlib.figure import Figure

import keras_initlab as il
from keras_initlab.propagation import affine, output_moments

WIDTH = 32


class Gated(keras.layers.Layer):
    """(x U) · sigmoid(x V): two kernels, neither of them called `kernel`."""

    def build(self, shape):
        """Make the kernels."""
        size = (shape[-1], WIDTH)
        self.u = self.add_weight(name="u", shape=size, initializer="glorot_uniform")
        self.v = self.add_weight(name="v", shape=size, initializer="glorot_uniform")

    def call(self, x):
        """Return the product, of shape (batch, WIDTH)."""
        return (x @ self.u) * keras.ops.sigmoid(x @ self.v)


class SortedPairs(keras.layers.Layer):
    """Sorts each two neighbouring units (GroupSort; Anil, Lucas & Grosse 2019)."""

    def call(self, x):
        """Return `x` with the smaller unit of each pair first."""
        pairs = keras.ops.reshape(x, (-1, x.shape[-1] // 2, 2))
        return keras.ops.reshape(keras.ops.sort(pairs, axis=-1), keras.ops.shape(x))


def network(depth: int) -> keras.Model:
    """Return `depth` blocks of the two layers, and a head for two classes."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((30,))])
    for index in range(1, depth + 1):
        model.add(Gated(name=f"gated_{index}"))
        model.add(SortedPairs(name=f"sorted_{index}"))
    model.add(keras.layers.Dense(1, activation="sigmoid", name="head"))
    return model


def within(model: keras.Model, x: np.ndarray) -> dict[str, tuple[float, float]]:
    """Print and return E[x²] of each layer's output, predicted and measured."""
    measured = {stats.layer: stats for stats in il.measure(model, x)}
    pairs = {}
    print(f"  {'layer':<11}{'E[x²] predicted':>16}{'measured':>10}   prediction from")
    for stats in il.propagate(model):
        pairs[stats.layer] = stats.second_moment, measured[stats.layer].second_moment
        how = "moments" if stats.source == "predicted" else "a random sample"
        predicted, real = pairs[stats.layer]
        print(f"  {stats.layer:<11}{predicted:>16.3g}{real:>10.3g}   {how}")
    return pairs


def main(arguments: Sequence[str] | None = None) -> dict[str, object]:
    """Show it step by step; return the moments, before and after, and the monitor."""
    quick, out = options(__doc__, arguments)
    depth, epochs = (3, 5) if quick else (8, 20)
    data = load("breast_cancer")
    model = network(depth)

    print(f"1. Its kernels: {il.kernel_fans((30, WIDTH), model.layers[0], 'u')}")
    print("\n2. The signal in the network as it is")
    within(model, data.x)

    # Sorting moves values and changes none: every moment stays as it is.
    output_moments.register(SortedPairs, lambda layer, x, context: affine(x, 1.0))
    print("\n3. The same with a rule for SortedPairs")
    before = within(model, data.x)

    print("\n4. Kernels scaled to what reaches them")
    plan = il.rewrite_initializers(model, scheme="variance", seed=0)
    for row in plan:
        print(f"  {row.layer:<9} {row.weight:<7} gain {row.gain:.2f}")
    after = within(model, data.x)

    print("\n5. Trained on breast cancer, before and after the rewrite")
    monitors, scores = {}, {}
    for name, one in {"as drawn": network(depth), "rewritten": model}.items():
        one.compile("adam", "binary_crossentropy", metrics=["accuracy"])
        monitor = monitors[name] = il.VarianceMonitor(every=5, on_finding="ignore")
        history = one.fit(
            data.x, data.y, epochs=epochs, verbose=0, callbacks=[monitor]
        ).history
        scores[name] = one.evaluate(data.x_test, data.y_test, verbose=0)[1]
        print(
            f"  {name:<10} accuracy {history['accuracy'][0]:.0%} in the first epoch, "
            f"{scores[name]:.1%} on test data after {epochs}; least variance "
            f"{history['variance_min'][0]:.1e} at first"
        )

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    for axes, (title, moments) in zip(
        figure.subplots(1, 2, sharey=True),
        {"As Keras draws it": before, "Rewritten": after}.items(),
        strict=True,
    ):
        predicted, measured = zip(*moments.values(), strict=True)
        over_depth(axes, {"measured": measured, "predicted": predicted})
        axes.set_title(f"{title}: E[x²] of each layer's output", loc="left")
        axes.set_xlabel("layer: gated and sorted by turns, then the head")
        axes.legend(frameon=False)
    save(figure, out / "custom_architecture.png")
    return {
        "before": before,
        "after": after,
        "rewritten": [(row.layer, row.weight) for row in plan if row.changed],
        "history": monitors["rewritten"].history,
        "accuracy": scores,
    }


if __name__ == "__main__":
    main()
