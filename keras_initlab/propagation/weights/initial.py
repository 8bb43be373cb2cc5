"""The first two moments of an initializer's draw, without drawing: one registered
function for each initializer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch
from typing import Any, TypeAlias

import keras
from keras.initializers import Initializer

from keras_initlab import initializers
from keras_initlab.initializers import base, bias, draws
from keras_initlab.model import fans
from keras_initlab.model.construction import Construction, constructing
from keras_initlab.model.fans import Shape
from keras_initlab.propagation.weights.current import current_moments
from keras_initlab.propagation.weights.moments import WeightMoments

# What `keras.initializers.get` takes: a callable, a name, a config.
InitializerLike: TypeAlias = Initializer | Callable[..., Any] | str | dict[str, Any]

# The methods that draw: Keras's, and the one that `initlab>` initializers write.
_DRAWING = ("__call__", "values")


def moments_of_draw(
    initializer: Initializer, shape: Shape, construction: Construction | None
) -> WeightMoments:
    """Return the moments of what `initializer` draws for a weight of `shape`.

    They come from the rule for its class in `initializer_moments`. A subclass that
    overrides how it draws does not inherit the rule: it is called once, as is a class
    without a rule.

    Args:
        initializer: an initializer, or any callable as Keras takes for one.
        shape: the weight's shape.
        construction: what is known of the weight: its layer, name and parents.
    """
    if _draws_as_registered(type(initializer)):
        return initializer_moments(initializer, shape, construction)
    return _sampled(initializer, shape, construction)


def _draws_as_registered(kind: type) -> bool:
    """Say whether a class draws as the registered one that it is derived from."""
    registered = initializer_moments.registry
    nearest = next(base for base in kind.__mro__ if base in registered)
    return all(
        getattr(kind, name, None) is getattr(nearest, name, None) for name in _DRAWING
    )


@singledispatch
def initializer_moments(
    initializer: Initializer, shape: Shape, construction: Construction | None
) -> WeightMoments:
    """Return the moments of one initializer's draw; here, for a class without a rule.

    Register your own class in a line or two:

    >>> class Half(keras.initializers.Initializer):
    ...     "Every entry 0.5."
    >>> @initializer_moments.register(Half)
    ... def _half(initializer, shape, construction):
    ...     return WeightMoments(mean=0.5, second_moment=0.25)
    >>> moments_of_draw(Half(), (3, 3), None).variance
    0.0
    """
    return _sampled(initializer, shape, construction)


def _sampled(
    initializer: Initializer, shape: Shape, construction: Construction | None
) -> WeightMoments:
    """Return the moments of one draw, made as for the weight under construction."""
    if construction is None:
        draw = initializer(shape, dtype="float32")
        return replace(current_moments(draw), sampled=True)
    with constructing(construction):
        draw = initializer(shape, dtype="float32")
    return replace(
        current_moments(draw, construction.layer, construction.weight), sampled=True
    )


def _constant(value: float) -> WeightMoments:
    return WeightMoments(value, value**2)


@initializer_moments.register(keras.initializers.Zeros)
def _zeros(
    initializer: Initializer, shape: Shape, construction: Construction | None
) -> WeightMoments:
    return _constant(0.0)


@initializer_moments.register(keras.initializers.Ones)
def _ones(
    initializer: Initializer, shape: Shape, construction: Construction | None
) -> WeightMoments:
    return _constant(1.0)


@initializer_moments.register(keras.initializers.Constant)
@initializer_moments.register(initializers.ConstantBias)
def _value(
    initializer: Initializer, shape: Shape, construction: Construction | None
) -> WeightMoments:
    value = initializer.value
    if isinstance(value, (int, float)):
        return _constant(float(value))
    # An array is repeated along the other axes, each entry as often as the next.
    return current_moments(value)


@initializer_moments.register(bias.ClassPriorBias)
@initializer_moments.register(bias.ForgetGateBias)
def _fixed(
    initializer: Initializer, shape: Shape, construction: Construction | None
) -> WeightMoments:
    # Few and short, and nothing is drawn: the values themselves are used.
    return current_moments(initializer.values(shape, "float32", construction))


@initializer_moments.register(keras.initializers.RandomNormal)
def _normal(
    initializer: Initializer, shape: Shape, construction: Construction | None
) -> WeightMoments:
    mean, deviation = float(initializer.mean), float(initializer.stddev)
    return WeightMoments(mean, mean**2 + deviation**2)


@initializer_moments.register(keras.initializers.TruncatedNormal)
def _truncated_normal(
    initializer: Initializer, shape: Shape, construction: Construction | None
) -> WeightMoments:
    # Keras truncates at two `stddev`, and does not widen the result to have `stddev`.
    mean = float(initializer.mean)
    deviation = float(initializer.stddev) * draws.TRUNCATED_STD
    return WeightMoments(mean, mean**2 + deviation**2)


@initializer_moments.register(keras.initializers.RandomUniform)
def _uniform(
    initializer: Initializer, shape: Shape, construction: Construction | None
) -> WeightMoments:
    low, high = float(initializer.minval), float(initializer.maxval)
    return WeightMoments((low + high) / 2, (low**2 + low * high + high**2) / 3)


@initializer_moments.register(keras.initializers.VarianceScaling)
def _variance_scaling(
    initializer: Initializer, shape: Shape, construction: Construction | None
) -> WeightMoments:
    fan = (
        _keras_layout(initializer, shape, construction)
        .fans(shape)
        .over(initializer.mode)
    )
    return WeightMoments(0.0, initializer.scale / max(1.0, fan))


def _keras_layout(
    initializer: Initializer, shape: Shape, construction: Construction | None
) -> fans.KernelLayout:
    """Return the axes that Keras's initializers count fans over, right or wrong."""
    # Keras 3.12 has no such attributes.
    inputs = getattr(initializer, "input_axes", None)
    outputs = getattr(initializer, "output_axes", None)
    if inputs is not None and outputs is not None:
        return fans.KernelLayout(tuple(inputs), tuple(outputs))
    if (
        construction is not None
        and construction.weight == "kernel"
        and isinstance(construction.layer, keras.layers.EinsumDense)
        and hasattr(initializer, "input_axes")
    ):
        # It draws with a copy that is told its axes, and keeps the one that is not.
        # Every axis that is not summed over is an output there, a shared one too.
        inputs = fans.kernel_layout(construction.layer, "kernel", shape).inputs
        outputs = (axis for axis in range(len(shape)) if axis not in inputs)
        return fans.KernelLayout(inputs, tuple(outputs))
    return fans.kernel_layout(None, None, shape)


@initializer_moments.register(keras.initializers.Orthogonal)
def _keras_orthogonal(
    initializer: Initializer, shape: Shape, construction: Construction | None
) -> WeightMoments:
    # Columns of length 1, or rows where there are fewer of these.
    longer = max(math.prod(shape[:-1]), shape[-1])
    return WeightMoments(0.0, float(initializer.gain) ** 2 / longer)


@initializer_moments.register(keras.initializers.Identity)
def _keras_identity(
    initializer: Initializer, shape: Shape, construction: Construction | None
) -> WeightMoments:
    gain, longer = float(initializer.gain), max(shape)
    return WeightMoments(gain / longer, gain**2 / longer)


@initializer_moments.register(base.VarianceScaled)
def _variance_scaled(
    initializer: Initializer, shape: Shape, construction: Construction | None
) -> WeightMoments:
    return WeightMoments(0.0, initializer.variance(shape, construction))


@initializer_moments.register(initializers.Orthogonal)
@initializer_moments.register(initializers.Sparse)
def _as_if_scaled(
    initializer: Initializer, shape: Shape, construction: Construction | None
) -> WeightMoments:
    # Both are made to have the second moment of a scaled draw, to the last digit.
    fan_in = base.layout_of(shape, construction).fans(shape).fan_in
    return WeightMoments(0.0, initializer._gain**2 / fan_in)


@initializer_moments.register(initializers.DeltaOrthogonal)
def _delta_orthogonal(
    initializer: Initializer, shape: Shape, construction: Construction | None
) -> WeightMoments:
    layout = base.layout_of(shape, construction)
    _, rows, _ = layout.stack(shape, with_field=False)
    return _at_centre(0.0, initializer._gain**2 / rows, layout, shape)


@initializer_moments.register(initializers.Identity)
def _identity(
    initializer: Initializer, shape: Shape, construction: Construction | None
) -> WeightMoments:
    layout = base.layout_of(shape, construction)
    _, rows, columns = layout.stack(shape, with_field=False)
    gain = initializer._gain
    if columns <= rows:
        return _at_centre(gain / rows, gain**2 / rows, layout, shape)
    # Part of a Hadamard matrix, whose size is the next power of two, times √(2 / size).
    size = 1 << (columns - 1).bit_length()
    scale = gain * math.sqrt(2 / size)
    mean = scale * _hadamard_sum(rows, columns, size) / (rows * columns)
    return _at_centre(mean, scale**2, layout, shape)


@initializer_moments.register(initializers.Mirrored)
def _mirrored(
    initializer: Initializer, shape: Shape, construction: Construction | None
) -> WeightMoments:
    layout = base.layout_of(shape, construction)
    second = initializer.second_moment(shape, layout)
    paired = (initializer.inputs, initializer.outputs)
    if initializer.is_centred(shape, layout):
        moments = _at_centre(0.0, second, layout, shape)
    else:
        moments = WeightMoments(0.0, second)
    return replace(moments, paired=paired, mixing=initializer.mixing)


def _at_centre(
    mean: float, second_moment: float, layout: fans.KernelLayout, shape: Shape
) -> WeightMoments:
    """Spread the centre tap's moments over a field that is zero elsewhere."""
    taps = math.prod(shape[axis] for axis in layout.field)
    return WeightMoments(mean / taps, second_moment / taps, centred=taps > 1)


def _hadamard_sum(rows: int, columns: int, size: int) -> int:
    """Return the sum over the first rows and columns of Sylvester's Hadamard matrix.

    It is [[H, H], [H, −H]] with H the matrix of half the size, of which only the first
    row and the first column do not sum to 0. So a quarter that is filled to an edge is
    known, and what is left is part of a smaller matrix.
    """
    total, sign = 0, 1
    while size > 1:
        size //= 2
        below, right = rows > size, columns > size
        if below and right:
            total, sign = total + sign * 3 * size, -sign
        elif below or right:
            total += sign * size
        rows, columns = rows - size * below, columns - size * right
    return total + sign
