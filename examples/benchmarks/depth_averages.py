"""Plain convolutions before a global average: 8, 16 and 50 layers, start by start.

Digits as 8×8×1 images, standardised as a whole; 3×3 convolutions of 16 channels,
"same", no normalisation, no skips, GlobalAveragePooling2D, a softmax.

Protocol: SGD with momentum 0.9 in batches of 64, 20 epochs, on four fifths of the
training part of depth.py's split. The rates of a cell are tried with two seeds; the
best of them, by the mean accuracy on the other fifth, runs with further seeds. The test
set is looked at once, by the networks of that rate. A network stops after 8 epochs if
by then it does no better than 15 % on what it trains on.

Models are built by Keras and rewritten by this package; their weights then train in
PyTorch, all networks of a cell side by side as the groups of one convolution. Results
are written after every cell; a cell of fewer seeds than are asked for gets the others.

    python examples/benchmarks/depth_averages.py [--quick] [--out FOLDER] [--table]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "jax")

import depth_report as report
import depth_training as training
import keras
import numpy as np
from depth_averages_tables import FILE, PART, reach, table
from keras import layers

import keras_initlab as il

FIRST_SEEDS = (0, 1)  # with which the rate is chosen
CHANNELS = 16
PROTOCOL: dict[str, Any] = {
    "depths": [8, 16, 50],
    "activations": (
        "relu gelu tanh silu elu mish selu leaky_relu softsign softplus sigmoid"
    ).split(),
    "starts": ["isometric", "Keras's default", "activation", "variance"],
    # By start, depth and activation.
    "rates": {
        "isometric": {
            "8": {
                "tanh": [0.03, 0.01],
                "softsign": [0.03, 0.01],
                "sigmoid": [0.03, 0.01],
                "softplus": [0.004, 0.002],
                "others": [0.01, 0.005],
            },
            "16": {
                "tanh": [0.03, 0.01],
                "softsign": [0.03, 0.01],
                "sigmoid": [0.03, 0.01],
                "softplus": [0.002, 0.001],
                "relu": [0.006, 0.0035, 0.002],
                "others": [0.006, 0.002],
            },
            "50": {
                "tanh": [0.015, 0.005],
                "softsign": [0.015, 0.005],
                "sigmoid": [0.01, 0.003],
                "softplus": [0.001, 0.0005],
                "others": [0.0015, 0.00075],
            },
        },
        "others": {
            "8": {"others": [0.03, 0.01]},
            "16": {
                "tanh": [0.03, 0.01],
                "softsign": [0.03, 0.01],
                "sigmoid": [0.03, 0.01],
                "others": [0.01, 0.003],
            },
            "50": {
                "tanh": [0.01, 0.003],
                "softsign": [0.01, 0.003],
                "sigmoid": [0.01, 0.003],
                "others": [0.003, 0.001],
            },
        },
    },
    "epochs": 20,
    "give_up": 8,
}
QUICK: dict[str, Any] = {
    **PROTOCOL,
    "depths": [4],
    "activations": ["leaky_relu"],
    "starts": ["isometric"],
    "rates": {"isometric": {"4": {"others": [0.02, 0.01]}}},
    "epochs": 1,
}


def digits() -> tuple[training.Digits, training.Digits]:
    """Return images standardised as a whole, with the validation and the test part."""
    part, whole = (training.split_digits(validate) for validate in (True, False))
    mean, deviation = part.x.mean(), part.x.std()
    x, valid_x, test_x = (
        ((one - mean) / deviation).astype("float32").reshape(-1, 1, 8, 8)
        for one in (part.x, part.held_x, whole.held_x)
    )
    return (
        training.Digits(x, part.y, valid_x, part.held_y),
        training.Digits(x, part.y, test_x, whole.held_y),
    )


def network(start: str, activation: str, depth: int, seed: int) -> Any:
    """Return the network, its weights drawn by that start."""
    keras.utils.set_random_seed(seed)
    keras.backend.clear_session()
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            *(
                layers.Conv2D(CHANNELS, 3, padding="same", activation=activation)
                for _ in range(depth)
            ),
            layers.GlobalAveragePooling2D(),
            layers.Dense(training.CLASSES, "softmax"),
        ]
    )
    if start.startswith("isometric"):
        exact = {"theta": 0.0} if "exact" in start else {}
        il.rewrite_initializers(model, scheme="isometric", seed=seed, **exact)
    elif start in ("activation", "variance"):
        il.rewrite_initializers(model, scheme=start, seed=seed)
    return model


class SideBySide:
    """Networks of one shape and activation, as the groups of one in PyTorch."""

    def __init__(self, models: Sequence[Any], activation: str) -> None:
        import torch

        torch.set_num_threads(1)
        torch.set_flush_denormal(True)  # vanished signals would take ten times as long
        self.count, self.depth = len(models), len(models[0].layers) - 2
        functional = torch.nn.functional
        self.function, self.convolve = (
            getattr(functional, activation),
            functional.conv2d,
        )
        if activation == "leaky_relu":  # as Keras has it
            self.function = partial(self.function, negative_slope=0.2)

        def joined(weights: list[Any], order: tuple[int, ...]) -> Any:
            arrays = [np.array(keras.ops.convert_to_numpy(w)) for w in weights]
            tensors = [torch.tensor(one.transpose(order)) for one in arrays]
            return torch.stack(tensors).contiguous().requires_grad_()

        rows = list(zip(*(one.layers for one in models), strict=True))
        convolutions, heads = rows[: self.depth], rows[-1]
        # The first axis of each counts networks.
        self.parameters = [
            *(joined([c.kernel for c in row], (3, 2, 0, 1)) for row in convolutions),
            *(joined([c.bias for c in row], (0,)) for row in convolutions),
            joined([one.kernel for one in heads], (0, 1)),
            joined([one.bias for one in heads], (0,)),
        ]

    def logits(self, x: Any) -> Any:
        """Return logits (networks, images, classes) of images (images, networks, …)."""
        kernels = self.parameters[: self.depth]
        biases = self.parameters[self.depth : 2 * self.depth]
        for kernel, bias in zip(kernels, biases, strict=True):
            kernel, bias = kernel.flatten(0, 1), bias.flatten()
            x = self.convolve(x, kernel, bias, padding=1, groups=self.count)
            x = self.function(x)
        means = x.mean(dim=(2, 3)).view(len(x), self.count, -1).transpose(0, 1)
        kernel, bias = self.parameters[-2:]
        return means @ kernel + bias[:, None]

    def fit(
        self,
        data: training.Digits,
        rates: Sequence[float],
        seeds: Sequence[int],
        protocol: dict[str, Any],
    ) -> None:
        """Train each network with its rate, batches in the order of its seed.

        Networks that still guess after `give_up` epochs stay as they then are.
        """
        import torch

        everything, whole = self.parameters, self.count
        running = np.arange(whole)
        speeds = [torch.zeros_like(one) for one in everything]
        generators = [np.random.default_rng(seed) for seed in seeds]
        for epoch in range(protocol["epochs"]):
            order = np.stack([g.permutation(len(data.x)) for g in generators], axis=1)
            rate = torch.tensor(rates, dtype=torch.float32)[running]
            self._epoch(data, order[:, running], rate, speeds)
            if epoch + 1 == protocol["give_up"]:
                learns = self.accuracy(data.x, data.y) > training.AT_CHANCE
                speeds = [one[learns] for one in speeds]
                self._put_back(everything, running)
                running = running[learns]
                self.count = len(running)
                self.parameters = [
                    one.detach()[running].requires_grad_() for one in everything
                ]
                if not self.count:
                    break
        self._put_back(everything, running)
        self.parameters, self.count = everything, whole

    def _epoch(self, data: Any, order: Any, rate: Any, speeds: list[Any]) -> None:
        import torch

        x, y = torch.tensor(data.x[:, 0]), torch.tensor(data.y)
        steps = [rate.view(-1, *[1] * (one.dim() - 1)) for one in speeds]
        for at in range(0, len(x) - training.BATCH + 1, training.BATCH):
            chosen = torch.tensor(order[at : at + training.BATCH])
            logits = self.logits(x[chosen]).flatten(0, 1)
            labels = y[chosen].T.flatten()
            loss = torch.nn.functional.cross_entropy(logits, labels) * self.count
            gradients = torch.autograd.grad(loss, self.parameters)
            with torch.no_grad():
                for one, speed, gradient, step in zip(
                    self.parameters, speeds, gradients, steps, strict=True
                ):
                    one += speed.mul_(training.MOMENTUM).sub_(step * gradient)

    def _put_back(self, everything: list[Any], running: Any) -> None:
        """Write the networks that run into all of them."""
        import torch

        with torch.no_grad():
            for one, part in zip(everything, self.parameters, strict=True):
                if one is not part:
                    one[running] = part

    def accuracy(self, x: Any, y: Any) -> Any:
        """Return the accuracy of each network."""
        import torch

        with torch.no_grad():
            logits = self.logits(torch.tensor(x).expand(-1, self.count, -1, -1))
        return (logits.argmax(dim=2).numpy() == y).mean(axis=1)


class Cell:
    """The networks of one depth, activation and start, by rate and seed."""

    def __init__(
        self, depth: int, activation: str, start: str, protocol: dict[str, Any]
    ) -> None:
        self.depth, self.activation, self.start = depth, activation, start
        self.protocol = protocol
        self.validation, self.test = digits()

    @property
    def rates(self) -> list[float]:
        """The rates to try."""
        starts = self.protocol["rates"]
        rates = starts.get(self.start, starts.get("others"))[str(self.depth)]
        return list(rates.get(self.activation, rates["others"]))

    def run(self, cases: Sequence[tuple[float, int]]) -> list[tuple[float, float]]:
        """Train with these rates and seeds; return validation and test accuracies."""
        rates, seeds = zip(*cases, strict=True)
        models = {
            seed: network(self.start, self.activation, self.depth, seed)
            for seed in dict.fromkeys(seeds)
        }
        together = SideBySide([models[seed] for seed in seeds], self.activation)
        self.check(together, models[seeds[0]])
        together.fit(self.validation, rates, seeds, self.protocol)
        valid, test = (
            together.accuracy(part.held_x, part.held_y).tolist()
            for part in (self.validation, self.test)
        )
        return list(zip(valid, test, strict=True))

    def check(self, together: SideBySide, model: Any) -> None:
        """Raise if the first network computes otherwise than Keras's model."""
        x = self.validation.held_x[:8]
        theirs = keras.ops.convert_to_numpy(model(x.transpose(0, 2, 3, 1)))
        import torch

        with torch.no_grad():
            logits = together.logits(torch.tensor(x).expand(-1, together.count, -1, -1))
        ours = logits[0].softmax(dim=1).numpy()
        if not np.allclose(ours, theirs, atol=1e-4):
            raise AssertionError(f"{self.activation} computes otherwise than in Keras")

    def first(self) -> dict[str, Any]:
        """Return the rate that is chosen, and its accuracies with two seeds."""
        cases = [(rate, seed) for rate in self.rates for seed in FIRST_SEEDS]
        shape = (len(self.rates), len(FIRST_SEEDS))
        validation, test = np.array(self.run(cases)).T.reshape(2, *shape)
        best = int(validation.mean(axis=1).argmax())
        names = [f"{rate:g}" for rate in self.rates]
        return {
            "rate": self.rates[best],
            "validation": dict(zip(names, validation.tolist(), strict=True)),
            "accuracy": test[best].tolist(),
        }

    def more(self, cell: dict[str, Any], seeds: int) -> dict[str, Any]:
        """Return a cell with the further seeds up to so many."""
        rate, done = cell["rate"], len(cell["accuracy"])
        scores = self.run([(rate, seed) for seed in range(done, seeds)])
        validation, accuracy = zip(*scores, strict=True)
        of_rate = [*cell["validation"][f"{rate:g}"], *validation]
        return {
            **cell,
            "validation": {**cell["validation"], f"{rate:g}": of_rate},
            "accuracy": [*cell["accuracy"], *accuracy],
        }


def measure(results: report.Results, cell: Cell, seeds: int) -> None:
    """Measure a cell, or what it lacks, and write the results file."""
    cells = results.content["cells"].setdefault(PART, {})
    name = f"{cell.depth} | {cell.activation} | {cell.start}"
    begin = time.perf_counter()
    before = cells.get(name) or {**cell.first(), "seconds": 0.0}
    if name in cells and len(before["accuracy"]) >= seeds:
        return
    cells[name] = before
    if len(before["accuracy"]) < seeds:
        cells[name] = cell.more(before, seeds)
    cells[name]["seconds"] = before["seconds"] + time.perf_counter() - begin
    results.save()
    print(f"{name}: {report.brief(cells[name])}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Train every cell that the results file lacks, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small cell")
    parser.add_argument("--table", action="store_true", help="train nothing, print")
    parser.add_argument("--starts", nargs="+", help="only these")
    parser.add_argument("--activations", nargs="+", help="only these")
    parser.add_argument("--depths", nargs="+", type=int, help="only these")
    parser.add_argument("--seeds", type=int, default=2, help="how many, at least 2")
    parser.add_argument("--out", type=Path, help=f"a folder for {FILE}")
    arguments = parser.parse_args(argv)
    results = report.Results(arguments.out, FILE)
    protocol = QUICK if arguments.quick else PROTOCOL
    if not arguments.table:
        results.begin(PART, protocol)
        for depth in arguments.depths or protocol["depths"]:
            for start in arguments.starts or protocol["starts"]:
                for activation in arguments.activations or protocol["activations"]:
                    cell = Cell(depth, activation, start, protocol)
                    measure(results, cell, max(arguments.seeds, 2))
    print(table(results), reach(results), sep="\n\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
