"""What watching costs: a step with VarianceMonitor, and with what else one might use.

Models train in threads that take turns, an epoch each, so that what disturbs the
machine disturbs all alike; only one runs at a time (on PyTorch with one thread: each of
these would have a pool of its own, and pools hinder each other). Each round gives a
ratio to the plain model of the same round; the table has their median and quartiles.
One of the rows is a second plain model: what it differs by is noise.

Workloads: an MLP 784–4×512–10 at batch 128, a CNN of four convolutions at batch 64, a
transformer encoder of two blocks at batch 32, all with Adam. Beside the monitor:

- TensorBoard(histogram_freq=1): Keras's own callback, histograms of weights;
- sub-model: a model of all layers' outputs, predicted on a batch every ten steps;
- on PyTorch, hooks: mean, deviation and histogram of each layer's output in Python, as
  fastai's ActivationStats has them. What knows no Keras, wandb.watch and delve, is
  timed by `monitor_twin.py`, on a twin of the MLP in a plain loop.

Memory that a step frees is kept by the process, as `keep_freed_memory` says.

Also: the time of a first step (trace and compile), of Keras's own, the measured one and
both; and the cost per layer of plain networks of 10 to 500 layers. What it costs in
memory is in `monitor_memory.py`; `monitor_report.py` makes the tables of docs/cost.md
from the results, which are kept there (`--out docs`).

    KERAS_BACKEND=jax python examples/benchmarks/monitor_overhead.py [--quick]
        [--parts PART …] [--workloads NAME …] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

import keras_initlab as il
from keras_initlab.tables import render_table

BACKEND = keras.backend.backend()
PARTS = ("steps", "compile", "layers")
# Given a batch, a callback to train with, or None.
Callback = Callable[[Any], Any]


class Workload(NamedTuple):
    """A model to build, the shape of its inputs, and how long an epoch is."""

    build: Callable[[], Any]
    shape: tuple[int, ...]
    batch: int
    steps: int


def mlp(depth: int = 4, width: int = 512, inputs: int = 784) -> Any:
    """Return a plain network of Dense layers."""
    hidden = [layers.Dense(width, activation="relu") for _ in range(depth)]
    return keras.Sequential(
        [keras.Input((inputs,)), *hidden, layers.Dense(10, activation="softmax")]
    )


def cnn() -> Any:
    """Return four convolutions and a global average."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Conv2D(64, 3, strides=2, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="softmax"),
        ]
    )


def transformer() -> Any:
    """Return an encoder of two blocks over 32 steps of 64 features."""
    inputs = x = keras.Input((32, 64))
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 16)(y, y)])
        y = layers.Dense(128, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(64)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


WORKLOADS = {
    "MLP": Workload(mlp, (784,), 128, 100),
    "CNN": Workload(cnn, (28, 28, 1), 64, 50),
    "transformer": Workload(transformer, (32, 64), 32, 50),
}

# Of epochs.
ROUNDS = {"MLP": 9, "CNN": 7, "transformer": 7}


class SubModel(keras.callbacks.Callback):  # type: ignore[misc]
    """Predict all layers' outputs on a batch every ten steps, as one would by hand."""

    def __init__(self, x: Any) -> None:
        super().__init__()
        self.x = x
        self.step = 0
        self.found: list[list[float]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Build the model of outputs."""
        outputs = [layer.output for layer in self.model.layers]
        self.outputs = keras.Model(self.model.inputs, outputs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Predict, and keep the variances."""
        if self.step % 10 == 0:
            _ = self.model  # on JAX this lets the weights land
            found = self.outputs.predict(self.x, batch_size=len(self.x), verbose=0)
            self.found.append([float(np.var(one)) for one in found])
        self.step += 1


class Hooks(keras.callbacks.Callback):  # type: ignore[misc]
    """Mean, deviation and histogram of each layer's output, in Python, each step."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Hook every layer."""
        self.found: list[tuple[float, float, Any]] = []
        for layer in self.model.layers:
            layer.__dict__["call"] = self.hooked(layer.call)

    def on_train_end(self, logs: Any = None) -> None:
        """Take the hooks off."""
        for layer in self.model.layers:
            layer.__dict__.pop("call", None)

    def hooked(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call`, which keeps statistics of what it returns."""

        def hook(*args: Any, **kwargs: Any) -> Any:
            outputs = call(*args, **kwargs)
            x = outputs.detach()
            histogram = x.float().histc(40, 0, 10).cpu()
            self.found.append((x.mean().item(), x.std().item(), histogram))
            return outputs

        return hook


def variants(folder: Path) -> dict[str, Callback]:
    """Return what is compared, as functions of a batch that return callbacks."""

    def monitor(every: int, **settings: Any) -> Callback:
        return lambda x: il.VarianceMonitor(every, on_finding="ignore", **settings)

    found = {
        "plain again": lambda x: None,
        "every=100": monitor(100),
        "every=10": monitor(10),
        "every=1": monitor(1),
        "every=100, gradients": monitor(100, gradients=True),
        "every=10, gradients": monitor(10, gradients=True),
        "every=1, gradients": monitor(1, gradients=True),
        "TensorBoard(histogram_freq=1)": lambda x: keras.callbacks.TensorBoard(
            str(folder), histogram_freq=1
        ),
        "sub-model, every 10": SubModel,
    }
    if BACKEND == "torch":
        found["hooks, every 1"] = lambda x: Hooks()
    return found


class Turn(keras.callbacks.Callback):  # type: ignore[misc]
    """Train one epoch at a time, when it is this model's turn; time it whole."""

    def __init__(self, turns: list[threading.Semaphore], index: int) -> None:
        super().__init__()
        self.turns, self.index = turns, index
        self.seconds: list[float] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Wait for the first turn."""
        self.turns[self.index].acquire()
        self.begin = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Hand over, and wait; the last of an epoch's callbacks."""
        self.seconds.append(time.perf_counter() - self.begin)
        self.turns[(self.index + 1) % len(self.turns)].release()
        if epoch + 1 < self.params["epochs"]:
            self.turns[self.index].acquire()
            self.begin = time.perf_counter()


def data_of(workload: Workload, steps: int) -> tuple[Any, Any]:
    """Return inputs and labels for so many steps."""
    generator = np.random.default_rng(0)
    count = workload.batch * steps
    x = generator.standard_normal((count, *workload.shape)).astype("float32")
    return x, generator.integers(0, 10, count)


def fed(x: Any, y: Any, batch: int) -> dict[str, Any]:
    """Return `fit`'s arguments for data that nobody fetches while it is not needed.

    With arrays TensorFlow prepares batches ahead, in threads that would disturb the
    model whose turn it is: it is given the first batch, again and again.
    """
    if BACKEND != "tensorflow":
        return {"x": x, "y": y, "batch_size": batch, "shuffle": False}
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1
    one = tf.data.Dataset.from_tensors((x[:batch], y[:batch]))
    return {"x": one.repeat(len(x) // batch).with_options(options)}


def compiled(workload: Workload) -> Any:
    """Return the workload's model, ready to train."""
    model = workload.build()
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def in_turns(
    workload: Workload, chosen: dict[str, Callback], rounds: int, steps: int
) -> dict[str, list[float]]:
    """Return seconds of each epoch after the first, by variant and for "plain"."""
    x, y = data_of(workload, steps)
    data = fed(x, y, workload.batch)
    chosen = {"plain": lambda x: None, **chosen}
    turns = [threading.Semaphore(0) for _ in chosen]
    clocks = {name: Turn(turns, index) for index, name in enumerate(chosen)}
    errors: list[BaseException] = []

    def train(name: str) -> None:
        try:
            callback = chosen[name](x[: workload.batch])
            own = [] if callback is None else [callback]
            compiled(workload).fit(
                **data,
                epochs=rounds + 1,
                verbose=0,
                callbacks=[*own, clocks[name]],
            )
        except BaseException as error:
            errors.append(error)
            for turn in turns:  # let the others end
                for _ in range(rounds + 2):
                    turn.release()

    threads = [threading.Thread(target=train, args=(name,)) for name in chosen]
    for thread in threads:
        thread.start()
    turns[0].release()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return {name: clock.seconds[1:] for name, clock in clocks.items()}


def ratios(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Return by variant the median and quartiles of the ratio to plain, in per cent."""
    plain = np.array(seconds["plain"])
    found = {}
    for name, each in seconds.items():
        over = 100 * (np.array(each) / plain - 1)
        low, middle, high = np.quantile(over, [0.25, 0.5, 0.75])
        found[name] = {"percent": middle, "low": low, "high": high}
    return found


def print_ratios(title: str, found: dict[str, Any], plain_ms: float) -> None:
    """Print the table of one workload."""
    columns: list[tuple[str, Any]] = [
        ("", "left"),
        ("over plain, %", "right"),
        ("quartiles", "right"),
    ]
    rows = [
        [name, f"{one['percent']:+.1f}", f"{one['low']:+.1f} {one['high']:+.1f}"]
        for name, one in found.items()
        if name != "plain"
    ]
    title = f"{title} on {BACKEND}: {plain_ms:.2f} ms a plain step"
    print(render_table(title, columns, rows), end="\n\n", flush=True)


def run_steps(quick: bool, names: Sequence[str]) -> dict[str, Any]:
    """Time steps of every workload with everything that is compared."""
    found = {}
    if BACKEND == "torch":
        import torch

        torch.set_num_threads(1)
    for name in names:
        workload = WORKLOADS[name]
        steps, rounds = (4, 1) if quick else (workload.steps, ROUNDS[name])
        with tempfile.TemporaryDirectory() as folder:
            chosen = variants(Path(folder))
            seconds = in_turns(workload, chosen, rounds, steps)
        plain_ms = 1e3 * float(np.median(seconds["plain"])) / steps
        found[name] = {"plain_ms": plain_ms, "over": ratios(seconds)}
        print_ratios(name, found[name]["over"], plain_ms)
        if quick:
            break
    return found


def run_compile(quick: bool, names: Sequence[str]) -> dict[str, Any]:
    """Time first steps, which are compiled: Keras's own, the measured one, both."""
    found = {}
    # With every=1 no other step is compiled; else Keras's own at the second step.
    chosen: dict[str, tuple[int | None, dict[str, Any], int]] = {
        "plain": (None, {}, 1),
        "plain again": (None, {}, 1),
        "measured": (1, {}, 1),
        "measured, gradients": (1, {"gradients": True}, 1),
        "both": (10, {}, 2),
        "both, gradients": (10, {"gradients": True}, 2),
    }
    for name in names:
        workload = WORKLOADS[name]
        x, y = data_of(workload, 2)
        seconds: dict[str, list[float]] = {variant: [] for variant in chosen}
        for _ in range(1 if quick else 5):
            for variant, (every, settings, steps) in chosen.items():
                own = []
                if every is not None:
                    own = [il.VarianceMonitor(every, on_finding="ignore", **settings)]
                model, count = compiled(workload), workload.batch * steps
                begin = time.perf_counter()
                model.fit(
                    x[:count],
                    y[:count],
                    batch_size=workload.batch,
                    verbose=0,
                    callbacks=own,
                )
                seconds[variant].append(time.perf_counter() - begin)
                keras.backend.clear_session()
        found[name] = ratios(seconds)
        print_ratios(
            f"First step, {name},", found[name], 1e3 * np.median(seconds["plain"])
        )
        if quick:
            break
    return found


def run_layers(quick: bool, _: Sequence[str]) -> dict[str, Any]:
    """Time plain networks of more and more layers."""
    found = {}
    sys.setrecursionlimit(100_000)
    threading.stack_size(256 * 2**20)  # Keras's walks are recursive
    rows = []
    for depth in (10, 20) if quick else (10, 50, 200, 500):
        workload = Workload(lambda depth=depth: mlp(depth, 64, 64), (64,), 64, 0)
        chosen = variants(Path())
        chosen = {name: chosen[name] for name in ("every=1", "every=1, gradients")}
        steps, rounds = (2, 1) if quick else (20, 7)
        seconds = in_turns(workload, chosen, rounds, steps)
        plain = np.array(seconds["plain"])
        found[depth] = {"plain_us": 1e6 * float(np.median(plain)) / steps / depth}
        for name in chosen:
            more = (np.array(seconds[name]) - plain) / steps / depth
            found[depth][name] = 1e6 * float(np.median(more))
        figures = [f"{one:.1f}" for one in found[depth].values()]
        rows.append([str(depth), *figures])
    columns: list[tuple[str, Any]] = [
        (name, "right")
        for name in ("layers", "plain, µs a layer", "every=1, µs more", "gradients")
    ]
    print(render_table(f"Cost per layer on {BACKEND}", columns, rows), end="\n\n")
    return found


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, however large, for the next step.

    By itself it gives blocks above 32 MiB back and fetches them anew at each step,
    which can add a third to a JAX step. Whether a model's temporaries are above
    that, with or without the monitor, is chance, and would be what is measured.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one workload, few steps")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS)
    )
    parser.add_argument("--out", type=Path, help="a folder for monitor_overhead.json")
    arguments = parser.parse_args(argv)
    keep_freed_memory()
    runs = {
        "steps": run_steps,
        "compile": run_compile,
        "layers": run_layers,
    }
    found = {
        part: runs[part](arguments.quick, arguments.workloads)
        for part in arguments.parts
    }
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / f"monitor_overhead_{BACKEND}.json"
        # Parts that were not run stay as they were.
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**before, **found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
