"""Units in pairs that mirror each other: where they are made and read.

A kernel whose outputs come in pairs makes z and −z of every unit; behind an activation
these are φ(z) and φ(−z), and a kernel that reads pairs with opposite signs sees their
difference alone. So beside a tensor of pairs the differences are followed as a signal
of their own, forward and back: a network of half the width, with the odd parts of its
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
    """Return what a kernel makes of x; units on either side may come in pairs.

    Args:
        x: the input.
        kernel: the kernel.
        structure: its moments as far as the scale does not matter.
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
    sizes = list(shape)
    if makes:
        sizes[axes[1]] = int(sizes[axes[1]] or 2) // 2
    half = random_linear(
        difference(x, axes[0]) if reads else x,
        kernel,
        shape=tuple(sizes),
        fan=fan // 2 if reads else fan,
        copies=copies / 2 if makes else copies,
        bias=None if makes else bias,
        read=x,
        **options,
    )
    read = x.mirror if reads and x.mirror and x.mirror.axis == axes[0] else None
    if read is not None and not read.whole:
        half = half.amend(echoes=((x, half.edges.parents[0][1]),))
    if not makes:
        return half
    return _shifted(_in_pairs(half, axes[1], frozenset({kernel.key})), bias)


def _shifted(pairs: Signal, bias: WeightMoments | None) -> Signal:
    """Return pairs with a bias, if it is not 0."""
    if bias is None or not bias.second_moment or pairs.mirror is None:
        return pairs
    # It shifts both alike: they mirror no more, but for their difference.
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
    kept: dict[int, int] | None = None,
    **options: Any,
) -> Signal:
    """Return pairs of outputs that have a share each that is not the other's.

    The kernel is the sum of two that are independent: one of pairs, and one without,
    over all taps, that reads what units behind pairs differ by.
    """
    reads, share = structure.paired[0], structure.mixing
    source = difference(x, axes[0]) if reads else x
    apart = deviation(x) if reads else x
    half_fan = fan // 2 if reads else fan
    windows = windows or {}
    spread = {axis: replace(window, centred=False) for axis, window in windows.items()}
    moments = kernel.moments(
        (1 - share) * response_of(source, half_fan, windows, kept)
        + share * response_of(apart, fan, spread, kept)
    )

    def part(of: float) -> RandomKernel:
        chosen = WeightMoments(0.0, of * moments.second_moment)
        return RandomKernel(kernel.layer, kernel.weight, lambda response: chosen)

    sizes = list(shape)
    sizes[axes[1]] = int(sizes[axes[1]] or 2) // 2
    sources = frozenset({kernel.key})
    options = {**options, "kept": kept, "read": x}
    half = random_linear(
        source,
        part(1 - share),
        shape=tuple(sizes),
        fan=half_fan,
        copies=copies / 2,
        windows=windows,
        **options,
    )
    if reads and x.mirror and not x.mirror.whole:
        half = half.amend(echoes=((x, half.edges.parents[0][1]),))
    pairs = _in_pairs(half, axes[1], sources)
    own = random_linear(
        apart,
        part(share),
        shape=shape,
        fan=fan,
        copies=copies,
        windows=spread,
        **options,
    )
    weights, own = own.edges.weights, own.amend(weights=())
    assert pairs.mirror is not None
    odd = add([pairs.mirror.odd, difference(own, axes[1])]).amend(terms={})
    total = add([pairs.amend(weights=()), own])
    kernel.seen(total.second)
    # Gradients that are asked for alone have come to where these pairs are made.
    mirror = Mirror(odd, axes[1], sources=sources, back=(), own=own)
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
    """Return what a kernel that sums to 0 over its inputs reads: units less their mean.

    Such entries are correlated a little, which makes up for what the mean takes off.
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
    """Return the difference of two of a pair of which each has a draw of its own.

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
    """Return the mirror of f(x) for pairs of which only the difference is known.

    The two of a pair are taken for Gaussian; how much they have in common follows from
    their difference.
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
    # What differs in unit is the other of the pair here.
    apart = x.evolve(pairs=np.stack([x.pairs[0], across]), near={}, profile={})
    answer = apply_function(apart, function)
    pairs = np.stack([2 * (answer.pairs[0] - answer.pairs[1]), np.zeros((2, 2))])
    # What x₀ and x₁ get of their difference's gradient is odd in part, and goes on to
    # their difference; the rest is the same for both.
    odd, even = _slopes_of_pairs(x, function, across)
    parents: tuple[tuple[Signal, Pull], ...] = (
        (mirror.odd, lambda gradient: gradient.times(*odd)),
    )
    if mirror.own is not None:
        parents += ((mirror.own, lambda gradient: gradient.times(*even)),)
    made_odd = wholly(output, mirror, pairs).odd.amend(parents=parents)
    every = [one + other for one, other in zip(odd, even, strict=True)]
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
    """Return the factors of a gradient's odd part, and of what is alike in both.

    Each for one element, two positions and two inputs; `across` is E[x₀ x₁'].
    """
    variance = x.variance or 1.0
    slopes = respond(function, x.mean, variance)
    other = (1, 1) if x.size(x.positions) > 1 else (0, 1)
    odd, even = [], []
    for kind in ((0, 0), (1, 0), other):
        level = x.unevenness or 1.0 if kind[0] else 1.0
        own, its = (
            slopes.slopes_correlated(
                float(np.clip((pairs[kind] / level - x.mean**2) / variance, -1.0, 1.0))
            )
            for pairs in (x.pairs[0], across)
        )
        own = slopes.slope_second if kind == (0, 0) else own
        odd.append((own + its) / (2 * variance))
        even.append((own - its) / (2 * variance))
    return odd, even


def wholly(output: Signal, mirror: Mirror, pairs: Array) -> Mirror:
    """Return a mirror whose gradient goes to the tensor of pairs itself."""
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
    """Return the mirror behind what moves or averages units, and so differences."""
    if mirror.base is not None and mirror.function is None:
        base = move(mirror.base)
        return Mirror(affine(base, 2.0), axis, base, None, mirror.sources)
    odd = move(mirror.odd)
    own = None if mirror.own is None else move(mirror.own)
    return Mirror(odd, axis, sources=mirror.sources, whole=mirror.whole, own=own)


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
