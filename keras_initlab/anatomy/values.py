"""Facts of kernels: what their values and their initializers say."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_initlab import activations
from keras_initlab.anatomy.bypass import holds
from keras_initlab.anatomy.model import ATTENTION, Anatomy, Readers
from keras_initlab.diagnosis import KernelFacts
from keras_initlab.initializers import Auto, Mirrored, Scaled
from keras_initlab.model import fans
from keras_initlab.model.keras_internals import own_variables
from keras_initlab.model.kernels import Kernel
from keras_initlab.plan import describe
from keras_initlab.propagation.weights import initial_moments
from keras_initlab.schemes.kernels import Finder, Followed, fans_of, followed, layout_of
from keras_initlab.schemes.small_starts import carrier

Array = NDArray[np.float64]

# How much two equal units may differ, as a share of their length: backends do not sum
# both in the same order.
SAME = 1e-5

_KNOWN_WEIGHTS = {
    "kernel",
    "bias",
    "recurrent_kernel",
    "depthwise_kernel",
    "pointwise_kernel",
}


def kernel_facts(anatomy: Anatomy, *, initial: bool = True) -> tuple[KernelFacts, ...]:
    """Return the facts of a model's kernels.

    Args:
        anatomy: of the model.
        initial: whether to look at initializers and compare the kernels, which says
            nothing new while a model is trained.
    """
    finder = Finder()
    return tuple(
        _facts(kernel, anatomy, finder, initial)
        for kernel in anatomy.kernels
        if not _is_recurrent(kernel)
    )


def _is_recurrent(kernel: Kernel) -> bool:
    return kernel.weight == "recurrent_kernel"


def _facts(
    kernel: Kernel, anatomy: Anatomy, finder: Finder, initial: bool
) -> KernelFacts:
    values = values_of(kernel.variable)
    key = (id(kernel.layer), kernel.weight)
    readers = anatomy.readers(kernel)
    constant = _constant(values)
    units = _units(kernel, values)
    head = key in anatomy.roles.heads
    twins, alike = 0, None
    if units is not None and constant is None and not head:
        siblings = [k for k in anatomy.kernels if k.layer is kernel.layer]
        twins, alike = _twins(units, siblings, readers)
    branch_end = key in anatomy.roles.branches
    at_start: dict[str, Any] = {}
    if initial and (layer_fans := fans_of(kernel)) is not None:
        follows = followed(kernel, finder)
        second = _drawn_moment(kernel)
        at_start = {
            "initializer": describe(kernel.initializer, without="seed")
            or "its initializer",
            "nonlinearity": follows.resolved.name,
            "digest": _digest(values),
            "scale": _scale(kernel, second, layer_fans, follows),
            "by_wrong_fans": _by_wrong_fans(kernel, second, layer_fans, follows),
            "isometric": isinstance(kernel.initializer, Mirrored),
        }
    return KernelFacts(
        kernel.path,
        kernel.weight,
        units=0 if units is None else units.shape[1],
        constant=constant,
        nonfinite=int(values.size - np.count_nonzero(np.isfinite(values))),
        twins=twins,
        read_alike=alike,
        normalised=readers is not None and readers.normalised,
        branch_end=branch_end,
        bypassed=holds(anatomy.bypassed.joined, kernel),
        spared=constant == 0 and _is_spared(kernel, anatomy),
        guarded=_is_guarded(kernel, anatomy),
        head=head,
        **at_start,
    )


def _is_spared(kernel: Kernel, anatomy: Anatomy) -> bool:
    """Say whether another path, or a bias, carries the signal around zeros."""
    if anatomy.forward is None:
        return False
    return carrier(kernel, anatomy.kernels, anatomy.forward.propagation) is not None


def values_of(variable: Any) -> Array:
    """Return a variable's values."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32")))


def _constant(values: Array) -> float | None:
    first, last = values.flat[0], values.flat[-1]
    alike = values.size > 1 and first == last and bool((values == first).all())
    return float(first) if alike else None


def _is_guarded(kernel: Kernel, anatomy: Anatomy) -> bool:
    attends = kernel.path.rpartition("/")[0] in anatomy.attending
    if attends or anatomy.is_hidden(kernel):
        return True
    recurrent = any(hasattr(p, "recurrent_activation") for p in kernel.parents)
    inside = any(isinstance(parent, ATTENTION) for parent in kernel.parents)
    return inside or recurrent or hasattr(kernel.layer, "recurrent_activation")


def _digest(values: Array) -> str | None:
    """Return a digest of a random draw; None if the values were not drawn."""
    # Thousands of entries of two draws are not the same by chance.
    sample = values.ravel()[:: max(values.size // 4096, 1)]
    # An identity and a constant are the same in each layer, rightly.
    if len(np.unique(sample)) <= 3 or np.count_nonzero(values) * 2 < values.size:
        return None
    head = f"{values.shape}".encode()
    return hashlib.blake2b(head + sample.tobytes(), digest_size=16).hexdigest()


def _units(kernel: Kernel, values: Array) -> Array | None:
    """Return what each unit reads, of shape (weights, units), or None if unknown."""
    layout = layout_of(kernel)
    if layout.batch or not layout.outputs:
        return None
    gated = hasattr(kernel.layer, "recurrent_activation")
    if layout.blocks > 1 and not gated:
        return None  # groups of a convolution read each its own part
    parts = [_columns(values, layout)]
    variables = {variable.name: variable for variable in own_variables(kernel.layer)}
    if any(len(variables[n].shape) > 1 for n in variables.keys() - _KNOWN_WEIGHTS):
        return None  # a layer that reads with other weights as well
    for name in ("bias", "recurrent_kernel"):
        if name in variables:
            parts.append(values_of(variables[name]))
    count = parts[0].shape[1] // (layout.blocks if gated else 1)
    if any(part.size % count for part in parts):
        return None
    return np.concatenate([part.reshape(-1, count) for part in parts])


def _columns(values: Array, layout: fans.KernelLayout) -> Array:
    outputs = [axis % values.ndim for axis in layout.outputs]
    summed = [axis for axis in range(values.ndim) if axis not in outputs]
    count = math.prod(values.shape[axis] for axis in outputs)
    return values.transpose(*summed, *outputs).reshape(-1, count)


def _rows(kernel: Kernel, count: int) -> Array | None:
    """Return how each of so many units is read by a kernel, or None if unknown."""
    layout = layout_of(kernel)
    values = values_of(kernel.variable)
    if layout.batch or not layout.inputs or (layout.blocks > 1 and _is_grouped(kernel)):
        return None
    inputs = [axis % values.ndim for axis in layout.inputs]
    remaining = [axis for axis in range(values.ndim) if axis not in inputs]
    size = math.prod(values.shape[axis] for axis in inputs)
    if size % count:
        return None
    # After flattening, a unit is read once at each position.
    rows = values.transpose(*inputs, *remaining).reshape(size // count, count, -1)
    return rows.transpose(0, 2, 1).reshape(-1, count)


def _is_grouped(kernel: Kernel) -> bool:
    return getattr(kernel.layer, "groups", 1) > 1


def _twins(
    units: Array, siblings: Sequence[Kernel], readers: Readers | None
) -> tuple[int, int | None]:
    """Return how many units have a twin, and how many of these are read alike.

    By the layer's own recurrent kernel, too.
    """
    reading = _repeated(units)
    if not reading:
        return 0, None
    if readers is None or not readers.kernels:
        return reading, None
    if not readers.whole:
        return reading, 0 if _reads_apart(readers.kernels) else None
    parts = [units]
    reading_on = [k for k in readers.kernels if not _is_recurrent(k)]
    reading_on += [k for k in siblings if _is_recurrent(k)]
    for kernel in reading_on:
        rows = _rows(kernel, units.shape[1])
        if rows is None:
            return reading, None
        parts.append(rows)
    return reading, _repeated(np.concatenate(parts))


def _reads_apart(kernels: Sequence[Kernel]) -> bool:
    """Say whether no kernel reads two of its inputs alike.

    Then units that are copies of each other have different gradients, whatever reshapes
    or sums come between.
    """
    for kernel in kernels:
        layout = layout_of(kernel)
        values = values_of(kernel.variable)
        sizes = [values.shape[axis] for axis in layout.inputs]
        rows = _rows(kernel, math.prod(sizes)) if sizes else None
        if rows is None or not rows.any(axis=0).all() or _repeated(rows):
            return False
    return True


def _repeated(units: Array) -> int:
    """Return how many columns equal one before them, those of zeros left out.

    Candidates are found by sorted random projections, as there are too many pairs, and
    then compared entry by entry.
    """
    if not np.isfinite(units).all():
        return 0
    # Of a single number, some of many units are equal by chance.
    if np.count_nonzero(units.any(axis=1)) < 2:
        return 0
    direction = np.random.default_rng(0).standard_normal(len(units)).astype("float32")
    lengths = np.sqrt(np.einsum("ij,ij->j", units, units))
    places = direction @ units
    order = np.argsort(places, kind="stable")
    order = order[lengths[order] > 0]
    near = np.abs(np.diff(places[order])) <= SAME * lengths[order][1:] * 4
    count = 0
    for index in np.flatnonzero(near):
        unit, twin = units[:, order[index]], units[:, order[index + 1]]
        count += bool(np.abs(unit - twin).max() <= SAME * np.abs(unit).max())
    return count


def _scale(
    kernel: Kernel, second: float | None, layer_fans: fans.Fans, follows: Followed
) -> float | None:
    """Return E[w²] by the initializer over what fits; 1 within the usual rules."""
    if second is None or isinstance(kernel.initializer, (Auto, Mirrored, Scaled)):
        return None
    fitting = [follows.rule.variance(layer_fans)]
    if follows.resolved.family in ("linear", "saturating", "selu"):
        fitting.append(1 / layer_fans.fan_in)
    by_rule = ("linear", "periodic")
    if follows.resolved.function is not None and follows.resolved.family not in by_rule:
        fitting.append(activations.gain(follows.resolved) ** 2 / layer_fans.fan_in)
    if second > max(fitting):
        return second / max(fitting)
    return min(1.0, second / min(fitting))


def _drawn_moment(kernel: Kernel) -> float | None:
    """Return E[w²] by the initializer."""
    initializer = kernel.initializer
    if initializer is None:
        return None
    shape = tuple(kernel.variable.shape)
    try:
        # A user's initializer is called, which must not advance Keras's generators.
        with keras.StatelessScope():
            moments = initial_moments(
                initializer, shape, kernel.layer, kernel.weight, kernel.parents
            )
    except (TypeError, ValueError):
        return None
    second = moments.second_moment
    return second if math.isfinite(second) and second > 0 else None


def _by_wrong_fans(
    kernel: Kernel, second: float | None, layer_fans: fans.Fans, follows: Followed
) -> float | None:
    """Return the ratio of the variance by the shape's fans to that by the layer's.

    Keras's own initializers are known to use the shape's fans; the variance of a user's
    initializer may show that it does.
    """
    shape = tuple(kernel.variable.shape)
    plain = fans.kernel_fans(shape) if len(shape) > 1 else layer_fans
    initializer = kernel.initializer
    if isinstance(initializer, keras.initializers.VarianceScaling):
        # Keras tells the initializer of an EinsumDense which axes are inputs; and how
        # far a stride spreads an input's gradient does not concern the way forward.
        has_axes = isinstance(kernel.layer, keras.layers.EinsumDense) and hasattr(
            initializer, "input_axes"
        )
        if has_axes or plain.fan_in == layer_fans.fan_in:
            return 1.0
        return layer_fans.over(initializer.mode) / plain.over(initializer.mode)
    if type(initializer).__module__.startswith(("keras.", "keras_initlab.")):
        return None
    usual = {1.0, 2.0, follows.rule.gain**2}
    if second is None or any(_near(second * layer_fans.fan_in, rule) for rule in usual):
        return None
    by_shape = any(_near(second * plain.fan_in, rule) for rule in usual)
    return layer_fans.fan_in / plain.fan_in if by_shape else None


def _near(value: float, expected: float) -> bool:
    return abs(value / expected - 1) < 0.1
