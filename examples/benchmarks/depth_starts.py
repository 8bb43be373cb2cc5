"""The starts that depth.py compares, each drawn in a real Keras model.

A plain network of Dense layers is built with Keras, its kernels are drawn by Keras's
initializers or rewritten by this package, and read out as NumPy arrays. LSUV alone
needs data: its kernels are Keras's orthogonal ones, scaled by what the batch shows.

Run as a script it prints what each start does to signal and gradient over depth.

    python examples/benchmarks/depth_starts.py [--quick] [--layers N] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "jax")

import depth_training as training
import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras import layers

import keras_initlab as il
from keras_initlab.tables import render_table

WIDTH = 64
EXAMPLES = 256  # that signals and gradients are measured on

# torch.nn.init.calculate_gain; an activation that it does not know keeps gain 1.
PYTORCH_GAINS = {
    "relu": math.sqrt(2),
    "leaky_relu": math.sqrt(2 / (1 + 0.2**2)),
    "selu": 3 / 4,
    "tanh": 5 / 3,
    "sigmoid": 1.0,
}


def network(activation: str, depth: int, initializer: Any = None) -> Any:
    """Return a plain Keras network of `depth` layers and a softmax over the digits.

    `initializer` makes the initializer for the activation named to it; without one,
    Keras's default stays.
    """
    # Keras looks into the model recursively, layer within layer, when it is rewritten.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 100 * depth))

    def dense(units: int, function: str) -> Any:
        if initializer is None:
            return layers.Dense(units, function)
        return layers.Dense(units, function, kernel_initializer=initializer(function))

    keras.backend.clear_session()
    rows = [dense(WIDTH, activation) for _ in range(depth)]
    return keras.Sequential(
        [keras.Input((64,)), *rows, dense(training.CLASSES, "softmax")]
    )


def weights_of(model: Any) -> training.Weights:
    """Return the model's kernels and biases, those between equal layers stacked."""
    arrays = [
        [keras.ops.convert_to_numpy(one) for one in (layer.kernel, layer.bias)]
        for layer in model.layers
    ]
    kernels, biases = zip(*arrays, strict=True)
    return training.Weights(
        kernels[0],
        np.stack(kernels[1:-1]),
        kernels[-1],
        biases[0],
        np.stack(biases[1:-1]),
        biases[-1],
    )


def keras_default(activation: str, depth: int, seed: int) -> training.Weights:
    """Return a draw of glorot_uniform."""
    return weights_of(network(activation, depth))


def he_normal(activation: str, depth: int, seed: int) -> training.Weights:
    """Return a draw of he_normal in every layer."""
    return weights_of(network(activation, depth, lambda _: "he_normal"))


def orthogonal(activation: str, depth: int, seed: int) -> training.Weights:
    """Return orthogonal kernels of gain 1."""
    return weights_of(network(activation, depth, lambda _: "orthogonal"))


def pytorch_gains(activation: str, depth: int, seed: int) -> training.Weights:
    """Return a draw of xavier_normal with the gain that PyTorch has for each layer."""

    def xavier(function: str) -> Any:
        return keras.initializers.VarianceScaling(
            PYTORCH_GAINS.get(function, 1.0) ** 2, "fan_avg", "untruncated_normal"
        )

    return weights_of(network(activation, depth, xavier))


def unit_variance(activation: str, depth: int, seed: int) -> training.Weights:
    """Return kernels that keep the second moment, by this package's scheme."""
    model = network(activation, depth)
    # The head that the results file was measured with.
    il.rewrite_initializers(model, scheme=il.Variance(head=0.1), seed=seed)
    return weights_of(model)


def lsuv(activation: str, depth: int, seed: int) -> training.Weights:
    """Return orthogonal kernels, each scaled until its output has variance 1.

    Mishkin & Matas 2016, on all the data that rates are chosen on. Biases are 0, so
    that one division is exact where LSUV repeats.
    """
    drawn = orthogonal(activation, depth, seed)
    function = jax.jit(training.ACTIVATIONS[activation])
    h = training.digits(validate=True).x
    kernels = []
    for kernel in (drawn.first, *drawn.hidden, drawn.last):
        outputs = h @ kernel
        deviation = max(float(outputs.std()), 1e-8)  # where all inputs look the same
        kernels.append(kernel / deviation)
        h = np.asarray(function(jnp.asarray(outputs / deviation)))
    return drawn._replace(
        first=kernels[0], hidden=np.stack(kernels[1:-1]), last=kernels[-1]
    )


def isometric(
    activation: str, depth: int, seed: int, q: float | None = None
) -> training.Weights:
    """Return this package's isometric start, at its own `q` or the one given."""
    model = network(activation, depth)
    il.rewrite_initializers(model, scheme="isometric", seed=seed, q=q)
    return weights_of(model)


STARTS: dict[str, Callable[[str, int, int], training.Weights]] = {
    "Keras's default": keras_default,
    "he_normal": he_normal,
    "orthogonal": orthogonal,
    "PyTorch's gains": pytorch_gains,
    "unit variance": unit_variance,
    "LSUV": lsuv,
    "isometric": isometric,
}


def draw(
    start: str, activation: str, depth: int, seed: int, q: float | None = None
) -> training.Weights:
    """Return the start's weights for that seed; `q` is for the isometric one."""
    keras.utils.set_random_seed(seed)
    if q is not None:
        return isometric(activation, depth, seed, q)
    return STARTS[start](activation, depth, seed)


def moments(activation: str, weights: training.Weights) -> dict[str, float]:
    """Return how signal and gradient differ between the first layer and the last.

    `signal` is the second moment of the first hidden layer's pre-activations over that
    of the last's (`first` and `last`), `gradient` the norm of the loss's gradient by
    the former over that by the latter. By the kernels it would say little: there what
    vanishes forward makes up for what explodes backward.
    """
    function = training.ACTIVATIONS[activation]
    data = training.digits(validate=False)
    x, y = jnp.asarray(data.x[:EXAMPLES]), jnp.asarray(data.y[:EXAMPLES])

    def loss(nudges: Any) -> Any:
        def layer(h: Any, one: Any) -> Any:
            kernel, bias, nudge = one
            before = h @ kernel + bias + nudge
            return function(before), (before**2).mean()

        before = x @ weights.first + weights.first_bias + nudges[0]
        h, seconds = jax.lax.scan(
            layer, function(before), (weights.hidden, weights.hidden_bias, nudges[1:])
        )
        found = jax.nn.log_softmax(h @ weights.last + weights.last_bias)
        loss = -jnp.take_along_axis(found, y[:, None], -1).mean()
        return loss, ((before**2).mean(), seconds[-1])

    depth, width = len(weights.hidden) + 1, weights.hidden.shape[-1]
    nudges = jnp.zeros((depth, len(x), width))
    gradient, (first, last) = jax.jit(jax.grad(loss, has_aux=True))(nudges)
    norms = [float(jnp.linalg.norm(gradient[index])) for index in (0, -1)]
    first, last = float(first), float(last)
    return {
        "first": first,
        "last": last,
        "signal": first / last if last else math.inf,
        "gradient": norms[0] / norms[1] if norms[1] else math.nan,
    }


def main(argv: list[str] | None = None) -> int:
    """Print signal and gradient over depth for each start."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 layers")
    parser.add_argument("--layers", type=int, default=50, help="hidden layers")
    parser.add_argument("--activation", default="gelu", help="of the hidden layers")
    parser.add_argument("--out", type=Path, help="a folder for depth_starts.json")
    arguments = parser.parse_args(argv)
    depth = 20 if arguments.quick else arguments.layers
    found = {
        start: moments(
            arguments.activation, draw(start, arguments.activation, depth, seed=0)
        )
        for start in STARTS
    }
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(found, indent=1)
        (arguments.out / "depth_starts.json").write_text(text + "\n")
    columns: list[tuple[str, Any]] = [
        ("start", "left"),
        ("first layer's E z²", "right"),
        ("last layer's", "right"),
        ("gradient, first / last", "right"),
    ]
    rows = [
        [start, *(f"{one[key]:.3g}" for key in ("first", "last", "gradient"))]
        for start, one in found.items()
    ]
    title = f"{depth} layers of {arguments.activation}, on the digits, before training"
    print(render_table(title, columns, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
