"""How far a single draw of the weights may be from the mean over draws."""

from __future__ import annotations

import math

import numpy as np

from keras_initlab.activations import Activation
from keras_initlab.model.kernels import Kernel
from keras_initlab.model.roles import NORMALISING
from keras_initlab.propagation.propagate import Forward
from keras_initlab.schemes.base import SchemeContext
from keras_initlab.schemes.kernels import layout_of
from keras_initlab.schemes.survey import Survey

# The factor that is reported: between one draw in twenty and the mean over draws.
_REPORTED = 3.0
# Var(z²) / E[z²]² of a kernel's output z, which is Gaussian.
_GAUSSIAN = 2.0
_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(101)


def spread_of_draws(survey: Survey, after: Forward, target: float) -> tuple[str, ...]:
    """Return a sentence if the second moment differs much between draws.

    Each kernel of a chain, with independent entries, multiplies it by the mean of
    φ(z)² over its units, whose relative variance is Var(φ(z)²) / (n E[φ²]²) for n
    units. These add up, so that draws of narrow networks differ more with depth.

    Source: Hanin & Nica 2019, theorem 1, for ReLU: 5 / n a layer.
    """
    records = after.propagation.records
    if any(isinstance(record.layer, NORMALISING) for record in records):
        return ()  # which undoes what is too large or too small
    shares = {
        kernel.key: _share(survey.context, kernel, target) for kernel in survey.free
    }
    worst, path = 0.0, ""
    for record in records:
        lineage = record.signal.origin.lineage if record.signal is not None else None
        total = sum(shares.get(key, 0.0) for key in lineage or ())
        if total > worst:
            worst, path = total, record.path
    factor = math.exp(min(2 * math.sqrt(worst), 700.0))
    if factor < _REPORTED:
        return ()
    return (
        f"spread: at {path} the second moment of one draw in twenty is {factor:.2g} "
        "times these figures or more, or as much smaller. calibrate(model, x) helps: "
        "it sets them for the draw at hand; wider layers spread less",
    )


def _share(context: SchemeContext, kernel: Kernel, target: float) -> float:
    """Return the relative variance that a kernel's draw adds."""
    layout, shape = layout_of(kernel), tuple(kernel.variable.shape)
    units = math.prod(int(shape[axis]) for axis in (*layout.outputs, *layout.batch))
    excess = _excess(context.nonlinearity(kernel).resolved, target)
    return excess / max(units, 1)


def _excess(nonlinearity: Activation, variance: float) -> float:
    """Return Var(φ(z)²) / E[φ(z)²]² for z ~ N(0, variance)."""
    if nonlinearity.function is None:
        return _GAUSSIAN
    squares = np.square(nonlinearity.function(math.sqrt(variance) * _POINTS))
    mean = float(_WEIGHTS @ squares / _WEIGHTS.sum())
    if not mean > 0:
        return 0.0
    fourth = float(_WEIGHTS @ np.square(squares) / _WEIGHTS.sum())
    return fourth / mean**2 - 1
