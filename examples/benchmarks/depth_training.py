"""The engine of depth.py: many deep plain networks trained at once, in JAX.

Networks that differ in their initial weights, learning rate and order of the batches,
but not in shape and activation, are trained side by side: one compilation, and every
matrix product is a batch of small ones. Layers of equal shape are one loop, so that
1,000 of them compile as fast as 50.

Run as a script it checks the activations here against Keras's own, and times a step.

    python examples/benchmarks/depth_training.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from keras_initlab.tables import render_table

BATCH = 64
MOMENTUM = 0.9
CLASSES = 10
AT_CHANCE = 0.15  # an accuracy up to here is that of guessing one class of ten

# Keras's definitions, whichever backend draws the weights; `activation_errors` checks.
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": jax.nn.relu,
    "leaky_relu": lambda x: jnp.where(x > 0, x, 0.2 * x),
    "relu6": jax.nn.relu6,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "mish": lambda x: x * jnp.tanh(jax.nn.softplus(x)),
    "hard_silu": lambda x: x * jax.nn.relu6(x + 3) / 6,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
}


class Digits(NamedTuple):
    """Scikit-learn's digits: what the network trains on, and what is held out."""

    x: Any
    y: Any
    held_x: Any
    held_y: Any


class Weights(NamedTuple):
    """Kernels and biases of one network, or with one more axis, of several.

    `hidden` is (layers, inputs, outputs); of several networks, (layers, networks, …),
    so that the loop over layers is over the first axis.
    """

    first: Any
    hidden: Any
    last: Any
    first_bias: Any
    hidden_bias: Any
    last_bias: Any


class Outcome(NamedTuple):
    """How each network ended: on the held-out part, and on what it trained on."""

    accuracy: Any
    held_loss: Any
    train_loss: Any
    epochs: int


def split_digits(validate: bool) -> Digits:
    """Return the split: the test set held out, or a fifth of the training part.

    1437 to 360, stratified; the validation split takes 20 % of the 1437, so that
    nothing chosen on it has seen the test set.
    """
    x, y = load_digits(return_X_y=True)
    x, test_x, y, test_y = train_test_split(
        x, y, test_size=360, stratify=y, random_state=0
    )
    if validate:
        x, test_x, y, test_y = train_test_split(
            x, y, test_size=0.2, stratify=y, random_state=0
        )
    return Digits(x, y, test_x, test_y)


@functools.cache
def digits(validate: bool) -> Digits:
    """Return the split, each pixel standardised by what the network trains on."""
    x, y, test_x, test_y = split_digits(validate)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    deviation[deviation == 0] = 1  # pixels that are always 0
    inputs = [((part - mean) / deviation).astype("float32") for part in (x, test_x)]
    return Digits(inputs[0], y, inputs[1], test_y)


def stack(networks: Sequence[Weights]) -> Weights:
    """Return the networks as one, with an axis for them."""
    axes = Weights(0, 1, 0, 0, 1, 0)
    return Weights(
        *(
            np.stack([one[index] for one in networks], axis=axis)
            for index, axis in enumerate(axes)
        )
    )


def logits(activation: Callable[[Any], Any], weights: Weights, x: Any) -> Any:
    """Return what each network makes of its inputs (networks, examples, features)."""
    h = activation(x @ weights.first + weights.first_bias[:, None])

    def layer(h: Any, one: Any) -> tuple[Any, None]:
        kernel, bias = one
        return activation(h @ kernel + bias[:, None]), None

    h, _ = jax.lax.scan(layer, h, (weights.hidden, weights.hidden_bias))
    return h @ weights.last + weights.last_bias[:, None]


def losses(activation: Callable[[Any], Any], weights: Weights, x: Any, y: Any) -> Any:
    """Return the mean cross-entropy of each network."""
    found = jax.nn.log_softmax(logits(activation, weights, x))
    return -jnp.take_along_axis(found, y[..., None], -1)[..., 0].mean(axis=1)


@functools.cache
def compiled(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the compiled epoch and evaluation for networks of that activation."""
    activation = ACTIVATIONS[name]

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def epoch(
        weights: Weights, speed: Weights, x: Any, y: Any, order: Any, rates: Any
    ) -> Any:
        # The rate of each network, along the axis that counts networks.
        along = Weights(*(rates.reshape(shape) for shape in RATE_SHAPES))

        def total(weights: Weights, x: Any, y: Any) -> tuple[Any, Any]:
            each = losses(activation, weights, x, y)
            return each.sum(), each

        def step(state: Any, chosen: Any) -> Any:
            weights, speed = state
            gradient, each = jax.grad(total, has_aux=True)(
                weights, x[chosen], y[chosen]
            )
            speed = jax.tree.map(
                lambda v, g, rate: MOMENTUM * v - rate * g, speed, gradient, along
            )
            return (jax.tree.map(jnp.add, weights, speed), speed), each

        (weights, speed), each = jax.lax.scan(step, (weights, speed), order)
        return weights, speed, each.mean(axis=0)

    @jax.jit
    def evaluate(weights: Weights, x: Any, y: Any) -> Any:
        count = weights.first.shape[0]
        x, y = (jnp.broadcast_to(one, (count, *one.shape)) for one in (x, y))
        right = logits(activation, weights, x).argmax(axis=-1) == y
        return right.mean(axis=1), losses(activation, weights, x, y)

    return epoch, evaluate


RATE_SHAPES = Weights(
    (-1, 1, 1), (1, -1, 1, 1), (-1, 1, 1), (-1, 1), (1, -1, 1), (-1, 1)
)


def train(
    name: str,
    networks: Sequence[Weights],
    rates: Sequence[float],
    seeds: Sequence[int],
    data: Digits,
    epochs: int = 20,
    give_up: int | None = None,
) -> Outcome:
    """Train each network with its rate, batches in the order of its seed.

    SGD with momentum 0.9 in batches of 64; what is left of an epoch's shuffled data
    after the last full batch is dropped. After `give_up` epochs training stops where
    every one of the networks still guesses one class (accuracy on the training data
    of 15 % at most, or no finite loss).
    """
    epoch, evaluate = compiled(name)
    weights = jax.tree.map(jnp.asarray, stack(networks))
    speed = jax.tree.map(jnp.zeros_like, weights)
    x, y = jnp.asarray(data.x), jnp.asarray(data.y)
    generators = [np.random.default_rng(seed) for seed in seeds]
    steps = len(data.x) // BATCH
    done = 0
    each = None
    while done < epochs:
        order = [g.permutation(len(data.x))[: steps * BATCH] for g in generators]
        order = np.stack(order, axis=1).reshape(steps, BATCH, len(networks))
        weights, speed, each = epoch(
            weights,
            speed,
            x,
            y,
            jnp.asarray(order.transpose(0, 2, 1)),
            jnp.asarray(rates, jnp.float32),
        )
        done += 1
        if done == give_up:
            accuracy, loss = evaluate(weights, x, y)
            if not np.any((accuracy > AT_CHANCE) & np.isfinite(loss)):
                break
    accuracy, loss = evaluate(weights, jnp.asarray(data.held_x), data.held_y)
    return Outcome(np.asarray(accuracy), np.asarray(loss), np.asarray(each), done)


def best_of(accuracy: Any, loss: Any) -> int:
    """Return the row with the best mean accuracy over the columns, its seeds.

    Among equals that with the lowest loss: a network that is no longer finite guesses
    one class, as one that has not begun to learn does.
    """
    loss = np.where(np.isfinite(loss), loss, np.inf).mean(axis=1)
    return int(np.lexsort((loss, -accuracy.mean(axis=1)))[0])


def activation_errors() -> dict[str, float]:
    """Return the largest difference of each activation from Keras's own."""
    x = np.linspace(-8, 8, 1601, dtype="float32")
    found = {}
    for name, function in ACTIVATIONS.items():
        theirs = getattr(keras.activations, name)(keras.ops.convert_to_tensor(x))
        ours = np.asarray(function(jnp.asarray(x)))
        error = np.abs(ours - keras.ops.convert_to_numpy(theirs)).max()
        found[name] = float(error)
        if not error < 1e-5:  # some roundings of float32
            raise AssertionError(f"{name} is not Keras's: off by {error:.2g}")
    return found


def milliseconds(name: str, depth: int, count: int, repeats: int) -> float:
    """Return the median time of a step, for each of `count` networks."""
    generator = np.random.default_rng(0)
    width = 64
    shapes = ((64, width), (depth - 1, width, width), (width, CLASSES))
    kernels = [
        (generator.standard_normal(shape) / math.sqrt(width)).astype("float32")
        for shape in shapes
    ]
    biases = [np.zeros(one.shape[:-2] + one.shape[-1:], "float32") for one in kernels]
    networks = [Weights(*kernels, *biases)] * count
    data = digits(validate=False)
    rates, seeds = [1e-3] * count, list(range(count))
    train(name, networks, rates, seeds, data, epochs=1)  # compiles
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        train(name, networks, rates, seeds, data, epochs=1)
        taken.append(time.perf_counter() - begin)
    return 1e3 * float(np.median(taken)) / (len(data.x) // BATCH) / count


def main(argv: list[str] | None = None) -> int:
    """Check the activations, time a step, and print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10 layers, one repeat")
    parser.add_argument("--out", type=Path, help="a folder for depth_training.json")
    arguments = parser.parse_args(argv)
    depth, repeats = (10, 1) if arguments.quick else (50, 5)
    errors = activation_errors()
    names = ("relu",) if arguments.quick else tuple(ACTIVATIONS)
    found = {
        name: {"error": errors[name], "step_ms": milliseconds(name, depth, 8, repeats)}
        for name in names
    }
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(found, indent=1)
        (arguments.out / "depth_training.json").write_text(text + "\n")
    columns: list[tuple[str, Any]] = [
        ("activation", "left"),
        ("off Keras's by at most", "right"),
        ("ms a step and network", "right"),
    ]
    rows = [
        [name, f"{one['error']:.1g}", f"{one['step_ms']:.2f}"]
        for name, one in found.items()
    ]
    print(render_table(f"{depth} layers, 8 networks at once", columns, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
