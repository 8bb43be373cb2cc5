"""Kernels that no prediction reaches: they are chosen by their activation."""

from __future__ import annotations

from collections.abc import Sequence

from keras_initlab.model.kernels import Kernel
from keras_initlab.propagation.propagate import Forward
from keras_initlab.propagation.weights import WeightMoments
from keras_initlab.schemes.base import SchemeContext
from keras_initlab.schemes.kernels import fans_of


def unreached_moments(
    kernels: Sequence[Kernel], before: Forward, context: SchemeContext
) -> dict[tuple[int, str], WeightMoments]:
    """Return the new moments of kernels inside layers that are run as a whole.

    The kernels after such a layer are then scaled for its future output, not for the
    current one.
    """
    outputs = before.propagation.kernel_outputs
    moments = {}
    for kernel in kernels:
        fans = fans_of(kernel)
        if not kernel.is_own or outputs.get(kernel.key) or fans is None:
            continue
        rule = context.nonlinearity(kernel).rule
        moments[kernel.key] = WeightMoments(0.0, rule.gain**2 / fans.over(rule.mode))
    return moments
