"""AutoScheme: the scheme that has worked best for networks of the same kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import keras

from keras_initlab.initializers import Mirrored
from keras_initlab.model.roles import NORMALISING
from keras_initlab.schemes.activation import Activation
from keras_initlab.schemes.base import Choice, Scheme, SchemeContext, Selection
from keras_initlab.schemes.isometric import Isometric
from keras_initlab.schemes.survey import Survey
from keras_initlab.schemes.variance import Variance

# Kinds of layers whose weights are used again at each step, or multiply the outputs of
# other weights.
_RECURRENT = (keras.layers.RNN,)
_ATTENTION = (
    keras.layers.MultiHeadAttention,
    keras.layers.GroupQueryAttention,
    keras.layers.Attention,
    keras.layers.AdditiveAttention,
)
# What pools all positions into one, as layers and as bare operations: by a mean, as was
# measured, and otherwise.
_AVERAGES = tuple(
    getattr(keras.layers, f"GlobalAveragePooling{rank}D") for rank in (1, 2, 3)
)
_MAXIMA = tuple(getattr(keras.layers, f"GlobalMaxPooling{rank}D") for rank in (1, 2, 3))
_AVERAGE_OPERATIONS, _OTHER_OPERATIONS = ("Mean",), ("Max", "Sum")


@dataclass(frozen=True)
class Traits:
    """What the choice depends on.

    Attributes:
        depth: the most kernels that stand one behind another, heads left out.
        normalised: whether a layer normalises the signal.
        residual: whether branches are added to a shortcut.
        attention: whether it has attention.
        averaged: whether the mean over all positions is taken.
        pooled: whether their maximum or sum is taken.
        unmeasured: a part of the network for which there are no measurements; "" if
            there is none.
    """

    depth: int = 0
    normalised: bool = False
    residual: bool = False
    attention: bool = False
    averaged: bool = False
    pooled: bool = False
    unmeasured: str = ""


def ranked(traits: Traits) -> Iterator[tuple[Scheme, str]]:
    """Yield the schemes for a network, the best first, with the reason.

    `Isometric` applies only if all kernels can come in pairs; the last always works.
    """
    layers = f"{traits.depth} layer{'s' if traits.depth != 1 else ''}"
    plain = (
        f"plain with normalisation, {layers}"
        if traits.normalised
        else f"plain, {layers}"
    )
    kind = "skips without normalisation" if traits.residual else plain
    if traits.unmeasured:
        yield Activation(), f"it has {traits.unmeasured}"
    elif traits.normalised and (traits.residual or traits.averaged or traits.pooled):
        yield Activation(), "it is normalised"
    elif traits.attention and traits.residual:
        yield Variance(), f"attention, {kind}"
    elif traits.attention:
        yield Activation(), "it has attention"
    elif traits.pooled and not traits.residual:
        yield Variance(), f"{kind}, before a maximum or sum over all positions"
    else:
        yield Isometric(), kind
        fallback = Activation() if traits.normalised else Variance()
        yield fallback, f"{kind}, not all in pairs"


def traits_of(model: Any, context: SchemeContext) -> Traits:
    """Return the traits of a model; `unmeasured` where no prediction shows them."""
    if context.only_unbuilt:
        return Traits(unmeasured="layers that are not built")
    try:
        survey = Survey(
            model, context, mean=None, variance=None, residual="scaled", recurrent=True
        )
    except ValueError:
        return Traits(unmeasured="a signal that cannot be predicted")
    calls = survey.before.propagation.flat_graph.calls
    return Traits(
        depth=_depth(survey),
        normalised=any(isinstance(call.operation, NORMALISING) for call in calls),
        residual=bool(survey.roles.branches),
        attention=_holds(survey, _ATTENTION),
        averaged=_has(calls, _AVERAGES, _AVERAGE_OPERATIONS),
        pooled=_has(calls, _MAXIMA, _OTHER_OPERATIONS),
        unmeasured=next(_unmeasured(survey), ""),
    )


def _has(calls: Any, layers: tuple[type, ...], operations: tuple[str, ...]) -> bool:
    """Whether there is a call of such a layer, or of an operation of such a name."""
    return any(
        isinstance(call.operation, layers)
        or type(call.operation).__name__ in operations
        for call in calls
    )


def _holds(survey: Survey, kinds: tuple[type, ...]) -> bool:
    """Whether a kernel is of such a layer, or inside one."""
    layers = [layer for k in survey.kernels for layer in k.owners]
    return any(isinstance(layer, kinds) for layer in layers)


def _unmeasured(survey: Survey) -> Iterator[str]:
    if _holds(survey, _RECURRENT):
        yield "recurrent layers"
    if survey.lookups:
        yield "an embedding that is trained"
    if survey.before.measured:
        yield f"a layer without a rule, {survey.before.measured[0].layer}"
    fixed = next((k for k in survey.kernels if k not in survey.free), None)
    if fixed is not None:
        yield f"a kernel that stays as it is, {fixed.path}'s"


def _depth(survey: Survey) -> int:
    """Return the longest chain of kernels in the graph, heads left out."""
    counted = [k for k in survey.kernels if k.key not in survey.roles.heads]
    keys = {kernel.key for kernel in counted}
    inside = Counter(id(owner) for k in counted for owner in k.owners)
    chain: dict[int, int] = {}
    for call in survey.before.propagation.flat_graph.calls:
        longest = max((chain.get(tensor, 0) for tensor in call.inputs), default=0)
        longest += inside[id(call.operation)] or (call.kernel in keys)
        chain.update(dict.fromkeys(call.outputs, longest))
    return max(chain.values(), default=0)


@dataclass(frozen=True)
class AutoScheme:
    """Choose the scheme that has worked best for similar networks: `scheme="auto"`.

    `Isometric` for networks without normalisation, with or without skip connections,
    and for plain networks with normalisation, if all kernels can come in pairs;
    `Variance` if they cannot, for attention with skip connections and without
    normalisation, and for plain networks that end in a maximum or sum over all
    positions; `Activation` for networks with both skip connections and normalisation,
    and for those with recurrence, embeddings, layers without a rule, or kernels that
    are left alone. In a model without a `call`, the choice is made for each model that
    it holds. The plan's notes name the choice and its reason.

    >>> import keras_initlab as il
    >>> model = keras.Sequential([keras.Input((8,)),
    ...     *[keras.layers.Dense(8, "relu") for _ in range(12)], keras.layers.Dense(2)])
    >>> plan = il.rewrite_initializers(model, scheme="auto", seed=0)
    >>> plan[-1].note
    'head; isometric: plain, 12 layers'

    Source: docs/which_scheme.md, by examples/benchmarks/convergence.py.
    """

    def choose(self, model: Any, context: SchemeContext) -> Selection:
        """Return what the chosen scheme returns; see `schemes.base.Scheme`."""
        (scheme, reason), *later = ranked(traits_of(model, context))
        selection = scheme.choose(model, context)
        if isinstance(scheme, Isometric) and not _in_pairs(selection):
            scheme, reason = later[0]
            selection = scheme.choose(model, context)
        name = type(scheme).__name__.lower()
        line = f"scheme='auto' chose {scheme!r}: {reason}"
        return Selection(
            [_noted(choice, f"{name}: {reason}") for choice in selection.choices],
            (line, *selection.assumptions),
        )


def _in_pairs(selection: Selection) -> bool:
    """Whether every kernel reads or makes pairs."""
    return all(isinstance(choice.row.after, Mirrored) for choice in selection.choices)


def _noted(choice: Choice, note: str) -> Choice:
    if not choice.row.changed:
        return choice
    text = "; ".join(filter(None, (choice.row.note, note)))
    return replace(choice, row=replace(choice.row, note=text))
