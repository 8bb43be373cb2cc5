"""Plain convolutions before a global average: 8, 16 and 50 layers, start by start.

Digits as 8×8×1 images, standardised as a whole; 3×3 convolutions of 16 channels,
"same", no normalisation, no skips, GlobalAveragePooling2D, a softmax.

Protocol: SGD with momentum 0.9 in batches of 64, 20 epochs, on four fifths of the
training part of depth.py's split; the rate falls to 0 along a half cosine (as with
keras.optimizers.schedules.CosineDecay), or the last epoch would be as noisy as any. The
rates of a cell are tried with two seeds; the best two of them, by the mean accuracy on
the other fifth, run with further seeds, and the better one of these is taken. The test
set is looked at once, by the networks of that rate. A network stops after 8 epochs if
by then it does no better than 15 % on what it trains on.

Models are built by Keras and rewritten by this package; their weights then train in
PyTorch, all networks of a cell side by side as the groups of one convolution. Results
are written after every cell; those that are there are not trained again.

    python examples/benchmarks/depth_averages.py [--quick] [--out FOLDER] [--table]
"""

from __future__ import annotations

import argparse
import os
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
    # The middle one of the first three, by depth and activation; for other starts than
    # isometric as many times that.
    "rates": {
        "8": {"tanh": 0.032, "softsign": 0.032, "sigmoid": 0.032, "softplus": 0.004},
        "16": {"tanh": 0.016, "softsign": 0.016, "sigmoid": 0.016, "softplus": 0.001},
        "50": {"tanh": 0.008, "softsign": 0.008, "sigmoid": 0.004, "softplus": 0.0005},
        "others": {"8": 0.016, "16": 0.004, "50": 0.001},
    },
    "rates_of_others": 2,
    "further_rates": True,
    "epochs": 20,
    "give_up": 8,
}
QUICK: dict[str, Any] = {
    **PROTOCOL,
    "depths": [4],
    "activations": ["leaky_relu"],
    "starts": ["isometric"],
    "further_rates": False,
    "rates": {"4": {}, "others": {"4": 0.016}},
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
        epochs = protocol["epochs"]
        for epoch in range(epochs):
            order = np.stack([g.permutation(len(data.x)) for g in generators], axis=1)
            rate = torch.tensor(rates, dtype=torch.float32)[running]
            steps = len(data.x) // training.BATCH
            done = (epoch + np.arange(steps) / steps) / epochs
            decay = 0.5 + 0.5 * np.cos(np.pi * done)
            self._epoch(data, order[:, running], rate, decay, speeds)
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

    def _epoch(
        self, data: Any, order: Any, rate: Any, decay: Any, speeds: list[Any]
    ) -> None:
        import torch

        x, y = torch.tensor(data.x[:, 0]), torch.tensor(data.y)
        steps = [rate.view(-1, *[1] * (one.dim() - 1)) for one in speeds]
        for number, factor in enumerate(decay):
            chosen = torch.tensor(order[number * training.BATCH :][: training.BATCH])
            logits = self.logits(x[chosen]).flatten(0, 1)
            labels = y[chosen].T.flatten()
            loss = torch.nn.functional.cross_entropy(logits, labels) * self.count
            gradients = torch.autograd.grad(loss, self.parameters)
            with torch.no_grad():
                for one, speed, gradient, step in zip(
                    self.parameters, speeds, gradients, steps, strict=True
                ):
                    one += speed.mul_(training.MOMENTUM).sub_(factor * step * gradient)

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
        # Accuracies on the validation and the test part, by rate and seed.
        self.scores: dict[tuple[float, int], tuple[float, float]] = {}

    @property
    def rates(self) -> list[float]:
        """The rates to try first, each half of the one before."""
        middles = self.protocol["rates"]
        depth = str(self.depth)
        middle = middles[depth].get(self.activation, middles["others"][depth])
        if self.start != "isometric":
            middle *= self.protocol["rates_of_others"]
        return [2 * middle, middle, middle / 2]

    def run(self, rates: Sequence[float], seeds: Sequence[int]) -> None:
        """Train with each rate and seed that has no score yet."""
        cases = [(rate, seed) for rate in rates for seed in seeds]
        cases = [case for case in cases if case not in self.scores]
        if not cases:
            return
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
        self.scores |= dict(zip(cases, zip(valid, test, strict=True), strict=True))

    def validated(self, rate: float) -> list[float]:
        """Return the accuracies on the validation part, seed by seed."""
        return [valid for (at, _), (valid, _) in self.scores.items() if at == rate]

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

    @property
    def tried(self) -> list[float]:
        """The rates that were tried, the largest first."""
        return sorted({rate for rate, _ in self.scores}, reverse=True)

    def ranked(self) -> list[float]:
        """Return the rates that were tried, the best first; of equals, the smaller."""
        means = {rate: np.mean(self.validated(rate)) for rate in self.tried}
        return sorted(means, key=lambda rate: (-means[rate], rate))

    def search(self) -> None:
        """Try the rates with two seeds.

        While the best rate is the largest or the least that was tried, the next one is
        tried too; while all guess, the next smaller one, down to an eighth.
        """
        new = self.rates
        while new:
            self.run(new, FIRST_SEEDS)
            best, high, low = self.ranked()[0], self.tried[0], self.tried[-1]
            if not self.protocol["further_rates"]:
                new = []
            elif self.guesses(best):
                new = [low / 2] * (low > self.rates[-1] / 8)
            else:
                new = [2 * best] * (best == high) + [best / 2] * (best == low)

    def guesses(self, rate: float) -> bool:
        """Say whether networks do no better than by guessing."""
        return bool(np.mean(self.validated(rate)) <= training.AT_CHANCE)

    def measure(self, seeds: int) -> dict[str, Any]:
        """Return the chosen rate, and what so many networks of it reach."""
        self.search()
        finals = self.ranked()[:2]
        finals = [rate for rate in finals if not self.guesses(rate)] or finals[:1]
        self.run(finals, range(seeds))
        best = next(rate for rate in self.ranked() if rate in finals)
        return {
            "rate": best,
            "validation": {f"{rate:g}": self.validated(rate) for rate in self.tried},
            "accuracy": [self.scores[best, seed][1] for seed in range(seeds)],
        }


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
                    compute = partial(cell.measure, max(arguments.seeds, 2))
                    results.cell(PART, (depth, activation, start), compute)
    print(table(results), reach(results), sep="\n\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
