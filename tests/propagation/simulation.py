"""What networks do to random inputs, averaged over fresh draws of their weights."""

import itertools
import math
from dataclasses import dataclass, field

import keras
import numpy as np

from keras_initlab.initializers.haar import haar_stack
from keras_initlab.measurement import measure
from keras_initlab.model.construction import Construction, constructing
from keras_initlab.model.keras_internals import own_variables
from keras_initlab.propagation.algebra.shape import collapse
from keras_initlab.propagation.propagate import run_forward
from keras_initlab.propagation.weights import weight_moments

# What the measured figures are called, the second moment first.
FIGURES = ("second", "mean", "cosine", "batch", "places", "places_cosine")


def predicted(model, mean=0.0, variance=1.0, training=True):
    """Return the signal that is predicted at the model's (first) output."""
    return run_forward(model, mean, variance, training).outputs[0]


def model_of(shape, stack, dtype=None):
    """Return a model of a list of layers, or of a function of its input."""
    x = keras.Input(shape, dtype=dtype)
    if callable(stack):
        return keras.Model(x, stack(x))
    return keras.Sequential([x, *stack])


def measurements(model, draws, batch, mean=0.0):
    """Return what `measure` says of a model, for fresh draws of weights and inputs."""
    generator = np.random.default_rng(0)
    every = []
    for seed in range(draws):
        redraw(model, generator)
        x = inputs_for(model, generator, batch, mean)
        every.append(measure(model, x, seed=seed))
    return every


def redraw(model, generator):
    """Give every trainable weight fresh values, of its initializer's moments.

    They are drawn here, in one call of NumPy each: an initializer's own operations
    would take JAX a compilation for every shape. That the moments are the initializer's
    is held elsewhere. What has more structure than its moments draws itself; recurrent
    kernels stay orthogonal, and the bias of a forget gate stays 1.
    """
    for layer in model._flatten_layers(include_self=False):
        for variable in own_variables(layer):
            if not variable.trainable:
                continue
            if getattr(layer, "unit_forget_bias", False) and variable.name == "bias":
                continue
            moments = weight_moments(layer, variable.name)
            how = getattr(layer, "recurrent_initializer", None)
            if variable.name == "recurrent_kernel" and isinstance(
                how, keras.initializers.Orthogonal
            ):
                *rows, columns = variable.shape
                (values,) = haar_stack(1, math.prod(rows), columns, generator)
                variable.assign(how.gain * values.reshape(variable.shape))
                continue
            if moments.centred or any(moments.paired):
                initializer = layer.kernel_initializer
                fresh = type(initializer).from_config(initializer.get_config())
                with constructing(Construction(layer, variable.name)):
                    variable.assign(fresh(variable.shape))
                continue
            noise = generator.standard_normal(variable.shape)
            values = moments.mean + math.sqrt(moments.variance) * noise
            variable.assign(values.astype("float32"))


def inputs_for(model, generator, batch, mean=0.0, variance=1.0):
    """Return a batch of independent normal inputs; integers below 50 for tokens."""
    made = []
    for one in model.inputs:
        shape = (batch, *(size or 6 for size in one.shape[1:]))
        if "int" in str(one.dtype):
            made.append(generator.integers(0, 50, shape).astype("int32"))
            continue
        noise = generator.standard_normal(shape)
        made.append((mean + math.sqrt(variance) * noise).astype("float32"))
    return made if len(made) > 1 else made[0]


def pair_moments(values, units):
    """Return E[x x'] for pairs that differ in unit, position, input, as in `Signal`.

    NaN where there is no such pair.
    """
    x = np.asarray(values, np.float64)
    positions = tuple(a for a in range(1, x.ndim) if a not in units)
    moved = x.transpose(*units, *positions, 0)
    sizes = [
        math.prod(x.shape[a] for a in axes) for axes in (tuple(units), positions, (0,))
    ]
    moved = moved.reshape(sizes)
    pairs = np.full((2, 2, 2), np.nan)
    for kind in itertools.product((0, 1), repeat=3):
        total, count = 0.0, 1.0
        # Σ over pairs that differ, from sums over all pairs and those that do not.
        for merged in itertools.product(*((0, 1) if k else (0,) for k in kind)):
            over = tuple(axis for axis, taken in enumerate(merged) if taken)
            square = moved.sum(axis=over) ** 2 if over else moved**2
            total += (-1) ** (sum(kind) - sum(merged)) * square.sum()
        for size, differs in zip(sizes, kind, strict=True):
            count *= size * (size - 1) if differs else size
        pairs[kind] = total / count if count else np.nan
    return pairs


def profile_of(values, axis):
    """Return the second moment along an axis."""
    others = tuple(a for a in range(values.ndim) if a != axis)
    return (values**2).mean(axis=others)


def figures_of(values, units):
    """Return the figures of one draw's output, in the order of `FIGURES`."""
    positions = tuple(a for a in range(1, values.ndim) if a not in units)
    pairs = pair_moments(values, units)
    middle = pair_moments(values.mean(axis=positions, keepdims=True), units)
    return [
        pairs[0, 0, 0],
        values.mean(),
        pairs[0, 0, 1],
        values.var(axis=0, ddof=1).mean(),
        middle[0, 0, 0],
        middle[0, 0, 1],
    ]


def figures_predicted(signal, scale):
    """Return the same figures of a signal; the mean relative to √scale."""
    second = signal.second
    middle = collapse(signal, signal.positions, keepdims=True)
    relative = [
        signal.mean / math.sqrt(scale) if scale > 0 else signal.mean,
        signal.cosine or 0.0,
        signal.batch_variance / (second or 1.0),
        middle.second / (second or 1.0),
        float(middle.pairs[0, 0, 1]) / (second or 1.0),
    ]
    return dict(zip(FIGURES, [second, *relative], strict=True))


def outputs(
    model, mean=0.0, variance=1.0, training=True, *, draws=16, batch=32, seed=0
):
    """Yield the model's (first) output for fresh draws of weights and inputs."""
    generator = np.random.default_rng(seed)
    for _ in range(draws):
        redraw(model, generator)
        x = inputs_for(model, generator, batch, mean, variance)
        made = model(x, training=training)
        made = made[0] if isinstance(made, list | tuple) else made
        yield keras.ops.convert_to_numpy(made).astype(np.float64)


def simulated(model, units, *moments, **options):
    """Return E[x] and the pair moments of the output, one row for each draw."""
    return np.array(
        [
            [values.mean(), *pair_moments(values, units).ravel()]
            for values in outputs(model, *moments, **options)
        ]
    )


@dataclass
class Measured:
    """Figures of many draws: a value and a standard error each.

    All but the second moment are relative to it (the mean to its root), which takes
    most of what draws differ by out of them.
    """

    values: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    profile: dict[int, np.ndarray] = field(default_factory=dict)
    profile_errors: dict[int, np.ndarray] = field(default_factory=dict)


def measured(model, units, *moments, **options):
    """Measure a model's output, over fresh draws; arguments as of `outputs`."""
    rows, profiles = [], []
    for values in outputs(model, *moments, **options):
        rows.append(figures_of(values, units))
        profiles.append([profile_of(values, axis) for axis in range(1, values.ndim)])
    rows = np.array(rows)
    found = Measured()
    second = rows[:, 0].mean()
    root = math.sqrt(len(rows))
    for index, name in enumerate(FIGURES):
        column, scale = rows[:, index], 1.0
        if name == "mean":
            scale = math.sqrt(second) or 1.0
        elif name != "second":
            # A ratio of two means: what is left of a draw beside it is its error.
            scale = second or 1.0
            ratio = column.mean() / scale
            column = column - ratio * (rows[:, 0] - second)
        found.values[name] = column.mean() / scale
        found.errors[name] = column.std(ddof=1) / root / scale
    for axis, every in enumerate(zip(*profiles, strict=True), 1):
        every = np.array(every)
        ratio = every.mean(axis=0) / (second or 1.0)
        rest = every - ratio * rows[:, :1]
        found.profile[axis] = ratio
        found.profile_errors[axis] = rest.std(axis=0, ddof=1) / root / (second or 1.0)
    return found


def complaints(signal, found, allowed=None, sigmas=5.0):
    """Return where a prediction is off by more than chance and what is allowed for.

    Args:
        signal: what is predicted.
        found: what was measured.
        allowed: by figure (or "profile"), what the prediction may be off by beside
            `sigmas` standard errors, relative to the second moment (or its root).
    """
    allowed = allowed or {}
    second = found.values["second"]
    expected, off = figures_predicted(signal, second), []
    for name in FIGURES:
        value, error = found.values[name], found.errors[name]
        room = allowed.get(name, 0.0) * (abs(second) if name == "second" else 1.0)
        if not np.isfinite(value):
            continue
        if abs(expected[name] - value) > sigmas * error + room + 1e-6:
            off.append(f"{name} {expected[name]:.4g}, not {value:.4g} ± {error:.2g}")
    for axis, values in found.profile.items():
        own = signal.profile.get(axis, np.ones(len(values)))
        if len(own) != len(values) or axis in signal.units:
            continue
        room = sigmas * found.profile_errors[axis] + allowed.get("profile", 0.0)
        if second > 0 and (np.abs(own - values) > room + 1e-6).any():
            off.append(f"profile along {axis} {own.round(3)}, not {values.round(3)}")
    return off
