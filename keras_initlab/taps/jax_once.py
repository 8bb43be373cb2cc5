"""A pass and its gradients on JAX: taps whose backward rule keeps what it is given.

The rule is the identity, and is called as plain Python where `jax.vjp` goes back, once
a tap; where nothing flows back to a tap, it is not called at all. JAX's documentation
looks at gradients in a debugger in the same way ("Custom derivative rules").
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp


@contextmanager
def isolated(model: Any, gradients: bool) -> Iterator[None]:
    """Keep what Keras's stateless scope does not keep: nothing here."""
    # Within `fit` the variables are empty, and their values with the trainer.
    model.jax_state_sync()
    yield


def differentiate(
    forward: Callable[..., list[Any]],
    x: Any,
    variables: Sequence[Any],
    weights: Sequence[Any],
    cotangents: Callable[[list[Any]], list[Any]] | None,
) -> tuple[list[tuple[Any, Any | None]], list[Any | None]]:
    """As `once` asks for it, compiled where that is possible.

    Operations compiled one by one take several times as long as all of them at once.
    But a model whose Python looks at values, or draws without a seed, only runs so.
    """
    run = functools.partial(_passed, forward, variables, weights, cotangents)
    values = [variable.value for variable in variables]
    try:
        taken, gradients = jax.jit(run)(x, values)
    except Exception:
        # If the model is in error, this will say so in its own words.
        taken, gradients = run(x, values)
    found = [(one, gradients.get(i)) for i, one in enumerate(taken, len(weights))]
    return found, [gradients.get(i) for i in range(len(weights))]


def _passed(
    forward: Callable[..., list[Any]],
    variables: Sequence[Any],
    weights: Sequence[Any],
    cotangents: Callable[[list[Any]], list[Any]] | None,
    x: Any,
    values: Sequence[Any],
) -> tuple[list[Any], dict[int, Any]]:
    """Return what was tapped, and gradients by index: of weights, then of taps."""
    gradients: dict[int, Any] = {}

    # What JAX does not differentiate by, it does not follow either: `spark` makes
    # every tap a function of what it does, whatever the tensor is.
    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def tapped(index: int, tensor: Any, spark: Any) -> Any:
        return tensor

    def forth(index: int, tensor: Any, spark: Any) -> tuple[Any, None]:
        return tensor, None

    def back(index: int, _: None, gradient: Any) -> tuple[Any, Any]:
        gradients[index] = gradient
        return gradient, jnp.zeros(())

    tapped.defvjp(forth, back)
    places = {id(weight): index for index, weight in enumerate(weights)}

    def run(spark: Any) -> tuple[list[Any], list[Any]]:
        taken: list[Any] = []

        def tap(tensor: Any) -> Any:
            taken.append(tapped(len(weights) + len(taken), tensor, spark))
            return taken[-1]

        mapping = [
            (variable, tapped(places[id(variable)], value, spark))
            if id(variable) in places
            else (variable, value)
            for variable, value in zip(variables, values, strict=True)
        ]
        return forward(x, tap, mapping), taken

    if cotangents is None:
        return run(jnp.zeros(()))[1], gradients
    outputs, pull_back, taken = jax.vjp(run, jnp.zeros(()), has_aux=True)
    pull_back(cotangents(outputs))
    return taken, gradients
