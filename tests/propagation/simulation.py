"""What networks do to random inputs, averaged over fresh draws of their weights."""

import itertools
import math

import keras
import numpy as np

from keras_initlab.kernels import own_variables
from keras_initlab.propagation.forward import run_forward
from keras_initlab.propagation.weights import initial_moments, weight_moments


def predicted(model, mean=0.0, variance=1.0, training=True):
    """Return the signal that is predicted at the model's (first) output."""
    return run_forward(model, mean, variance, training).outputs[0]


def redraw(model, generator):
    """Give every trainable weight fresh values, of its initializer's moments.

    Drawn here, in one call of NumPy for each: an initializer would take a compilation
    for each new shape on JAX. That the moments are the initializer's is held elsewhere.
    """
    for layer in model._flatten_layers(include_self=False):
        for variable in own_variables(layer):
            if not variable.trainable:
                continue
            moments = weight_moments(layer, variable.name)
            if moments.centred:
                initializer = layer.kernel_initializer
                initializer = type(initializer).from_config(initializer.get_config())
                variable.assign(initializer(variable.shape))
                continue
            noise = generator.standard_normal(variable.shape)
            variable.assign(
                (moments.mean + math.sqrt(moments.variance) * noise).astype("float32")
            )


def pair_moments(values, units):
    """Return E[x x'] for pairs that differ in unit, position, input, as in `Signal`."""
    x = np.asarray(values, np.float64)
    axes = (
        tuple(units),
        tuple(a for a in range(1, x.ndim) if a not in units),
        (0,),
    )
    moved = x.transpose(*axes[0], *axes[1], 0)
    u, p, i = (math.prod(x.shape[a] for a in group) for group in axes)
    moved = moved.reshape(u, p, i)
    pairs = np.full((2, 2, 2), np.nan)
    for kind in itertools.product((0, 1), repeat=3):
        total, count = 0.0, 1.0
        for merged in itertools.product(*((0, 1) if k else (0,) for k in kind)):
            over = tuple(axis for axis, taken in enumerate(merged) if taken)
            square = moved.sum(axis=over) ** 2 if over else moved**2
            total += (-1) ** (sum(kind) - sum(merged)) * square.sum()
        for size, differs in zip((u, p, i), kind, strict=True):
            count *= size * (size - 1) if differs else size
        pairs[kind] = total / count if count else np.nan
    return pairs


def simulated(
    model, units, mean=0.0, variance=1.0, training=True, *, draws=16, batch=32, seed=0
):
    """Return E[x] and the pair moments of the model's output, one row for each draw."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(draws):
        redraw(model, generator)
        inputs = []
        for one in model.inputs:
            shape = (batch, *(size or 6 for size in one.shape[1:]))
            noise = generator.standard_normal(shape)
            inputs.append((mean + math.sqrt(variance) * noise).astype("float32"))
        made = model(inputs if len(inputs) > 1 else inputs[0], training=training)
        made = made[0] if isinstance(made, list | tuple) else made
        values = keras.ops.convert_to_numpy(made).astype(np.float64)
        rows.append([values.mean(), *pair_moments(values, units).ravel()])
    return np.array(rows)


__all__ = ["initial_moments", "pair_moments", "predicted", "redraw", "simulated"]
