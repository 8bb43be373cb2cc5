"""Small models drawn at random from layers with rules, and what is wrong with figures.

The long form, of any number of models, measured:

    python -m tests.propagation.fuzz 0 200

and with `narrow` of layers too narrow for predictions to be near, where only figures
that cannot be are looked for.
"""

import math
import sys
import warnings

import keras
import numpy as np
from keras import layers as L
from keras import ops

from keras_initlab.propagation import propagate
from tests.propagation.simulation import measurements

ACTIVATIONS = ["relu", "tanh", "gelu", "sigmoid", "elu", "softplus", "linear", "silu"]
KERNELS = ["glorot_uniform", "he_normal", "orthogonal", "lecun_normal"]
# What is compared: the figure, and by which factor it may be off.
FIGURES = {
    "second_moment": 2.0,
    "gradient_second_moment": 2.0,
    "weight_gradient_second_moment": 2.0,
}


class Network:
    """A network that is drawn: layer upon layer, from one seed."""

    def __init__(self, seed, narrow=True):
        self.rng = np.random.default_rng(seed)
        # Predictions are of layers that are not narrow, with independent gradients of
        # units: no kernel of ones gives those. But no figure may be impossible.
        self.widths = (1, 2, 8, 16) if narrow else (16, 24, 32)
        self.constants = ("ones",) if narrow else ()
        self.names = []

    def pick(self, *options):
        return options[self.rng.integers(len(options))]

    def named(self, kind, *args, **rest):
        name = f"{kind.__name__.lower()}_{len(self.names)}"
        settings = ", ".join([*map(str, args), *(f"{k}={v}" for k, v in rest.items())])
        self.names.append(f"{kind.__name__}({settings})")
        return kind(*args, **rest, name=name)

    def weighted(self, kind, *args, **rest):
        rest["activation"] = self.pick(*ACTIVATIONS)
        rest["kernel_initializer"] = self.pick(*KERNELS, *self.constants)
        rest["bias_initializer"] = self.pick("zeros", "zeros", "ones")
        return self.named(kind, *args, **rest)

    def dense(self, x):
        return self.weighted(L.Dense, self.pick(*self.widths))(x)

    def normalised(self, x):
        channels = x.shape[-1]
        groups = [g for g in (1, 2, 4, 8, channels) if channels % g == 0]
        kind = self.pick("layer", "group", "batch", "rms", "unit")
        return {
            "layer": lambda: self.named(L.LayerNormalization),
            "group": lambda: self.named(L.GroupNormalization, int(self.pick(*groups))),
            "batch": lambda: self.named(L.BatchNormalization),
            "rms": lambda: self.named(L.RMSNormalization),
            "unit": lambda: self.named(L.UnitNormalization),
        }[kind]()(x)

    def elementwise(self, x):
        how = self.pick("activation", "dropout", "clip", "rescaling", "zero", "gate")
        if how == "activation":
            return self.named(L.Activation, self.pick(*ACTIVATIONS))(x)
        if how == "dropout":
            return self.named(L.Dropout, 0.25)(x)
        if how == "rescaling":
            return self.named(L.Rescaling, 2.0, 0.5)(x)
        self.names.append(how)
        if how == "clip":
            return ops.clip(x, -1.0, 1.0)
        return ops.maximum(x - x, 0.0) if how == "zero" else x * ops.sigmoid(x)

    def residual(self, x):
        branch = self.weighted(L.Dense, x.shape[-1])(x)
        merge = self.pick(L.Add, L.Average, L.Maximum, L.Multiply)
        return self.named(merge)([x, branch])

    def joined(self, x):
        return self.named(L.Concatenate)([x, self.dense(x)])

    def convolved(self, x):
        rank = len(x.shape) - 2
        kind = getattr(L, f"Conv{rank}D")
        size = self.pick(1, 2, 3)
        stride = self.pick(1, 1, 2)
        if self.rng.random() < 0.25:
            kind = getattr(L, f"Conv{rank}DTranspose")
        padding = self.pick("same", "valid")
        filters = self.pick(*self.widths)
        return self.weighted(kind, filters, size, strides=stride, padding=padding)(x)

    def pooled(self, x):
        rank = len(x.shape) - 2
        kind = getattr(L, self.pick("Average", "Max") + f"Pooling{rank}D")
        return self.named(kind, self.pick(2, 3), padding="same")(x)

    def flattened(self, x):
        rank = len(x.shape) - 2
        if self.rng.random() < 0.3:
            return self.named(L.Flatten)(x)
        kind = self.pick("GlobalAverage", "GlobalMax") + f"Pooling{rank}D"
        return self.named(getattr(L, kind))(x)

    def sequential(self, x):
        how = self.pick("lstm", "gru", "rnn", "attention", "heads")
        if how == "attention":
            return self.named(L.Attention)([x, x])
        if how == "heads":
            return self.named(L.MultiHeadAttention, 2, 4)(x, x)
        kind = {"lstm": L.LSTM, "gru": L.GRU, "rnn": L.SimpleRNN}[how]
        init = self.pick(*KERNELS[:3])
        return self.named(kind, 8, return_sequences=True, kernel_initializer=init)(x)

    def model(self):
        world = self.pick("vector", "sequence", "map", "tokens")
        if world == "tokens":
            inputs = keras.Input((6,), dtype="int32")
            x = self.named(L.Embedding, 50, self.pick(*self.widths))(inputs)
        else:
            shapes = {"vector": (12,), "sequence": (6, 4), "map": (6, 6, 3)}
            inputs = x = keras.Input(shapes[world])
        for _ in range(self.rng.integers(2, 6)):
            steps = [self.dense, self.normalised, self.elementwise]
            steps += [self.residual, self.joined]
            if len(x.shape) > 2:
                steps += [self.convolved, self.convolved, self.pooled, self.flattened]
            if len(x.shape) == 3:
                steps += [self.sequential, self.sequential]
            before = list(self.names)
            try:
                x = self.pick(*steps)(x)
            except ValueError:  # a window that is larger than the map
                self.names = before
        return keras.Model(inputs, self.named(L.Dense, 4)(x))


def impossible(stats):
    """Return which figures no signal has."""
    wrong = []
    for row in stats:
        figures = {
            name: getattr(row, name)
            for name in (
                "second_moment",
                "variance",
                "batch_variance",
                "gradient_second_moment",
                "weight_gradient_second_moment",
            )
        }
        wrong += [
            f"{row.layer}: {name} {value}"
            for name, value in figures.items()
            if value is not None and not value >= 0
        ]
        second = row.second_moment
        if second is not None and second < row.mean**2 * (1 - 1e-6) - 1e-12:
            wrong.append(f"{row.layer}: E[x²] {second} < E[x]² {row.mean**2}")
    return wrong


def far_off(model, draws=12, batch=24):
    """Return which predictions measurement contradicts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        every = measurements(model, draws, batch)
    rows = {row.layer: [] for row in every[0]}
    for stats in every:
        for row in stats:
            rows[row.layer].append(row)
    wrong = []
    for row in propagate(model):
        if row.source != "predicted" or row.layer not in rows:
            continue
        for name, factor in FIGURES.items():
            expected = getattr(row, name)
            found = [getattr(one, name) for one in rows[row.layer]]
            if expected is None or None in found:
                continue
            mean = float(np.mean(found))
            error = float(np.std(found, ddof=1)) / math.sqrt(draws)
            low, high = sorted((expected, mean))
            if high > factor * low + 1e-9 and high - low > 4 * error:
                wrong.append(f"{row.layer}: {name} {expected:.3g}, not {mean:.3g}")
    return wrong


def main(first, last, narrow=False):
    for seed in range(first, last):
        network = Network(seed, narrow=narrow)
        keras.utils.set_random_seed(seed)
        model = network.model()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrong = impossible(propagate(model))
            values = impossible(propagate(model, from_weights=True))
            wrong += [f"by value, {line}" for line in values]
            wrong += [] if narrow else far_off(model)
        if wrong:
            print(seed, " -> ".join(network.names))
            print(*(f"    {line}" for line in wrong), sep="\n", flush=True)
    print(f"{last - first} models")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), "narrow" in sys.argv)
