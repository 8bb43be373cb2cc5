"""Attention layers: logits from queries and keys, and sums of values."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras.layers import Layer

from keras_initlab import activations
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
from keras_initlab.propagation.signal import Array, Signal
from keras_initlab.propagation.weights.moments import WeightMoments

_HEADED = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)


@layer_rule("MultiHeadAttention")
def multi_head_attention(layer: Layer, *_: Signal, context: RuleContext) -> Any:
    """Return the signal behind attention by heads.

    Weights count as drawn independently and inputs of one position as Gaussian. Masks
    are ignored but for the causal one and the sliding window.
    """
    query, value, key = _inputs(context)
    axes = tuple(layer.attention_axes)
    return _attention(
        layer,
        (query, value, key),
        context,
        axes=axes,
        depth=layer.key_dim,
        width=layer.value_dim,
        heads=layer.num_heads,
        window=getattr(layer, "_sliding_window", None),
        gated=getattr(layer, "_use_gate", False),
    )


@layer_rule("GroupQueryAttention")
def group_query_attention(layer: Layer, *_: Signal, context: RuleContext) -> Any:
    """Return the signal behind attention whose heads share keys and values."""
    return _attention(
        layer,
        _inputs(context),
        context,
        axes=(1,),
        depth=layer.head_dim,
        width=layer.head_dim,
        heads=layer.num_query_heads,
        repeats=layer.num_repeats,
        window=getattr(layer, "sliding_window", None),
        gated=getattr(layer, "use_gate", False),
    )


def _inputs(context: RuleContext) -> tuple[Signal, Signal, Signal]:
    """Return query, value and key as they are passed, by place or by name."""
    args, named = context.arguments
    found = dict(zip(("query", "value", "key"), args, strict=False)) | named
    value = found["value"]
    key = found.get("key")
    return found["query"], value, value if key is None else key


def _attention(
    layer: Layer,
    inputs: tuple[Signal, Signal, Signal],
    context: RuleContext,
    *,
    axes: tuple[int, ...],
    depth: int,
    width: int,
    heads: int,
    window: int | None,
    gated: bool,
    repeats: int = 1,
) -> Any:
    if not any(
        type(layer)._compute_attention is known._compute_attention for known in _HEADED
    ):
        raise UnknownLayer(type(layer).__name__)  # weighs values in a way of its own
    query, value, key = inputs
    named = context.arguments[1]
    # In the order in which Keras runs them.
    gate = context.call(layer._gate_dense, query) if gated else None
    q = context.call(layer._query_dense, query)
    k = context.call(layer._key_dense, key)
    v = context.call(layer._value_dense, value)
    sources = key.size((len(key.shape) - 1,))
    logits = Logits(
        _dot_pairs(q, k, depth) / depth,
        q,
        k,
        to_query=_apart(k) / depth,
        to_key=q.second / depth,
        spread=2 / depth + 2 / sources,
        tilt=q.pairs[0] * (_apart(k) / sources if value is key else 0.0),
    )
    causal = bool(named.get("use_causal_mask", False))
    single = len(axes) == 1
    seen = seen_keys(
        query.size(axes),
        value.size(axes),
        causal=causal and single,
        window=window if single else None,
    )
    weights = weights_of(logits, seen)
    rate = float(layer.dropout) if context.training else 0.0
    asked = bool(named.get("return_attention_scores", False))
    scores: tuple[Signal, ...] = ()
    if asked or layer.dropout > 0 or len(q.shape) != 4:
        # Only then does Keras not leave it all to one operation.
        scores = _scores(layer, weights, query, value, axes, heads, context)
    rank = len(query.shape)
    out = attend(
        v,
        logits,
        weights,
        (*query.shape[:-1], heads, width),
        units=(rank - 1, rank),
        groups=query.size(query.axes[:-1]) // query.size(axes),
        heads=heads,
        repeats=repeats,
        dropout=rate,
        profile_axis=axes[0] if single else None,
        scores=scores,
    )
    if gate is not None:
        out = multiply(out, gate)
    made = context.call(layer._output_dense, out)
    return (made, scores[0]) if asked else made


def _dot_pairs(q: Signal, k: Signal, depth: int) -> Array:
    """Return the covariance over keys of Σ q k, for two queries."""
    found: Array = depth * q.pairs[0] * (k.pairs[0, 0] - k.pairs[0, 1])
    return found


def _apart(k: Signal) -> float:
    """Return what differs between two keys, squared."""
    return max(0.0, float(k.pairs[0, 0, 0] - k.pairs[0, 1, 0]))


def _scores(
    layer: Layer,
    weights: Weights,
    query: Signal,
    value: Signal,
    axes: tuple[int, ...],
    heads: int,
    context: RuleContext,
) -> tuple[Signal, ...]:
    """Return the weights as signals, recorded as the calls that make them."""
    free = tuple(query.shape[axis] for axis in query.axes[:-1] if axis not in axes)
    shape = (
        query.shape[0],
        *free,
        heads,
        *(query.shape[axis] for axis in axes),
        *(value.shape[axis] for axis in axes),
    )
    made = scores_signal(weights, shape, value.size(axes), heads)
    context.note(layer._softmax, made)
    if layer.dropout > 0:
        return made, context.call(layer._dropout_layer, made)
    return (made,)


@layer_rule("Attention")
def attention(layer: Layer, *_: Signal, context: RuleContext) -> Any:
    """Return the signal behind attention without kernels."""
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
        own=depth * scale.mean * _apart(key) if query is key else 0.0,
        tilt=query.pairs[0] * square * _apart(key) * alike,
        slope=scale.mean * query.mean * alike,
    )
    return _bare(layer, logits, value, context)


@layer_rule("AdditiveAttention")
def additive_attention(layer: Layer, *_: Signal, context: RuleContext) -> Any:
    """Return the signal behind attention by Σ w tanh(q + k)."""
    query, value, key = _listed(context)
    scale = context.weight(layer, "scale") if layer.use_scale else ONES
    return _bare(layer, _additive(query, value, key, scale, 1.0), value, context)


def _listed(context: RuleContext) -> tuple[Signal, Signal, Signal]:
    args, named = context.arguments
    given = list(args[0] if args else named["inputs"])
    return given[0], given[1], given[2] if len(given) > 2 else given[1]


def _additive(
    query: Signal, value: Signal, key: Signal, outer: WeightMoments, inner: float
) -> Logits:
    """Return the logits w Σ tanh(c (q + k)), w of moments `outer` and c `inner`."""
    depth = query.size((len(query.shape) - 1,))
    variance = max(inner**2 * (query.variance + key.variance), 1e-300)
    mean = np.array([inner * (query.mean + key.mean)])
    found = expansion(function_of(activations.resolve("tanh")), mean, variance)
    values = found.coefficients[0] ** 2
    slopes = values[1:] * np.arange(1, len(values)) / variance

    def alike(powers: Array, place: int) -> Array:
        """E[f(q + k) f(q' + k')] of the same key, or of another (`place` = 1)."""
        both = query.pairs[0] - query.mean**2 + key.pairs[0, place] - key.mean**2
        return correlated(inner**2 * both / variance, powers)

    slope, square = float(found.slope_second[0]), outer.second_moment * inner**2
    direction = alike(slopes, 1)
    return Logits(
        outer.second_moment * depth * (alike(values, 0) - alike(values, 1)),
        query,
        key,
        to_query=square * max(0.0, slope - float(direction[0, 0])),
        to_key=square * slope,
        tilt=square * direction * _apart(key) * (value is key),
        slope=outer.mean * inner * float(found.slope_mean[0]) * (value is key),
    )


def _bare(layer: Layer, logits: Logits, value: Signal, context: RuleContext) -> Any:
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
    asked = bool(named.get("return_attention_scores", False))
    made = attend(
        value.with_units((last,)),
        logits,
        weights,
        (*query.shape[:-1], value.shape[-1]),
        units=(last,),
        groups=query.size(query.axes[:-1]) // query.size((axis,)),
        dropout=rate,
        profile_axis=axis,
        scores=(scores,) if asked else (),
    )
    return (made, scores) if asked else made
