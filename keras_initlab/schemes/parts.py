"""A scheme on a model that holds other models: it is applied to each separately."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from keras_initlab.model.containers import Part, is_container, parts_of
from keras_initlab.model.layers import every_place
from keras_initlab.schemes.activation import auto_choice
from keras_initlab.schemes.base import Choice, Scheme, SchemeContext, Selection


def select(scheme: Scheme, model: Any, context: SchemeContext) -> Selection:
    """Return what a scheme chooses for a model.

    For a model without a `call` (see `model.containers`), it is applied to each of the
    models inside; kernels outside of these are chosen by their activation.
    """
    if not is_container(model):
        return scheme.choose(model, context)
    paths = {id(place.layer): place.path for place in every_place(model)}
    kernels = context.kernels(recurrent=True)
    # A skipped model is not among its layers' parents when it is walked by itself.
    skipped = context.skipped | {
        id(kernel.layer)
        for kernel in kernels
        if any(id(layer) in context.skipped for layer in kernel.owners)
    }
    around = {kernel.key: kernel.parents for kernel in kernels}
    choices: dict[tuple[int, str], Choice] = {}
    lines: list[tuple[Part, Sequence[str]]] = []
    parts = parts_of(model)
    for part in parts:
        inner = SchemeContext(
            part.model,
            context.seeds.after(len(choices)),
            context.only_unbuilt,
            context.scheme,
            skipped,
        )
        selection = scheme.choose(part.model, inner)
        if not isinstance(selection, Selection) or not all(
            isinstance(choice, Choice) for choice in selection.choices
        ):
            return selection  # which is refused where all selections are
        lines.append((part, selection.assumptions))
        for choice in selection.choices:
            key, path = choice.kernel.key, paths[id(choice.kernel.layer)]
            kernel = replace(
                choice.kernel, path=path, parents=around.get(key, choice.kernel.parents)
            )
            row = replace(choice.row, layer=path)
            choices.setdefault(key, Choice(kernel, row))
    for kernel in context.kernels():
        if kernel.key not in choices:
            seed = context.seeds.at(len(choices))
            note = "in none of the models inside: by activation"
            choices[kernel.key] = auto_choice(context, kernel, seed, note)
    names = ", ".join(part.path for part in parts) or "none"
    first = (
        f"{model.name} has no call: each model in it is followed for itself: {names}"
    )
    return Selection(list(choices.values()), (first, *_merged(lines)))


def _merged(lines: Sequence[tuple[Part, Sequence[str]]]) -> list[str]:
    """Return the parts' assumptions, each that all of them make only once."""
    common = [
        line
        for line in (lines[0][1] if lines else ())
        if all(line in assumed for _, assumed in lines)
    ]
    separate = [
        f"{part.path}: {line}"
        for part, assumed in lines
        for line in assumed
        if line not in common
    ]
    return [*common, *separate]
