"""Output second moment of every Keras layer with a kernel, on unit-variance input.

With Var(w) = 1 / fan_in it should be 1. Measured with Keras's lecun initializers and
with initlab's, three distributions each. A layer with several kernels has a row each.

    python examples/benchmarks/fans.py [--quick] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers, ops

import keras_initlab as il
from keras_initlab.tables import render_table

DISTRIBUTIONS = ("truncated_normal", "normal", "uniform")


@dataclass(frozen=True)
class Case:
    """A kernel, and how it acts on an input.

    Attributes:
        make: layer with the kernel drawn by a given initializer.
        shape: of one input, without the batch.
        project: (layer, input) -> what the kernel alone makes of it.
        weight: (layer) -> the kernel.
    """

    make: Callable[[Any], Any]
    shape: tuple[int, ...]
    project: Callable[[Any, Any], Any] = lambda layer, x: layer(x)
    weight: Callable[[Any], Any] = lambda layer: layer.kernel


def _inner(margin: int) -> Callable[[Any, Any], Any]:
    """Call the layer and leave out borders, where fewer taps meet."""

    def project(layer: Any, x: Any) -> Any:
        y = layer(x)
        inside = (slice(margin, -margin),) * (len(y.shape) - 2)
        return y[(slice(None), *inside)]

    return project


def _times(name: str) -> Callable[[Any, Any], Any]:
    """Multiply by a recurrent cell's kernel: all gates, before they are bent."""
    return lambda layer, x: ops.matmul(x, getattr(layer.cell, name))


def _attention(which: str) -> dict[str, Any]:
    return {
        "project": lambda layer, x: getattr(layer, f"{which}_dense")(x),
        "weight": lambda layer: getattr(layer, f"{which}_dense").kernel,
    }


def _attention_out(layer: Any, x: Any) -> Any:
    kernel = layer._output_dense.kernel
    heads, size = kernel.shape[0], kernel.shape[1]
    return layer._output_dense(ops.reshape(x, (*x.shape[:2], heads, size)))


def _cell(name: str) -> Callable[[Any], Any]:
    return lambda layer: getattr(layer.cell, name)


def _mha(kernel: Any) -> Any:
    layer = layers.MultiHeadAttention(4, 16, kernel_initializer=kernel)
    layer.build((None, 6, 64), (None, 6, 64))
    return layer


def _gqa(kernel: Any) -> Any:
    layer = layers.GroupQueryAttention(16, 4, 2, kernel_initializer=kernel)
    layer.build((None, 6, 64), (None, 6, 64))
    return layer


def _both(kernel: Any) -> Any:
    return layers.Bidirectional(layers.LSTM(48, kernel_initializer=kernel))


CASES: dict[str, Case] = {
    "Dense": Case(lambda k: layers.Dense(96, kernel_initializer=k), (64,)),
    "EinsumDense abc,cde->abde": Case(
        lambda k: layers.EinsumDense(
            "abc,cde->abde", (None, 4, 16), kernel_initializer=k
        ),
        (6, 64),
    ),
    "EinsumDense abde,dec->abc": Case(
        lambda k: layers.EinsumDense("abde,dec->abc", (None, 64), kernel_initializer=k),
        (6, 4, 16),
    ),
    "EinsumDense abc,bcd->abd": Case(
        lambda k: layers.EinsumDense("abc,bcd->abd", (6, 64), kernel_initializer=k),
        (6, 64),
    ),
    "Conv1D": Case(lambda k: layers.Conv1D(64, 3, kernel_initializer=k), (24, 32)),
    "Conv2D": Case(lambda k: layers.Conv2D(64, 3, kernel_initializer=k), (12, 12, 32)),
    "Conv2D groups 4": Case(
        lambda k: layers.Conv2D(64, 3, groups=4, kernel_initializer=k), (12, 12, 32)
    ),
    "Conv2D dilation 2": Case(
        lambda k: layers.Conv2D(64, 3, dilation_rate=2, kernel_initializer=k),
        (12, 12, 32),
    ),
    "Conv2D strides 2": Case(
        lambda k: layers.Conv2D(64, 3, strides=2, kernel_initializer=k), (12, 12, 32)
    ),
    "Conv3D": Case(lambda k: layers.Conv3D(32, 3, kernel_initializer=k), (6, 6, 6, 8)),
    "Conv1DTranspose strides 2": Case(
        lambda k: layers.Conv1DTranspose(64, 4, strides=2, kernel_initializer=k),
        (24, 32),
        _inner(4),
    ),
    "Conv2DTranspose": Case(
        lambda k: layers.Conv2DTranspose(64, 3, kernel_initializer=k),
        (10, 10, 32),
        _inner(3),
    ),
    "Conv2DTranspose strides 2": Case(
        lambda k: layers.Conv2DTranspose(64, 4, strides=2, kernel_initializer=k),
        (10, 10, 32),
        _inner(4),
    ),
    "Conv2DTranspose strides 3": Case(
        lambda k: layers.Conv2DTranspose(64, 3, strides=3, kernel_initializer=k),
        (10, 10, 32),
        _inner(3),
    ),
    "Conv3DTranspose strides 2": Case(
        lambda k: layers.Conv3DTranspose(16, 2, strides=2, kernel_initializer=k),
        (6, 6, 6, 8),
        _inner(2),
    ),
    "DepthwiseConv1D": Case(
        lambda k: layers.DepthwiseConv1D(5, depthwise_initializer=k), (24, 256)
    ),
    "DepthwiseConv2D": Case(
        lambda k: layers.DepthwiseConv2D(3, depthwise_initializer=k), (10, 10, 128)
    ),
    "DepthwiseConv2D multiplier 4": Case(
        lambda k: layers.DepthwiseConv2D(
            3, depth_multiplier=4, depthwise_initializer=k
        ),
        (10, 10, 64),
    ),
    "SeparableConv1D": Case(
        lambda k: layers.SeparableConv1D(
            64, 5, depthwise_initializer=k, pointwise_initializer=k
        ),
        (24, 256),
        weight=lambda layer: layer.depthwise_kernel,
    ),
    "SeparableConv2D": Case(
        lambda k: layers.SeparableConv2D(
            64, 3, depthwise_initializer=k, pointwise_initializer=k
        ),
        (10, 10, 128),
        weight=lambda layer: layer.depthwise_kernel,
    ),
    "SimpleRNN kernel": Case(
        lambda k: layers.SimpleRNN(64, kernel_initializer=k),
        (6, 64),
        _times("kernel"),
        _cell("kernel"),
    ),
    "LSTM kernel": Case(
        lambda k: layers.LSTM(64, kernel_initializer=k),
        (6, 64),
        _times("kernel"),
        _cell("kernel"),
    ),
    "LSTM recurrent kernel": Case(
        lambda k: layers.LSTM(64, recurrent_initializer=k),
        (6, 64),
        _times("recurrent_kernel"),
        _cell("recurrent_kernel"),
    ),
    "GRU kernel": Case(
        lambda k: layers.GRU(64, kernel_initializer=k),
        (6, 64),
        _times("kernel"),
        _cell("kernel"),
    ),
    "GRU recurrent kernel": Case(
        lambda k: layers.GRU(64, recurrent_initializer=k),
        (6, 64),
        _times("recurrent_kernel"),
        _cell("recurrent_kernel"),
    ),
    "Bidirectional LSTM kernel": Case(
        _both,
        (6, 64),
        lambda layer, x: ops.matmul(x, layer.backward_layer.cell.kernel),
        lambda layer: layer.backward_layer.cell.kernel,
    ),
    "ConvLSTM1D kernel": Case(
        lambda k: layers.ConvLSTM1D(16, 3, kernel_initializer=k),
        (4, 16, 16),
        lambda layer, x: ops.conv(x[:, 0], layer.cell.kernel),
        _cell("kernel"),
    ),
    "ConvLSTM2D kernel": Case(
        lambda k: layers.ConvLSTM2D(16, 3, kernel_initializer=k),
        (2, 8, 8, 16),
        lambda layer, x: ops.conv(x[:, 0], layer.cell.kernel),
        _cell("kernel"),
    ),
    "ConvLSTM2D recurrent kernel": Case(
        lambda k: layers.ConvLSTM2D(16, 3, recurrent_initializer=k),
        (2, 8, 8, 16),
        lambda layer, x: ops.conv(x[:, 0], layer.cell.recurrent_kernel),
        _cell("recurrent_kernel"),
    ),
    "ConvLSTM3D kernel": Case(
        lambda k: layers.ConvLSTM3D(8, 3, kernel_initializer=k),
        (2, 5, 5, 5, 8),
        lambda layer, x: ops.conv(x[:, 0], layer.cell.kernel),
        _cell("kernel"),
    ),
    "TimeDistributed Dense": Case(
        lambda k: layers.TimeDistributed(layers.Dense(64, kernel_initializer=k)),
        (6, 64),
        weight=lambda layer: layer.layer.kernel,
    ),
    "MultiHeadAttention query": Case(_mha, (6, 64), **_attention("_query")),
    "MultiHeadAttention key": Case(_mha, (6, 64), **_attention("_key")),
    "MultiHeadAttention value": Case(_mha, (6, 64), **_attention("_value")),
    "MultiHeadAttention output": Case(
        _mha, (6, 64), _attention_out, lambda layer: layer._output_dense.kernel
    ),
    "GroupQueryAttention query": Case(_gqa, (6, 64), **_attention("_query")),
    "GroupQueryAttention key": Case(_gqa, (6, 64), **_attention("_key")),
    "GroupQueryAttention output": Case(
        _gqa, (6, 64), _attention_out, lambda layer: layer._output_dense.kernel
    ),
    "Embedding": Case(
        lambda k: layers.Embedding(500, 64, embeddings_initializer=k),
        (6,),
        lambda layer, x: layer(ops.cast(ops.abs(x) * 100, "int32")),
        lambda layer: layer.embeddings,
    ),
}


def measure(case: Case, initializer: Any, samples: int = 64) -> tuple[float, float]:
    """Return the output's second moment, and the standard error of a fair one.

    The mean square of an output varies with the draw of the kernel, by √(2 / weights)
    at most, and with the data, by √(2 / independent inputs); positions whose fields
    overlap share inputs, so a field's worth of them counts once.
    """
    x = np.random.default_rng(0).normal(size=(samples, *case.shape)).astype("float32")
    layer = case.make(initializer)
    if not layer.built:
        layer(ops.convert_to_tensor(x[:1]))
    y = ops.convert_to_numpy(case.project(layer, ops.convert_to_tensor(x)))
    kernel = case.weight(layer)
    field = math.prod(kernel.shape[:-2]) if hasattr(layer, "kernel_size") else 1
    error = math.sqrt(2 / math.prod(kernel.shape) + 2 * field / x.size)
    return float(np.mean(np.square(y, dtype=np.float64))), error


def keras_lecun(distribution: str) -> Any:
    """Return Keras's Var(w) = 1 / fan_in."""
    kind = "untruncated_normal" if distribution == "normal" else distribution
    return keras.initializers.VarianceScaling(1.0, "fan_in", kind, seed=1)


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one distribution")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder to write")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    distributions = DISTRIBUTIONS[:1] if arguments.quick else DISTRIBUTIONS
    rows, records = [], []
    for name, case in CASES.items():
        found: dict[str, Any] = {"kernel": name}
        for distribution in distributions:
            theirs, _ = measure(case, keras_lecun(distribution))
            ours, error = measure(case, il.Scaled(1.0, "fan_in", distribution, seed=1))
            found |= {f"keras {distribution}": theirs, f"initlab {distribution}": ours}
            found["standard error"] = error
        records.append(found)
        rows.append([name, *(f"{value:.3f}" for value in list(found.values())[1:])])
    columns = [("kernel", "left"), *((key, "right") for key in list(records[0])[1:])]
    print(render_table("Output second moment; 1 is right", columns, rows))
    (arguments.out / "fans.json").write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
