"""One function of several signals that are all functions of one Gaussian."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from keras_initlab.propagation.algebra.elementwise import apply_function
from keras_initlab.propagation.algebra.hermite import gaussian_grid
from keras_initlab.propagation.signal import Array, Function, Gradient, Pull, Signal

_IDENTITY = Function(lambda z: z, np.ones_like, (1.0, 0.0))


def shared_gaussian(signals: Sequence[Signal]) -> Signal | None:
    """Return the signal that all of `signals` are functions of, None if there is none.

    This is known from how a signal was computed, not from its moments.
    """
    roots = {
        (signal.origin.base or signal).serial: signal.origin.base or signal
        for signal in signals
    }
    if len(roots) != 1 or len({signal.shape for signal in signals}) != 1:
        return None
    return next(iter(roots.values()))


def multivariate(
    signals: Sequence[Signal],
    value: Callable[..., Array],
    partials: Sequence[Callable[..., Array]],
) -> Signal:
    """Return f(x, y, …) for functions x, y, … of one Gaussian (see `shared_gaussian`).

    Args:
        signals: x, y, …
        value: f, of arrays.
        partials: ∂f/∂x, ∂f/∂y, …
    """
    base = shared_gaussian(signals)
    assert base is not None
    functions = [signal.origin.function or _IDENTITY for signal in signals]

    def whole(z: Array) -> Array:
        return np.asarray(value(*(f.value(z) for f in functions)), np.float64)

    def slope(z: Array) -> Array:
        at = [np.asarray(f.value(z)) for f in functions]
        total = np.zeros(np.shape(z))
        for function, partial in zip(functions, partials, strict=True):
            total = total + partial(*at) * function.slope(z)
        return total

    law = base.with_units(signals[0].units)
    result = apply_function(law, Function(whole, slope))
    # The gradient flows directly to the Gaussian; on the way it is only noted.
    grid = gaussian_grid()
    z = law.mean + math.sqrt(law.variance) * grid.nodes
    at = [np.asarray(f.value(z)) for f in functions]
    notes = tuple(
        (signal, _scaled(float(grid.weights @ np.square(partial(*at)))))
        for signal, partial in zip(signals, partials, strict=True)
        if signal is not base
    )
    return result.amend(notes=notes)


def _scaled(factor: float) -> Pull:
    def pull(gradient: Gradient) -> Gradient:
        return gradient.times(factor)

    return pull


def share_gaussian(*signals: Signal) -> bool:
    """Say whether all are functions of one Gaussian, without randomness."""
    random = any(
        signal.origin.function is not None and signal.origin.function.cases
        for signal in signals
    )
    return not random and shared_gaussian(signals) is not None
