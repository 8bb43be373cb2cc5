"""Attention layers: logits from queries and keys, and sums of values."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from keras.layers import Layer

from keras_initlab import activations
from keras_initlab.model.keras_internals import (
    AttentionParts,
    attention_parts,
    computes_attention_as,
)
from keras_initlab.propagation.algebra.attention import (
    Logits,
    Weights,
    attend,
    scores_signal,
    seen_keys,
    weights_of,
)
from keras_initlab.propagation.algebra.elementwise import function_of
from keras_initlab.propagation.algebra.hermite import correlated, expansion
from keras_initlab.propagation.algebra.normalization import ONES
from keras_initlab.propagation.algebra.sums import multiply
from keras_initlab.propagation.context import RuleContext, UnknownLayer
from keras_initlab.propagation.dispatch import layer_rule
from keras_initlab.propagation.signal import Array, Signal, Signals
from keras_initlab.propagation.weights.moments import WeightMoments

_HEADED = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)


@dataclass(frozen=True)
class _Heads:
    """How an attention layer divides its units among heads.

    Attributes:
        axes: those along which queries, and keys, are numbered.
        depth, width: units of a key, and of a value, for each head.
        number: of heads of queries.
        repeats: heads of queries that share keys and values.
    """

    axes: tuple[int, ...]
    depth: int
    width: int
    number: int
    repeats: int = 1


@layer_rule("MultiHeadAttention")
def multi_head_attention(layer: Layer, *_: Signal, context: RuleContext) -> Signals:
    """Return the signal after attention by heads.

    Weights count as drawn independently and inputs of one position as Gaussian. Masks
    are ignored but for the causal one and the sliding window.
    """
    axes = tuple(layer.attention_axes)
    heads = _Heads(axes, layer.key_dim, layer.value_dim, layer.num_heads)
    return _attention(layer, heads, context)


@layer_rule("GroupQueryAttention")
def group_query_attention(layer: Layer, *_: Signal, context: RuleContext) -> Signals:
    """Return the signal after attention whose heads share keys and values."""
    depth, number = layer.head_dim, layer.num_query_heads
    heads = _Heads((1,), depth, depth, number, layer.num_repeats)
    return _attention(layer, heads, context)


def _inputs(context: RuleContext) -> tuple[Signal, Signal, Signal]:
    """Return query, value and key as they are passed, by place or by name."""
    args, named = context.arguments
    inputs = dict(zip(("query", "value", "key"), args, strict=False)) | named
    value = inputs["value"]
    key = inputs.get("key")
    return inputs["query"], value, value if key is None else key


def _attention(layer: Layer, heads: _Heads, context: RuleContext) -> Signals:
    if not computes_attention_as(layer, *_HEADED):
        raise UnknownLayer(type(layer).__name__)  # weighs values in a way of its own
    parts = attention_parts(layer)
    query, value, key = _inputs(context)
    # In the order in which Keras runs them.
    gate = None if parts.gate is None else context.call(parts.gate, query)
    q = context.call(parts.query, query)
    k = context.call(parts.key, key)
    v = context.call(parts.value, value)
    sources = key.size((len(key.shape) - 1,))
    logits = Logits(
        _dot_pairs(q, k, heads.depth) / heads.depth,
        q,
        k,
        to_query=_apart(k) / heads.depth,
        to_key=q.second / heads.depth,
        spread=2 / heads.depth + 2 / sources,
        tilt=q.pairs[0] * (_apart(k) / sources if value is key else 0.0),
    )
    named = context.arguments[1]
    single = len(heads.axes) == 1
    seen = seen_keys(
        query.size(heads.axes),
        value.size(heads.axes),
        causal=bool(named.get("use_causal_mask", False)) and single,
        window=parts.window if single else None,
    )
    weights = weights_of(logits, seen)
    with_scores = bool(named.get("return_attention_scores", False))
    scores: tuple[Signal, ...] = ()
    if with_scores or layer.dropout > 0 or len(q.shape) != 4:
        # Only then does Keras not use a single operation for everything.
        scores = _scores(layer, parts, weights, query, value, heads, context)
    rank = len(query.shape)
    out = attend(
        v,
        logits,
        weights,
        (*query.shape[:-1], heads.number, heads.width),
        units=(rank - 1, rank),
        groups=query.size(query.axes[:-1]) // query.size(heads.axes),
        heads=heads.number,
        repeats=heads.repeats,
        dropout=float(layer.dropout) if context.training else 0.0,
        profile_axis=heads.axes[0] if single else None,
        scores=scores,
    )
    if gate is not None:
        out = multiply(out, gate)
    output = context.call(parts.output, out)
    return (output, scores[0]) if with_scores else output


def _dot_pairs(q: Signal, k: Signal, depth: int) -> Array:
    """Return the covariance over keys of Σ q k, for two queries."""
    covariance: Array = depth * q.pairs[0] * (k.pairs[0, 0] - k.pairs[0, 1])
    return covariance


def _apart(k: Signal) -> float:
    """Return the variance between two keys."""
    return max(0.0, float(k.pairs[0, 0, 0] - k.pairs[0, 1, 0]))


def _scores(
    layer: Layer,
    parts: AttentionParts,
    weights: Weights,
    query: Signal,
    value: Signal,
    heads: _Heads,
    context: RuleContext,
) -> tuple[Signal, ...]:
    """Return the weights as signals, recorded as the calls that make them."""
    axes = heads.axes
    free = tuple(query.shape[axis] for axis in query.axes[:-1] if axis not in axes)
    shape = (
        query.shape[0],
        *free,
        heads.number,
        *(query.shape[axis] for axis in axes),
        *(value.shape[axis] for axis in axes),
    )
    scores = scores_signal(weights, shape, value.size(axes), heads.number)
    context.note(parts.softmax, scores)
    if layer.dropout > 0:
        return scores, context.call(parts.dropout, scores)
    return (scores,)


@layer_rule("Attention")
def attention(layer: Layer, *_: Signal, context: RuleContext) -> Signals:
    """Return the signal after attention without kernels."""
    query, value, key = _listed(context)
    scale = context.weight(layer, "scale") if layer.use_scale else ONES
    if layer.score_mode == "concat":
        outer = context.weight(layer, "concat_score_weight")
        logits = _additive(query, value, key, outer, scale.mean)
        return _bare(layer, logits, value, context)
    depth = query.size((len(query.shape) - 1,))
    square, alike = scale.second_moment, value is key
    logits = Logits(
        _dot_pairs(query, key, depth) * square,
        query,
        key,
        to_query=_apart(key) * square,
        to_key=query.second * square,
        spread=2 / depth,
        own_logit=depth * scale.mean * _apart(key) if query is key else 0.0,
        tilt=query.pairs[0] * square * _apart(key) * alike,
        slope=scale.mean * query.mean * alike,
    )
    return _bare(layer, logits, value, context)


@layer_rule("AdditiveAttention")
def additive_attention(layer: Layer, *_: Signal, context: RuleContext) -> Signals:
    """Return the signal after attention by Σ w tanh(q + k)."""
    query, value, key = _listed(context)
    scale = context.weight(layer, "scale") if layer.use_scale else ONES
    return _bare(layer, _additive(query, value, key, scale, 1.0), value, context)


def _listed(context: RuleContext) -> tuple[Signal, Signal, Signal]:
    args, named = context.arguments
    inputs = list(args[0] if args else named["inputs"])
    return inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else inputs[1]


def _additive(
    query: Signal, value: Signal, key: Signal, outer: WeightMoments, inner: float
) -> Logits:
    """Return the logits w Σ tanh(c (q + k)), w of moments `outer` and c `inner`."""
    depth = query.size((len(query.shape) - 1,))
    variance = max(inner**2 * (query.variance + key.variance), 1e-300)
    mean = np.array([inner * (query.mean + key.mean)])
    tanh = expansion(function_of(activations.resolve("tanh")), mean, variance)
    values = tanh.coefficients[0] ** 2
    slopes = values[1:] * np.arange(1, len(values)) / variance

    def alike(powers: Array, place: int) -> Array:
        """E[f(q + k) f(q' + k')] of the same key, or of another (`place` = 1)."""
        both = query.pairs[0] - query.mean**2 + key.pairs[0, place] - key.mean**2
        return correlated(inner**2 * both / variance, powers)

    slope, square = float(tanh.slope_second[0]), outer.second_moment * inner**2
    direction = alike(slopes, 1)
    return Logits(
        outer.second_moment * depth * (alike(values, 0) - alike(values, 1)),
        query,
        key,
        to_query=square * max(0.0, slope - float(direction[0, 0])),
        to_key=square * slope,
        tilt=square * direction * _apart(key) * (value is key),
        slope=outer.mean * inner * float(tanh.slope_mean[0]) * (value is key),
    )


def _bare(layer: Layer, logits: Logits, value: Signal, context: RuleContext) -> Signals:
    named = context.arguments[1]
    query = logits.query
    last = len(query.shape) - 1
    axis = last - 1
    keys = value.size((axis,))
    seen = seen_keys(
        query.size((axis,)), keys, causal=bool(named.get("use_causal_mask", False))
    )
    weights = weights_of(logits, seen)
    rate = float(layer.dropout) if context.training else 0.0
    scores = scores_signal(weights, (*query.shape[:-1], value.shape[axis]), keys)
    with_scores = bool(named.get("return_attention_scores", False))
    output = attend(
        value.with_units((last,)),
        logits,
        weights,
        (*query.shape[:-1], value.shape[-1]),
        units=(last,),
        groups=query.size(query.axes[:-1]) // query.size((axis,)),
        dropout=rate,
        profile_axis=axis,
        scores=(scores,) if with_scores else (),
    )
    return (output, scores) if with_scores else output
