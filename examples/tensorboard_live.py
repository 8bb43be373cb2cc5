"""Signals in TensorBoard while a network is trained.

Trains on handwritten digits with a sink that writes each epoch's figures for
TensorBoard: look at them there as they come in. Then reads the files back and shows
what TensorBoard shows.

    python examples/tensorboard_live.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from common import COLORS, load, options, plain, save
from matplotlib.figure import Figure

import keras_initlab as il
from keras_initlab.monitor import TensorBoard

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError:
    raise SystemExit(
        "This example needs TensorBoard. Install it with: pip install tensorboard"
    ) from None


def network(depth: int) -> keras.Model:
    """Return a plain ReLU network as Keras draws it."""
    keras.utils.set_random_seed(0)
    hidden = [
        keras.layers.Dense(64, activation="relu", name=f"hidden_{index}")
        for index in range(1, depth + 1)
    ]
    head = keras.layers.Dense(10, activation="softmax", name="head")
    model = keras.Sequential([keras.Input((64,)), *hidden, head])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def main(arguments: Sequence[str] | None = None) -> dict[str, object]:
    """Train and read back; return the monitor's history, and what the files hold."""
    quick, out = options(__doc__, arguments)
    depth, epochs = (4, 3) if quick else (6, 15)
    data = load("digits")
    logs = out / "tensorboard"
    print(
        "To look on, in another terminal:\n"
        f"    tensorboard --logdir {logs}\nand open http://localhost:6006: scalars "
        "variance/…, gradient_second_moment/…, update_ratio/…; histograms outputs/…"
    )
    monitor = il.VarianceMonitor(
        every=10,
        gradients=True,
        histograms=True,
        sinks=[TensorBoard(logs, histograms=True)],
    )
    network(depth).fit(
        data.x, data.y, batch_size=32, epochs=epochs, verbose=0, callbacks=[monitor]
    )

    files = EventAccumulator(str(logs)).Reload()
    tags = files.Tags()
    print(f"\nThe files hold {len(tags['scalars'])} scalars, among them")
    read = {}
    for layer in monitor.history:
        events = files.Scalars(f"variance/{layer}")[-epochs:]
        read[layer] = [event.value for event in events]
        print(f"  variance/{layer:<10} {read[layer][0]:.2g} → {read[layer][-1]:.2g}")
    # Histograms are tensors to TensorBoard, of a count for each bin.
    histograms = tags["tensors"]
    print(f"and {len(histograms)} histograms, {histograms[0]} the first.")

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, tag in zip(
        panels, ("variance", "gradient_second_moment", "update_ratio"), strict=True
    ):
        for index, layer in enumerate((*monitor.history,)[:-1]):
            events = files.Scalars(f"{tag}/{layer}")[-epochs:]
            values = [event.value for event in events]
            axes.plot(values, color=COLORS[index % len(COLORS)], label=layer)
        axes.set(yscale="log", xlabel="epoch")
        axes.set_title(f"{tag}/…", loc="left")
        plain(axes)
    panels[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    save(figure, out / "tensorboard_live.png")
    return {"history": monitor.history, "read": read, "tags": tags}


if __name__ == "__main__":
    main()
