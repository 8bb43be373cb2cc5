"""The convolutional parts of depth.py: a plain network of 50 layers, a small ResNet.

Digits as 8×8×1 images, standardised pixel by pixel as in depth.py, in its split.

- cnn: 50 convolutions, 3×3, "same", 32 channels, no normalisation, no skips; a Flatten.
  Keras's default, he_normal and scheme="isometric". Those before a global average are
  in `depth_averages.py`.
- resnet: 3 stages of 2 blocks, 16 channels, BatchNormalization and skips, which trains
  from any start: do scheme="variance" and scheme="isometric" at least do no harm?

Protocol: as in depth.py (SGD with momentum 0.9, batches of 64, 20 epochs, the rate
chosen for each cell on a fifth of the training part, then other seeds on all of it and
one look at the test set), but for this: the rates of a convolutional cell are tried
from high to low with one seed, two final seeds follow, and a network stops after 5
epochs if by then it does no better than 15 % on what it trains on. The residual
network's rate is chosen in the mean over four seeds, and eight final ones follow.

Models are built by Keras and rewritten by this package. A twin in PyTorch, checked to
compute the same, trains, two networks at a time on a thread each: its convolutions take
a third of the time of the fastest form found in JAX (a step of 64 images through 50
layers on one core: 66 ms, against 177 on two).

    python examples/benchmarks/depth_convolutions.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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

WORKERS = min(2, os.cpu_count() or 1)
ACTIVATIONS = "relu gelu silu mish elu tanh softplus sigmoid".split()
STARTS = ("Keras's default", "he_normal", "isometric")
CNN = {
    "activations": ACTIVATIONS,
    "starts": list(STARTS),
    "layers": 50,
    "rates": [0.02, 0.01, 0.003],
    "selection_seeds": [0],
    "seeds": [10, 11],
    "epochs": 20,
    "give_up": 5,
}
QUICK_CNN = {
    **CNN,
    "activations": ["gelu"],
    "layers": 4,
    "rates": [0.01],
    "seeds": [10],
    "epochs": 1,
}
RESNET = {
    "starts": ["Keras's default", "variance", "isometric"],
    "rates": [0.3, 0.1, 0.03, 0.01],
    "selection_seeds": [0, 1, 2, 3],
    "seeds": [10, 11, 12, 13, 14, 15, 16, 17],
    "epochs": 20,
    "give_up": 5,
}
QUICK_RESNET = {
    **RESNET,
    "rates": [0.03],
    "selection_seeds": [0],
    "seeds": [10],
    "epochs": 1,
}


def plain(activation: str, depth: int, initializer: str | None = None) -> Any:
    """Return `depth` convolutions and a softmax over the digits."""
    given = {} if initializer is None else {"kernel_initializer": initializer}
    keras.backend.clear_session()
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            *(
                layers.Conv2D(32, 3, padding="same", activation=activation, **given)
                for _ in range(depth)
            ),
            layers.Flatten(),
            layers.Dense(training.CLASSES, "softmax", **given),
        ]
    )


def resnet(stages: int = 3, blocks: int = 2, filters: int = 16) -> Any:
    """Return a residual network with BatchNormalization, strided between stages."""

    def convolved(x: Any, size: int, stride: int = 1) -> Any:
        x = layers.Conv2D(filters, size, stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    keras.backend.clear_session()
    inputs = keras.Input((8, 8, 1))
    x = layers.ReLU()(convolved(inputs, 3))
    for stage in range(stages):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = layers.ReLU()(convolved(x, 3, stride))
            y = convolved(y, 3)
            x = convolved(x, 1, stride) if stride > 1 else x
            x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(training.CLASSES, "softmax")(x))


def draw_plain(start: str, activation: str, seed: int, protocol: dict[str, Any]) -> Any:
    """Return the plain network, its weights drawn by that start."""
    keras.utils.set_random_seed(seed)
    initializer = start if start == "he_normal" else None
    model = plain(activation, protocol["layers"], initializer)
    if start == "isometric":
        il.rewrite_initializers(model, scheme="isometric", seed=seed)
    return model


def draw_resnet(start: str, seed: int) -> Any:
    """Return the residual network, its weights drawn by that start."""
    keras.utils.set_random_seed(seed)
    model = resnet()
    if start in ("variance", "isometric"):
        il.rewrite_initializers(model, scheme=start, seed=seed)
    return model


def torch_activations() -> dict[str, Callable[[Any], Any]]:
    """Return PyTorch's activations by Keras's names; a twin's outputs are checked."""
    import torch

    functional = torch.nn.functional
    found = {name: getattr(functional, name) for name in ACTIVATIONS}
    # Left out or None, Keras's "linear".
    return {**found, "linear": lambda x: x, "softmax": lambda x: x}


def twin(model: Any) -> Any:
    """Return a PyTorch module that computes the logits of a Keras model of images.

    It knows the layers of this file, in Keras's order of pixels and channels; training
    it leaves the Keras model as it is.

    Raises:
        TypeError: a layer of another kind.
        AssertionError: its outputs are not those of the Keras model.
    """
    import torch

    functions = torch_activations()

    def tensor(weight: Any) -> Any:
        return torch.tensor(np.array(keras.ops.convert_to_numpy(weight)))

    class Convolution(torch.nn.Module):
        """A convolution with Keras's padding, and its activation."""

        def __init__(self, layer: Any) -> None:
            super().__init__()
            kernel = tensor(layer.kernel).permute(3, 2, 0, 1).contiguous()
            self.kernel = torch.nn.Parameter(kernel)
            bias = (
                None if layer.bias is None else torch.nn.Parameter(tensor(layer.bias))
            )
            self.bias = bias
            self.size, self.stride = layer.kernel_size[0], layer.strides[0]
            self.function = functions[layer.activation.__name__]

        def forward(self, x: Any) -> Any:
            side = x.shape[-1]
            covered = (-(-side // self.stride) - 1) * self.stride + self.size
            missing = max(covered - side, 0)
            low, high = missing // 2, missing - missing // 2
            if low == high:
                found = torch.nn.functional.conv2d(
                    x, self.kernel, self.bias, self.stride, low
                )
            else:  # Keras pads the far side first
                x = torch.nn.functional.pad(x, (low, high, low, high))
                found = torch.nn.functional.conv2d(
                    x, self.kernel, self.bias, self.stride
                )
            return self.function(found)

    class Head(torch.nn.Module):
        """A dense layer, without its softmax."""

        def __init__(self, layer: Any) -> None:
            super().__init__()
            self.kernel = torch.nn.Parameter(tensor(layer.kernel))
            self.bias = torch.nn.Parameter(tensor(layer.bias))

        def forward(self, x: Any) -> Any:
            return x @ self.kernel + self.bias

    class Rearranged(torch.nn.Module):
        """Flatten with the channels last, as Keras has them."""

        def forward(self, x: Any) -> Any:
            return x.permute(0, 2, 3, 1).flatten(1)

    class Average(torch.nn.Module):
        """Mean over all pixels."""

        def forward(self, x: Any) -> Any:
            return x.mean(dim=(2, 3))

    class Sum(torch.nn.Module):
        """What joins a branch to its stream."""

        def forward(self, x: Any, y: Any) -> Any:
            return x + y

    def normalisation(layer: Any) -> Any:
        # PyTorch's momentum is the share of the new.
        width = layer.gamma.shape[0]
        return torch.nn.BatchNorm2d(width, layer.epsilon, 1 - layer.momentum)

    makers: dict[type, Callable[[Any], Any]] = {
        layers.Conv2D: Convolution,
        layers.Dense: Head,
        layers.BatchNormalization: normalisation,
        layers.ReLU: lambda layer: torch.nn.ReLU(),
        layers.Flatten: lambda layer: Rearranged(),
        layers.GlobalAveragePooling2D: lambda layer: Average(),
        layers.Add: lambda layer: Sum(),
    }

    class Twin(torch.nn.Module):
        """The layers in Keras's order, wired as there."""

        def __init__(self) -> None:
            super().__init__()
            self.steps = torch.nn.ModuleList()
            self.wires = []
            for layer in model.layers:
                if isinstance(layer, layers.InputLayer):
                    continue
                if type(layer) not in makers:
                    raise TypeError(f"No PyTorch twin of {type(layer).__name__}.")
                self.steps.append(makers[type(layer)](layer))
                into = layer.input if isinstance(layer.input, list) else [layer.input]
                self.wires.append(([id(one) for one in into], id(layer.output)))

        def forward(self, x: Any) -> Any:
            known = {id(model.inputs[0]): x}
            for step, (into, out) in zip(self.steps, self.wires, strict=True):
                known[out] = step(*(known[one] for one in into))
            return known[id(model.outputs[0])]

    module = Twin()
    check_twin(module, model)
    return module


def check_twin(module: Any, model: Any) -> None:
    """Raise if the module's softmax is not what the Keras model computes."""
    import torch

    x = training.digits(validate=True).held_x[:16].reshape(-1, 8, 8, 1)
    theirs = keras.ops.convert_to_numpy(model(x, training=False))
    module.eval()
    with torch.no_grad():
        ours = module(torch.tensor(x).permute(0, 3, 1, 2)).softmax(dim=1).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def train(
    module: Any, rate: float, seed: int, data: training.Digits, protocol: dict[str, Any]
) -> dict[str, Any]:
    """Train a twin; return accuracy and loss on what is held out."""
    import torch

    # Both hold for the thread that trains. PyTorch's own threads wait for each other
    # busily: where another program wants a core a step takes twenty times as long.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # vanished signals would take ten times as long
    x, held_x = (
        torch.tensor(part.reshape(-1, 1, 8, 8)) for part in (data.x, data.held_x)
    )
    y, held_y = torch.tensor(data.y), torch.tensor(data.held_y)
    optimizer = torch.optim.SGD(module.parameters(), rate, training.MOMENTUM)
    generator = np.random.default_rng(seed)
    loss_of = torch.nn.functional.cross_entropy
    steps = len(x) // training.BATCH
    epoch = 0
    for epoch in range(1, protocol["epochs"] + 1):
        module.train()
        right = 0
        order = generator.permutation(len(x))[: steps * training.BATCH]
        for chosen in torch.tensor(order).split(training.BATCH):
            optimizer.zero_grad()
            logits = module(x[chosen])
            loss_of(logits, y[chosen]).backward()
            optimizer.step()
            right += int((logits.argmax(dim=1) == y[chosen]).sum())
        at_chance = right <= training.AT_CHANCE * len(order)
        if epoch == protocol["give_up"] and at_chance:
            break
    module.eval()
    with torch.no_grad():
        logits = module(held_x)
        accuracy = (logits.argmax(dim=1) == held_y).float().mean()
        loss = loss_of(logits, held_y)
    return {"accuracy": float(accuracy), "loss": float(loss), "epochs": epoch}


def train_all(
    make: Callable[[int], Any],
    rates: Sequence[float],
    seeds: Sequence[int],
    data: training.Digits,
    protocol: dict[str, Any],
) -> dict[str, Any]:
    """Train with each rate and seed, two at a time; return (rates, seeds) arrays."""
    runs = [(twin(make(seed)), rate, seed) for rate in rates for seed in seeds]
    with ThreadPoolExecutor(WORKERS) as pool:
        found = list(pool.map(lambda run: train(*run, data, protocol), runs))
    shape = (len(rates), len(seeds))
    return {key: np.reshape([one[key] for one in found], shape) for key in found[0]}


def trained(make: Callable[[int], Any], protocol: dict[str, Any]) -> dict[str, Any]:
    """Return a cell: the rate chosen by validation, and the test accuracies with it."""
    rates, seeds = protocol["rates"], protocol["selection_seeds"]
    tried = train_all(make, rates, seeds, training.digits(validate=True), protocol)
    accuracy = tried["accuracy"]
    rate = rates[training.best_of(accuracy, tried["loss"])]
    data = training.digits(validate=False)
    final = train_all(make, [rate], protocol["seeds"], data, protocol)
    return {
        "rate": rate,
        "validation": dict(
            zip(map(str, rates), accuracy.mean(1).tolist(), strict=True)
        ),
        "accuracy": final["accuracy"][0].tolist(),
        "epochs": int(final["epochs"].max()),
    }


def has_torch(part: str) -> bool:
    """Say whether PyTorch is there, and print how to get it where it is not."""
    try:
        import torch  # noqa: F401
    except ImportError:
        print(f"{part} is left out: it trains in PyTorch. pip install torch")
        return False
    return True


def run_cnn(results: report.Results, protocol: dict[str, Any]) -> None:
    """Train every start with every activation."""
    if not has_torch("cnn"):
        return
    for activation in protocol["activations"]:
        for start in protocol["starts"]:
            results.cell(
                "cnn",
                (activation, start),
                lambda a=activation, s=start: trained(
                    lambda seed: draw_plain(s, a, seed, protocol), protocol
                ),
            )


def run_resnet(results: report.Results, protocol: dict[str, Any]) -> None:
    """Train the residual network from every start."""
    if not has_torch("resnet"):
        return
    for start in protocol["starts"]:
        results.cell(
            "resnet",
            (start,),
            lambda s=start: trained(lambda seed: draw_resnet(s, seed), protocol),
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run both parts and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few cells, few epochs")
    parser.add_argument("--out", type=Path, help="a folder for depth.json")
    arguments = parser.parse_args(argv)
    results = report.Results(arguments.out)
    for part, run, full, quick in (
        ("cnn", run_cnn, CNN, QUICK_CNN),
        ("resnet", run_resnet, RESNET, QUICK_RESNET),
    ):
        protocol = quick if arguments.quick else full
        results.begin(part, protocol)
        run(results, protocol)
    report.print_all(results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
