"""Signal: what is known about a tensor before any data has been seen.

On average over its weights, a random network treats all units of a layer alike, all
positions of a map alike and all inputs of a batch alike. So a tensor is described by
its mean and by the second moment of two of its elements, which may differ in unit, in
position, in input or in several of these: eight numbers. What breaks the symmetry, such
as borders with padding and concatenated parts, is kept as a profile.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Shape = tuple[int | None, ...]
# Weights by the id of their layer and their name, from the model's input on.
Lineage = tuple[tuple[int, str], ...]

# Stands for a size that is not known when pairs are counted: most pairs differ.
_MANY = 64

_serial = itertools.count()


@dataclass(frozen=True)
class Gradient:
    """Second moments of the loss's gradient at a tensor.

    Attributes:
        second: E[g²] of an element.
        position: E[g g'] of two elements of one unit and input at two positions.
        profile: g's second moment along an axis relative to its mean, by axis.
        inputs: Σ E[g g'] over all other inputs of the batch, g' at any position. Only
            where inputs meet, in batch statistics, are their gradients correlated.
    """

    second: float
    position: float = 0.0
    profile: dict[int, Array] = field(default_factory=dict)
    inputs: float = 0.0

    def times(
        self,
        factor: float,
        position: float | None = None,
        inputs: float | None = None,
    ) -> Gradient:
        """Return the gradient scaled, `position` and `inputs` by their own factors."""
        cross = factor if position is None else position
        return Gradient(
            self.second * factor,
            self.position * cross,
            self.profile,
            self.inputs * (cross if inputs is None else inputs),
        )

    def even(self, axes: tuple[int, ...]) -> float:
        """Return `position` as it would be without the profile along `axes`."""
        uneven = math.prod(
            float(np.sqrt(values).mean()) ** 2
            for axis, values in self.profile.items()
            if axis in axes
        )
        return self.position / (uneven or 1.0)

    def plus(self, gradient: Gradient) -> Gradient:
        """Return the sum of two independent gradients."""
        total = self.second + gradient.second
        profile = {}
        if total > 0:
            for axis in {*self.profile, *gradient.profile}:
                own_profile = self.profile.get(axis, np.float64(1.0))
                added = gradient.profile.get(axis, np.float64(1.0))
                mixed = (self.second * own_profile + gradient.second * added) / total
                profile[axis] = np.asarray(mixed)
        return Gradient(
            total,
            self.position + gradient.position,
            profile,
            self.inputs + gradient.inputs,
        )


Pull = Callable[[Gradient], Gradient]


@dataclass(frozen=True, eq=False)
class Function:
    """An elementwise function of a Gaussian tensor, and its derivative.

    Attributes:
        value, slope: the function and its derivative; their means over the cases.
        affine: (scale, shift) where it is affine: the tensor is then Gaussian, too.
        cases: functions and their probabilities, of which one is drawn for each
            element, as by dropout; empty where nothing is drawn.
        by_position: whether each position has a draw of its own.
    """

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    affine: tuple[float, float] | None = None
    cases: tuple[tuple[float, Function], ...] = ()
    by_position: bool = True


@dataclass(frozen=True, eq=False)
class Mirror:
    """Units in pairs that mirror each other: f(z) and f(−z) for one z.

    Attributes:
        odd: f(z) − f(−z), with half as many units.
        axis: the axis along which the two of a pair are neighbours.
        base: z, where the tensor is a function of it still, elementwise.
        function: that function f; None for z itself.
        sources: the kernels that made the pairs, by the id of their layer and name.
        whole: whether the gradient at `odd` flows back to the tensor itself.
        back: where gradients flow that are only asked for, if not to `parents`.
        unpaired: the part of the tensor in which the two of a pair are independent; the
            tensor itself, this part included, is Gaussian.
        before: such a tensor and its differences, where this is a function of it.
    """

    odd: Signal
    axis: int
    base: Signal | None = None
    function: Function | None = None
    sources: frozenset[tuple[int, str]] = frozenset()
    whole: bool = False
    back: tuple[tuple[Signal, Pull], ...] | None = None
    unpaired: Signal | None = None
    before: tuple[Signal, Signal] | None = None

    def with_units(self, units: tuple[int, ...]) -> Mirror | None:
        """Return the mirror of a tensor that is seen with other axes as its units."""
        if self.axis not in units:
            return None
        base = None if self.base is None else self.base.with_units(units)
        unpaired = None if self.unpaired is None else self.unpaired.with_units(units)
        return replace(
            self, odd=self.odd.with_units(units), base=base, unpaired=unpaired
        )


@dataclass(frozen=True, eq=False)
class Moments:
    """The first two moments of a tensor of shape (batch, ...).

    Attributes:
        shape: sizes, None where unknown; the first axis is the batch.
        units: the axes that number units; all others but the batch are positions.
        mean: E[x].
        pairs: `pairs[u, p, i]` is E[x x'] of two elements that differ in unit (u=1),
            position (p=1), input (i=1); `pairs[0, 0, 0]` is the second moment.
        near: E[x x'] at a distance of 1, 2, … along an axis, where it is not
            `pairs[0, 1, 0]`.
        profile: second moment along an axis relative to its mean, where it varies.
    """

    shape: Shape
    units: tuple[int, ...]
    mean: float
    pairs: Array
    near: dict[int, Array] = field(default_factory=dict)
    profile: dict[int, Array] = field(default_factory=dict)

    @property
    def second(self) -> float:
        """E[x²]."""
        return float(self.pairs[0, 0, 0])

    @property
    def variance(self) -> float:
        """E[x²] - E[x]²."""
        # In this order a NaN stays one: what is not known is not 0.
        return max(self.second - self.mean**2, 0.0)

    @property
    def batch_variance(self) -> float:
        """Variance over inputs, averaged over units and positions."""
        return max(float(self.pairs[0, 0, 0] - self.pairs[0, 0, 1]), 0.0)

    @property
    def cosine(self) -> float | None:
        """Cosine between two inputs' tensors; None where all is zero."""
        if not self.second > 0:
            return None
        return float(np.clip(self.pairs[0, 0, 1] / self.second, -1.0, 1.0))

    @property
    def axes(self) -> tuple[int, ...]:
        """All axes but the batch."""
        return tuple(range(1, len(self.shape)))

    @cached_property
    def positions(self) -> tuple[int, ...]:
        """The axes that number positions."""
        return tuple(axis for axis in self.axes if axis not in self.units)

    def size(self, axes: tuple[int, ...]) -> int:
        """Return how many elements `axes` number; unknown sizes count as many."""
        return math.prod(self.shape[axis] or _MANY for axis in axes)

    @cached_property
    def unevenness(self) -> float:
        """E[√profile]² over positions: what two positions share of an even signal's."""
        return math.prod(
            float(np.sqrt(values).mean()) ** 2
            for axis, values in self.profile.items()
            if axis in self.positions
        )

    def vector(self) -> Array:
        """Return all second moments in a row: pairs, then near ones by axis."""
        near = [self.near[axis] for axis in sorted(self.near)]
        return np.concatenate([self.pairs.ravel(), *near])

    def split(self, vector: Array) -> tuple[Array, dict[int, Array]]:
        """Return pairs and near moments from a row laid out as `vector`."""
        near, start = {}, 8
        for axis in sorted(self.near):
            end = start + len(self.near[axis])
            near[axis] = vector[start:end]
            start = end
        return vector[:8].reshape(2, 2, 2), near


@dataclass(frozen=True, eq=False)
class Origin:
    """What a tensor was computed from, as far as that says more than its moments.

    Attributes:
        terms: the signals that it is a sum of, with their factors, by serial number;
            empty where it is a term of its own.
        base, function: the Gaussian signal that it is an elementwise function of.
        parts, joint: the signals that were concatenated, and along which axis.
        lineage: the weights between the model's input and here; None if other things,
            too, distinguish this signal from others.
        mirror: how units mirror each other, if they come in pairs.
        measured: whether a layer on the way had no rule and was measured on a sample.
    """

    terms: dict[int, tuple[float, Signal]] = field(default_factory=dict)
    base: Signal | None = None
    function: Function | None = None
    parts: tuple[Signal, ...] = ()
    joint: int = 0
    lineage: Lineage | None = None
    mirror: Mirror | None = None
    measured: bool = False


@dataclass(frozen=True, eq=False)
class Edges:
    """Where a gradient at a tensor goes.

    Attributes:
        parents: signals that receive it, each with the rule that turns the gradient
            here into the gradient there.
        notes: likewise, signals between here and a parent: the gradient at the parent
            is already complete, but theirs is asked for.
        echoes: likewise, signals whose gradient is asked for while it reaches what
            their mirrors are computed from by another way.
        weights: rules for the gradients of the weights that were used, with the layer
            and the weight's name.
    """

    parents: tuple[tuple[Signal, Pull], ...] = ()
    notes: tuple[tuple[Signal, Pull], ...] = ()
    echoes: tuple[tuple[Signal, Pull], ...] = ()
    weights: tuple[tuple[object, str, Callable[[Gradient], float]], ...] = ()


class _MomentChanges(TypedDict, total=False):
    shape: Shape
    units: tuple[int, ...]
    mean: float
    pairs: Array
    near: dict[int, Array]
    profile: dict[int, Array]


class _OriginChanges(TypedDict, total=False):
    terms: dict[int, tuple[float, Signal]]
    base: Signal | None
    function: Function | None
    parts: tuple[Signal, ...]
    joint: int
    lineage: Lineage | None
    mirror: Mirror | None
    measured: bool


class _EdgeChanges(TypedDict, total=False):
    parents: tuple[tuple[Signal, Pull], ...]
    notes: tuple[tuple[Signal, Pull], ...]
    echoes: tuple[tuple[Signal, Pull], ...]
    weights: tuple[tuple[object, str, Callable[[Gradient], float]], ...]


class Changes(_MomentChanges, _OriginChanges, _EdgeChanges, total=False):
    """Fields of a signal's moments, origin and edges, for `evolve` and `amend`."""


@dataclass(frozen=True, eq=False)
class Signal(Moments):
    """A tensor's moments, its origin, and the way of gradients back.

    A rule only needs the moments. `algebra` maintains origin and edges, so that x - x
    is 0, relu(x) · x is one function of x, and gradients flow back.

    Attributes:
        origin: what it was computed from.
        edges: where its gradient goes.
        serial: a number that grows: what a signal is computed from has a smaller one.
    """

    origin: Origin = field(default_factory=Origin)
    edges: Edges = field(default_factory=Edges)
    serial: int = field(default_factory=lambda: next(_serial))

    @staticmethod
    def independent(shape: Shape, mean: float = 0.0, variance: float = 1.0) -> Signal:
        """Return the signal of independent elements, units along the last axis."""
        pairs = np.full((2, 2, 2), float(mean) ** 2)
        pairs[0, 0, 0] += variance
        units = (len(shape) - 1,) if len(shape) > 1 else ()
        return Signal(tuple(shape), units, mean, pairs, origin=Origin(lineage=()))

    @property
    def mirror(self) -> Mirror | None:
        """How units mirror each other, where they come in pairs."""
        return self.origin.mirror

    def evolve(self, **changes: Unpack[Changes]) -> Signal:
        """Return a new signal with some moments changed.

        Of its origin and its edges it has what is given, and whether it was measured.
        """
        origin = Origin(measured=self.origin.measured)
        return self._with(dict(changes), origin, Edges(), next(_serial))

    def amend(self, **changes: Unpack[Changes]) -> Signal:
        """Return the same signal, of the same number, with some fields changed."""
        return self._with(dict(changes), self.origin, self.edges, self.serial)

    def _with(
        self, changes: dict[str, object], origin: Origin, edges: Edges, serial: int
    ) -> Signal:
        def of(kind: type) -> dict[str, Any]:
            return {k: v for k, v in changes.items() if k in kind.__annotations__}

        of_origin, of_edges = of(Origin), of(Edges)
        return replace(
            self,
            **of(Moments),
            origin=replace(origin, **of_origin) if of_origin else origin,
            edges=replace(edges, **of_edges) if of_edges else edges,
            serial=serial,
        )

    def origins(self) -> dict[int, tuple[float, Signal]]:
        """Return the signals that this one is a sum of; itself where it is none."""
        return self.origin.terms or {self.serial: (1.0, self)}

    def with_units(self, units: tuple[int, ...]) -> Signal:
        """Return the same tensor seen with other axes as its units.

        The second moment of a pair is averaged over the pairs that become one kind.
        """
        units = tuple(sorted(axis % len(self.shape) for axis in units))
        if units == self.units:
            return self
        pairs, origin, mirror = relabelled(self, units), self.origin, self.mirror
        return self.evolve(
            units=units,
            pairs=pairs,
            near={},
            terms=origin.terms,
            base=origin.base,
            function=origin.function,
            parts=tuple(part.with_units(units) for part in origin.parts),
            joint=origin.joint,
            lineage=origin.lineage,
            mirror=None if mirror is None else mirror.with_units(units),
            parents=((self, _relabelling(self, units)),),
        )

    def with_shape(self, shape: Shape) -> Signal:
        """Return the same tensor with sizes put in for unknown ones, or left open.

        Raises:
            ValueError: the shape is of another rank.
        """
        if shape == self.shape:
            return self
        if len(shape) != len(self.shape):
            raise ValueError(
                f"Expected a shape of as many axes as {self.shape} has. "
                f"Received: {shape}. Let the layer return a tensor of the rank that "
                "its symbol has."
            )
        origin, mirror = self.origin, self.mirror
        if mirror is not None:
            mirror = replace(
                mirror,
                odd=mirror.odd.with_shape(_at(shape, mirror.axis, mirror.odd)),
                base=None if mirror.base is None else mirror.base.with_shape(shape),
                unpaired=None
                if mirror.unpaired is None
                else mirror.unpaired.with_shape(shape),
            )
        joint = origin.joint
        return self.evolve(
            shape=shape,
            profile={
                axis: values
                for axis, values in self.profile.items()
                if shape[axis] == self.shape[axis]
            },
            terms=origin.terms,
            base=None if origin.base is None else origin.base.with_shape(shape),
            function=origin.function,
            parts=tuple(
                part.with_shape(_at(shape, joint, part)) for part in origin.parts
            ),
            joint=joint,
            lineage=origin.lineage,
            mirror=mirror,
            parents=((self, lambda gradient: gradient),),
        )


def _at(shape: Shape, axis: int, source: Moments) -> Shape:
    """Return `shape` with the size of another tensor along an axis."""
    return tuple(source.shape[a] if a == axis else n for a, n in enumerate(shape))


def _relabelling(signal: Signal, units: tuple[int, ...]) -> Pull:
    """Return a gradient's way back to a signal that was seen with other units.

    Gradients of different units are independent: of two positions that are
    apart along an axis of units nothing is left.
    """
    places = signal.size(signal.positions)
    common = signal.size(tuple(axis for axis in signal.positions if axis not in units))
    position = (common - 1) / (places - 1) if places > 1 else 1.0

    def pull(gradient: Gradient) -> Gradient:
        return gradient.times(1.0, position, common / places if places else 1.0)

    return pull


def relabelled(signal: Moments, units: tuple[int, ...]) -> Array:
    """Return the pairs of `signal` with other axes as its units."""
    axes = signal.axes
    total = np.zeros((2, 2, 2))
    count = np.zeros((2, 2, 1))
    for differ in itertools.product((False, True), repeat=len(axes)):
        sizes = zip(axes, differ, strict=True)
        number = math.prod(
            (signal.shape[axis] or _MANY) - 1 if differs else 1
            for axis, differs in sizes
        )
        if not number:
            continue
        apart = [axis for axis, differs in zip(axes, differ, strict=True) if differs]
        old = (
            int(any(axis in signal.units for axis in apart)),
            int(any(axis not in signal.units for axis in apart)),
        )
        new = (
            int(any(axis in units for axis in apart)),
            int(any(axis not in units for axis in apart)),
        )
        total[new] += number * signal.pairs[old]
        count[new] += number
    missing = np.broadcast_to(count == 0, total.shape)
    pairs: Array = np.where(missing, signal.mean**2, total / np.maximum(count, 1))
    return pairs


# What a rule returns: one signal, or several where a layer has several outputs.
Signals = Signal | tuple[Signal, ...]


def packed(signals: Sequence[Signal]) -> Signals:
    """Return a single signal as itself, several as a tuple."""
    return signals[0] if len(signals) == 1 else tuple(signals)
