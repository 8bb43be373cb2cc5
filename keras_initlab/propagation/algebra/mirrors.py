"""Units in pairs that mirror each other: where they are made and read.

The outputs of a kernel with paired outputs are z and −z. After an activation these are
φ(z) and φ(−z), and a kernel that reads pairs with opposite signs only sees their
difference. So the differences are followed as a separate signal beside a tensor of
pairs, forward and backward: a network of half the width, with the odd parts of its
activations. See `initlab>mirrored`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from keras_initlab.propagation.algebra.concatenation import concatenate
from keras_initlab.propagation.algebra.elementwise import (
    affine,
    apply_function,
    mean_square,
    respond,
)
from keras_initlab.propagation.algebra.hermite import gaussian_grid
from keras_initlab.propagation.algebra.normalization import ONES, rescaled
from keras_initlab.propagation.algebra.random_linear import (
    RandomKernel,
    random_linear,
    response_of,
)
from keras_initlab.propagation.algebra.sums import add
from keras_initlab.propagation.algebra.windows import Window
from keras_initlab.propagation.signal import (
    Array,
    Function,
    Gradient,
    Mirror,
    Pull,
    Shape,
    Signal,
)
from keras_initlab.propagation.weights.moments import WeightMoments


def weighted(
    x: Signal,
    kernel: RandomKernel,
    structure: WeightMoments,
    *,
    axes: tuple[int, int],
    shape: Shape,
    fan: int,
    copies: float,
    bias: WeightMoments | None = None,
    **options: Any,
) -> Signal:
    """Return the output of a kernel; units on either side may come in pairs.

    Args:
        x: the input.
        kernel: the kernel.
        structure: its moments that do not depend on its scale.
        axes: those along which the pairs of x, and of the result, are neighbours.
        shape, fan, copies, bias, options: as in `random_linear`.
    """
    reads, makes = structure.paired
    if not (reads or makes):
        return random_linear(
            x, kernel, shape=shape, fan=fan, copies=copies, bias=bias, **options
        )
    if makes and structure.mixing:
        mixed = _mixed(
            x,
            kernel,
            structure,
            axes=axes,
            shape=shape,
            fan=fan,
            copies=copies,
            **options,
        )
        return _shifted(mixed, bias)
    half = _half(
        x,
        kernel,
        structure,
        axes=axes,
        shape=shape,
        fan=fan,
        copies=copies,
        bias=None if makes else bias,
        **options,
    )
    if not makes:
        return half
    return _shifted(_in_pairs(half, axes[1], frozenset({kernel.key})), bias)


def _half(
    x: Signal,
    kernel: RandomKernel,
    structure: WeightMoments,
    *,
    axes: tuple[int, int],
    shape: Shape,
    fan: int,
    copies: float,
    **options: Any,
) -> Signal:
    """Return one of each pair of outputs; see `weighted` for the arguments."""
    reads, makes = structure.paired
    sizes = list(shape)
    if makes:
        sizes[axes[1]] = int(sizes[axes[1]] or 2) // 2
    half = random_linear(
        difference(x, axes[0]) if reads else x,
        kernel,
        shape=tuple(sizes),
        fan=fan // 2 if reads else fan,
        copies=copies / 2 if makes else copies,
        read=x,
        **options,
    )
    mirror = x.mirror if reads else None
    if mirror is not None and mirror.axis == axes[0] and not mirror.whole:
        half = half.amend(echoes=((x, half.edges.parents[0][1]),))
    return half


def _shifted(pairs: Signal, bias: WeightMoments | None) -> Signal:
    """Return pairs with a bias, if it is not 0."""
    if bias is None or not bias.second_moment or pairs.mirror is None:
        return pairs
    # It shifts both alike: they no longer mirror each other; their difference stays.
    mirror = replace(pairs.mirror, base=None, back=None)
    return rescaled(pairs, ONES, bias).amend(mirror=mirror)


def _mixed(
    x: Signal,
    kernel: RandomKernel,
    structure: WeightMoments,
    *,
    axes: tuple[int, int],
    shape: Shape,
    fan: int,
    copies: float,
    windows: dict[int, Window] | None = None,
    kept_axes: dict[int, int] | None = None,
    **options: Any,
) -> Signal:
    """Return pairs of outputs with a share in which the two are independent.

    The kernel is the sum of two independent ones: one with pairs, and one without, over
    all taps, that reads the deviation of units from their mean.
    """
    reads, share = structure.paired[0], structure.mixing
    source = difference(x, axes[0]) if reads else x
    apart = deviation(x) if reads else x
    half_fan = fan // 2 if reads else fan
    windows = windows or {}
    spread = {axis: replace(window, centred=False) for axis, window in windows.items()}
    moments = kernel.moments(
        (1 - share) * response_of(source, half_fan, windows, kept_axes)
        + share * response_of(apart, fan, spread, kept_axes)
    )

    def part(of: float) -> RandomKernel:
        chosen = WeightMoments(0.0, of * moments.second_moment)
        return RandomKernel(kernel.layer, kernel.weight, lambda response: chosen)

    sources = frozenset({kernel.key})
    options |= {"shape": shape, "fan": fan, "copies": copies, "kept_axes": kept_axes}
    half = _half(x, part(1 - share), structure, axes=axes, windows=windows, **options)
    pairs = _in_pairs(half, axes[1], sources)
    unpaired = random_linear(apart, part(share), windows=spread, read=x, **options)
    weights, unpaired = unpaired.edges.weights, unpaired.amend(weights=())
    assert pairs.mirror is not None
    odd = add([pairs.mirror.odd, difference(unpaired, axes[1])]).amend(terms={})
    total = add([pairs.amend(weights=()), unpaired])
    kernel.seen(total.second)
    # Gradients that are only asked for end where these pairs are made.
    mirror = Mirror(odd, axes[1], sources=sources, back=(), unpaired=unpaired)
    return total.amend(
        terms={}, weights=weights, lineage=half.origin.lineage, mirror=mirror
    )


def _in_pairs(half: Signal, axis: int, sources: frozenset[tuple[int, str]]) -> Signal:
    """Return the tensor of z and −z, next to each other along `axis`."""
    shape = list(half.shape)
    shape[axis] = 2 * int(shape[axis] or 1)
    number = 2 * half.size(half.units)
    pairs = half.pairs.copy()
    pairs[1] = ((number - 2) * half.pairs[1] - half.pairs[0]) / (number - 1)
    plain = half.amend(weights=(), echoes=half.edges.echoes)
    return half.evolve(
        shape=tuple(shape),
        mean=0.0,
        pairs=pairs,
        profile={a: v for a, v in half.profile.items() if a not in half.units},
        parents=((plain, lambda gradient: gradient.times(2.0)),),
        weights=half.edges.weights,
        lineage=half.origin.lineage,
        mirror=Mirror(affine(plain, 2.0), axis, plain, None, sources),
    )


def difference(x: Signal, axis: int) -> Signal:
    """Return x₂ₖ − x₂ₖ₊₁ of neighbours along an axis, be they mirrors or not."""
    if x.mirror is not None and x.mirror.axis == axis:
        return x.mirror.odd.with_units(x.units)
    shape = list(x.shape)
    shape[axis] = int(shape[axis] or 2) // 2
    apart = float(x.pairs[1, 1, 0])
    return x.evolve(
        shape=tuple(shape),
        mean=0.0,
        pairs=np.stack([2 * (x.pairs[0] - x.pairs[1]), np.zeros((2, 2))]),
        near={a: 2 * (values - apart) for a, values in x.near.items()},
        profile={a: v for a, v in x.profile.items() if a != axis},
        parents=((x, lambda gradient: gradient),),
    )


def deviation(x: Signal) -> Signal:
    """Return the deviation of units from their mean: the input of a zero-sum kernel.

    The entries of such a kernel are slightly correlated, which makes up for the loss of
    the mean.
    """
    apart = float(x.pairs[1, 1, 0])
    return x.evolve(
        mean=0.0,
        pairs=np.stack([x.pairs[0] - x.pairs[1], np.zeros((2, 2))]),
        near={axis: values - apart for axis, values in x.near.items()},
        profile=x.profile,
        lineage=x.origin.lineage,
        parents=((x, lambda gradient: gradient),),
    )


def mirror_of_function(output: Signal) -> Mirror | None:
    """Return the mirror of f(z), elementwise, of pairs z and −z."""
    function, whole = output.origin.function, output.origin.base
    if function is None or whole is None or whole.mirror is None:
        return None
    mirror = whole.mirror.with_units(output.units)
    if mirror is None or mirror.base is None or mirror.function is not None:
        return None
    odd = apply_function(mirror.base, _odd_part(function))
    if function.cases:
        if not function.by_position and output.size(output.positions) > 1:
            return None
        odd = _with_separate_draws(odd, output, function, mirror.base)
    return replace(mirror, odd=odd, function=function, back=None)


def _with_separate_draws(
    odd: Signal, output: Signal, function: Function, base: Signal
) -> Signal:
    """Return the difference of a pair whose two units have independent draws.

    `odd` is the difference of the means over draws.
    """
    mean = Function(function.value, function.slope)
    x = base.mean + math.sqrt(base.variance) * gaussian_grid().nodes
    pairs = odd.pairs.copy()
    pairs[0, 0, 0] += 2 * (mean_square(function, x) - mean_square(mean, x))
    steeper = mean_square(function, x, slope=True) - mean_square(mean, x, slope=True)
    alone = (base, lambda gradient: gradient.times(2 * steeper, 0.0))
    return odd.evolve(
        pairs=pairs, base=None, function=None, parents=(*odd.edges.parents, alone)
    )


def _odd_part(function: Function) -> Function:
    return Function(
        lambda x: function.value(x) - function.value(-x),
        lambda x: function.slope(x) + function.slope(-x),
    )


def mirror_of_parts(output: Signal) -> Mirror | None:
    """Return the mirror of parts that are pairs, each by itself, joined."""
    mirrors = [part.mirror or mirror_of_function(part) for part in output.origin.parts]
    in_pairs = [mirror for mirror in mirrors if mirror is not None]
    if (
        not in_pairs
        or len(in_pairs) < len(mirrors)
        or len({m.axis for m in in_pairs}) > 1
    ):
        return None
    return _joined(in_pairs, output.origin.joint)


def mirror_behind_parts(x: Signal, output: Signal) -> Mirror | None:
    """Return the mirror of f(x) for pairs x and −x that were joined of parts."""
    mirror = x.mirror
    if mirror is None or mirror.base is None or mirror.function is not None:
        return None
    below, halves = x.origin.parts, mirror.base.origin.parts
    if not len(output.origin.parts) == len(below) == len(halves):
        return None
    odd = []
    for part, whole, half in zip(output.origin.parts, below, halves, strict=True):
        base, function = part.origin.base, part.origin.function
        if function is None or function.cases:
            return None
        if base is None or base.serial != whole.serial:
            return None
        odd.append(apply_function(half, _odd_part(function)))
    joined = concatenate(odd, output.origin.joint)
    return Mirror(joined, mirror.axis, sources=mirror.sources)


def _joined(mirrors: list[Mirror], axis: int) -> Mirror:
    sources = frozenset[tuple[int, str]]().union(*(m.sources for m in mirrors))
    bases = [m.base for m in mirrors if m.base is not None and m.function is None]
    if len(bases) == len(mirrors):
        base = concatenate(bases, axis)
        return Mirror(affine(base, 2.0), mirrors[0].axis, base, None, sources)
    odd = concatenate([m.odd for m in mirrors], axis)
    return Mirror(odd, mirrors[0].axis, sources=sources)


def mirror_behind_function(x: Signal, output: Signal) -> Mirror | None:
    """Return the mirror of f(x) for pairs if only their difference is known.

    The two of a pair are assumed to be Gaussian; their covariance follows from their
    difference.
    """
    function, base = output.origin.function, output.origin.base
    if function is None or function.cases or base is None or x.origin.parts:
        return None
    x = x if base.serial == x.serial else base  # of which x is a function
    mirror = x.mirror
    if mirror is None or mirror.function is not None:
        return None
    # E[x₀ x₁'] = E[x₀ x₀'] − E[(x₀ − x₁)(x₀' − x₁')] / 2, for each kind of pair.
    across = x.pairs[0] - mirror.odd.pairs[0] / 2
    # Here, "differs in unit" means the other unit of the pair.
    apart = x.evolve(pairs=np.stack([x.pairs[0], across]), near={}, profile={})
    answer = apply_function(apart, function)
    pairs = np.stack([2 * (answer.pairs[0] - answer.pairs[1]), np.zeros((2, 2))])
    # The gradient of the difference at x₀ and x₁ has an odd part, which goes on to
    # their difference; the rest is the same for both.
    odd, even = _slopes_of_pairs(x, function, across)
    parents: tuple[tuple[Signal, Pull], ...] = (
        (mirror.odd, lambda gradient: gradient.times(*odd)),
    )
    if mirror.unpaired is not None:
        parents += ((mirror.unpaired, lambda gradient: gradient.times(*even)),)
    made_odd = wholly(output, mirror, pairs).odd.amend(parents=parents)
    every = [sum(factors) for factors in zip(odd, even, strict=True)]
    back = ((x, lambda gradient: gradient.times(*every)),)
    return Mirror(
        made_odd,
        mirror.axis,
        function=function,
        sources=mirror.sources,
        back=back,
        before=(x, mirror.odd),
    )


def _slopes_of_pairs(
    x: Signal, function: Function, across: Array
) -> tuple[list[float], list[float]]:
    """Return the factors of a gradient's odd part, and of its even part.

    Each is for one element, two positions and two inputs; `across` is E[x₀ x₁'].
    """
    variance = x.variance or 1.0
    slopes = respond(function, x.mean, variance)
    inputs = (1, 1) if x.size(x.positions) > 1 else (0, 1)
    odd, even = [], []
    for kind in ((0, 0), (1, 0), inputs):
        level = x.unevenness or 1.0 if kind[0] else 1.0
        same, across_slope = (
            slopes.slopes_correlated(
                float(np.clip((pairs[kind] / level - x.mean**2) / variance, -1.0, 1.0))
            )
            for pairs in (x.pairs[0], across)
        )
        same = slopes.slope_second if kind == (0, 0) else same
        odd.append((same + across_slope) / (2 * variance))
        even.append((same - across_slope) / (2 * variance))
    return odd, even


def wholly(output: Signal, mirror: Mirror, pairs: Array) -> Mirror:
    """Return a mirror whose gradient flows to the tensor of pairs itself."""
    shape = list(output.shape)
    shape[mirror.axis] = int(shape[mirror.axis] or 2) // 2
    odd = output.evolve(
        shape=tuple(shape),
        mean=0.0,
        pairs=pairs,
        near={},
        profile={a: v for a, v in output.profile.items() if a != mirror.axis},
        parents=((output, lambda gradient: gradient),),
    )
    return Mirror(odd, mirror.axis, sources=mirror.sources, whole=True)


Move = Callable[[Signal], Signal]


def moved_mirror(mirror: Mirror, axis: int, move: Move) -> Mirror:
    """Return the mirror after a move or mean of units, which applies to differences."""
    if mirror.base is not None and mirror.function is None:
        base = move(mirror.base)
        return Mirror(affine(base, 2.0), axis, base, None, mirror.sources)
    odd = move(mirror.odd)
    unpaired = None if mirror.unpaired is None else move(mirror.unpaired)
    return Mirror(
        odd, axis, sources=mirror.sources, whole=mirror.whole, unpaired=unpaired
    )


def sum_of_mirrors(inputs: Sequence[Signal], factors: Sequence[float]) -> Mirror | None:
    """Return the mirror of Σ factor · x for inputs whose units come in pairs."""
    mirrors = _mirrors_of(inputs)
    if mirrors is None or len({x.shape for x in inputs}) > 1:
        return None
    axis = mirrors[0].axis
    sources = frozenset[tuple[int, str]]().union(*(m.sources for m in mirrors))
    bases = [m.base for m in mirrors if m.base is not None and m.function is None]
    if len(bases) == len(mirrors):
        base = add(bases, factors)
        return Mirror(affine(base, 2.0), axis, base, None, sources)
    odd = add([m.odd for m in mirrors], factors)
    return Mirror(odd, axis, sources=sources, whole=all(m.whole for m in mirrors))


def concatenated_mirror(inputs: Sequence[Signal], axis: int) -> Mirror | None:
    """Return the mirror of inputs joined along `axis` whose units come in pairs."""
    mirrors = _mirrors_of(inputs)
    return None if mirrors is None else _joined(mirrors, axis)


def _mirrors_of(inputs: Sequence[Signal]) -> list[Mirror] | None:
    """Return the mirrors of all inputs; None if pairs lie along different axes."""
    mirrors = [x.mirror for x in inputs if x.mirror is not None]
    if len(mirrors) < len(inputs) or len({mirror.axis for mirror in mirrors}) > 1:
        return None
    return mirrors


def mirror_behind_noise(x: Signal, output: Signal, mirror: Mirror) -> Mirror:
    """Return the mirror of x with noise that the two of a pair do not share."""
    back = output.edges.parents[0][1]
    pairs = mirror.odd.pairs.copy()
    pairs[0] += 2 * (output.pairs[0] - x.pairs[0])

    def apart(gradient: Gradient) -> Gradient:
        # What noise adds reaches each of a pair by itself.
        every = back(gradient)
        return replace(
            every,
            second=every.second - gradient.second,
            position=every.position - gradient.position,
            inputs=0.0,
        )

    odd = mirror.odd.evolve(
        pairs=pairs,
        near={
            axis: values + 2 * (output.near[axis] - x.near[axis])
            for axis, values in mirror.odd.near.items()
            if axis in output.near and axis in x.near
        },
        parents=((mirror.odd, lambda gradient: gradient), (x, apart)),
    )
    return Mirror(
        odd,
        mirror.axis,
        sources=mirror.sources,
        whole=mirror.whole,
        back=((x, lambda gradient: gradient),),
    )
