"""On several devices, the monitor's figures are those of one device.

Trains the same network for handwritten digits on one CPU and on two, each with half of
every batch, and compares what `VarianceMonitor` says. TensorFlow: MirroredStrategy;
JAX: keras.distribution; PyTorch: says what to do. Two CPUs are pretended to.

    python examples/distributed.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Before JAX is imported: two devices where there is one CPU.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
)

import keras
from common import Data, load, options, over_depth, save
from matplotlib.figure import Figure

import keras_initlab as il

PYTORCH = """
Keras has no strategy of its own for several devices on PyTorch. Start one process for
each with `torchrun --nproc-per-node=2 train.py`, and in it

    torch.distributed.init_process_group("gloo")  # "nccl" on GPUs

then wrap the layers in torch.nn.parallel.DistributedDataParallel, give each process its
share of the data, and fit with a VarianceMonitor as ever: it sums over the processes,
and only the first one feeds the sinks. Run this example with KERAS_BACKEND=tensorflow
or jax to see it done."""


def two_devices() -> contextlib.AbstractContextManager:
    """Return the scope in which a model is built for two CPUs."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope()
    devices = keras.distribution.list_devices()[:2]
    return keras.distribution.DataParallel(devices=devices).scope()


def watched(data: Data, depth: int, epochs: int) -> il.VarianceMonitor:
    """Train a network under the monitor, the same each time."""
    keras.utils.set_random_seed(0)
    hidden = [
        keras.layers.Dense(
            64,
            activation="relu",
            kernel_initializer=il.Auto(seed=1),
            name=f"hidden_{index}",
        )
        for index in range(1, depth + 1)
    ]
    head = keras.layers.Dense(10, kernel_initializer=il.Auto(seed=1), name="head")
    model = keras.Sequential([keras.Input((64,)), *hidden, head])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss)
    monitor = il.VarianceMonitor(every=5, gradients=True)
    size = len(data.x) // 64 * 64
    model.fit(
        data.x[:size],
        data.y[:size],
        batch_size=64,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[monitor],
    )
    return monitor


def split_cpu() -> None:
    """Make two logical devices of one CPU, before TensorFlow has started."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * 2,
        )


def main(arguments: Sequence[str] | None = None) -> dict[str, list]:
    """Train on one device and on two; return the stats of both."""
    quick, out = options(__doc__, arguments)
    depth, epochs = (3, 2) if quick else (8, 5)
    backend = keras.backend.backend()
    split_cpu()
    data = load("digits")
    one = watched(data, depth, epochs).stats
    results = {"one device": one}
    if backend == "torch":
        print(PYTORCH)
    else:
        with two_devices() as _:
            two = results["two devices"] = watched(data, depth, epochs).stats
        print(
            f"{backend}, last epoch of {epochs}\n  {'':<10}{'variance':>22}"
            f"{'gradient E[(dL/dx)²]':>24}\n  {'layer':<10}{'one':>11}{'two':>11}"
            f"{'one':>13}{'two devices':>13}"
        )
        for a, b in zip(one, two, strict=True):
            print(
                f"  {a.layer:<10}{a.variance:>11.5f}{b.variance:>11.5f}"
                f"{a.gradient_second_moment:>13.4e}{b.gradient_second_moment:>13.4e}"
            )
        worst = max(
            abs(b.variance / a.variance - 1) for a, b in zip(one, two, strict=True)
        )
        print(f"\nThe variances differ by {worst:.0e} of their size at most.")

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    over_depth(axes, {k: [s.variance for s in v] for k, v in results.items()})
    axes.set_title("Variance of each layer's output, last epoch", loc="left")
    axes.set_xlabel("layer")
    axes.legend(frameon=False)
    save(figure, out / "distributed.png")
    return results


if __name__ == "__main__":
    main()
