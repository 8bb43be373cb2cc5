"""Which initialisation trains an ordinary network faster: `compare` on digits.

Trains MLPs and CNNs of 3 and 8 layers on scikit-learn's bundled handwritten digits,
inputs in [0, 1] as many people feed them, with Keras's default, the three schemes and
`calibrate`, and counts the epochs to 93 % validation accuracy.

The full form takes 200 s of CPU time on JAX, shared by two processes.

    python examples/convergence.py [--quick] [--out FOLDER] [--jobs N] [--seeds N]
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_initlab as il
from keras_initlab.tables import render_table

TARGET = 0.93
CANDIDATES = {
    "Keras's default": "as built",
    "activation": "activation",
    "variance": "variance",
    "isometric": "isometric",
    "calibrate": "calibrate",
}
RATES = {"SGD": (0.03, 0.1), "Adam": (0.001, 0.003)}
Rates = tuple[float, ...]
Choice = tuple[str, int, str, str]
Task = tuple[Choice, int, int, Rates]
# Kind, hidden layers, activation, optimizer.
NETWORKS = (
    ("MLP", 3, "relu", "SGD"),
    ("MLP", 3, "gelu", "Adam"),
    ("MLP", 8, "relu", "Adam"),
    ("MLP", 8, "gelu", "SGD"),
    ("CNN", 3, "gelu", "SGD"),
    ("CNN", 8, "relu", "SGD"),
    ("CNN", 8, "gelu", "SGD"),
)


def digits() -> tuple[np.ndarray, ...]:
    """Return training and validation images in [0, 1], (n, 64), and their labels."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    return train_test_split(x, y, test_size=360, stratify=y, random_state=0)


def network(kind: str, depth: int, activation: str, optimizer: str) -> keras.Model:
    """Return a compiled network with Keras's default initializers."""
    if kind == "MLP":
        body = [layers.Dense(64, activation) for _ in range(depth)]
    else:
        body = [layers.Reshape((8, 8, 1))]
        body += [
            # Half the size after the first layer: CNNs of 8 layers on one CPU core.
            layers.Conv2D(16, 3, 2 if not i else 1, "same", activation=activation)
            for i in range(depth)
        ]
        body.append(layers.Flatten())
    head = layers.Dense(10, "softmax")
    model = keras.Sequential([keras.Input((64,)), *body, head])
    steps = {"SGD": keras.optimizers.SGD(momentum=0.9), "Adam": keras.optimizers.Adam()}
    model.compile(
        steps[optimizer], "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def compared(choice: Choice, epochs: int, seeds: int, rates: Rates) -> il.Comparison:
    """Return the comparison for one network."""
    x, x_val, y, y_val = digits()
    return il.compare(
        functools.partial(network, *choice),
        CANDIDATES,
        x,
        y,
        (x_val, y_val),
        epochs=epochs,
        seeds=seeds,
        learning_rates=rates,
        target=TARGET,
        batch_size=64,
        signals=False,  # what is asked here is speed
        verbose=0,
    )


def compared_each(
    tasks: Sequence[Task], jobs: int
) -> Iterator[tuple[Choice, il.Comparison]]:
    """Yield each network with its comparison, as they are done.

    A process compares whole networks: compiling one takes as long as ten of its runs.
    """
    if jobs == 1:
        for task in tasks:
            yield task[0], compared(*task)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        # The last take longest, and begin first.
        futures = {pool.submit(compared, *task): task[0] for task in reversed(tasks)}
        for future in as_completed(futures):
            yield futures[future], future.result()


def title(choice: Choice) -> str:
    """Return a network's name."""
    kind, depth, activation, optimizer = choice
    names = {"relu": "ReLU", "gelu": "GELU"}
    return f"{kind}, {depth} {names[activation]} layers, {optimizer}"


def cells(comparison: il.Comparison) -> Iterator[str]:
    """Yield the epochs to the target, and the final accuracy, of each candidate."""
    for result in comparison.results:
        reached = [one for one in result.epochs_to_target if one is not None]
        some = f" ({len(reached)} of {len(result.runs)})"
        epochs = (
            f"{np.mean(reached):.1f}{some if len(reached) < len(result.runs) else ''}"
            if reached
            else "never"
        )
        mark = "*" if result.candidate == comparison.best else ""
        yield f"{epochs}, {result.final_metric.mean:.1%}{mark}"


def main() -> None:
    """Compare, print the table, and save the curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one network, few epochs")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write")
    parser.add_argument("--seeds", type=int, default=3, help="for each candidate")
    parser.add_argument("--jobs", type=int, help="processes side by side (default: 2)")
    arguments = parser.parse_args()
    jobs = arguments.jobs or (1 if arguments.quick else min(2, os.cpu_count() or 1))
    chosen = NETWORKS[:1] if arguments.quick else NETWORKS
    epochs, seeds = (2, 1) if arguments.quick else (10, arguments.seeds)
    arguments.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    rates = {
        name: some[-1:] if arguments.quick else some for name, some in RATES.items()
    }
    tasks = [(choice, epochs, seeds, rates[choice[-1]]) for choice in chosen]
    rows = {}
    for choice, comparison in compared_each(tasks, jobs):
        print(f"\n{title(choice)}")
        print("\n".join(f"  {sentence}" for sentence in comparison.verdict), flush=True)
        name = "_".join(map(str, choice)).lower()
        comparison.plot().savefig(arguments.out / f"{name}.png", dpi=120)
        rows[choice] = [title(choice), *cells(comparison)]
    columns = [("network", "left"), *((name, "right") for name in CANDIDATES)]
    heading = (
        f"Epochs to {TARGET:.0%} validation accuracy, and accuracy after {epochs}. "
        f"Means of {seeds} seeds; the better of two learning rates. * best"
    )
    print()
    print(render_table(heading, columns, [rows[choice] for choice in chosen]))
    print(
        f"\nCurves: {arguments.out}. Keras {keras.version()} on "
        f"{keras.backend.backend()}. Took {time.perf_counter() - started:.0f} s."
    )


if __name__ == "__main__":
    main()
