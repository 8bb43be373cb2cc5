"""A pass and its gradients on TensorFlow: an eager tape that watches the taps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import tensorflow as tf


def isolated(model: Any, gradients: bool) -> AbstractContextManager[None]:
    """Keep what Keras's stateless scope does not keep: nothing here."""
    return nullcontext()


def differentiate(
    forward: Callable[..., list[Any]],
    x: Any,
    variables: Sequence[Any],
    weights: Sequence[Any],
    cotangents: Callable[[list[Any]], list[Any]] | None,
) -> tuple[list[tuple[Any, Any | None]], list[Any | None]]:
    """As `once` asks for it: run `forward` with a tap, and go back."""
    taken: list[Any] = []
    sources = [weight.value for weight in weights]
    with tf.GradientTape(watch_accessed_variables=False) as tape:

        def tap(tensor: Any) -> Any:
            # A tensor of its own: an identity layer returns that of the one before.
            taken.append(tf.identity(tensor))
            if cotangents is not None:
                tape.watch(taken[-1])
            return taken[-1]

        if cotangents is not None:
            for source in sources:
                tape.watch(source)
        outputs = forward(x, tap, ())
    if cotangents is None or not outputs:
        return [(tensor, None) for tensor in taken], [None] * len(weights)
    gradients = [
        # An embedding's are slices.
        None if gradient is None else tf.convert_to_tensor(gradient)
        for gradient in tape.gradient(outputs, [*taken, *sources], cotangents(outputs))
    ]
    count = len(taken)
    return list(zip(taken, gradients[:count], strict=True)), gradients[count:]
