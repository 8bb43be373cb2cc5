"""Plain convolutions before a global average: 8, 16 and 50 layers, start by start.

Digits as 8×8×1 images, standardised as a whole; 3×3 convolutions of 16 channels,
"same", no normalisation, no skips, GlobalAveragePooling2D, a softmax.

Protocol: SGD with momentum 0.9 in batches of 64, 20 epochs, on four fifths of the
training part of depth.py's split. Of the rates tried the one counts whose networks do
best, in the mean over seeds, on the other fifth; the test set is looked at once, by
these.

Models are built by Keras and rewritten by this package; their weights then train in
PyTorch, all networks of a cell side by side as the groups of one convolution.

    python examples/benchmarks/depth_averages.py [--quick] [--out FOLDER] [--table]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "jax")

import depth_report as report
import depth_training as training
import keras
import numpy as np
from keras import layers

import keras_initlab as il
from keras_initlab.tables import render_table

FILE = "depth_averages.json"
CHANNELS = 16
PROTOCOL: dict[str, Any] = {
    "depths": [16, 8, 50],
    "activations": "relu gelu tanh softplus silu elu mish sigmoid selu".split(),
    "starts": ["isometric", "Keras's default", "activation", "isometric, exact pairs"],
    "rates": {
        "tanh": [0.03, 0.01],
        "sigmoid": [0.03, 0.01],
        "softplus": [0.002, 0.0006],
        "others": [0.006, 0.002],
    },
    "seeds": {"8": [0, 1], "16": [0, 1], "50": [0, 1]},
    "epochs": 20,
}
QUICK: dict[str, Any] = {
    **PROTOCOL,
    "depths": [4],
    "activations": ["gelu"],
    "starts": ["isometric"],
    "rates": {"others": [0.01]},
    "seeds": {"4": [0]},
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

        def joined(weights: list[Any], order: tuple[int, ...], join: Any) -> Any:
            arrays = [np.array(keras.ops.convert_to_numpy(w)) for w in weights]
            tensors = [torch.tensor(one.transpose(order)) for one in arrays]
            return join(tensors).contiguous().requires_grad_()

        rows = list(zip(*(one.layers for one in models), strict=True))
        convolutions, heads = rows[: self.depth], rows[-1]
        self.parameters = [
            *(
                joined([c.kernel for c in row], (3, 2, 0, 1), torch.cat)
                for row in convolutions
            ),
            *(joined([c.bias for c in row], (0,), torch.cat) for row in convolutions),
            joined([one.kernel for one in heads], (0, 1), torch.stack),
            joined([one.bias for one in heads], (0,), torch.stack),
        ]

    def logits(self, x: Any) -> Any:
        """Return logits (networks, images, classes) of images (images, networks, …)."""
        kernels = self.parameters[: self.depth]
        biases = self.parameters[self.depth : 2 * self.depth]
        for kernel, bias in zip(kernels, biases, strict=True):
            x = self.convolve(x, kernel, bias, padding=1, groups=self.count)
            x = self.function(x)
        means = x.mean(dim=(2, 3)).view(len(x), self.count, -1).transpose(0, 1)
        kernel, bias = self.parameters[-2:]
        return means @ kernel + bias[:, None]

    def fit(
        self, x: Any, y: Any, rates: Sequence[float], seeds: Sequence[int], epochs: int
    ) -> None:
        """Train each network with its rate, batches in the order of its seed."""
        import torch

        count, x, y = self.count, torch.tensor(x[:, 0]), torch.tensor(y)
        loss_of = torch.nn.functional.cross_entropy
        rate = torch.tensor(rates, dtype=torch.float32)
        steps = [
            rate.repeat_interleave(len(one) // count).view(-1, *[1] * (one.dim() - 1))
            for one in self.parameters
        ]
        speeds = [torch.zeros_like(one) for one in self.parameters]
        generators = [np.random.default_rng(seed) for seed in seeds]
        for _ in range(epochs):
            order = np.stack([g.permutation(len(x)) for g in generators], axis=1)
            for at in range(0, len(x) - training.BATCH + 1, training.BATCH):
                chosen = torch.tensor(order[at : at + training.BATCH])
                logits = self.logits(x[chosen]).flatten(0, 1)
                loss = loss_of(logits, y[chosen].T.flatten()) * count
                gradients = torch.autograd.grad(loss, self.parameters)
                with torch.no_grad():
                    for one, speed, gradient, step in zip(
                        self.parameters, speeds, gradients, steps, strict=True
                    ):
                        one += speed.mul_(training.MOMENTUM).sub_(step * gradient)

    def accuracy(self, x: Any, y: Any) -> Any:
        """Return the accuracy of each network."""
        import torch

        with torch.no_grad():
            logits = self.logits(torch.tensor(x).expand(-1, self.count, -1, -1))
        return (logits.argmax(dim=2).numpy() == y).mean(axis=1)


def trained(start: str, activation: str, depth: int, protocol: Any) -> dict[str, Any]:
    """Return a cell: the rate chosen by validation, and the test accuracies with it."""
    seeds = protocol["seeds"][str(depth)]
    rates = protocol["rates"].get(activation, protocol["rates"]["others"])
    cases = [(rate, seed) for rate in rates for seed in seeds]
    models = [network(start, activation, depth, seed) for _, seed in cases]
    together = SideBySide(models, activation)
    valid, test = digits()
    rates_of, seeds_of = zip(*cases, strict=True)
    together.fit(valid.x, valid.y, rates_of, seeds_of, protocol["epochs"])
    shape = (len(rates), len(seeds))
    tried = together.accuracy(valid.held_x, valid.held_y).reshape(shape)
    best = int(tried.mean(axis=1).argmax())
    accuracy = together.accuracy(test.held_x, test.held_y).reshape(shape)[best]
    validation = dict(zip(map(str, rates), tried.tolist(), strict=True))
    return {
        "rate": rates[best],
        "validation": validation,
        "accuracy": accuracy.tolist(),
    }


def table(results: report.Results) -> str:
    """Return the test accuracies, in %, by activation and start."""
    cells = results.of("averages")
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for (depth, activation, start), cell in cells.items():
        values = 100 * np.array(cell["accuracy"])
        text = f"{values.mean():.1f} ± {values.std():.1f} ({cell['rate']:g})"
        rows.setdefault((activation, start), {})[depth] = text
    depths = sorted({names[0] for names in cells}, key=int)
    columns: list[tuple[str, Any]] = [("activation", "left"), ("start", "left")]
    columns += [(f"{depth} layers (rate)", "right") for depth in depths]
    lines = [[*names, *(row.get(d, "") for d in depths)] for names, row in rows.items()]
    return render_table("Test accuracy, %, before a global average", columns, lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Train every cell that the results file lacks, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small cell")
    parser.add_argument("--table", action="store_true", help="train nothing, print")
    parser.add_argument("--starts", nargs="+", help="only these")
    parser.add_argument("--depths", nargs="+", type=int, help="only these")
    parser.add_argument("--out", type=Path, help=f"a folder for {FILE}")
    arguments = parser.parse_args(argv)
    results = report.Results(arguments.out, FILE)
    protocol = QUICK if arguments.quick else PROTOCOL
    if not arguments.table:
        results.begin("averages", protocol)
        for depth in arguments.depths or protocol["depths"]:
            for start in arguments.starts or protocol["starts"]:
                for activation in protocol["activations"]:
                    results.cell(
                        "averages",
                        (depth, activation, start),
                        lambda d=depth, a=activation, s=start: trained(
                            s, a, d, protocol
                        ),
                    )
    print(table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
