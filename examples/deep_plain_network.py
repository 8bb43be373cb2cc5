"""200 layers without normalisation or skips: Keras's default and "isometric".

`rewrite_initializers(model, scheme="isometric")` draws units in pairs of opposite
weights, orthogonal between the pairs: the untrained network keeps every length, angle
and gradient. Trains it on handwritten digits beside the same network as Keras draws it.

    python examples/deep_plain_network.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from common import Data, load, options, save
from matplotlib.figure import Figure

import keras_initlab as il

WIDTH = 64


def network(depth: int) -> keras.Model:
    """Return a plain GELU network as Keras draws it."""
    hidden = [
        keras.layers.Dense(WIDTH, activation="gelu", name=f"hidden_{index:03}")
        for index in range(1, depth + 1)
    ]
    head = keras.layers.Dense(10, activation="softmax", name="head")
    return keras.Sequential([keras.Input((64,)), *hidden, head])


def describe(model: keras.Model, depth: int) -> tuple[float, float]:
    """Print and return how signal and gradient change from end to end, as predicted."""
    first, *_, last = il.propagate(model)[:-1]
    signal = last.second_moment / first.second_moment
    gradient = first.gradient_second_moment / last.gradient_second_moment
    print(
        f"  E[x²] changes by a factor of {signal:.2g} over {depth} layers, E[(dL/dx)²] "
        f"by {gradient:.2g} on its way back"
    )
    return signal, gradient


def train(model: keras.Model, data: Data, epochs: int) -> il.VarianceMonitor:
    """Train under the monitor, printing a line for each epoch."""
    model.compile(
        keras.optimizers.SGD(1e-3, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    # What is wrong is to be seen here, not to be warned of.
    monitor = il.VarianceMonitor(every=20, on_finding="ignore")
    progress = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: print(
            f"  epoch {epoch + 1}: loss {logs['loss']:.3f}, accuracy "
            f"{logs['accuracy']:.0%}, least variance of a layer "
            f"{logs['variance_min']:.1e}",
            flush=True,
        )
    )
    model.fit(
        data.x,
        data.y,
        batch_size=32,
        epochs=epochs,
        verbose=0,
        callbacks=[monitor, progress],
    )
    return monitor


def main(arguments: Sequence[str] | None = None) -> dict[str, dict]:
    """Train both; return test accuracy and predicted factors by start."""
    quick, out = options(__doc__, arguments)
    depth, epochs = (30, 3) if quick else (200, 6)
    data = load("digits")
    figure = Figure(figsize=(11, 3.2 if quick else 5), layout="constrained")
    results = {}
    starts = ("Keras's default", "isometric")
    for half, name in zip(figure.subfigures(1, 2), starts, strict=True):
        print(f"\n{name}")
        keras.utils.set_random_seed(0)
        model = network(depth)
        if name == "isometric":
            started = time.perf_counter()
            plan = il.rewrite_initializers(model, scheme="isometric", seed=0)
            print(
                f"  {len(plan)} kernels rewritten in "
                f"{time.perf_counter() - started:.1f} s"
            )
        signal, gradient = describe(model, depth)
        monitor = train(model, data, epochs)
        accuracy = float(model.evaluate(data.x_test, data.y_test, verbose=0)[1])
        results[name] = {
            "accuracy": accuracy,
            "signal": signal,
            "gradient": gradient,
        }
        half.suptitle(f"{name}: {accuracy:.0%} of test digits right")
        # The same colours in both halves.
        monitor.plot(figure=half, decades=10)
    print("\nTest accuracy")
    for name, result in results.items():
        print(f"  {name:<16} {result['accuracy']:.0%}")
    save(figure, out / "deep_plain_network.png")
    return results


if __name__ == "__main__":
    main()
