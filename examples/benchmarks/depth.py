"""Very deep networks without normalisation or skips: which starts can be trained?

All on scikit-learn's digits: 1437 images to train on and 360 to test, a stratified
split (random_state=0), standardised by the training part. Parts:

- mlp: 64 → 64 × L → 10 with softmax, L = 50 and 200, thirteen activations, seven starts
  (`depth_starts.py`).
- deep: L = 1,000: signals and gradients before training, training, time to rewrite.
- cnn and resnet: see `depth_convolutions.py`.
- q (not run unless named): the isometric start by its second moment q.

Protocol, the same for all starts. SGD with momentum 0.9, no decay, batches of 64, 20
epochs. For every cell (start × activation × depth) a learning rate is chosen: the one
with the best accuracy, in the mean over the selection's seeds, on a fifth of the
training part that is held out for it; the grid of rates is that of the depth. With that
rate, networks of other seeds train on all of the training part, and the test set is
looked at once. A cell stops early where after half of the epochs (a quarter at 200
layers) not one of its networks does better on what it trains on than 15 %; its accuracy
stands as it is then.
A mean over seeds comes with their standard deviation. Kernels are drawn in real Keras
models; training runs in JAX (`depth_training.py`), many networks at once.

    python examples/benchmarks/depth.py [--quick] [--parts PART …] [--table]
        [--out FOLDER]

Results are kept in FOLDER/depth.json, cell by cell; a run with the same folder goes on
where the last one stopped. Tables: `depth_report.py`.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "jax")

import depth_convolutions as convolutions
import depth_report as report
import depth_starts as starts
import depth_training as training
import keras
import numpy as np

import keras_initlab as il

PARTS = ("mlp", "deep", "cnn", "resnet")
RATES = {
    "50": [0.03, 0.01, 0.005, 0.002, 0.001],
    "200": [0.005, 0.002, 0.001, 0.0005, 0.0002],
    "1000": [0.001, 0.0005, 0.0002, 0.0001],
}
MLP = {
    "depths": [50, 200],
    "activations": list(training.ACTIVATIONS),
    "starts": list(starts.STARTS),
    "rates": RATES,
    "selection_seeds": {"50": [0, 1], "200": [0, 1], "1000": [0, 1]},
    "seeds": {depth: [10, 11, 12, 13, 14] for depth in ("50", "200")}
    | {"1000": [10, 11, 12]},
    "epochs": 20,
    "give_up": {"50": 10, "200": 5, "1000": 10},
}
QUICK_MLP = {
    **MLP,
    "depths": [50],
    "activations": ["gelu"],
    "rates": {"50": [0.005], "200": [0.001]},
    "selection_seeds": {"50": [0], "200": [0]},
    "seeds": {"50": [10], "200": [10]},
    "epochs": 4,
    "give_up": {"50": 2, "200": 2},
}
DEEP = {
    **MLP,
    "depths": [1000],
    "activations": ["gelu", "relu"],  # `starts` are measured, isometric is trained
}
QUICK_DEEP = {
    **QUICK_MLP,
    "activations": ["gelu"],
    "starts": ["isometric"],
    "epochs": 1,
}
Q_STUDY = {
    **MLP,
    "activations": (
        "relu gelu silu softplus tanh sigmoid elu selu mish relu6 softsign".split()
    ),
    "starts": ["isometric"],
    "q": [1.0, 0.25, 0.1, 0.05, 0.02, 0.01, None],
    "selection_seeds": {"50": [20, 21, 22], "200": [20, 21, 22]},
}
QUICK_Q = {**Q_STUDY, **{k: QUICK_MLP[k] for k in ("rates", "epochs", "give_up")}}
QUICK_Q |= {"depths": [50], "activations": ["tanh"], "q": [1.0, 0.05]}
QUICK_Q |= {"selection_seeds": {"50": [20]}}


def select(
    start: str, activation: str, depth: int, protocol: Any, q: float | None = None
) -> dict[str, Any]:
    """Return the rate that does best on the validation split, and what each does."""
    rates, seeds = (protocol[what][str(depth)] for what in ("rates", "selection_seeds"))
    networks = [starts.draw(start, activation, depth, seed, q) for seed in seeds]
    outcome = training.train(
        activation,
        networks * len(rates),
        np.repeat(rates, len(seeds)),
        list(seeds) * len(rates),
        training.digits(validate=True),
        protocol["epochs"],
        protocol["give_up"][str(depth)],
    )
    shape = (len(rates), len(seeds))
    accuracy = outcome.accuracy.reshape(shape)
    best = training.best_of(accuracy, outcome.held_loss.reshape(shape))
    return {
        "rate": rates[best],
        "validation": dict(
            zip(map(str, rates), accuracy.mean(1).tolist(), strict=True)
        ),
        "accuracy": accuracy[best].tolist(),
        "selection_epochs": outcome.epochs,
    }


def trained(start: str, activation: str, depth: int, protocol: Any) -> dict[str, Any]:
    """Return a cell: the rate chosen by validation, and the test accuracies with it."""
    chosen = select(start, activation, depth, protocol)
    chosen["validation_accuracy"] = chosen.pop("accuracy")
    seeds = protocol["seeds"][str(depth)]
    outcome = training.train(
        activation,
        [starts.draw(start, activation, depth, seed) for seed in seeds],
        [chosen["rate"]] * len(seeds),
        seeds,
        training.digits(validate=False),
        protocol["epochs"],
        protocol["give_up"][str(depth)],
    )
    return {
        **chosen,
        "accuracy": outcome.accuracy.tolist(),
        "train_loss": outcome.train_loss.tolist(),
        "epochs": outcome.epochs,
    }


def run_mlp(results: report.Results, protocol: dict[str, Any]) -> None:
    """Train every start with every activation at every depth, ours first."""
    for depth in protocol["depths"]:
        for start in reversed(protocol["starts"]):
            for activation in protocol["activations"]:
                results.cell(
                    "mlp",
                    (depth, activation, start),
                    lambda s=start, a=activation, d=depth: trained(s, a, d, protocol),
                )


def measured_deep(activation: str, depth: int, protocol: Any) -> dict[str, Any]:
    """Return a cell of a very deep network: what each start is like, times, training.

    The rewriting is timed in a model of its own; every start is measured once.
    """
    begin = time.perf_counter()
    model = starts.network(activation, depth)
    built = time.perf_counter()
    il.rewrite_initializers(model, scheme="isometric", seed=0)
    rewritten = time.perf_counter()
    return {
        "build_s": built - begin,
        "rewrite_s": rewritten - built,
        "moments": {
            start: starts.moments(
                activation, starts.draw(start, activation, depth, seed=0)
            )
            for start in protocol["starts"]
        },
        **trained("isometric", activation, depth, protocol),
    }


def run_deep(results: report.Results, protocol: dict[str, Any]) -> None:
    """Measure and train networks of 1,000 layers."""
    for depth in protocol["depths"]:
        for activation in protocol["activations"]:
            results.cell(
                "deep",
                (depth, activation),
                lambda a=activation, d=depth: measured_deep(a, d, protocol),
            )


def run_q(results: report.Results, protocol: dict[str, Any]) -> None:
    """Train the isometric start at each q; the test set is never looked at."""
    for depth in protocol["depths"]:
        for activation in protocol["activations"]:
            for q in protocol["q"]:
                results.cell(
                    "q",
                    (depth, activation, "its own" if q is None else f"q = {q:g}"),
                    lambda q=q, a=activation, d=depth: select(
                        "isometric", a, d, protocol, q
                    ),
                )


RUNS = {
    "mlp": (run_mlp, MLP, QUICK_MLP),
    "deep": (run_deep, DEEP, QUICK_DEEP),
    "cnn": (convolutions.run_cnn, convolutions.CNN, convolutions.QUICK_CNN),
    "resnet": (
        convolutions.run_resnet,
        convolutions.RESNET,
        convolutions.QUICK_RESNET,
    ),
    "q": (run_q, Q_STUDY, QUICK_Q),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts, print the tables and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few cells, few epochs")
    parser.add_argument(
        "--parts", nargs="+", choices=sorted(RUNS), default=PARTS, help="all but q"
    )
    parser.add_argument("--table", action="store_true", help="train nothing, print")
    parser.add_argument("--out", type=Path, help="a folder for depth.json, depth.png")
    arguments = parser.parse_args(argv)
    results = report.Results(arguments.out)
    if not arguments.table:
        training.activation_errors()
        print(f"Keras {keras.__version__} on {keras.backend.backend()}", flush=True)
        for part in arguments.parts:
            run, full, quick = RUNS[part]
            protocol = quick if arguments.quick else full
            results.begin(part, protocol)
            run(results, protocol)
    report.print_all(results)
    if arguments.out and report.draw(results, arguments.out / report.PLOT):
        print(arguments.out / report.PLOT)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
