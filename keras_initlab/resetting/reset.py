"""reset_weights: draw a model's weights again, in place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from keras_initlab.initializers.base import checked_seed
from keras_initlab.model.containers import check_is_model
from keras_initlab.model.keras_internals import (
    inner_optimizer,
    optimized_variables,
    own_variables,
)
from keras_initlab.model.layers import Place, every_place
from keras_initlab.resetting.draws import Draws
from keras_initlab.resetting.record import Reset
from keras_initlab.words import nearest


def reset_weights(
    model: keras.Model,
    seed: int | None = None,
    layers: str | keras.layers.Layer | Iterable[Any] | None = None,
    optimizer: bool = False,
) -> Reset:
    """Draw every weight of `model` again from its own initializer, in place.

    The variables stay the same objects, and a compiled model stays compiled: nothing
    is traced again. Moving statistics start anew, too, and so do the random streams of
    dropout and augmentation (but under PyTorch, a Dropout without a seed draws from
    PyTorch's own stream, which is not reset). Use it in loops over seeds or folds: it
    saves the time and memory of a new model for each.

    These are left as they are, and named in the result:

    - frozen layers (`trainable=False`), unless `layers` names them;
    - quantised layers, and those with LoRA, which hold trained weights;
    - the moments to which a `Normalization` was adapted, unless `layers` names it.

    Args:
        model: a built Keras model, of any kind.
        seed: an int gives every weight a repeatable draw of its own, whatever seed its
            initializer was given. With None weights are drawn as in a new model of the
            same config: initializers with their own seed repeat their draw, all others
            draw anew.
        layers: what to reset instead of everything: a layer, its name or path
            ("encoder/dense"), or several of these. A name also covers every layer
            inside that one.
        optimizer: whether to reset the state of the model's optimizers (moments,
            velocities, step counts) and the metrics as well. The learning rate is not
            changed.

    Returns:
        A `Reset` with a row for each weight; print it.

    Raises:
        TypeError: `model` is not a Keras model, `seed` is not an int, or `layers` holds
            something else.
        ValueError: the model is not built; a name in `layers` that no layer has; a
            named layer that cannot be reset; a weight whose initializer cannot be
            found; an initializer that fails. The model is then unchanged.

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> _ = reset_weights(model, seed=0)
    >>> first = model.get_weights()
    >>> model.set_weights([10 + weight for weight in first])
    >>> reset = reset_weights(model, seed=0)
    >>> bool((model.get_weights()[0] == first[0]).all())
    True
    >>> [(row.weight, type(row.initializer).__name__) for row in reset]
    [('kernel', 'GlorotUniform'), ('bias', 'Zeros')]
    """
    _check_model(model)
    seed = checked_seed(seed)
    if optimizer not in (True, False):
        raise TypeError(
            "`optimizer` must be True or False. Received: "
            f"optimizer={optimizer!r} of type {type(optimizer).__name__}. The model's "
            "own optimizers are meant."
        )
    places = _places_of(model)
    named = None if layers is None else _named(model, places, layers)
    draws = Draws(places, named, seed)
    slots = _slots(model) if optimizer else []
    for variable, value in (*draws.values, *slots):
        variable.assign(value)
    for layer in draws.unadapted:
        layer.finalize_state()
    if optimizer:
        model.reset_metrics()
    return Reset(draws.rows, model=model.name)


def _check_model(model: Any) -> None:
    check_is_model(model)
    hollow = not any(own_variables(place.layer) for place in _places_of(model))
    unbuilt = hollow and any(not place.layer.built for place in every_place(model))
    if not model.built or unbuilt:
        raise ValueError(
            "`model` must be built, so that it has weights to draw. Received: "
            f"{type(model).__name__} {model.name!r}, not built. Call it on a batch, or "
            "model.build(input_shape), first."
        )


def _places_of(model: Any) -> list[Place]:
    """Return the places of the model itself, under its name, and of all its layers."""
    return [Place(model, model.name, False, ()), *every_place(model)]


def _named(model: Any, places: list[Place], layers: Any) -> dict[int, bool]:
    """Return the ids of the layers to reset; the value says that one is named itself.

    Layers inside a named one are in it with False; of those that are frozen, only what
    a frozen named one holds.
    """
    single = isinstance(layers, str) or not isinstance(layers, Iterable)
    listed = [layers] if single else list(layers)
    named: dict[int, bool] = {}
    if not listed:
        raise ValueError(
            f"`layers` must name a layer or more. Received: layers={layers!r}. Leave "
            "it out to reset all."
        )
    for entry in listed:
        owners = [place for place in places if _is_meant(entry, place)]
        if not owners:
            raise _no_layer(model, places, entry)
        if not all(owner.layer.built for owner in owners):
            raise ValueError(
                "`layers` must name layers that are built, so that they have weights. "
                f"Received: {entry!r}, which was never called. Leave it out: its first "
                "call draws its weights."
            )
        for owner in owners:
            named[id(owner.layer)] = True
            for place in places:
                if any(owner.layer is around for around in place.parents):
                    frozen = not owner.layer.trainable
                    if frozen or place.layer.trainable:
                        named.setdefault(id(place.layer), False)
    return named


def _is_meant(entry: Any, place: Place) -> bool:
    if not isinstance(entry, str):
        return entry is place.layer
    return entry.partition("#")[0] in (place.layer.name, place.path)


def _no_layer(model: Any, places: list[Place], entry: Any) -> Exception:
    names = list(dict.fromkeys(place.path for place in places[1:]))
    if not isinstance(entry, str | keras.layers.Layer):
        return TypeError(
            "`layers` must name layers of the model: their names or paths, or the "
            f"layers themselves. Received: {entry!r} of type {type(entry).__name__}. "
            f"Pass for example layers={names[:1]}."
        )
    name = entry if isinstance(entry, str) else entry.name
    short = {path.rpartition("/")[2]: path for path in names}
    near = nearest(name, names, 3, 0.4)
    near = near or [short[last] for last in nearest(name, short, 3, 0.4)]
    listed = ", ".join(map(repr, near or names[:8])) or "none"
    lead = "The nearest names" if near else "Its layers"
    return ValueError(
        f"`layers` must name layers of {model.name!r}. Received: {entry!r}. {lead}: "
        f"{listed}."
    )


def _slots(model: Any) -> list[tuple[Any, Any]]:
    """Return the variables of a model's optimizers, with the values they start from."""
    held = vars(model).values()
    kind = keras.optimizers.Optimizer
    optimizers = {id(value): value for value in held if isinstance(value, kind)}
    pairs: list[tuple[Any, Any]] = []
    for optimizer in optimizers.values():
        if not inner_optimizer(optimizer).built:
            continue
        twin = type(optimizer).from_config(optimizer.get_config())
        twin.build(optimized_variables(optimizer))
        for variable, first in zip(optimizer.variables, twin.variables, strict=True):
            pairs.append((variable, first.value))
    return pairs
