"""Which start for which network of ordinary depth: epochs to an accuracy.

Networks as people build them, 2 to 30 layers, plain, normalised and residual, learn
scikit-learn's digits from the starts that this package and Keras have. For each start
the learning rate is the best of those tried on validation data (mean accuracy over the
last quarter of the epochs): all rates run with one seed, the best two with two more,
and the test set is looked at with the better one. Of some networks the best rate by one
seed was taken; their records have 1 under "finalists". One results file; the tables are
made from it.

    python examples/benchmarks/convergence.py [--each]      the results file as a table
    python examples/benchmarks/convergence.py --full        measures first what it lacks
    python examples/benchmarks/convergence.py --quick       a small part, anew
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from convergence_networks import PLAIN, RESIDUAL, STARTS, Network

from keras_initlab.files import replacing

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "convergence.json"
RATES = {"SGD": (0.1, 0.03, 0.01, 0.003), "Adam": (0.003, 0.001, 0.0003)}
SEEDS = (0, 1, 2)
FINALISTS = 2  # of the rates, the best by the first seed, run with the other seeds too
EPOCHS = {"mlp": 20, "residual_mlp": 20, "cnn": 10, "resnet": 10}


@dataclass(frozen=True)
class Cell:
    """A network, how it is trained, and the starts that are compared there."""

    network: Network
    optimizer: str
    inputs: str
    starts: Sequence[str]


def full() -> list[Cell]:
    """Return every cell, those of most use first."""
    cells: list[Cell] = []

    def add(settings: str, *networks: Network) -> None:
        for network in networks:
            starts = RESIDUAL if network.is_residual and not network.detail else PLAIN
            if network.detail == "ReZero":
                starts = ("default", "activation", "variance, head 1", "isometric")
            for setting in settings.split(", "):
                cells.append(Cell(network, *setting.split(), starts))

    sgd, adam, unit = "SGD standardised", "Adam standardised", "SGD unit"
    three = ("relu", "gelu", "tanh")
    every = f"{sgd}, {adam}, {unit}"
    for depth in (3, 8):
        add(every, *(Network("mlp", name, depth) for name in three))
    add(f"{sgd}, {adam}", *(Network("mlp", name, 16) for name in ("relu", "gelu")))
    add(sgd, *(Network("resnet", "relu", 3, 16, detail) for detail in ("", "BN")))
    add(sgd, Network("residual_mlp", "relu", 12))
    add(sgd, Network("cnn", "relu", 8, 16, "average"))
    add(sgd, Network("mlp", "relu", 8, 64, "BN"))
    add(sgd, Network("cnn", "gelu", 8, 16, "average"))
    add(sgd, Network("residual_mlp", "relu", 12, 64, "ReZero"))
    add(sgd, *(Network("mlp", name, 5, 16) for name in three))
    add(sgd, Network("mlp", "gelu", 8, 64, "BN"), Network("mlp", "relu", 8, 64, "LN"))
    add(sgd, *(Network("mlp", name, 30) for name in ("relu", "gelu")))
    add(sgd, Network("cnn", "relu", 3, 16, "average"))
    add(sgd, Network("cnn", "relu", 8, 16, "Flatten"))
    add(sgd, *(Network("mlp", name, 2) for name in three))
    add(sgd, *(Network("mlp", name, 8) for name in ("sigmoid", "selu", "silu", "elu")))
    add(sgd, *(Network("mlp", "tanh", depth) for depth in (16, 30)))
    add(sgd, Network("cnn", "tanh", 8, 16, "average"))
    add(adam, *(Network("residual_mlp", name, 12) for name in ("relu", "gelu")))
    add(
        f"{sgd}, {adam}",
        *(Network("residual_mlp", "relu", 4, 64, d) for d in ("", "ReZero")),
    )
    add(sgd, *(Network("mlp", name, 5, 256) for name in three))
    for head in ("average", "Flatten"):
        add(sgd, *(Network("cnn", "gelu", depth, 16, head) for depth in (3, 16)))
        add(sgd, *(Network("cnn", "relu", depth, 16, head) for depth in (3, 16)))
    add(sgd, Network("resnet", "relu", 6, 16))
    return cells


def measure(cells: Sequence[Cell], known: list[dict[str, Any]]) -> Iterator[None]:
    """Add the records of the cells to those known; yield after each cell."""
    done = {_key(record) for record in known}
    drawn: dict[Any, list[Any]] = {}
    for cell in cells:
        missing = [s for s in cell.starts if (*_place(cell), s) not in done]
        if not missing:
            continue
        if not any(key[0] == cell.network for key in drawn):
            drawn.clear()
        records = _compare(cell, missing, drawn)
        known.extend(records)
        yield


def network_of(record: dict[str, Any]) -> Network:
    """Return the network of a record."""
    return Network(**{name: record[name] for name in Network.__dataclass_fields__})


def _place(cell: Cell) -> tuple[Any, ...]:
    return (*asdict(cell.network).values(), cell.optimizer, cell.inputs)


def _key(record: dict[str, Any]) -> tuple[Any, ...]:
    names = (*Network.__dataclass_fields__, "optimizer", "inputs", "start")
    return tuple(record[name] for name in names)


def _compare(
    cell: Cell, starts: Sequence[str], drawn: dict[Any, list[Any]]
) -> list[dict[str, Any]]:
    """Return a record for each start."""
    import convergence_training as training

    network = cell.network
    epochs = EPOCHS[network.kind]
    is_image = network.kind in ("cnn", "resnet")
    data = training.digits(cell.inputs, is_image)
    trainer = training.Trainer(network.build(), cell.optimizer)

    def run(start: str, rate: float, seed: int) -> Any:
        key = network, start, seed
        if key not in drawn:
            keras.utils.set_random_seed(seed)
            model = network.build()
            STARTS[start](model, seed)
            drawn[key] = [keras.ops.convert_to_numpy(one) for one in model.weights]
        return trainer.train(drawn[key], rate, seed, data, epochs)

    records = []
    for start in starts:
        tried = {rate: [run(start, rate, SEEDS[0])] for rate in RATES[cell.optimizer]}
        ranking = sorted(tried, key=lambda rate: _quality(tried[rate]), reverse=True)
        for rate in ranking[:FINALISTS]:
            tried[rate] += [run(start, rate, seed) for seed in SEEDS[1:]]
        finalists = ranking[:FINALISTS]
        rate = max(finalists, key=lambda rate: _quality(tried[rate]))
        runs = tried[rate]
        records.append(
            {
                **asdict(network),
                "optimizer": cell.optimizer,
                "inputs": cell.inputs,
                "start": start,
                "rate": rate,
                "finalists": FINALISTS,
                "tried": [round(_quality(one)[0], 4) for one in tried.values()],
                "validation": [one.validation[-1] for one in runs],
                "test": [one.test for one in runs],
                "to_93": [_epochs_to(0.93, one.validation) for one in runs],
                "to_96": [_epochs_to(0.96, one.validation) for one in runs],
            }
        )
    return records


def _quality(runs: Sequence[Any]) -> tuple[float, float]:
    """Return the mean accuracy over the last quarter; over all epochs, among equals."""
    validation = np.array([run.validation for run in runs])
    last = validation[:, -max(1, validation.shape[1] // 4) :]
    return float(last.mean()), float(validation.mean())


def _epochs_to(accuracy: float, validation: Sequence[float]) -> int | None:
    reached = [epoch for epoch, one in enumerate(validation, 1) if one >= accuracy]
    return reached[0] if reached else None


def read(path: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the records of a results file, none where there is no file."""
    if not path.exists():
        return []
    records: list[dict[str, Any]] = json.loads(path.read_text())["records"]
    return records


def write(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write a results file, a line for each record."""
    protocol = {
        "rates": RATES,
        "seeds": SEEDS,
        "epochs": EPOCHS,
        "finalists": FINALISTS,
    }
    lines = ",\n".join(json.dumps(record) for record in records)
    with replacing(path) as fresh:
        Path(fresh).write_text(
            f'{{"protocol": {json.dumps(protocol)},\n"records": [\n{lines}\n]}}\n'
        )


# The tables, in Markdown.

TITLES = {
    "mlp": "Dense",
    "cnn": "Convolutions",
    "resnet": "Residual convolutions",
    "residual_mlp": "Residual Dense",
}


FAILED = 0.5  # a test accuracy below this


def tables(records: Sequence[dict[str, Any]]) -> str:
    """Return every measured cell: a table for each kind of network."""
    parts = []
    for kind, title in TITLES.items():
        here = [record for record in records if record["kind"] == kind]
        if here:
            parts.append(f"**{title}**\n\n{_table(here, _each)}")
    return "\n\n".join(parts)


def summary(records: Sequence[dict[str, Any]]) -> str:
    """Return one table: activations, optimizers and inputs of a network together."""
    return _table(records, _together)


def _each(record: dict[str, Any]) -> tuple[str, ...]:
    scale = "" if record["inputs"] == "standardised" else ", pixels in [0, 1]"
    detail = f" {record['detail']}" if record["detail"] else ""
    name = f"{record['depth']} × {record['width']} {record['activation']}{detail}"
    return name, record["optimizer"] + scale


def _together(record: dict[str, Any]) -> tuple[str, ...]:
    detail = f", {record['detail']}" if record["detail"] else ""
    unit = "blocks" if record["kind"].startswith("res") else "layers"
    title = TITLES[record["kind"]]
    return (f"{title}, {record['depth']} {unit} × {record['width']}{detail}",)


def _table(
    records: Sequence[dict[str, Any]], label: Callable[[Any], tuple[str, ...]]
) -> str:
    starts = [name for name in STARTS if any(r["start"] == name for r in records)]
    rows: dict[tuple[str, ...], dict[str, list[dict[str, Any]]]] = {}
    for record in sorted(records, key=_order):
        cells = rows.setdefault(label(record), {})
        cells.setdefault(record["start"], []).append(record)
    titles = ("network", "trained by")[: len(next(iter(rows)))]
    lines = [[*titles, *starts], ["---"] * (len(titles) + len(starts))]
    for row, cells in rows.items():
        lines.append([*row, *(brief(cells.get(start, [])) for start in starts)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _order(record: dict[str, Any]) -> tuple[Any, ...]:
    names = ("detail", "width", "depth", "activation", "inputs", "optimizer")
    return list(TITLES).index(record["kind"]), *(record[name] for name in names)


def brief(records: Sequence[dict[str, Any]]) -> str:
    """Return the mean test accuracy in per cent, and the epochs to 93 % of validation.

    The epochs are the median over runs, "–" where half of them do not get there. How
    many runs failed follows, if any: they end below 50 %.
    """
    tests = [one for record in records for one in record["test"]]
    if not tests:
        return ""
    epochs = [one or math.inf for record in records for one in record["to_93"]]
    middle = float(np.median(epochs))
    notes = [f"{middle:g}" if math.isfinite(middle) else "–"]
    failed = sum(one < FAILED for one in tests)
    if failed:
        notes.append(f"{failed} of {len(tests)} failed")
    return f"{100 * np.mean(tests):.1f} ({', '.join(notes)})"


def main(argv: list[str] | None = None) -> int:
    """Print the results as a table; measure first what they lack, if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two starts of 3 layers")
    parser.add_argument("--full", action="store_true", help="measure what is missing")
    parser.add_argument("--each", action="store_true", help="print every cell")
    parser.add_argument(
        "--out", type=Path, help="a folder for convergence.json, in place of docs/"
    )
    arguments = parser.parse_args(argv)
    records, cells = read(RESULTS), full()
    if arguments.quick:
        network = Network("mlp", "relu", 3)
        cells = [Cell(network, "SGD", "standardised", ("default", "isometric"))]
        records = []
    folder = arguments.out or RESULTS.parent
    if arguments.quick or arguments.full or arguments.out:
        for _ in measure(cells, records):
            if arguments.full or arguments.out:
                folder.mkdir(parents=True, exist_ok=True)
                write(folder / RESULTS.name, records)
    print(tables(records) if arguments.each else summary(records))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
