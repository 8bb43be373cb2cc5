"""Which start for which network of ordinary depth: epochs to an accuracy.

Networks as people build them, 2 to 30 layers, plain, normalised and residual, learn
scikit-learn's digits from the starts that this package and Keras have: classes, and
images through the code of an autoencoder. For each start the learning rate is the best
of those tried on validation data (mean score over the last quarter of the epochs): all
rates run with one seed, the best two with four more, and the test set is looked at with
the better one. The score is the accuracy, of autoencoders the share of the pixels'
variance that is explained. One results file; the tables are made from it.

    python examples/benchmarks/convergence.py [--each]      the results file as tables
    python examples/benchmarks/convergence.py --full        measures first what it lacks
    python examples/benchmarks/convergence.py --quick       a small part, anew
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from convergence_networks import STARTS, Network
from convergence_tables import (
    RESULTS,
    SCHEMES,
    activations,
    read,
    summary,
    tables,
    variants,
)

import keras_initlab as il
from keras_initlab.files import replacing

RATES = {"SGD": (0.1, 0.03, 0.01, 0.003), "Adam": (0.003, 0.001, 0.0003)}
SEEDS = (0, 1, 2, 3, 4)
FINALISTS = 2  # of the rates, the best by the first seed, run with the other seeds too
EPOCHS = {"cnn": 10, "resnet": 10, "autoencoder": 40}
USUAL_EPOCHS = 20
# The scores to reach, of which the tables show the first.
TARGETS = {"autoencoder": (0.8, 0.9)}
USUAL_TARGETS = (0.93, 0.96)
HEADS = ("variance, head=0.1",)
RESIDUAL = (*HEADS, "variance, residual='keep'", "variance, residual='zero'", "Fixup")
ATTENTION = ("variance, x=batch", "T-Fixup")


@dataclass(frozen=True)
class Cell:
    """A network, how it is trained, and the starts that are compared there."""

    network: Network
    optimizer: str
    inputs: str = "standardised"
    starts: Sequence[str] = SCHEMES


BOTH, THREE = "SGD Adam", ("relu", "gelu", "tanh")


def full() -> list[Cell]:
    """Return every cell."""
    return [*_dense(), *_skips(), *_convolutions(), *_others()]


def _cells(
    optimizers: str,
    *networks: Network,
    inputs: str = "standardised",
    schemes: Sequence[str] = SCHEMES,
    others: Sequence[str] = (),
) -> list[Cell]:
    """Return the cells of networks, from schemes and other starts."""
    return [
        Cell(network, optimizer, inputs, (*schemes, *others))
        for network in networks
        for optimizer in optimizers.split()
    ]


def _mlps(depth: int, names: Sequence[str] = THREE, width: int = 64) -> list[Network]:
    return [Network("mlp", name, depth, width) for name in names]


def _dense() -> Iterator[Cell]:
    for depth in (2, 3, 8, 16, 30):
        yield from _cells(BOTH, *_mlps(depth))
    for depth, optimizers in ((3, "SGD"), (8, BOTH)):
        yield from _cells(optimizers, *_mlps(depth), inputs="unit")
    yield from _cells("SGD", *_mlps(16, THREE[:2]), inputs="unit")
    yield from _cells("SGD", *_mlps(5, width=16))
    yield from _cells(BOTH, *_mlps(3, ("sigmoid", "silu")))
    more = ("silu", "sigmoid", "elu", "selu", "softplus", "mish")
    yield from _cells(BOTH, *_mlps(8, more))
    for name, detail in (("relu", "BN"), ("gelu", "BN"), ("relu", "LN")):
        yield from _cells("SGD", Network("mlp", name, 8, 64, detail))
    yield from _cells("SGD", *_mlps(8, ("relu", "tanh"), 256))


def _convolutions() -> Iterator[Cell]:
    for depth in (3, 8, 16):
        for head in ("Flatten", "average"):
            for name in ("relu", "gelu"):
                yield from _cells(BOTH, Network("cnn", name, depth, 16, head))
    yield from _cells("SGD", Network("cnn", "tanh", 8, 16, "Flatten"))
    for depth in (3, 8):
        flat = Network("cnn", "relu", depth, 16, "Flatten")
        yield from _cells("SGD", flat, inputs="unit")


def _skips() -> Iterator[Cell]:
    for blocks in (2, 4, 8):
        network = Network("transformer", "relu", blocks, 32)
        yield from _cells(BOTH, network, others=ATTENTION)
    rezero = Network("transformer", "relu", 4, 32, "ReZero")
    yield from _cells(BOTH, rezero, schemes=("default", "variance"))
    yield from _cells("SGD", Network("resnet", "relu", 3, 16), others=RESIDUAL)
    yield from _cells("SGD", Network("resnet", "relu", 3, 16, "BN"), others=HEADS)
    yield from _cells("SGD", Network("resnet", "relu", 6, 16), others=("Fixup",))
    yield from _cells("SGD", Network("residual_mlp", "relu", 12), others=RESIDUAL)
    yield from _cells("SGD", Network("residual_mlp", "relu", 12, 64, "ReZero"))


def _others() -> Iterator[Cell]:
    for depth in (2, 4):
        codes = [Network("autoencoder", name, depth) for name in THREE]
        yield from _cells(BOTH, *codes)
    for depth in (1, 2):
        yield from _cells(BOTH, Network("lstm", "tanh", depth, 32))


def measure(
    cells: Sequence[Cell], known: list[dict[str, Any]], **protocol: Any
) -> Iterator[None]:
    """Add the records of the cells to those known; yield after each cell.

    `protocol` may replace the seeds, and the epochs of all networks.
    """
    done = {_key(record) for record in known}
    for cell in cells:
        missing = [s for s in cell.starts if (*_place(cell), s) not in done]
        if missing:
            begin = time.perf_counter()
            known.extend(_compare(cell, missing, **protocol))
            taken = time.perf_counter() - begin
            names = " ".join(str(one) for one in _place(cell) if one)
            print(f"{names}: {taken:.0f} s", file=sys.stderr, flush=True)
            yield


def network_of(record: dict[str, Any]) -> Network:
    """Return the network of a record."""
    return Network(**{name: record[name] for name in Network.__dataclass_fields__})


@functools.cache
def automatic(network: Network) -> str:
    """Return the start that `scheme="auto"` chooses for a network."""
    plan = il.rewrite_initializers(network.build(), scheme="auto", dry_run=True)
    return plan.assumptions[0].split()[2].removesuffix("():").lower()


def _place(cell: Cell) -> tuple[Any, ...]:
    return (*asdict(cell.network).values(), cell.optimizer, cell.inputs)


def _key(record: dict[str, Any]) -> tuple[Any, ...]:
    names = (*Network.__dataclass_fields__, "optimizer", "inputs", "start")
    return tuple(record[name] for name in names)


def _compare(
    cell: Cell,
    starts: Sequence[str],
    seeds: Sequence[int] = SEEDS,
    epochs: int | None = None,
) -> list[dict[str, Any]]:
    """Return a record for each start."""
    import convergence_training as training

    network, rates = cell.network, RATES[cell.optimizer]
    kind, epochs = network.kind, epochs or EPOCHS.get(network.kind, USUAL_EPOCHS)
    data = training.digits(cell.inputs, kind)
    trainer = training.Trainer(network.build(), cell.optimizer)
    first, second = TARGETS.get(kind, USUAL_TARGETS)

    def run(start: str, pairs: Sequence[tuple[float, int]]) -> list[Any]:
        weights = {seed: _drawn(network, start, seed) for _, seed in pairs}
        cases = [training.Case(weights[seed], rate, seed) for rate, seed in pairs]
        return trainer.train(cases, data, epochs)

    records = []
    for start in starts:
        runs = run(start, [(rate, seeds[0]) for rate in rates])
        tried = {rate: [one] for rate, one in zip(rates, runs, strict=True)}
        ranking = sorted(tried, key=lambda rate: _quality(tried[rate]), reverse=True)
        further = [(rate, seed) for rate in ranking[:FINALISTS] for seed in seeds[1:]]
        for (rate, _), one in zip(further, run(start, further), strict=True):
            tried[rate].append(one)
        rate = max(ranking[:FINALISTS], key=lambda rate: _quality(tried[rate]))
        runs = tried[rate]
        records.append(
            {
                **asdict(network),
                "optimizer": cell.optimizer,
                "inputs": cell.inputs,
                "start": start,
                "auto": start == automatic(network),
                "rate": rate,
                "tried": [round(_quality(one)[0], 4) for one in tried.values()],
                "validation": [one.validation[-1] for one in runs],
                "test": [one.test for one in runs],
                "to_first": [_epochs_to(first, one.validation) for one in runs],
                "to_second": [_epochs_to(second, one.validation) for one in runs],
            }
        )
    return records


@functools.lru_cache(maxsize=64)
def _drawn(network: Network, start: str, seed: int) -> list[Any]:
    """Return the weights that a network starts from."""
    keras.utils.set_random_seed(seed)
    model = network.build()
    STARTS[start](model, seed)
    return [keras.ops.convert_to_numpy(one) for one in model.weights]


def _quality(runs: Sequence[Any]) -> tuple[float, float]:
    """Return the mean score over the last quarter; over all epochs, among equals."""
    validation = np.array([run.validation for run in runs])
    last = validation[:, -max(1, validation.shape[1] // 4) :]
    return float(last.mean()), float(validation.mean())


def _epochs_to(score: float, validation: Sequence[float]) -> int | None:
    reached = [epoch for epoch, one in enumerate(validation, 1) if one >= score]
    return reached[0] if reached else None


def write(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write a results file, a line for each record."""
    protocol = {
        "rates": RATES,
        "seeds": SEEDS,
        "epochs": {**EPOCHS, "others": USUAL_EPOCHS},
        "finalists": FINALISTS,
        "targets": {**TARGETS, "others": USUAL_TARGETS},
    }
    lines = ",\n".join(json.dumps(record) for record in records)
    with replacing(path) as fresh:
        Path(fresh).write_text(
            f'{{"protocol": {json.dumps(protocol)},\n"records": [\n{lines}\n]}}\n'
        )


def main(argv: list[str] | None = None) -> int:
    """Print the results as tables; measure first what they lack, if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two starts, two networks")
    parser.add_argument("--full", action="store_true", help="measure what is missing")
    parser.add_argument("--each", action="store_true", help="print every cell")
    parser.add_argument(
        "--out", type=Path, help="a folder for convergence.json, in place of docs/"
    )
    arguments = parser.parse_args(argv)
    folder = arguments.out or RESULTS.parent
    path = folder / RESULTS.name
    records, cells, protocol = read(path) or read(RESULTS), full(), {}
    if arguments.quick:
        networks = Network("mlp", "relu", 3), Network("autoencoder", "relu", 1)
        starts = ("default", "isometric")
        cells = [Cell(network, "SGD", starts=starts) for network in networks]
        records, protocol = [], {"seeds": SEEDS[:2], "epochs": 4}
    if arguments.full:
        for record in records:
            record["auto"] = record["start"] == automatic(network_of(record))
    if arguments.quick or arguments.full or arguments.out:
        for _ in measure(cells, records, **protocol):
            if arguments.full or arguments.out:
                folder.mkdir(parents=True, exist_ok=True)
                write(path, records)
    print(tables(records) if arguments.each else summary(records))
    if not arguments.quick:
        print(f"\n{activations(records)}\n\n{variants(records)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
