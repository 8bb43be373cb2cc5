"""Attention: softmax weights of random logits, and weighted sums of values.

With weights a = softmax(s), Σ a = 1, a query's output has all of the covariance between
values, and Σ a² of the rest of their second moment. The part that all keys of a query
have in common shifts all of its logits alike, and has no effect on the softmax.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from keras_initlab.propagation.algebra.softmax import softmax_moments
from keras_initlab.propagation.signal import Array, Gradient, Pull, Shape, Signal

# How many queries, evenly spread, and how many numbers of keys are evaluated.
_QUERIES, _COUNTS = 128, 12


@dataclass(frozen=True, eq=False)
class Logits:
    """Logits of attention, as the softmax sees them.

    Attributes:
        pairs: `pairs[p, i]`, the covariance over keys of the logits of two queries:
            that differ in position (p), in input (i).
        spread: variance of `pairs[0, 0]` between queries, relative to its square.
        own_logit: how much greater a query's logit for its own position is, on average.
        tilt: `tilt[p, i]`, E[∂s/∂x ∂s'/∂x] for two queries, with x the values, times
            the variance between values. Weights that favour keys with large logits
            favour values along that slope: Σ a x for x ~ N(0, v) is v ∂s/∂x, not 0.
        slope: E[∂s/∂x], likewise.
        to_query, to_key: E[(∂s/∂q)²] and E[(∂s/∂k)²], the first over the variation
            between keys.
        query, key: the signals from which they are computed.
    """

    pairs: Array
    query: Signal
    key: Signal
    to_query: float
    to_key: float
    spread: float = 0.0
    own_logit: float = 0.0
    tilt: Array = field(default_factory=lambda: np.zeros((2, 2)))
    slope: float = 0.0


@dataclass(frozen=True, eq=False)
class Seen:
    """Which keys each query sees: those from `first` up to `last`, excluded."""

    at: Array
    first: Array
    last: Array

    @property
    def counts(self) -> Array:
        """How many keys each query sees."""
        return self.last - self.first

    @property
    def overlaps(self) -> Array:
        """How many keys two queries both see."""
        last = np.minimum.outer(self.last, self.last)
        shared: Array = last - np.maximum.outer(self.first, self.first)
        return np.maximum(shared, 0.0)


def seen_keys(
    queries: int, keys: int, *, causal: bool = False, window: int | None = None
) -> Seen:
    """Return the keys that queries see, of at most so many queries, evenly spread.

    Args:
        queries, keys: how many there are.
        causal: no query sees keys behind its own position.
        window: how many keys each sees to either side, its own counted.
    """
    at = np.unique(np.linspace(0, queries - 1, min(queries, _QUERIES)).round())
    first, last = np.zeros(len(at)), np.full(len(at), float(keys))
    if causal:
        last = np.minimum(last, at + 1)
    if window is not None:
        first, last = np.maximum(first, at - window + 1), np.minimum(last, at + window)
    # A query beyond the keys sees the last of them.
    first = np.minimum(first, keys - 1)
    return Seen(at, first, np.maximum(last, first + 1))


@dataclass(frozen=True, eq=False)
class Weights:
    """Moments of softmax weights.

    Attributes:
        squares: Σ E[a²] over keys, by query.
        across: `across[p, i]`, Σ E[a a'] over keys for two queries that differ in
            position (p), in input (i); its first entry is the mean of `squares`.
        even: what `across` would be for queries of different heads, whose weights are
            independent: of one position, and of two.
        free: E[1 - Σ a²], the factor by which the logits' slope moves Σ a x (Stein's
            lemma).
        own_weight: E[a] of a query's own position, beyond that of other positions.
        slopes: Σ over keys of E[Σ (∂a/∂s)²], by query.
    """

    squares: Array
    across: Array
    even: Array
    free: float
    own_weight: float
    slopes: Array


def weights_of(logits: Logits, seen: Seen) -> Weights:
    """Return the moments of the weights of queries on the keys that they see."""
    counts, variance = seen.counts, max(float(logits.pairs[0, 0]), 0.0)
    nodes = np.unique(np.geomspace(counts.min(), counts.max(), _COUNTS).round())
    squares, slopes = np.array(
        [_softmax(int(count), variance, logits.spread) for count in nodes]
    ).T
    alone = [_own_weight(int(count), variance, logits.own_logit) for count in nodes]
    where = np.log(counts)
    rises = np.interp(where, np.log(nodes), np.log(np.maximum(squares * nodes, 1.0)))
    slopes = np.interp(where, np.log(nodes), slopes)
    own_weight, own_square = (
        np.interp(where, np.log(nodes), part) for part in np.array(alone).T
    )
    remaining = 1 - 2 * own_weight + own_square
    share = logits.pairs / variance if variance > 0 else np.ones((2, 2))
    share = np.clip(share, -1.0, 1.0)
    across = np.empty((2, 2))
    for i in range(2):
        lift = _lift(rises**2, float(share[0, i]), logits.spread)
        across[0, i] = (remaining * lift / counts + own_square).mean()
        across[1, i] = _between(
            seen, rises, own_weight, float(share[1, i]), logits.spread
        )
    total = remaining * np.exp(rises) / counts + own_square
    zeros = np.zeros(len(counts))
    even = np.array([(1 / counts).mean(), _between(seen, zeros, zeros, 0.0, 0.0)])
    free = float((1 - total).mean())
    return Weights(
        total, across, even, free, float(own_weight.mean()), slopes * remaining
    )


def _softmax(count: int, variance: float, spread: float) -> tuple[float, float]:
    """Return Σ E[a²] and Σ E[Σ (∂a/∂s)²] over `count` keys.

    They are averaged over three values of the variance, as it differs between queries.
    """
    width = math.log1p(spread)
    total = slopes = 0.0
    for node, weight in ((-math.sqrt(3), 1 / 6), (0.0, 2 / 3), (math.sqrt(3), 1 / 6)):
        here = variance * math.exp(math.sqrt(width) * node - width / 2)
        moments = softmax_moments(count, round(here, 9))
        total += weight * count * moments.second
        slopes += weight * count * moments.jacobian
    return total, slopes


def _own_weight(count: int, variance: float, own_logit: float) -> tuple[float, float]:
    """Return E[a] and E[a²] of the key whose logit stands out by `own_logit`, if any.

    That logit is a squared length, with twice the variance of the others.

    Source: Derrida 1981, the random energy model, for log Σ eˢ of the other keys.
    """
    if own_logit <= 0 or count < 2:
        return 0.0, 0.0
    log_others = math.log(count - 1)
    total = log_others + variance / 2
    if variance > 2 * log_others:
        total = math.sqrt(2 * variance * log_others)
    at = own_logit + math.sqrt(6 * variance) * np.array([-1.0, 0.0, 1.0])
    values = 1 / (1 + np.exp(np.clip(total - at, -700.0, 700.0)))
    weights = np.array([1 / 6, 2 / 3, 1 / 6])
    return float(weights @ values), float(weights @ values**2)


def _lift(rises: Array, share: float, spread: float) -> Array:
    """Return the ratio of E[a a'] to that of even weights.

    It grows with the covariance of logits as for small ones, e^cov, up to that of a
    weight with itself, of which `rises` is the squared logarithm. Two queries of few
    dimensions are never quite orthogonal, and E[e^x] for x ~ N(0, v) is e^(v/2).
    """
    by_chance = rises * spread / 4 * (1 - share**2)
    lift: Array = np.exp(share * np.sqrt(rises) + by_chance)
    return lift


def _between(
    seen: Seen, rises: Array, own_weight: Array, share: float, spread: float
) -> float:
    """Return Σ E[a a'] over the keys that two queries both see, on average."""
    count, counts = len(rises), seen.counts
    if count < 2:
        return float(_lift(rises**2, share, spread)[0] / counts[0])
    lift = _lift(np.outer(rises, rises), share, spread)
    alike = lift * seen.overlaps / np.outer(counts, counts)
    remaining = 1 - own_weight
    # A query's own key may be among those that the other query sees.
    seen_by = (seen.first <= seen.at[:, None]) & (seen.at[:, None] < seen.last)
    own_of_one = np.outer(own_weight, remaining / counts) * seen_by
    alike = alike * np.outer(remaining, remaining) + own_of_one + own_of_one.T
    return float((alike.sum() - np.trace(alike)) / (count * (count - 1)))


def attend(
    value: Signal,
    logits: Logits,
    weights: Weights,
    shape: Shape,
    *,
    units: tuple[int, ...],
    groups: int = 1,
    heads: int = 1,
    repeats: int = 1,
    dropout: float = 0.0,
    profile_axis: int | None = None,
    scores: tuple[Signal, ...] = (),
) -> Signal:
    """Return Σ a v over keys, of the given shape.

    Args:
        value: v.
        logits, weights: of the weights a.
        shape, units: of the result.
        groups: sets of positions that do not see each other.
        heads: heads among the units, each with weights of its own.
        repeats: heads of the result that one head of v and k is repeated for.
        dropout: the share of weights that are dropped, the others being scaled up.
        profile_axis: the axis along which queries see more and more keys.
        scores: the weights before and after dropout, if these are outputs of separate
            calls.

    Source: Noci et al. 2022, "Signal propagation in transformers", for rank and
    variance under uniform weights.
    """
    keys = value.size(value.positions) / groups
    keep = 1 - dropout
    positions = math.prod(
        shape[axis] or 64 for axis in range(1, len(shape)) if axis not in units
    )
    number = math.prod(shape[axis] or 64 for axis in units)
    by_query, pairs, shift = _sums_of_a_head(value, logits, weights, keep)
    # Two positions of different groups share no key, two units perhaps a head.
    inside = (positions / groups - 1) / max(positions - 1, 1)
    same_head = (number / heads - 1) / max(number - 1, 1)
    pairs = _of_any_two(pairs, value, weights, inside, same_head)
    ratio = positions / groups / max(keys, 1)
    output = value.evolve(
        mean=value.mean + shift,
        shape=shape,
        units=units,
        pairs=pairs,
        near={},
        profile=_profile_of_queries(by_query, shape, profile_axis, pairs[0, 0, 0]),
    )
    back = _WayBack(
        value,
        logits,
        weights,
        ratio=ratio,
        many=positions / groups - 1,
        keys=keys,
        keep=keep,
        repeats=repeats,
        width=number / heads,
    )
    return output.evolve(
        parents=(
            (value, back.to_value),
            (logits.query, back.to_query),
            (logits.key, back.to_key),
        ),
        notes=tuple(
            (signal, back.to_scores(index)) for index, signal in enumerate(scores)
        ),
        measured=any(
            signal.origin.measured for signal in (value, logits.query, logits.key)
        ),
    )


def _sums_of_a_head(
    value: Signal, logits: Logits, weights: Weights, keep: float
) -> tuple[Array, Array, float]:
    """Return moments of Σ a v for one unit.

    Returns:
        The second moment of each query; the second moments of pairs of one unit (those
        of two are left open); and the mean less that of v.
    """
    pairs = np.empty((2, 2, 2))
    here, far = value.pairs[0, 0], value.pairs[0, 1]
    spread = float(here[0] - far[0])
    pairs[0] = far + (here - far) * weights.across
    by_query = far[0] + (here[0] / keep - far[0]) * weights.squares
    pairs[0, 0, 0] = by_query.mean()
    shift = spread * logits.slope * weights.free
    moved = spread * logits.tilt * weights.free**2 + 2 * value.mean * shift
    # A query's own value lies along the slope, if query and value are one tensor.
    along = weights.free * math.sqrt(max(float(logits.tilt[0, 0]), 0.0))
    moved[0, 0] += 2 * spread * weights.own_weight * along
    pairs[0] += moved
    return by_query + moved[0, 0], pairs, shift


def _of_any_two(
    pairs: Array, value: Signal, weights: Weights, inside: float, same_head: float
) -> Array:
    """Return the second moments of all pairs, from those of a unit within a group.

    Args:
        pairs: those; see `_sums_of_a_head`.
        value, weights: as in `attend`.
        inside: the share of pairs of positions that are of one group.
        same_head: the share of pairs of units that are of one head.
    """
    every = pairs.copy()
    every[0, 1] = inside * pairs[0, 1] + (1 - inside) * value.pairs[0, 1]
    alike = same_head * weights.across + (1 - same_head) * weights.even[:, None]
    every[1] = value.pairs[1, 1] + (value.pairs[1, 0] - value.pairs[1, 1]) * alike
    return every


def _profile_of_queries(
    by_query: Array, shape: Shape, axis: int | None, second: float
) -> dict[int, Array]:
    """Return the profile along the queries' axis, where they see more and more keys."""
    if axis is None or not second > 0 or not np.ptp(by_query) > 0:
        return {}
    size, queries = shape[axis], len(by_query)
    if size is None:
        return {}
    at = np.linspace(0, queries - 1, size)
    values = np.interp(at, np.arange(queries), by_query)
    return {axis: values / values.mean()}


@dataclass(frozen=True, eq=False)
class _WayBack:
    """Gradients at the inputs of attention, from the gradient at its output.

    Attributes:
        value, logits, weights: as in `attend`.
        ratio: queries of a group for each key.
        many: other queries of a group.
        keys: of a group.
        keep: the share of weights that dropout leaves.
        repeats: heads of the result that one head of v and k is repeated for.
        width: units of a head.
    """

    value: Signal
    logits: Logits
    weights: Weights
    ratio: float
    many: float
    keys: float
    keep: float
    repeats: int
    width: float

    def to_value(self, gradient: Gradient) -> Gradient:
        """Return the gradient at v."""
        squares, across = self.weights.across[0, 0], self.weights.across[1, 0]
        ratio, many = self.ratio, self.many
        second = (
            squares / self.keep * gradient.second + many * across * gradient.position
        )
        apart = max(self.keys - 1, 1)
        position = ratio * (1 - squares) * gradient.second / apart
        position += ratio * many * (1 - across) * gradient.position / apart
        at_head = Gradient(
            ratio * second, max(position, 0.0), {}, gradient.inputs * ratio
        )
        return at_head.times(self.repeats)

    def to_query(self, gradient: Gradient) -> Gradient:
        """Return the gradient at the queries."""
        return Gradient(gradient.second * self._at_logits * self.logits.to_query)

    def to_key(self, gradient: Gradient) -> Gradient:
        """Return the gradient at the keys."""
        factor = self._at_logits * self.logits.to_key * self.ratio * self.repeats
        second = gradient.second * factor
        # A softmax ignores a common shift of logits: over keys the gradient sums to 0.
        return Gradient(second, -second / max(self.keys - 1, 1))

    def to_scores(self, index: int) -> Pull:
        """Return the rule for the weights, or for those that dropout leaves (1)."""
        level = self.width * float(self.value.pairs[0, 0, 0])
        # Dropout passes the gradients of some weights only, scaled up.
        factor = level / self.keep if index == 0 else level
        return lambda gradient: Gradient(gradient.second * factor)

    @property
    def _at_logits(self) -> float:
        here, far = self.value.pairs[0, 0, 0], self.value.pairs[0, 1, 0]
        at_weights = self.width * float(here / self.keep - far)
        return at_weights * float(self.weights.slopes.mean())


def scores_signal(weights: Weights, shape: Shape, keys: int, heads: int = 1) -> Signal:
    """Return the signal of the weights themselves, of which rows sum to 1.

    Args:
        weights: their moments.
        shape: of all weights, keys last.
        keys: how many keys a row has, seen or not.
        heads: how many heads there are; they number positions, as queries do.
    """
    pairs = np.empty((2, 2, 2))
    rows = math.prod(size or 64 for size in shape[1:]) / keys
    queries = rows / heads
    counts = np.array([queries - 1, heads - 1, (heads - 1) * (queries - 1)])
    kinds = np.stack([weights.across[1], *np.repeat(weights.even[:, None], 2, axis=1)])
    pairs[0, 0] = weights.across[0] / keys
    pairs[0, 1] = counts @ kinds / max(counts.sum(), 1) / keys
    pairs[1] = (1 - keys * pairs[0]) / max(keys * (keys - 1), 1)
    return Signal(shape, (len(shape) - 1,), 1 / keys, pairs)
