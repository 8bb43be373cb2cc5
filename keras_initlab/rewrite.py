"""Choose a model's kernel initializers anew, and set them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, TypedDict, Unpack

import keras

from keras_initlab.initializers import Auto
from keras_initlab.model.batch import inputs_of
from keras_initlab.model.containers import (
    check_has_call,
    check_is_model,
    is_container,
    parts_of,
)
from keras_initlab.model.keras_internals import PASSED_ON_INITIALIZER
from keras_initlab.model.kernels import kernels_of, unlisted_weights
from keras_initlab.model.origins import remember
from keras_initlab.plan import Plan, UnlistedWeight
from keras_initlab.plan_signals import PlanSignals, draw
from keras_initlab.propagation.batch_moments import given_by
from keras_initlab.propagation.given import Given
from keras_initlab.propagation.propagate import input_shapes, run_forward
from keras_initlab.schemes import (
    Activation,
    AutoScheme,
    Choice,
    Isometric,
    Scheme,
    SchemeContext,
    Selection,
    Variance,
)
from keras_initlab.schemes.kernels import Seeds, skipped_layers
from keras_initlab.schemes.options import (
    Criterion,
    InputMoment,
    Residual,
    SchemeName,
)
from keras_initlab.schemes.parts import select
from keras_initlab.schemes.trained import what_was_learned
from keras_initlab.words import did_you_mean

_BY_NAME: dict[str, type[Activation | Variance | Isometric | AutoScheme]] = {
    "activation": Activation,
    "variance": Variance,
    "isometric": Isometric,
    "auto": AutoScheme,
}
SCHEMES = tuple(_BY_NAME)


class SchemeOptions(TypedDict, total=False):
    """The options that may stand beside the name of a scheme: those of its class."""

    target: float
    residual: Residual
    head: float
    criterion: Criterion
    mean: InputMoment | None
    variance: InputMoment | None
    q: float | None
    theta: float | None


def rewrite_initializers(
    model: keras.Model,
    scheme: SchemeName | Scheme = "activation",
    seed: int | None = None,
    *,
    x: Any = None,
    skip: str | keras.layers.Layer | Iterable[Any] | None = None,
    only_unbuilt: bool = False,
    only_defaults: bool | None = None,
    dry_run: bool = False,
    redraw: bool = False,
    **options: Unpack[SchemeOptions],
) -> Plan:
    """Give every kernel of `model` an initializer that fits its place in the network.

    A scheme chooses them. `Activation()`, or "activation", looks at the nonlinearity
    that follows each kernel. `Variance()`, or "variance", follows the signal through
    the whole graph, and scales each kernel for the signal that reaches it.
    `Isometric()`, or "isometric", mirrors units in pairs, for plain networks of any
    depth. `AutoScheme()`, or "auto", picks the one of these that has worked best for
    networks of the same kind. Your own scheme is an object with a method `choose`: see
    `keras_initlab.schemes.Scheme`.

    The kernels of built layers are drawn again; other weights, such as biases, are not
    changed. The choice is stored in the layers' config: clones and loaded models draw
    by the same rule.

    In a model without a `call`, trained by its `train_step` (VAEs, GANs), each model
    that it holds is rewritten separately.

    Args:
        model: any Keras model, built unless `only_unbuilt`.
        scheme: "activation", "variance", "isometric", "auto", or a scheme with its
            options, such as `Variance(target=2.0)`.
        seed: an int gives every kernel its own repeatable draw; None draws afresh.
        x: a batch, as `measure` takes it: an array, a dict or list of these, a
            `tf.data.Dataset`, a `PyDataset`, a `DataLoader`, a generator. The input of
            the first trainable layers, after preprocessing and frozen layers, is then
            described by its mean, variance and correlations on the batch, instead of
            mean 0 and variance 1; tokens by how often two of them are equal.
            "activation" uses it to scale only the kernels that read this input.
        skip: layers to leave alone: a layer, its name or path ("encoder/dense"), or
            several of these. A name also covers every layer inside that one.
        only_unbuilt: leave built layers alone, as they may hold loaded weights; not for
            "variance" and "isometric".
        only_defaults: True rewrites only kernels with the default initializer of their
            layer's class, and leaves those that somebody has chosen. None, the default,
            leaves alone initializers from outside Keras and this package, and heads
            that were given far less than the usual variance; False rewrites these as
            well. The plan names each. Initializers of Keras that were chosen, such as
            "he_normal", are rewritten unless it is True: a choice that is sound layer
            by layer may not be at depth, and `Isometric` needs every kernel.
        dry_run: only return the plan, and change nothing.
        redraw: do not warn if the model was trained or was given weights, which are
            then lost.
        **options: those of a scheme that is given by its name:
            `scheme="variance", target=2.0` is `scheme=Variance(target=2.0)`.
            `target`, `head` and `criterion` belong to `Variance`, `q` and `theta` to
            `Isometric`, `residual`, `mean` and `variance` to both.

    Returns:
        A `Plan` with a row for each kernel; print it. Weights with which your own
        layers multiply their input are kernels, too; `plan.unlisted` names the other
        weights of two or more axes, with the reason. Frozen kernels (`trainable=False`,
        or under LoRA) are left alone, as are quantised ones, and those that start at 0
        while a residual path or a bias carries the signal around them: see the notes. A
        compiled model's optimizer keeps its state: compile again before training anew.

    Raises:
        TypeError: `model` is not a Keras model, `scheme` is not a scheme, `seed` is not
            an int, or no scheme has an option of this name.
        ValueError: an unknown scheme or option; a name in `skip` that no layer has; an
            `x` that does not fit, is not finite, or is 0 everywhere; `x` together with
            `mean` or `variance`; a model that is not built; a layer whose signal cannot
            be predicted. The model is then unchanged.

    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(64),
    ...     keras.layers.BatchNormalization(), keras.layers.ReLU(),
    ...     keras.layers.Dense(10, activation="softmax")])
    >>> plan = rewrite_initializers(model, seed=0)
    >>> [(row.nonlinearity, row.fan_in, round(row.gain, 3)) for row in plan]
    [('relu', 20.0, 1.414), ('softmax', 64.0, 1.0)]
    >>> plan = rewrite_initializers(model, scheme=Variance(target=4.0), seed=0)
    >>> [round(row.gain, 3) for row in plan]
    [2.0, 1.414]

    Source: He et al. 2015; Glorot & Bengio 2010; Bingham & Miikkulainen 2023 for
    following a graph; Zhang et al. 2019 for residual branches; Balduzzi et al. 2017 for
    mirrored units; see `initlab>auto` and `initlab>mirrored`.
    """
    check_is_model(model)
    chooser = _scheme_of(scheme, dict(options))
    _check_built(model, only_unbuilt)
    if only_defaults not in (None, True, False):
        raise TypeError(
            "`only_defaults` must be True, False or None. Received: "
            f"only_defaults={only_defaults!r} of type {type(only_defaults).__name__}. "
            "Leave it out for None."
        )
    seeds = Seeds(seed)
    skipped = skipped_layers(model, kernels_of(model), skip)
    given = None if x is None else _given_by(model, x, chooser, only_unbuilt)
    context = SchemeContext(
        model, seeds, only_unbuilt, scheme, skipped, only_defaults, given
    )
    selection = select(chooser, model, context)
    _check_selection(selection, scheme, context)
    if not dry_run:
        if not redraw:
            _warn_if_trained(model, selection.choices)
        _apply(selection.choices, seeds)
    changed = [choice for choice in selection.choices if choice.row.changed]
    mean, variance = (getattr(chooser, name, None) for name in ("mean", "variance"))
    return Plan(
        [choice.row for choice in selection.choices],
        model=model.name,
        applied=not dry_run,
        assumptions=selection.assumptions,
        unlisted=_unlisted(model, selection),
        measured=() if given is None else given.lines,
        inputs=() if given is None else given.records,
        signals=PlanSignals(model, changed, mean, variance, given),
    )


def _given_by(model: Any, x: Any, chooser: Scheme, only_unbuilt: bool) -> Given:
    """Return the moments of the inputs on a batch, or refuse the batch."""
    check_has_call(model, "Rewrite each by itself: rewrite_initializers(model.encoder)")
    if only_unbuilt:
        raise ValueError(
            "`x` needs a model that is built, so that its layers can be called. "
            "Received: x with only_unbuilt=True. Leave out one of them."
        )
    for name in ("mean", "variance"):
        if getattr(chooser, name, None) is not None:
            raise ValueError(
                "`x` measures the moments of the inputs, which `mean` and `variance` "
                f"state. Received: x and {name}={getattr(chooser, name)!r}. Leave out "
                "one of them."
            )
    batch = inputs_of(x)
    graph = run_forward(model).propagation.flat_graph
    return given_by(model, graph, input_shapes(model), batch)


def _unlisted(model: keras.Model, selection: Selection) -> list[UnlistedWeight]:
    """Return the weights of several axes that have no row."""
    listed = {choice.kernel.key for choice in selection.choices}
    return [UnlistedWeight(*weight) for weight in unlisted_weights(model, listed)]


def _scheme_of(scheme: Any, options: dict[str, Any]) -> Scheme:
    """Return a scheme, given as an object or by its name and options."""
    if isinstance(scheme, str):
        if scheme not in _BY_NAME:
            raise ValueError(
                f"`scheme` must be {' or '.join(map(repr, SCHEMES))}. "
                f"Received: scheme={scheme!r}.{did_you_mean(scheme, SCHEMES)} Leave it "
                "out for the default."
            )
        accepted = {
            name: value
            for name, value in options.items()
            if _belongs(name, value, scheme)
        }
        return _BY_NAME[scheme](**accepted)
    if isinstance(scheme, type) or not isinstance(scheme, Scheme):
        mend = "Pass one of these names"
        if hasattr(scheme, "choose"):
            mend = f"Pass an object, {scheme.__name__}(), instead of its class"
        raise TypeError(
            f"`scheme` must be {', '.join(map(repr, SCHEMES))} or an object with a "
            f"method `choose`. Received: scheme={scheme!r} of type "
            f"{type(scheme).__name__}. {mend}."
        )
    if options:
        listed = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise ValueError(
            "Options beside `scheme` go with the name of a scheme; an object holds its "
            f"own. Received: {listed} with scheme={scheme!r}. Give them to "
            f"{type(scheme).__name__}."
        )
    return scheme


def _belongs(name: str, value: Any, scheme: str) -> bool:
    """Return whether an option is the scheme's; refuse it if it asks for another's."""
    defaults = {
        owner: field.default
        for owner, kind in _BY_NAME.items()
        for field in dataclasses.fields(kind)
        if field.name == name
    }
    if not defaults:
        raise TypeError(
            f"An option must be one of {', '.join(SchemeOptions.__annotations__)}. "
            f"Received: {name}={value!r}."
            f"{did_you_mean(name, SchemeOptions.__annotations__)} Leave it out."
        )
    if scheme in defaults:
        return True
    is_plain = value is None or isinstance(value, int | float | str)
    if not is_plain or value not in defaults.values():
        wanted = " or ".join(f"scheme={owner!r}" for owner in defaults)
        raise ValueError(
            f"`{name}` belongs to {wanted}. Received: {name}={value!r} with "
            f"scheme={scheme!r}. Leave it out, or pass {wanted}."
        )
    return False


def _check_selection(selection: Any, scheme: Any, context: SchemeContext) -> None:
    """Refuse what a scheme must not return, before anything is changed."""
    if not isinstance(selection, Selection) or not all(
        isinstance(choice, Choice) for choice in selection.choices
    ):
        raise TypeError(
            "A scheme's `choose` must return a Selection of what `context.choice` "
            f"returns. Received: {selection!r} from {scheme!r}. See "
            "keras_initlab.schemes.Scheme."
        )
    for choice in selection.choices:
        reason = context.reason_to_leave(choice.kernel)
        if choice.row.changed and reason is not None:
            raise ValueError(
                "A scheme must leave frozen, skipped and kept kernels alone. Received: "
                f"{choice.row.after!r} for {choice.row.layer!r}, {reason}, from "
                f"{scheme!r}. Let `context.choice` make the row."
            )


def _check_built(model: Any, only_unbuilt: bool) -> None:
    if only_unbuilt:
        return
    for part in parts_of(model):
        _check_weights(part.model, part.path)
    if is_container(model):
        missing = [k.path for k in kernels_of(model) if not k.layer.built]
        if missing:
            raise ValueError(
                "All layers that a model without a call holds must be built. Received: "
                f"{model.name!r}, whose {missing[0]!r} is not. Call it on a batch, or "
                "pass only_unbuilt=True to set initializers that draw when it is built."
            )


def _check_weights(model: Any, path: str) -> None:
    # Keras marks a subclassed model as built by `build` without making a weight.
    hollow = not model.weights and any(not k.layer.built for k in kernels_of(model))
    if not model.built or hollow:
        how = (
            "Call model.build(input_shape) or the model on a batch"
            if isinstance(model, keras.Sequential)
            else "Call the model on a batch"
        )
        raise ValueError(
            f"`model{'.' if path else ''}{path.replace('/', '.')}` must be built, so "
            f"that its kernels have shapes. Received: {type(model).__name__} "
            f"{model.name!r}, not built. {how} first, or pass only_unbuilt=True to set "
            "initializers that draw when it is built."
        )


def _warn_if_trained(model: keras.Model, choices: Sequence[Choice]) -> None:
    """Warn if trained weights are about to be drawn again."""
    lost = [c for c in choices if c.row.changed and c.kernel.variable is not None]
    learned = what_was_learned(model) if lost else None
    if learned is not None:
        warnings.warn(
            f"rewrite_initializers draws {len(lost)} kernels of {model.name!r} anew, "
            f"and what they have learned is lost: {learned}. Name layers to leave "
            "alone in `skip`, or pass redraw=True if that is meant.",
            stacklevel=3,
        )


def _apply(choices: Sequence[Choice], seeds: Seeds) -> None:
    changed = [choice for choice in choices if choice.row.changed]
    for index, choice in enumerate(changed):
        kernel, after = choice.kernel, choice.row.after
        if kernel.variable is not None:
            kernel.variable.assign(draw(choice, index, after))
        if kernel.attribute is not None:  # an own layer may keep no initializer
            setattr(kernel.layer, kernel.attribute, after)
        if kernel.is_own:
            remember(kernel.layer, kernel.weight, kernel.attribute, after)
    _pass_on(choices, seeds)


def _pass_on(choices: Sequence[Choice], seeds: Seeds) -> None:
    """Set the initializer of layers that pass theirs on to the layers inside them.

    An attention layer's config holds one initializer, from which a clone makes its
    inner layers. If all of these were rewritten, it becomes an `Auto`, which applies
    the same rule to each of them.
    """
    parents = {id(p): p for choice in choices for p in choice.kernel.around}
    for number, parent in enumerate(parents.values()):
        inside = [
            choice.row.changed
            for choice in choices
            if any(parent is around for around in choice.kernel.parents)
        ]
        for attribute in ("kernel_initializer", PASSED_ON_INITIALIZER):
            if attribute in vars(parent) and all(inside):
                seed = seeds.at(len(choices) + number)
                setattr(parent, attribute, Auto(seed=seed))
